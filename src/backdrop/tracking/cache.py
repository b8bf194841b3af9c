"""Downloads that are made once and never appear incomplete."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from backdrop.common.storage import disk_errors


def fetch_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, filled by `fill` if it doesn't exist; if several processes do that, the first one wins.

    Args:
        folder: the final path; as soon as it exists, it is complete.
        fill: writes the content to an empty folder.

    Raises:
        StorageError: if it can't be written.
    """
    if folder.is_dir():
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            filled = Path(scratch) / folder.name
            filled.mkdir()
            fill(filled)
            try:
                filled.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder
