"""Downloads that are made once and appear whole or not at all."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from backdrop.common.storage import disk_errors


def fetch_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, made by `fill` if it isn't there yet; of several processes that make it the first one wins.

    Args:
        folder: where it shall stand; whoever sees it there may use it.
        fill: writes the content into the empty folder that it is given.

    Raises:
        StorageError: if it can't be written.
    """
    if folder.is_dir():
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            made = Path(scratch) / folder.name
            made.mkdir()
            fill(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder
