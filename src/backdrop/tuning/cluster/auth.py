"""Ray's token authentication, set explicitly: Ray's defaults depend on its version and on the home directory."""

import contextlib
import functools
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from backdrop.common.environment import check_header, environment
from backdrop.common.errors import TuningError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
USAGE = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def local_cluster() -> Iterator[None]:
    """Sets the environment for `ray.init(address="local")`, and restores it afterwards.

    Only processes with this process's token can use that cluster. Nothing is written to `~/.ray`, and no usage is
    reported.
    """
    # Ray reads the mode only when it is imported; but `init` turns tokens on itself if the mode isn't set.
    mode = "token" if "ray" not in sys.modules or os.environ.get(MODE) == "token" else None
    with environment(**{MODE: mode, TOKEN: _own_token()}, **USAGE):
        yield


def cluster_token() -> str:
    """The token of the cluster that RAY_ADDRESS names, looked up in the same places and order as Ray does.

    Raises:
        TuningError: if there is none, or its file can't be read.
    """
    if token := os.environ.get(TOKEN, "").strip():
        check_header(TOKEN, token)
        return token
    token_path = os.environ.get(TOKEN_PATH)
    path = Path(token_path) if token_path else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if token_path:
            raise TuningError(f"{TOKEN_PATH} names {path}, which can't be read", "Fix the path") from error
        token = ""
    if not token:
        raise TuningError(
            "There is no token for the Ray cluster", f"Set {TOKEN} or {TOKEN_PATH} to the cluster's token"
        )
    return token


@functools.cache
def _own_token() -> str:
    """One token per process, because Ray keeps the first that it reads."""
    return secrets.token_hex(32)
