"""Stores a member's checkpoints in a folder and in S3, written in the background while training continues."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from backdrop.common import output_file, outputs, places, s3, storage
from backdrop.common.errors import BackdropError, MemberError, StorageError, is_out_of_memory, shorten
from backdrop.common.progress import log
from backdrop.common.temporary import remove_left
from backdrop.common.text import parse_json
from backdrop.inference.member import STEP
from backdrop.training.checkpoint import MANIFEST, Buffer, Checkpoint, pack, unpack

KEEP = 2
INDEX = "index.json"
NAME = re.compile(r"\d{5,}-\d{8,}")


@dataclass(frozen=True)
class CheckpointStore:
    """A folder with the last two checkpoints, each in a folder `<epoch>-<step>`, and optionally a copy of it in S3.

    `index.json` lists the checkpoints that should exist, so that a missing one is noticed.
    """

    folder: Path
    remote: str | None = None

    def require(self) -> None:
        """Makes sure, before training, that no other file is in the way of the folder or its index.

        Raises:
            StorageError: if one is.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise StorageError(f"{self.folder} is not a folder", places.REMEDY)
        for address in self._places():
            output_file.inspect_file(f"{address}/{INDEX}", _is_index, "the list of checkpoints")

    def write(self, checkpoint: Checkpoint) -> None:
        """Adds a checkpoint atomically, and removes all but the last two.

        Raises:
            StorageError: if it can't be written. Earlier checkpoints are still there.
        """
        name = f"{checkpoint.progress.epoch:05d}-{checkpoint.progress.step:08d}"
        with outputs.output_folder(self.folder / name, STEP, MANIFEST) as scratch:
            for file, parts in pack(checkpoint).items():
                _write_through(scratch / file, parts)
        kept = self._local()[-KEEP:]
        _write_index(str(self.folder), kept)
        for old in set(self._local()) - set(kept):
            outputs.remove(self.folder / old)
        if self.remote:
            self._copy(self.remote, name)

    def read(self) -> Checkpoint | None:
        """The newest valid checkpoint, or None if there is none. Damaged or missing ones are logged and skipped.

        Raises:
            MemberError: if all are damaged.
        """
        names = self.names()
        for name in sorted(names, reverse=True):
            for location, read in self._locations(name):
                try:
                    return unpack(read)
                except (BackdropError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                    if is_out_of_memory(error):
                        raise
                    log(f"{location} is damaged ({shorten(error)}); trying the one before")
        if names:
            where = f"{self.folder} and {self.remote}" if self.remote else self.folder
            raise MemberError(f"All checkpoints in {where} are damaged", "Start again with --fresh")
        return None

    def clear(self) -> None:
        """Removes all checkpoints, and nothing else."""
        for address in self._places():
            for name in _names(address):
                outputs.remove(f"{address}/{name}")
        if self.remote and _index(self.remote):
            s3.delete(f"{self.remote}/{INDEX}")
        if _index(str(self.folder)):
            (self.folder / INDEX).unlink()
        if self.folder.is_dir():
            remove_left(self.folder)
            with contextlib.suppress(OSError):  # not empty
                self.folder.rmdir()

    def names(self) -> set[str]:
        """The checkpoints that exist or are in an index."""
        return {name for address in self._places() for name in (*_names(address), *_index(address))}

    def _places(self) -> list[str]:
        return [address for address in (self.remote, str(self.folder)) if address]

    def _copy(self, remote: str, name: str) -> None:
        """Adds a checkpoint in S3, where those may be that another machine wrote."""
        outputs.copy_output(self.folder / name, f"{remote}/{name}")
        names = _names(remote)
        _write_index(remote, names[-KEEP:])
        for old in names[:-KEEP]:
            outputs.remove(f"{remote}/{old}")

    def _locations(self, name: str) -> list[tuple[str, Callable[[str], bytes]]]:
        """The locations of a checkpoint, each with a function that reads a file there."""
        local, remote = self.folder / name, f"{self.remote}/{name}"
        if not self.remote:
            return [(str(local), lambda file: (local / file).read_bytes())]
        copies = [(str(local), lambda file: (local / file).read_bytes())] if local.is_dir() else []
        return [*copies, (remote, lambda file: storage.read_bytes(f"{remote}/{file}"))]

    def _local(self) -> list[str]:
        return _names(str(self.folder))


class Writer:
    """Writes checkpoints one after another in a background thread: `with Writer(store) as writer: …`.

    A checkpoint that can't be written is logged and training continues: earlier ones remain, and the next may succeed.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Writer":
        """Returns the writer."""
        return self

    def __exit__(self, error: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Waits for the checkpoint that is being written."""
        self._thread.shutdown(wait=True)
        if self._last and error is None:
            self._last.result()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._last is not None and not self._last.done()

    def submit(self, checkpoint: Checkpoint) -> None:
        """Starts writing a checkpoint, which must not change any more; raises the error of the last write, if any."""
        if self._last:
            self._last.result()
        self._last = self._thread.submit(self._write, checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._store.write(checkpoint)
        except StorageError as error:
            log(f"The checkpoint at step {checkpoint.progress.step} was not written; training continues: {error}")


def _names(address: str) -> list[str]:
    """The checkpoints in a folder or prefix, damaged ones too, sorted."""
    if storage.is_remote(address):
        names = {name.split("/")[0] for name in storage.list_files(address)}
    else:
        names = {path.name for path in Path(address).glob("*") if path.is_dir()}
    return sorted(name for name in names if NAME.fullmatch(name) and outputs.is_output(f"{address}/{name}"))


def _write_index(address: str, names: list[str]) -> None:
    output_file.write_file(f"{address}/{INDEX}", json.dumps(names).encode(), _is_index, "the list of checkpoints")


def _is_index(data: bytes) -> bool:
    return bool(_parse(data))


def _index(address: str) -> list[str]:
    """The names in an index; none if it is missing or damaged."""
    try:
        return _parse(storage.read_bytes(f"{address}/{INDEX}"))
    except StorageError:
        return []


def _parse(data: bytes) -> list[str]:
    try:
        return [name for name in parse_json(data) if NAME.fullmatch(name)]
    except (ValueError, TypeError):
        return []


def _write_through(path: Path, parts: Sequence[Buffer]) -> None:
    """Writes and syncs a file, so that its folder's rename can't become visible before its content."""
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
