"""No password in what anybody sees, whatever characters it has."""

import os
import subprocess
import sys
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common import s3
from backdrop.common.errors import BackdropError, EndpointError, StorageError, TuningError, shorten
from backdrop.common.progress import log
from backdrop.common.redact import is_misread, redact, without_credentials
from backdrop.kubeflow.client import connect
from backdrop.tuning.cluster import jobs

# Not of the rest of the address, so that they can be looked for in what is shown.
MARKED = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1).map(lambda text: f"§{text}§")
SCHEMES = st.sampled_from(["http://", "https://", "s3://", "postgresql://", "mysql+pymysql://", ""])
HOSTS = st.sampled_from(["host", "host:5000", "host/", "host:5000/path", "10.0.0.1:80/a/b?c=d#e"])


@given(scheme=SCHEMES, user=st.text("abcXYZ019._-", min_size=1), password=MARKED, host=HOSTS)
def test_no_password_is_left(scheme: str, user: str, password: str, host: str) -> None:
    address = f"{scheme}{user}:{password}@{host}"
    assert without_credentials(address) == f"{scheme}{host}"
    assert without_credentials(f"{scheme}{host}") == f"{scheme}{host}"
    if scheme:
        said = f"At ({address}): no answer"
        assert redact(said) == f"At ({scheme}{host}): no answer"
        assert "§" not in str(BackdropError(said, said))
        assert "§" not in shorten(said)
        assert is_misread(address) == bool(set("/?#[]") & set(password))


@given(password=MARKED, host=HOSTS)
def test_a_password_that_is_written_as_it_should_be_is_read_as_it_was_meant(password: str, host: str) -> None:
    address = f"http://me:{quote(password, safe='')}@{host}"
    assert not is_misread(address)
    assert urlsplit(address).hostname == urlsplit(f"http://{host}").hostname


@given(user=MARKED, host=HOSTS)
def test_a_token_in_place_of_a_user_goes_too(user: str, host: str) -> None:
    token = "".join(character for character in user if character not in "/?#")
    assert without_credentials(f"https://{token}@{host}") == f"https://{host}"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "photos",
        "/data/a@b.jpg",
        "./a:b@c",
        "s3://bucket/object@2x.jpg",
        "s3://bucket/a:b@c",
        "s3://bucket",
        "models:/products@champion",
        "runs:/0123/member",
        "http://host:5000",
        "https://example.org/weights@v2/file.pt",
        "sqlite:////home/me:you@here/mlflow.db",
    ],
)
def test_what_holds_none_stays_as_it_is(address: str) -> None:
    assert without_credentials(address) == address
    assert redact(address) == address


def test_the_log_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    log("MLflow at http://me:se/cr@et@host:5000 doesn't answer")
    assert capsys.readouterr().err == "MLflow at http://host:5000 doesn't answer\n"


@pytest.mark.parametrize("password", ["secret", "se/cret", "se#cret", "12/secret", "se?cr@et", "se[cret"])
def test_no_client_shows_one(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    address = f"http://me:{password}@127.0.0.1:9"
    with pytest.raises(EndpointError) as kubeflow:
        connect(address)
    with pytest.raises(TuningError) as ray:
        jobs.run(address, "far", ["true"])
    with pytest.raises(
        StorageError, match=r"^The address s3://bucket/x contains credentials\. Set AWS_ACCESS_KEY_ID"
    ) as held:
        s3.read(f"s3://me:{password}@bucket/x")
    for error in (kubeflow, ray, held):
        assert "cret" not in str(error.value)
        assert "12" not in str(error.value).replace("127.0.0.1", "")
    if is_misread(address):
        assert "can't be read. Percent-encode" in str(kubeflow.value)
        assert "can't be read. Percent-encode" in str(ray.value)


def test_nor_does_mlflow() -> None:
    """In a process of its own, for its variables are read when it's imported."""
    code = """
import os, sys
from backdrop.common.errors import TrackingError
from backdrop.tracking.client import connect
for password in sys.argv[1:]:
    os.environ["MLFLOW_TRACKING_URI"] = f"http://me:{password}@127.0.0.1:9"
    try:
        connect()
    except TrackingError as error:
        print(error)
"""
    passwords = ("secret", "12/secret", "se[cret")
    variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code, *passwords]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(passwords)
    assert "cret" not in done.stdout


HEADERS = (
    "Invalid header value b'AWS4-HMAC-SHA256 Credential=hunter2xyzzy/20261126/us-east-1/s3/aws4_request, "
    "SignedHeaders=host;x-amz-date, Signature=hunter2xyzzy'",
    "GET /photos?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=hunter2xyzzy&X-Amz-Signature=hunter2xyzzy",
    "X-Amz-Security-Token=hunter2xyzzy&partNumber=1",
    "reserved character(s) in header value: 'Bearer hunter2xyzzy'",
    "{'Authorization': 'Basic hunter2xyzzy='}",
)


@pytest.mark.parametrize("text", HEADERS)
def test_no_header_shows_its_credentials(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert redact(text)[:5] == text[:5]


def test_a_secret_of_the_environment_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "KFP_EXISTING_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, f"{name.lower()}-s3cret\n")
        for text in (os.environ[name], repr(os.environ[name]), f"x{os.environ[name].strip()}y"):
            assert "s3cret" not in redact(f"it says {text}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "minioadmin")  # also the name of buckets and users
    assert redact("bucket minioadmin") == "bucket minioadmin"


def test_long_texts_take_no_time() -> None:
    """Each would take hours if it took quadratic time."""
    assert redact("http:/me:secret@host/x is missing") == "host/x is missing"
    for text in (
        "x" * 10**6,
        "a:/" * 10**5,
        "://" * 10**5,
        "a@" * 10**5,
        "http://" + "a:" * 10**5 + "@h",
        "Token=" * 10**5,
    ):
        redact(text)


def test_a_secret_that_is_no_text_stops_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2xyzzy\udcff")
    assert "hunter2" not in redact(f"it says {os.environ['RAY_AUTH_TOKEN']} and {os.environ['RAY_AUTH_TOKEN']!r}")
