"""Removes user names and passwords from addresses in messages and logs, and whatever secrets this process was given."""

import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, unquote, urlsplit

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")  # bounded, or a long word takes minutes
ADDRESS = re.compile(SCHEME.pattern + r"\S+")
# Credentials as they are in HTTP headers and signed addresses.
HEADER = re.compile(r"((?:Credential|Signature|Token|AWSAccessKeyId)=|(?:Bearer|Basic) )[^\s&,;'\"]+", re.IGNORECASE)
SECRET = re.compile(r"(PASSWORD|SECRET|TOKEN|ACCESS_KEY|ACCESS_KEY_ID|WEBHOOK_URL)$")  # names of variables
# An address that was taken for a path, which has no double slashes.
COLLAPSED = re.compile(r"\b(?!models:|runs:|file:|sqlite:)([A-Za-z][A-Za-z0-9+.-]{1,30}):/(?=[^/\s])(\S+)")
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


def is_http(address: str) -> bool:
    """Whether it is an address that every HTTP client can read, with a host; some know the scheme in lowercase only."""
    try:
        parts = urlsplit(address)
        return address.startswith(("http://", "https://")) and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is not a number, or half an IPv6 address
        return False


def redact(text: str) -> str:
    """The text without credentials: those of addresses, of HTTP headers, of the environment and of the arguments."""
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, "…")
    text = COLLAPSED.sub(_collapsed, text)
    return HEADER.sub(r"\1…", ADDRESS.sub(lambda match: without_credentials(match[0]), text))


def _collapsed(match: re.Match[str]) -> str:
    _, credentials, rest = _parts(f"{match[1]}://{match[2]}")
    return rest if credentials else match[0]


def _secrets() -> Iterator[str]:
    """The secrets that this process was given, as they are and as URLs and Python spell them."""
    for secret in _given():
        # A short word, such as `minioadmin`, also occurs in other texts.
        if len(secret) >= 8 and not (secret.isalpha() and len(secret) < 16):
            yield from (
                secret,
                secret.strip(),
                quote(secret, safe="", errors="surrogateescape"),
                quote(secret, errors="surrogateescape"),
                unquote(secret),
                repr(secret)[1:-1],
            )


def _given() -> Iterator[str]:
    """The values of variables for secrets, and the credentials in the addresses of variables and arguments."""
    arguments = [argument.partition("=")[2] or argument for argument in sys.argv[1:]]
    for name, value in [*os.environ.items(), *(("", argument) for argument in arguments)]:
        if SECRET.search(name) or "PRIVATE KEY-----" in value or "pin-value=" in value:
            yield value
        if "@" in value:
            scheme, credentials, _ = _parts(value)
            if scheme or ":" in credentials.partition("/")[0]:
                yield from (credentials.removesuffix("@"), credentials.removesuffix("@").partition(":")[2])


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
