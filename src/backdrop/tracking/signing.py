"""Signatures of versions by OpenSSF model signing (the extra `signing`), if the environment has keys.

Keys are those of elliptic curves (P-256, P-384 or P-521), as PEM files or in the variables themselves. Instead of a
private key, there may be the `pkcs11:` URI of one in an HSM or a KMS.
"""

import os
import tempfile
from pathlib import Path

from backdrop.common.errors import ConfigError, TrackingError, shorten
from backdrop.config.cluster import SIGNING_KEY, TRUSTED_KEY

SIGNATURE = "model.sig"
MADE_BY_FETCHING = "registered_model_meta"  # MLflow writes it over whatever is there when it fetches a model
PEM, PKCS11 = "-----BEGIN", "pkcs11:"


def signs() -> bool:
    """Whether versions are signed: BACKDROP_SIGNING_KEY is set."""
    return bool(os.environ.get(SIGNING_KEY))


def trusted_key() -> str | None:
    """The public key in PEM that versions must be signed with; None if BACKDROP_TRUSTED_KEY isn't set.

    Raises:
        ConfigError: if it can't be read.
    """
    return _read(TRUSTED_KEY) if os.environ.get(TRUSTED_KEY) else None


def sign(folder: Path) -> None:
    """Signs all files of a model with BACKDROP_SIGNING_KEY, and writes `model.sig` beside them; without a key, nothing.

    Raises:
        ConfigError: if the key can't be read or used.
    """
    if not signs():
        return
    from model_signing.signing import Config  # optional, and takes a second

    key = _read(SIGNING_KEY)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            config = Config()  # type: ignore[no-untyped-call]  # the library left it untyped
            if key.startswith(PKCS11):
                config.use_pkcs11_signer(pkcs11_uri=key)
            else:
                config.use_elliptic_key_signer(private_key=_write(scratch, key))
            config.sign(folder, folder / SIGNATURE)
    except Exception as error:  # of many kinds: the library's, cryptography's, that of a missing PKCS #11 module
        what = f"The key in {SIGNING_KEY} can't sign ({shorten(error)})"
        raise ConfigError(what, "Use an unencrypted private key of an elliptic curve such as P-256, in PEM") from error


def verify(folder: Path, key: str, address: str) -> None:
    """Verifies the signature of a model's files.

    Args:
        folder: the files, with `model.sig`.
        key: the public key in PEM.
        address: of the version, for errors.

    Raises:
        TrackingError: if there is no signature, or it doesn't fit the files or the key.
    """
    from model_signing import hashing, verifying  # as above

    if not (folder / SIGNATURE).is_file():
        raise TrackingError(f"{address} isn't signed", f"Register it again with {SIGNING_KEY}, or unset {TRUSTED_KEY}")
    files = hashing.Config()  # type: ignore[no-untyped-call]  # as above
    files.set_ignored_paths(paths=(SIGNATURE, MADE_BY_FETCHING), ignore_git_paths=False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            config = verifying.Config()  # type: ignore[no-untyped-call]  # as above
            config.set_hashing_config(files).use_elliptic_key_verifier(public_key=_write(scratch, key))
            config.verify(folder, folder / SIGNATURE)
    except Exception as error:  # as above
        what = f"The signature of {address} doesn't fit its files or the key in {TRUSTED_KEY} ({shorten(error)})"
        raise TrackingError(what, "Don't use this version, unless you know why") from error


def _read(variable: str) -> str:
    """A key, from the file that the variable names or from the variable itself.

    An error doesn't quote the variable, which may be a key in another form than PEM.
    """
    value = os.environ[variable].strip()
    if value.startswith((PEM, PKCS11)):
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it isn't text"
        what = f"{variable} is neither a key in PEM form nor the path of a file that can be read ({reason})"
        raise ConfigError(what, "Set it to the path of a PEM file") from error


def _write(scratch: str, key: str) -> Path:
    """The key as a file, which the library wants."""
    path = Path(scratch) / "key.pem"
    path.write_text(f"{key}\n", encoding="utf-8")
    return path
