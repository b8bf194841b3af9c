"""Downloads that are made once, never appear incomplete, and are verified when a process first uses them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from backdrop.common.progress import log
from backdrop.common.storage import disk_errors
from backdrop.common.temporary import temporary_beside
from backdrop.common.text import parse_json

FILES = ".files.json"  # the sha256 of each file of a copy, by name
_verified: set[Path] = set()


def fetch_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, filled by `fill` if it doesn't exist or has changed; of several processes the first wins.

    Args:
        folder: the final path; as soon as it exists, it is complete.
        fill: writes the content to an empty folder.

    Raises:
        StorageError: if it can't be written.
    """
    if folder.is_dir() and folder not in _verified and not _is_unchanged(folder):
        log(f"{folder} has changed since it was fetched; fetching it again")
        with disk_errors(folder):
            shutil.rmtree(folder)
    if not folder.is_dir():
        with disk_errors(folder):
            _fetch(folder, fill)
    _verified.add(folder)
    return folder


def _fetch(folder: Path, fill: Callable[[Path], None]) -> None:
    with temporary_beside(folder) as filled:
        filled.mkdir()
        fill(filled)
        (filled / FILES).write_text(json.dumps(_digests(filled)), encoding="utf-8")
        try:
            filled.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _is_unchanged(folder: Path) -> bool:
    try:
        return bool(parse_json((folder / FILES).read_text(encoding="utf-8")) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / FILES:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
