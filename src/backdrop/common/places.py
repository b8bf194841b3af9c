"""Where outputs lie: folders, and prefixes in S3, with the same operations on the files below them."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG, S_ISVTX
from typing import Protocol

from backdrop.common import s3, s3_client, storage
from backdrop.common.errors import StorageError
from backdrop.common.names import checked_name
from backdrop.common.retry import workers
from backdrop.common.storage import disk_errors, is_remote
from backdrop.common.temporary import OWN, remove_left, temporary_beside

INVENTORY = f"{OWN}json"
PROBE = f"{OWN}probe"
PROBE_BYTES = 2**16
# Written by file managers wherever they look; they hold nothing of their users, so they're passed over and stay.
SYSTEM = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
REMEDY = "Move it, or use another place"


@dataclass(frozen=True)
class Entry:
    """A file's content: its sha256 and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class State:
    """A file's size in bytes, and when it changed last (any unit)."""

    size: int
    changed_at: float


class Place(Protocol):
    """A folder or prefix. Names are those of files below it."""

    def require_folder(self, whole: bool) -> None:
        """Makes sure that it is missing, or can be written to; and as a whole replaced."""

    def first(self) -> str | None:
        """A file that is there, other than a file manager's."""

    def scan(self) -> dict[str, State]:
        """All files below it by name, other than a file manager's, with its inventory."""

    def look_up(self, names: Iterable[str]) -> dict[str, State]:
        """Those of some files that are there, with its inventory."""

    def entry(self, name: str) -> Entry:
        """The sha256 and size of a file."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None if it isn't there."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a file at once."""

    def copy(self, path: Path, name: str) -> None:
        """Writes a copy of a file on disk at once."""

    def remove(self, name: str) -> None:
        """Removes a file, and its folders as far as they become empty."""

    def in_the_way(self, names: Iterable[str]) -> str | None:
        """What is no folder that can be written to, but would have to be for files of these names; None if nothing."""

    def probe(self) -> None:
        """Makes sure that it can be written, and replaced if it's there."""

    def tidy(self) -> None:
        """Removes what killed processes left while they wrote."""


class _Folder:
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def require_folder(self, whole: bool) -> None:
        with disk_errors(self._root):
            if self._root.exists() and not self._root.is_dir():
                raise StorageError(f"{self._root} is not a folder", REMEDY)
            real = _real(self._root)
            if real.is_symlink():
                raise StorageError(f"{self._root} is a link that leads to itself", REMEDY)
            if real == Path(real.anchor):
                raise StorageError(f"{self._root} is the file system itself", "Name a folder below it")
            if whole and self._root.is_mount():
                raise StorageError(f"{self._root} can't be replaced as a whole: it's a disk", "Name a folder below it")

    def first(self) -> str | None:
        with disk_errors(self._root):
            names = os.listdir(self._root) if self._root.exists() else []  # noqa: PTH208  # faster
            return min((name for name in names if not is_systems(name)), default=None)

    def scan(self) -> dict[str, State]:
        inside: list[str] = []
        with disk_errors(self._root):
            for folder, folders, names in os.walk(self._root, onerror=_raise):
                links = [name for name in folders if Path(folder, name).is_symlink()]
                inside += (Path(folder, name).relative_to(self._root).as_posix() for name in (*names, *links))
        return self.look_up(name for name in inside if not is_systems(name))

    def look_up(self, names: Iterable[str]) -> dict[str, State]:
        states: dict[str, State] = {}
        for name in (*names, INVENTORY):
            path = self._root / name
            with disk_errors(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                stat = path.lstat()
                # A file's time is its ctime, which nobody sets. That of the inventory is when it was written: its ctime
                # changes with its rights, perhaps together with all the files' ctimes.
                changed_at = stat.st_mtime_ns if name == INVENTORY else stat.st_ctime_ns
                states[name] = State(stat.st_size if S_ISREG(stat.st_mode) else -1, changed_at)
        return states

    def entry(self, name: str) -> Entry:
        with disk_errors(self._root), (self._root / name).open("rb") as file:
            return Entry(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)

    def read(self, name: str) -> bytes | None:
        path = self._root / name
        with disk_errors(path):
            return storage.read_bytes(path) if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        storage.write_bytes(self._root / name, data)

    def copy(self, path: Path, name: str) -> None:
        storage.copy_file(path, self._root / name)

    def remove(self, name: str) -> None:
        with disk_errors(self._root / name):
            (self._root / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            for parent in Path(name).parents:
                (self._root / parent).rmdir()

    def in_the_way(self, names: Iterable[str]) -> str | None:
        for folder in _folders(names):
            path = self._root / folder
            if os.path.lexists(path) and not (path.is_dir() and _may_write(path)):
                return folder
        return None

    def probe(self) -> None:
        # A link is replaced by a file, but not by a folder.
        path = _real(self._root) if self._root.is_symlink() and not self._root.is_file() else self._root
        with disk_errors(self._root), temporary_beside(path) as temporary:
            temporary.write_bytes(bytes(PROBE_BYTES))
            if path.is_dir() and not _may_write(path):  # it couldn't be moved aside
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if path.exists() and os.geteuid() not in _movers(path):
                raise PermissionError(errno.EPERM, "it is another user's")

    def tidy(self) -> None:
        remove_left(self._root)


class _Bucket:
    """A prefix in S3."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __str__(self) -> str:
        return self._address

    def require_folder(self, whole: bool) -> None:  # noqa: ARG002  # a prefix can always be replaced
        head = s3.head(self._address) if s3_client.split(self._address)[1] else None
        if head and head.size:
            raise StorageError(f"{self._address} is an object, not a prefix", REMEDY)

    def first(self) -> str | None:
        return next((item.name for item in self._objects()), None)

    def scan(self) -> dict[str, State]:
        return {item.name: State(item.size, item.modified.timestamp()) for item in self._objects()}

    def _objects(self) -> Iterator[s3.Object]:
        """All but a file manager's, our lock, and what a killed process left when it tried to write."""
        passed_over = (s3.LOCK, PROBE)
        return (i for i in s3.objects(self._address) if not is_systems(i.name) and i.name not in passed_over)

    def look_up(self, names: Iterable[str]) -> dict[str, State]:
        wanted = sorted({*names, INVENTORY})
        with workers(s3.THREADS) as pool:
            heads = zip(wanted, pool.map(lambda name: s3.head(f"{self._address}/{name}"), wanted), strict=True)
            return {name: State(head.size, head.modified.timestamp()) for name, head in heads if head}

    def entry(self, name: str) -> Entry:
        head = s3.head(f"{self._address}/{name}")
        return Entry(head.metadata.get(s3.DIGEST, ""), head.size) if head else Entry("", -1)

    def read(self, name: str) -> bytes | None:
        path = f"{self._address}/{name}"
        return s3.read(path) if s3.head(path) else None

    def write(self, name: str, data: bytes) -> None:
        s3.write(f"{self._address}/{name}", data)

    def copy(self, path: Path, name: str) -> None:
        storage.copy_file(path, f"{self._address}/{name}")

    def remove(self, name: str) -> None:
        s3.delete(f"{self._address}/{name}")

    def in_the_way(self, names: Iterable[str]) -> str | None:
        folders = _folders(names)
        states = self.look_up(folders) if folders else {}
        return next((name for name in folders if name in states and states[name].size), None)

    def probe(self) -> None:
        s3.write(f"{self._address}/{PROBE}", b"")
        s3.delete(f"{self._address}/{PROBE}")

    def tidy(self) -> None:
        pass  # an object is written whole or not at all


def find_place(address: str | Path) -> Place:
    """The folder or prefix at an address.

    Raises:
        StorageError: if it isn't one that can be written.
    """
    text = checked_address(address)
    return _Bucket(text) if is_remote(text) else _Folder(Path(address))


def checked_address(address: str | Path) -> str:
    """The address of an output without a slash at its end, if it can be one.

    Raises:
        StorageError: if it's empty or in another scheme, or S3 can't have it.
    """
    text = str(address)
    if not text.strip():
        raise StorageError("The output's address is empty", "Name a folder or an s3:// address")
    if not is_remote(text):
        if "://" in text or "\0" in text:
            raise StorageError(f"{text!r} can't be written", "Name a folder or an s3:// address")
        return text
    _, key = s3_client.split(text)
    if key.strip("/"):
        checked_name(key.rstrip("/"), "--out")
    return text.rstrip("/")


def _folders(names: Iterable[str]) -> list[str]:
    """The folders of files of these names, sorted; not that which they are all in."""
    return sorted({str(folder) for name in names for folder in PurePosixPath(name).parents if folder.name})


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=True)


def _movers(path: Path) -> tuple[int, ...]:
    """The users who may move a path if its folder has the sticky bit, as /tmp has; with ourselves if it hasn't."""
    folder = path.parent.stat()
    return (0, path.stat().st_uid, folder.st_uid) if folder.st_mode & S_ISVTX else (os.geteuid(),)


def _real(path: Path) -> Path:
    """Where links lead; a link itself only if it leads to itself. `Path.resolve` fails there."""
    return Path(os.path.realpath(path))


def is_systems(name: str) -> bool:
    """Whether a file is a file manager's."""
    return name.rpartition("/")[2] in SYSTEM


def _raise(error: OSError) -> None:
    raise error
