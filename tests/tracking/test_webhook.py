"""The webhook: what it receives, how that is signed, and that its failures cost a line in the log and nothing else."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backdrop.common.errors import DataError
from backdrop.common.retry import RetryPolicy
from backdrop.steps.hold import hold
from backdrop.steps.promote import override, promote
from backdrop.steps.release import release
from backdrop.steps.rollback import rollback
from backdrop.tracking import history, webhook
from backdrop.tracking.ledger import Entry
from tests.docs.pages import ROOT, blocks
from tests.fakes.http import Hook, HookHandler, free_port, running
from tests.tracking.workspace import Workspace

SECRET = "a secret of some length"
PATH = "/services/T0/B0/hidden-path"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(webhook, "POLICY", RetryPolicy(pause_s=0, max_pause_s=0, attempts=2))
    with running(Hook()) as server:
        monkeypatch.setenv("BACKDROP_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}{PATH}")
        monkeypatch.setenv("BACKDROP_WEBHOOK_SECRET", SECRET)
        yield server


@pytest.fixture
def embedded(store: Path, clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)


def is_genuine(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """What the documentation tells receivers to do."""
    (block,) = [one for one in blocks(ROOT / "docs/how-to/notifications.md") if one.language == "python"]
    names: dict[str, Any] = {}
    exec(block.text, names)
    return bool(names["is_genuine"](headers, body, secret))


def test_every_decision_is_sent_once(embedded: None, workspace: Workspace, hook: Hook, tmp_path: Path) -> None:
    data, name = str(workspace.data), f"model-{tmp_path.name}"
    for seed, dice in ((1, 0.95), (2, 0.93), (2, 0.93), (3, 0.97)):
        workspace.register(name, seed, dice)
        promote(data, name)
    promote(data, name)  # the champion already
    rollback(name, reason="halos <!channel>")
    hold(name)  # already, by the rollback
    release(name)
    hold(name, "campaign")
    override(name, 2, "better on glass")
    expected = [
        ("promoted", 1, None, f"{name}: version 1 is the champion: the first champion ("),
        ("rejected", 2, 1, f"{name}: version 2 was rejected, version 1 stays the champion: "),
        ("promoted", 3, 1, f"{name}: version 3 is the champion, instead of version 1: better than the champion"),
        (
            "rolled back",
            1,
            3,
            f"{name}: version 1 is the champion again, and held, instead of version 3: halos &lt;!ch",
        ),
        ("released", 1, 1, f"{name}: version 1 was released ("),
        ("held", 1, 1, f"{name}: version 1 is held: campaign ("),
        ("promoted", 2, 1, f"{name}: version 2 is the champion, instead of version 1: override: better on glass ("),
    ]
    messages = hook.messages
    assert [(one["event"], one["version"], one["champion"]) for one in messages] == [case[:3] for case in expected]
    entries = [link.entry for link in history.read(name).links if link.entry.event != "registered"]
    for one, (*_, text), entry in zip(messages, expected, entries, strict=True):
        assert one["text"].startswith(text)
        assert (one["reason"], one["actor"], one["time"]) == (entry.reason, entry.actor, entry.time)
        assert (one["verdict"] is None) == (entry.verdict is None)
        assert one["model"] == name
    assert messages[1]["verdict"]["outcome"] == "rejected"
    assert "slices" not in messages[1]["verdict"]
    assert messages[0]["link"] is None


def test_a_message_is_signed_with_its_time(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(event="held", version=1, champion=1)
    webhook.send_decision("cars", entry)
    ((path, headers, body),) = hook.received
    assert path == PATH
    assert headers["Content-Type"] == "application/json"
    assert is_genuine(headers, body, SECRET)
    assert not is_genuine(headers, body + b" ", SECRET)
    assert not is_genuine(headers, body, "another")
    old = str(int(headers["X-Backdrop-Timestamp"]) - 3600)
    assert not is_genuine({**headers, "X-Backdrop-Timestamp": old}, body, SECRET)
    replayed = {"X-Backdrop-Timestamp": old, "X-Backdrop-Signature-256": webhook.sign(SECRET, old, body)}
    assert not is_genuine(replayed, body, SECRET)
    monkeypatch.delenv("BACKDROP_WEBHOOK_SECRET")
    webhook.send_decision("cars", entry)
    assert "X-Backdrop-Signature-256" not in hook.received[1][1]


def test_a_message_holds_no_secret(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:pa55word-of-mlflow@mlflow.example/here/")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-K7MDENG")
    own = f"http://127.0.0.1:{hook.server_port}{PATH}"
    reason = f"see https://me:pa55word-of-mlflow@mlflow.example, {own} wJalrXUtnFEMI-K7MDENG {SECRET}"
    webhook.send_decision("cars", Entry(event="held", version=1, champion=1, reason=reason))
    ((_, _, body),) = hook.received
    assert hook.messages[0]["link"] == "https://mlflow.example/here/#/models/cars/versions/1"
    for secret in ("pa55word", "wJalrXUtnFEMI", "hidden-path", SECRET):
        assert secret not in body.decode()


@pytest.mark.parametrize(
    ("status", "attempts", "says"), [(500, 2, "500"), (429, 2, "429"), (404, 1, "404"), (302, 1, "302")]
)
def test_a_refusal_is_one_line(
    hook: Hook, capfd: pytest.CaptureFixture[str], status: int, attempts: int, says: str
) -> None:
    hook.status = status
    webhook.send_decision("cars", Entry(event="held", version=1, champion=1))
    assert len(hook.received) == attempts
    check_line(capfd, says)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (f"http://127.0.0.1:PORT{PATH}", "refused"),
        (f"hooks.example{PATH}", "isn't an address"),
        (f"ftp://hooks.example{PATH}", "isn't an address"),
        (f"file://{PATH}", "isn't an address"),
        (f"https://me:pa55word@hooks.example{PATH}", "without a user"),
        (f"https://hooks.example:x{PATH}", "isn't an address"),
        (f"https://hooks.example{PATH} x", "has a space"),
    ],
)
def test_an_address_that_does_not_work_is_one_line(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str, says: str
) -> None:
    monkeypatch.setenv("BACKDROP_WEBHOOK_URL", address.replace("PORT", str(free_port())))
    webhook.send_decision("cars", Entry(event="held", version=1, champion=1))
    check_line(capfd, says)


def test_silence_holds_nothing_up(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webhook, "LIMIT_S", 0.2)
    monkeypatch.setattr(webhook, "ANSWER_S", 0.5)
    monkeypatch.setattr(HookHandler, "do_POST", lambda self: self.rfile.read(1 << 20))
    webhook.send_decision("cars", Entry(event="held", version=1, champion=1))
    check_line(capfd, "no answer within")


def check_line(capfd: pytest.CaptureFixture[str], says: str) -> None:
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("The webhook in BACKDROP_WEBHOOK_URL didn't take the message (")
    assert says in line
    for secret in ("hidden-path", "pa55word", SECRET):
        assert secret not in line


def test_a_decision_stands_without_the_webhook(
    embedded: None, workspace: Workspace, hook: Hook, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hook.status = 500
    name = f"model-{tmp_path.name}"
    workspace.register(name, 1, 0.95)
    capfd.readouterr()
    assert promote(str(workspace.data), name).outcome == "promoted"
    assert history.read(name).state.champion == 1
    check_line(capfd, "500")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("car_1.jpg can't be read", "Replace it"), "car_1.jpg can't be read. Replace it."),
        (SystemExit("car_1.jpg is empty. Draw it."), "car_1.jpg is empty. Draw it."),
        (ZeroDivisionError("by <zero>"), "ZeroDivisionError('by <zero>')"),
    ],
)
def test_a_failed_task_sends_its_error(hook: Hook, error: BaseException, reason: str) -> None:
    with pytest.raises(type(error)), webhook.failure_sent("train"):
        raise error
    (message,) = hook.messages
    assert (message["event"], message["task"], message["reason"]) == ("failed", "train", reason)
    assert message["text"].startswith("Task train of a pipeline failed: ")
    assert "<" not in message["text"]


def test_only_failures_are_sent(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook.failure_sent("train"):
        pass
    with pytest.raises(KeyboardInterrupt), webhook.failure_sent("train"):
        raise KeyboardInterrupt
    webhook.send_decision("cars", Entry(event="registered", version=1))
    monkeypatch.setenv("BACKDROP_WEBHOOK_URL", "")
    with pytest.raises(DataError), webhook.failure_sent("train"):
        raise DataError("a", "b")
    assert not hook.received


def test_it_goes_through_a_proxy(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{hook.server_port}")
    monkeypatch.setenv("BACKDROP_WEBHOOK_URL", "http://hooks.example/a")
    webhook.send_decision("cars", Entry(event="held", version=1, champion=1))
    ((path, headers, _),) = hook.received
    assert (path, headers["Host"]) == ("http://hooks.example/a", "hooks.example")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that no system trusts, with its key beside it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "authority.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.with_suffix(".key").write_bytes(secret)
    return path


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", None])
def test_it_trusts_the_authorities_that_the_environment_names(
    hook: Hook,
    authority: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variable: str | None,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, authority.with_suffix(".key"))
    hook.socket = context.wrap_socket(hook.socket, server_side=True)
    monkeypatch.setenv("BACKDROP_WEBHOOK_URL", f"https://127.0.0.1:{hook.server_port}{PATH}")
    if variable:
        monkeypatch.setenv(variable, str(authority))
    webhook.send_decision("cars", Entry(event="held", version=1, champion=1))
    assert len(hook.received) == (1 if variable else 0)
    if not variable:
        check_line(capfd, "CERTIFICATE_VERIFY_FAILED")
