"""Removes user names and passwords from addresses in messages and logs."""

import re

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ADDRESS = re.compile(SCHEME.pattern + r"\S+")
PATHS = ("sqlite://", "file://")  # addresses with these schemes start with a path
PLAIN = re.compile(r"\.{0,2}/|models:/|runs:/")  # a path, or an MLflow URI of a model or run
ODD = "/?#[]"  # if not percent-encoded in a password, a client misreads the host, or fails
ENCODE = "Percent-encode its special characters: / as %2F, ? as %3F, # as %23, [ as %5B, ] as %5D"


def without_credentials(address: str) -> str:
    """The address without `user:password@`, with or without a scheme.

    A password may contain characters that should be percent-encoded, such as `/`, `?`, `#` and `@`; it is removed
    completely. If an `@` could also belong to a path (`http://host:80/a@b`), everything before it is removed.
    """
    scheme, _, rest = _parts(address)
    return scheme + rest


def is_misread(address: str) -> bool:
    """Whether a client would read part of the password as the host, because it isn't percent-encoded."""
    _, credentials, _ = _parts(address)
    return any(character in credentials for character in ODD)


def redact(text: str) -> str:
    """The text with credentials removed from each `scheme://` address."""
    return ADDRESS.sub(lambda match: without_credentials(match[0]), text)


def _parts(address: str) -> tuple[str, str, str]:
    """`scheme://`, `user:password@` and the rest; the first two may be empty."""
    match = SCHEME.match(address)
    scheme = match[0] if match else ""
    credentials, at, rest = address.removeprefix(scheme).rpartition("@")
    is_path = credentials.startswith("/") if scheme in PATHS else not scheme and PLAIN.match(credentials)
    first = re.split(r"[/?#]", credentials, maxsplit=1)[0]
    # An object's key may contain a colon and an @; a bucket's name can't.
    has_credentials = first == credentials or ":" in (first if scheme == "s3://" else credentials)
    if not at or is_path or not has_credentials:
        return scheme, "", address.removeprefix(scheme)
    return scheme, credentials + at, rest
