"""Ray's token authentication, said outright: Ray's own defaults depend on its version, and on what lies in the home."""

import contextlib
import functools
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from backdrop.common.environment import environment
from backdrop.common.errors import TuningError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
USAGE = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def local_cluster() -> Iterator[None]:
    """The environment in which `ray.init(address="local")` starts a cluster of its own, and all that it starts.

    Whoever has no token of this process can't use that cluster, nothing is written to `~/.ray`, and no usage is
    reported. Afterwards the environment is as it was.
    """
    # Ray looks at the mode when it's imported, and never again; but `init` turns it on itself where it isn't set.
    mode = "token" if "ray" not in sys.modules or os.environ.get(MODE) == "token" else None
    with environment(**{MODE: mode, TOKEN: _own_token()}, **USAGE):
        yield


def cluster_token() -> str:
    """The token of the cluster that RAY_ADDRESS names, from where Ray looks for it, in Ray's order.

    Raises:
        TuningError: if there is none, or its file can't be read.
    """
    if token := os.environ.get(TOKEN, "").strip():
        return token
    named = os.environ.get(TOKEN_PATH)
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise TuningError(f"{TOKEN_PATH} names {path}, which can't be read", "Mend the path") from error
        token = ""
    if not token:
        raise TuningError("There is no token for the Ray cluster", f"Set {TOKEN} or {TOKEN_PATH} to the cluster's own")
    return token


@functools.cache
def _own_token() -> str:
    """One for the life of the process, because Ray keeps the first that it finds."""
    return secrets.token_hex(32)
