"""Temporary folders beside what is written, so that a rename is atomic; those of killed processes are removed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

OWN = ".backdrop."  # what is beside an output while it's written, or hidden in it, begins with this
LARGE = 1000  # names in a folder
_found: dict[str, list[str]] = {}  # by large folder, see `_left_in`


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder, so that a rename is atomic; removed after the block.

    Those that killed processes left for the same target are removed too. The target's folder is created, and removed
    again if it's still empty after the block.
    """
    parent = target.parent
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    prefix = f"{OWN}{target.name[:40]}."  # a name may have 255 bytes
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_left(parent, [name for name in _left_in(parent) if name.startswith(prefix)])
        with _scratch(parent, prefix) as scratch:
            yield Path(scratch) / target.name
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in created:
                folder.rmdir()


def remove_left(folder: Path, names: Iterable[str] | None = None) -> None:
    """Removes the temporary folders that killed processes left in a folder, or some of them; those in use stay."""
    for name in (name for name in _names(folder) if name.startswith(OWN)) if names is None else names:
        with _alone_in(f"{folder}/{name}") as alone:
            if alone:
                shutil.rmtree(folder / name, ignore_errors=True)


def _left_in(folder: Path) -> list[str]:
    """The names in a folder that begin as ours do; in a large one those that this process found when it first looked.

    To look again for each of a hundred thousand files that are written there would take hours.
    """
    key = str(folder.absolute())
    if key in _found:
        return _found[key]
    names = _names(folder)
    own = [name for name in names if name.startswith(OWN)]
    if len(names) > LARGE:
        _found[key] = own
    return own


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)]


@contextlib.contextmanager
def _scratch(parent: Path, prefix: str) -> Iterator[str]:
    """A new temporary folder, removed after the block."""
    while True:
        folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
        with _alone_in(folder) as alone:
            if alone is False:  # it wasn't in use yet, so that another process has removed it, or does
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[bool | None]:
    """Whether a temporary folder is there and no other process uses it; during the block none does.

    A kill ends its use. None if its file system has no locks.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # removed, or no folder
        yield False
        return
    try:
        locked = try_lock(lock)
        yield locked and Path(folder).is_dir()
    finally:
        os.close(lock)


def try_lock(descriptor: int) -> bool | None:
    """Whether this process has the kernel's lock on an open file now; None if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such as Lustre without the option flock
        return None
    return True
