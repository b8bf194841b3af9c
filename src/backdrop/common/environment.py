"""Environment variables: set for a block, and kept from sending this machine's own traffic through a proxy."""

import contextlib
import os
from collections.abc import Iterator

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Sets environment variables for the block and its child processes, and restores them afterwards.

    Args:
        values: values by name; None unsets a variable.
    """
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def bypass_proxy_on_loopback() -> None:
    """Adds this machine's own addresses to `no_proxy`, for this process and its children, where a proxy is set.

    No proxy can reach a server that listens on 127.0.0.1 here. Libraries read one spelling of the variable or the
    other, so both get all hosts of both.
    """
    names = ("no_proxy", "NO_PROXY")
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        hosts = [host.strip() for name in names for host in os.environ.get(name, "").split(",")]
        for name in names:
            os.environ[name] = ",".join(dict.fromkeys(host for host in (*hosts, *LOOPBACK) if host))


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
