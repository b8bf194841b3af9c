"""Locks of outputs: one process at a time writes to a folder or S3 prefix, and the others learn which one it is.

A lock is a hidden file or an object that names its owner and changes every ten seconds (its heartbeat). On one machine
the kernel's file lock, or the process ID, tells at once whether the owner lives. An owner on another machine is dead if
its lock didn't change for a minute; two clocks are never compared without watching the lock as well.
"""

import contextlib
import functools
import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from backdrop.common import s3
from backdrop.common.errors import StorageError
from backdrop.common.outputs import require
from backdrop.common.owner import Owner, parse_owner, this_process
from backdrop.common.progress import log
from backdrop.common.storage import disk_errors, is_remote
from backdrop.common.temporary import try_lock
from backdrop.common.text import may_begin

BEAT_S = 10.0
SILENT_S = 60.0  # a lock that doesn't change for longer has no owner
WATCH_S = 15.0  # how long to watch a lock that seems to be as old, because clocks differ
SETTLE_S = 2.0  # for S3 servers that ignore conditions: by then another writer's lock is visible
POLL_S = 0.2
ATTEMPTS = 100
SIZE = 4096  # bytes; more than any lock has
HEAD = b'{"step": '  # of every lock

P = ParamSpec("P")
T = TypeVar("T")
_held: set[str] = set()  # the tokens of this process's locks


class Lock(Protocol):
    """A lock, taken and released by one process."""

    def take(self, owner: Owner) -> Owner | None:
        """Makes `owner` the lock's owner; returns the present one if it may be alive."""

    def beat(self) -> bool:
        """Changes the lock; returns False if it has another owner now."""

    def release(self) -> None:
        """Removes the lock, if it is still ours."""


@contextlib.contextmanager
def hold(target: str | Path, step: str, option: str = "--out", beside: bool = False) -> Iterator[None]:
    """Holds the lock of a folder or S3 prefix while the block lasts.

    A dead owner's lock is taken over, with one line that says so.

    Args:
        target: the folder or prefix.
        step: what this process does there, for the others' message.
        option: the option that named the target, for the message.
        beside: put the file beside the folder, not into it, because the folder is replaced as a whole.

    Raises:
        StorageError: if another process that may be alive holds the lock, it can't be written, or it isn't ours.
    """
    lock = _lock(str(target), beside)
    owner = this_process(step)
    other = lock.take(owner)
    if other:
        raise StorageError(f"{target} is in use by {other}", f"Wait until it ends, or use another {option}")
    _held.add(owner.token)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(lock, str(target), ended), name=f"lock {target}", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        _held.discard(owner.token)
        lock.release()


def alone(step: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates a step that replaces its folder `out` as a whole: it may and can, and holds its lock while it runs.

    Args:
        step: its name, for the inventory and for the others' message.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            out = signature.bind(*args, **kwargs).arguments["out"]
            require(out, step)
            with hold(out, step, beside=True):
                return function(*args, **kwargs)

        return run

    return decorate


def _lock(target: str, beside: bool) -> Lock:
    if is_remote(target):
        return _ObjectLock(f"{target.rstrip('/')}/{s3.LOCK}")
    folder = Path(target).absolute()
    return _FileLock(folder.with_name(f".backdrop.{folder.name}.lock") if beside else folder / s3.LOCK)


def _beat(lock: Lock, target: str, ended: threading.Event) -> None:
    """Shows that this process lives. One that was silent for so long that it lost its lock must not write any more."""
    while not ended.wait(BEAT_S):
        with contextlib.suppress(StorageError, OSError):  # the next beat may succeed
            if not lock.beat():
                log(f"This process lost {target} to another one, because it was silent for a minute; it ends now")
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _may_live(owner: Owner, pulse: Callable[[], tuple[object, float]], address: str) -> bool:
    """Whether the owner of an existing lock may be alive; if not, says that its lock is taken over.

    Args:
        owner: the lock's owner.
        pulse: returns the lock's present state, which each heartbeat changes, and its age in seconds.
        address: the lock's.
    """
    ours = owner.lives and owner.pid == os.getpid()  # S3 may have been away when we released it
    lives = owner.token in _held if ours else owner.lives
    if lives or (lives is None and _beats(owner, pulse, address)):
        return True
    log(f"Taking over {address} from {owner}, which has ended")
    return False


def _beats(owner: Owner, pulse: Callable[[], tuple[object, float]], address: str) -> bool:
    state, age_s = pulse()
    limit_s, start = WATCH_S if age_s > SILENT_S else SILENT_S, time.monotonic()
    log(f"Watching {address} of {owner} for a heartbeat, up to {limit_s:.0f} s")
    while time.monotonic() - start < limit_s:
        time.sleep(POLL_S)
        if pulse()[0] != state:
            return True
    return False


@dataclass
class _FileLock:
    """A file, locked by the kernel as well while its owner lives."""

    path: Path
    descriptor: int = -1
    created: list[Path] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.path)

    def take(self, owner: Owner) -> Owner | None:
        while True:
            with disk_errors(self.path):
                descriptor, locked = self._open()
            previous = self._read(descriptor)
            free = locked is not False and not (previous and self._may_live(previous, descriptor, locked))
            if free and self._is_ours(descriptor):
                break
            os.close(descriptor)
            if previous and not free:
                return previous
            time.sleep(POLL_S)  # it has just been made, or removed
        self.descriptor = descriptor
        try:
            with disk_errors(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, owner.dump().encode(), 0)
        except StorageError:  # such as of a full disk
            self.release()
            raise
        if locked is None:
            time.sleep(SETTLE_S)
            last = self._read(descriptor)
            return None if last == owner else last
        return None

    def beat(self) -> bool:
        os.utime(self.descriptor)
        return self._is_ours(self.descriptor) or not self.path.exists()

    def release(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_ours(self.descriptor):
                self.path.unlink()
            for folder in reversed(self.created):
                folder.rmdir()  # fails if something was written there
        os.close(self.descriptor)

    def _open(self) -> tuple[int, bool | None]:
        """The open file, and whether this process has the kernel's lock on it; None if the file system has no locks."""
        attempts = 0
        while True:
            try:
                self._create_folder()
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except FileNotFoundError:  # another process has removed the folder again, unless none can be made there
                attempts += 1
                if attempts == ATTEMPTS:
                    raise
                continue
            locked = try_lock(descriptor)
            if not locked or self._is_ours(descriptor):
                return descriptor, locked
            os.close(descriptor)  # its owner has removed it

    def _read(self, descriptor: int) -> Owner | None:
        try:
            with disk_errors(self.path):
                return _owner(os.pread(descriptor, SIZE, 0), self.address)
        except StorageError:
            os.close(descriptor)
            raise

    def _create_folder(self) -> None:
        for folder in reversed(self.path.parents):
            with contextlib.suppress(FileExistsError):
                if not folder.exists():
                    folder.mkdir()
                    self.created.append(folder)

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the path still leads to the open file."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _may_live(self, previous: Owner, descriptor: int, locked: bool | None) -> bool:
        """Whether the owner in the file may live. On this machine it would have the kernel's lock."""
        if locked and previous.is_on_this_machine:
            log(f"Taking over {self.path} from {previous}, which has ended")
            return False

        def pulse() -> tuple[object, float]:
            changed_ns = os.fstat(descriptor).st_mtime_ns
            return changed_ns, time.time() - changed_ns / 1e9

        return _may_live(previous, pulse, self.address)


@dataclass
class _ObjectLock:
    """An object, written on conditions that S3 checks; after a server that doesn't, it is read again."""

    address: str
    owner: Owner | None = None
    beats: int = 0

    @property
    def _data(self) -> bytes:
        assert self.owner is not None
        return f"{self.owner.dump()}\n{self.beats}\n".encode()

    def take(self, owner: Owner) -> Owner | None:
        self.owner = owner
        while True:
            version = s3.read_version(self.address)
            previous = _owner(version.data, self.address) if version else None
            if version and previous and _may_live(previous, self._pulse, self.address):
                return previous
            if self._write(version.etag if version else None) and self._is_kept():
                return None
            # Another process was faster: the next round finds its lock.

    def beat(self) -> bool:
        version = s3.read_version(self.address)
        if version is not None and not self._is_ours(version):
            return False
        self.beats += 1
        return self._write(version.etag if version else None)

    def release(self) -> None:
        with contextlib.suppress(StorageError):  # it is stale in a minute
            version = s3.read_version(self.address)
            if version is not None and self._is_ours(version):
                s3.delete(self.address)

    def _write(self, etag: str | None) -> bool:
        """Writes the lock if it is absent (None), or still has this ETag."""
        if s3.write_if(self.address, self._data, etag):
            return True
        version = s3.read_version(self.address)  # the first of several attempts may have succeeded
        return version is not None and version.data == self._data

    def _is_kept(self) -> bool:
        """Whether the lock is ours, also on a server that ignores conditions and has several writers."""
        if s3.write_if(self.address, self._data, None):
            time.sleep(SETTLE_S)
        version = s3.read_version(self.address)
        return version is not None and self._is_ours(version)

    def _is_ours(self, version: "s3.Version") -> bool:
        owner = parse_owner(version.data)
        return owner is not None and self.owner is not None and owner.token == self.owner.token

    def _pulse(self) -> tuple[object, float]:
        version = s3.read_version(self.address)
        return (version.etag, version.age_s) if version else (None, 0.0)


def _owner(data: bytes, address: str) -> Owner | None:
    """The owner in a lock; None if there is none, because its writer was killed.

    Raises:
        StorageError: if it isn't a lock of ours.
    """
    if not may_begin(data, HEAD):
        raise StorageError(f"{address} exists, and Backdrop didn't write it", "Move it")
    return parse_owner(data)
