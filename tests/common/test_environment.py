import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from urllib.request import proxy_bypass_environment

import pytest
from botocore.utils import get_environ_proxies
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common import s3_client
from backdrop.common.environment import (
    BUNDLES,
    FILES,
    LOOPBACK,
    bypass_proxy,
    certificates,
    check_files,
    check_header,
    environment,
    proxy_for,
    read_count,
    tidy_settings,
)
from backdrop.common.errors import ConfigError

HOSTS = st.lists(st.sampled_from(["mlflow.ml.svc", ".example.com", "10.0.0.0/8", "127.0.0.1", "*"]), max_size=3)


def test_variables_are_set_and_unset_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOR", "blue")
    monkeypatch.setenv("SIZE", "3")
    monkeypatch.delenv("SHAPE", raising=False)
    before = dict(os.environ)

    def change() -> None:
        with environment(COLOR="red", SIZE=None, SHAPE="round"):
            assert (os.environ["COLOR"], os.environ.get("SIZE"), os.environ["SHAPE"]) == ("red", None, "round")
            os.environ.pop("COLOR")
            os.environ["SIZE"] = "4"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert dict(os.environ) == before


@given(HOSTS, HOSTS, st.sampled_from(["http_proxy", "HTTPS_PROXY", "all_proxy"]))
def test_hosts_that_need_no_proxy_stay_and_this_machine_joins_them(
    lower: list[str], upper: list[str], proxy: str
) -> None:
    spellings = {"no_proxy": " , ".join(lower) or None, "NO_PROXY": ",".join(upper) or None}
    with environment(**{proxy: "http://127.0.0.1:9"}, **spellings):
        bypass_proxy()
        before = os.environ["no_proxy"]
        assert set(before.split(",")) == ({"*"} if "*" in (*lower, *upper) else {*lower, *upper, *LOOPBACK})
        assert os.environ["NO_PROXY"] == before
        bypass_proxy()
        assert os.environ["no_proxy"] == before


@pytest.mark.parametrize(
    ("no_proxy", "direct", "by_proxy"),
    [
        ("*", ["s3.example", "10.0.0.7"], []),
        ("store.example *.corp.example\n", ["store.example", "s3.corp.example"], ["example"]),
        ("10.0.0.0/8", ["10.0.0.7", "[fd00::7]"], ["11.0.0.7"]),
        ("", ["localhost", "127.0.0.1", "127.0.1.1", "[::1]", "0.0.0.0"], ["10.0.0.7", "mlflow.example"]),
    ],
)
def test_every_client_reads_no_proxy_alike(no_proxy: str, direct: list[str], by_proxy: list[str]) -> None:
    """Those of requests know networks, those of urllib and boto3 a lone `*`, and none of them blanks or `*.`."""
    servers = {"AWS_ENDPOINT_URL": "http://10.0.0.7:9000", "MLFLOW_TRACKING_URI": "http://[fd00::7]:5000"}
    servers["KF_PIPELINES_ENDPOINT"] = "http://127.0.1.1:8888"
    own = f"{no_proxy},fd00::/8" if "/" in no_proxy else no_proxy
    with environment(HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=own, no_proxy=None, **servers):
        bypass_proxy()
        bypass_proxy()  # a child does so again
        for host in (*direct, *by_proxy):
            boto3 = not get_environ_proxies(f"http://{host}:9000")
            known = {bool(proxy_bypass_environment(host)), boto3, not proxy_for(f"http://{host}/")}  # type: ignore[no-untyped-call]  # of urllib
            assert known == {host in direct}, host


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "BACKDROP_AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "http_proxy"])
def test_an_address_from_a_file_is_the_address(name: str) -> None:
    for text, tidy in (
        ("http://minio:9000\n", "http://minio:9000"),
        (" http://minio:9000/ \n", "http://minio:9000/"),
        ("sqlite:////mlflow.db ", "sqlite:////mlflow.db"),
        ("HTTPS://Host.Example/Path\r\n", "https://Host.Example/Path"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        (" word with http://in.it ", " word with http://in.it "),
    ):
        with environment(**{name: text}):
            tidy_settings()
            assert os.environ[name] == tidy


def test_other_variables_stay() -> None:
    with environment(PS1="HTTP://\n", MLFLOW_TRACKING_PASSWORD=" secret \n"):
        tidy_settings()
        assert (os.environ["PS1"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("HTTP://\n", " secret ")


def test_without_a_proxy_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    bypass_proxy()
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]


def test_in_a_pod_no_proxy_is_asked_for_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 10.96.0.10\nsearch ml.svc.corp.local svc.corp.local corp.local\n")
    monkeypatch.setattr("backdrop.common.environment.RESOLVER", tmp_path / "resolv.conf")
    proxy = "http://proxy.example:3128"
    pod = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "KUBERNETES_SERVICE_HOST": "fd00::1"}
    with environment(no_proxy=None, NO_PROXY="10.0.0.0/8", **pod):
        bypass_proxy()
        assert os.environ["no_proxy"] == ",".join(["10.0.0.0/8", *LOOPBACK, "fd00::1", ".svc", ".svc.corp.local"])
        for direct in ("mlflow.ml.svc:5000", "minio.minio.svc.corp.local", "[fd00::1]:443", "10.1.2.3", "localhost"):
            assert proxy_for(f"http://{direct}/") is None, direct
        assert proxy_for("https://s3.example") == proxy_for("http://mlflow.corp.local") == proxy
        monkeypatch.setattr("backdrop.common.environment.RESOLVER", tmp_path / "none")
        bypass_proxy()
        assert proxy_for("http://mlflow.ml.svc:5000") is None


def test_certificates_are_those_of_the_environment(tmp_path: Path) -> None:
    first, second = (str(tmp_path / name) for name in ("a.crt", "b.crt"))
    Path(first).touch()
    Path(second).touch()
    with environment(REQUESTS_CA_BUNDLE=None, SSL_CERT_FILE=None):
        assert certificates() is None
        with environment(SSL_CERT_FILE=second):
            assert certificates() == second
            with environment(REQUESTS_CA_BUNDLE=first):
                assert certificates() == first


def test_a_dead_proxy_is_not_asked_for_a_server_on_this_machine(bucket: str) -> None:
    """By the libraries of S3, and of MLflow and Kubeflow (requests, urllib)."""
    code = (
        "import os, requests, urllib.request\n"
        "from backdrop.common import storage\n"
        f"storage.write_bytes('{bucket}/a.txt', b'a')\n"
        f"print(storage.list_files('{bucket}'), requests.get(os.environ['AWS_ENDPOINT_URL']).status_code)\n"
        "print(urllib.request.urlopen(os.environ['AWS_ENDPOINT_URL']).status)\n"
    )
    dead = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9")
    settings = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    settings["AWS_ENDPOINT_URL"] = settings["AWS_ENDPOINT_URL"].replace("0.0.0.0", "127.0.0.1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**settings, **dead})
    assert done.stdout.splitlines() == ["['a.txt'] 200", "200"], done.stderr


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1.5", " 1", "9" * 30, "²", "nan"])
def test_a_variable_that_is_no_count_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(ConfigError, match=rf"WORLD_SIZE is {text.strip()}\. Set it to a whole number, or unset it\."):
        read_count("WORLD_SIZE")


def test_a_count_that_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    assert read_count("WORLD_SIZE") == 1
    monkeypatch.delenv("WORLD_SIZE")
    assert read_count("WORLD_SIZE", 4) == 4
    monkeypatch.setenv("WORLD_SIZE", "12")
    assert read_count("WORLD_SIZE") == 12


@pytest.mark.parametrize("end", ["\n", "\r\nX-Other: y", " ", "ü", "\x7f", "\udcff"])
def test_a_secret_that_breaks_a_header_is_named_but_not_shown(end: str) -> None:
    with pytest.raises(ConfigError, match=r"^TOKEN has a space, a line break or a special character\.") as caught:
        check_header("TOKEN", f"hunter2{end}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_variable_that_names_a_pipe_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for value in ("", str(tmp_path / "none"), "/dev/null", "x" * 5000, str(tmp_path)):
        monkeypatch.setenv(name, value)
        check_files()
    monkeypatch.setenv(name, f"{tmp_path}/none:{tmp_path}/pipe")
    with pytest.raises(ConfigError, match=rf"^{name} names a pipe, .*/pipe\. Save its content in a file\.$"):
        check_files()


def test_certificates_that_are_not_there_are_named_once_a_server_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "ca.pem"
    there.write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        for path, scheme in ((there, "https"), (f"{there}x", "http"), (f"{there}x", "https")):
            monkeypatch.setenv(name, str(path))
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://127.0.0.1:9")
            s3_client.client.cache_clear()
            is_needed = path != there and scheme == "https"
            says = f"^{there}x, which {name} names, doesn't exist"
            with pytest.raises(ConfigError, match=says) if is_needed else nullcontext():
                s3_client.client()
        monkeypatch.delenv(name)
    s3_client.client.cache_clear()


@pytest.mark.parametrize("name", BUNDLES)
def test_certificates_that_no_library_reads_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.crt"
    monkeypatch.setenv(name, str(file))
    for content in (b"-----BEGIN CERTIFICATE-----\r\nMII\r\n", b"Our CA\n-----BEGIN TRUSTED CERTIFICATE-----\n"):
        file.write_bytes(content)
        check_files()
    for content in (b"", b"\x30\x82\x03\x55", b"<html>Sign in</html>", b"-----BEGIN PRIVATE KEY-----\n"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"^{file}, which {name} names, has no certificate in PEM form\."):
            check_files()
