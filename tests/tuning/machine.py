"""What tests need that start Ray on this machine, beside other Rays."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 600.0


def until(found: Callable[[], Any]) -> Any:
    """Waits for something that is true, and gives it."""
    start = time.monotonic()
    while not (answer := found()):
        assert time.monotonic() - start < PATIENCE_S
        time.sleep(0.1)
    return answer


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """For Ray's --temp-dir: Unix sockets lie below it, and their paths hold no more than 107 bytes.

    It goes when the last of Ray's processes has gone, for those that linger would make it anew.
    """
    folder = Path(tempfile.mkdtemp(prefix="bd-", dir="/tmp"))
    try:
        yield folder
    finally:
        until(lambda: not _end_users_of(folder))
        shutil.rmtree(folder)


def _end_users_of(folder: Path) -> list[int]:
    """Kills whatever was started with a path below it; what there was."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                pids.append(int(path.parent.name))
                os.kill(pids[-1], signal.SIGKILL)
    return pids
