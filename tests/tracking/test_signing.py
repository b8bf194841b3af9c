"""Versions that are signed, and what a public key keeps away."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from mlflow.artifacts import download_artifacts

from backdrop.common.errors import ConfigError, TrackingError
from backdrop.steps.predict import predict
from backdrop.steps.promote import override, promote
from backdrop.steps.rollback import rollback
from backdrop.steps.verify import verify
from backdrop.tracking import tracking_uri
from tests.tracking.workspace import Workspace, server_is_thorough


def make_keys(folder: Path, kind: str) -> tuple[Path, Path]:
    """A private key and its public one, as PEM files."""
    private = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    secret, public = folder / f"{kind}.pem", folder / f"{kind}.pub"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, form))
    return secret, public


@pytest.fixture
def name(tracked: str, tmp_path: Path) -> str:
    return f"model-{tmp_path.name}"


@server_is_thorough
def test_only_what_is_signed_with_the_key_is_used(
    name: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data, images, champion = str(workspace.data), str(workspace.data / "train"), f"models:/{name}@champion"
    (secret, public), (_, other) = make_keys(tmp_path, "ours"), make_keys(tmp_path, "others")
    workspace.register(name, 1, 0.95)
    promote(data, name)
    predict(images, str(tmp_path / "unsigned"), model=champion)
    monkeypatch.setenv("BACKDROP_TRUSTED_KEY", str(public))
    workspace.register(name, 2, 0.97)
    for act in (
        lambda: predict(images, str(tmp_path / "refused"), model=champion),  # although it is in the cache
        lambda: promote(data, name),
        lambda: override(name, 2, "I know it"),
        lambda: verify(name),
    ):
        with pytest.raises(TrackingError, match=rf"models:/{name}/[12] isn't .*signed"):
            act()

    monkeypatch.setenv("BACKDROP_SIGNING_KEY", secret.read_text())  # as a Secret's variable
    capfd.readouterr()
    for seed, dice in ((1, 0.95), (2, 0.97)):
        assert not workspace.register(name, seed, dice).created
    assert f"models:/{name}/1 wasn't signed: uploaded again" in capfd.readouterr().err
    monkeypatch.delenv("BACKDROP_SIGNING_KEY")
    assert workspace.register(name, 2, 0.97).version == 2
    assert promote(data, name).outcome == "promoted"
    assert verify(name).signature == "valid"
    predict(images, str(tmp_path / "signed"), model=champion)
    assert rollback(name).version == 1

    monkeypatch.setenv("BACKDROP_TRUSTED_KEY", str(other))
    with pytest.raises(TrackingError, match=rf"The signature of models:/{name}/1 doesn't fit"):
        predict(images, str(tmp_path / "of-others"), model=champion)
    monkeypatch.setenv("BACKDROP_TRUSTED_KEY", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"BACKDROP_TRUSTED_KEY is neither .* \(No such file or directory\)"):
        predict(images, str(tmp_path / "without-a-key"), model=champion)
    monkeypatch.delenv("BACKDROP_TRUSTED_KEY")
    assert verify(name).signature == "not checked"


def test_anybody_can_verify_the_signature(
    name: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, public = make_keys(tmp_path, "ours")
    monkeypatch.setenv("BACKDROP_SIGNING_KEY", str(secret))
    workspace.register(name, 1, 0.95)
    (tmp_path / "model").mkdir()
    folder = Path(
        download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path / "model"), tracking_uri=tracking_uri())
    )
    tool = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    options = ["--signature", str(folder / "model.sig"), "--public_key", str(public)]
    ignored = ["--ignore-paths", str(folder / "model.sig"), "--ignore-paths", str(folder / "registered_model_meta")]
    done = subprocess.run([*tool, *options, *ignored], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "pyfunc.py").write_text("print()")
    assert subprocess.run([*tool, *options, *ignored], capture_output=True).returncode != 0


@pytest.mark.parametrize("kind", ["rsa", "none", "text", "base64"])
def test_a_key_that_cannot_sign_is_reported(
    kind: str, workspace: Workspace, clean: None, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    keys = {"rsa": make_keys(tmp_path, "rsa")[0], "none": tmp_path / "none", "text": "-----BEGIN nothing"}
    secret = base64.b64encode(make_keys(tmp_path, "ours")[0].read_bytes()).decode()  # as it may come from a Secret
    monkeypatch.setenv("BACKDROP_SIGNING_KEY", str(keys.get(kind, secret)))
    with pytest.raises(ConfigError, match=r"BACKDROP_SIGNING_KEY (is neither|can't sign)") as error:
        workspace.register(f"model-{tmp_path.name}", 1, 0.95)
    assert secret[:20] not in str(error.value)
