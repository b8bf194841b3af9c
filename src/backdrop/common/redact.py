"""Addresses without the user and password that they may hold, for everything that a person or a log sees."""

import re

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ADDRESS = re.compile(SCHEME.pattern + r"\S+")
PATHS = ("sqlite://", "file://")  # an address of these begins with a path
PLAIN = re.compile(r"\.{0,2}/|models:/|runs:/")  # a path, or what MLflow calls models and runs
ODD = "/?#[]"  # unless they are percent-encoded, a client takes what follows for the host, or fails
ENCODE = "Percent-encode its special characters: / as %2F, ? as %3F, # as %23, [ as %5B, ] as %5D"


def without_credentials(address: str) -> str:
    """The address without `user:password@`, with or without a scheme.

    A password may hold characters that should have been percent-encoded, such as `/`, `?`, `#` and `@`; all of it goes.
    Where an `@` could belong to a path as well (`http://host:80/a@b`), what stands before it goes too.
    """
    scheme, _, rest = _parts(address)
    return scheme + rest


def is_misread(address: str) -> bool:
    """Whether a client would take a part of the password for the host, because it isn't percent-encoded."""
    _, credentials, _ = _parts(address)
    return any(character in credentials for character in ODD)


def redact(text: str) -> str:
    """A text, each `scheme://` address in it without credentials."""
    return ADDRESS.sub(lambda match: without_credentials(match[0]), text)


def _parts(address: str) -> tuple[str, str, str]:
    """`scheme://`, `user:password@` and the rest; the first two may be empty."""
    match = SCHEME.match(address)
    scheme = match[0] if match else ""
    credentials, at, rest = address.removeprefix(scheme).rpartition("@")
    is_path = credentials.startswith("/") if scheme in PATHS else not scheme and PLAIN.match(credentials)
    first = re.split(r"[/?#]", credentials, maxsplit=1)[0]
    # An object's key may hold a colon and an @; a bucket's name can't.
    holds_some = first == credentials or ":" in (first if scheme == "s3://" else credentials)
    if not at or is_path or not holds_some:
        return scheme, "", address.removeprefix(scheme)
    return scheme, credentials + at, rest
