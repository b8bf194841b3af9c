"""Where a member's checkpoints are kept, and how they get there beside the training, not in its way."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from backdrop.common import storage
from backdrop.common.errors import BackdropError, MemberError, StorageError, shorten
from backdrop.common.progress import log
from backdrop.training.checkpoint import MANIFEST, Buffer, Checkpoint, pack, unpack

KEEP = 2
INDEX = "index.json"
NAME = re.compile(r"\d+-\d+")


@dataclass(frozen=True)
class CheckpointStore:
    """A folder with the last few checkpoints, each in a folder `<epoch>-<step>`; and its copy in S3, if there is one.

    `index.json` names those that should be there, so that a missing one is noticed.
    """

    folder: Path
    remote: str | None = None

    def write(self, checkpoint: Checkpoint) -> None:
        """Adds a checkpoint, whole or not at all, and forgets all but the last few.

        Raises:
            StorageError: if it can't be written. What was there before is there still.
        """
        name = f"{checkpoint.progress.epoch:05d}-{checkpoint.progress.step:08d}"
        if not (self.folder / name / MANIFEST).is_file():  # a damaged one, which we have passed over
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with storage.output_folder(self.folder / name, MANIFEST) as scratch:
            for file, parts in pack(checkpoint).items():
                _write_through(scratch / file, parts)
        kept = self._local()[-KEEP:]
        storage.write_bytes(self.folder / INDEX, json.dumps(kept).encode())
        for old in set(self._local()) - set(kept):
            shutil.rmtree(self.folder / old, ignore_errors=True)
        if self.remote:
            self._copy(self.remote, name, kept)

    def read(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None if there is none; what is damaged or missing is said and passed over.

        Raises:
            MemberError: if all are damaged, rather than to begin anew without a word.
        """
        names = self.names()
        for name in sorted(names, reverse=True):
            for place, read in self._places(name):
                try:
                    return unpack(read)
                except (BackdropError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                    log(f"{place} is damaged ({shorten(error)}); going back to the one before")
        if names:
            raise MemberError(f"All checkpoints in {self.folder} are damaged", "Begin anew with --fresh")
        return None

    def clear(self) -> None:
        """Forgets all checkpoints."""
        for name in self.names():
            if self.remote:
                storage.remove_folder(f"{self.remote}/{name}", MANIFEST)
        if self.remote:
            storage.remove_folder(self.remote, INDEX)
        shutil.rmtree(self.folder, ignore_errors=True)

    def names(self) -> set[str]:
        """Those that are there or should be."""
        found = {*self._local(), *_index(str(self.folder))}
        if self.remote:
            there = {file.split("/")[0] for file in storage.list_files(self.remote)}
            found |= {name for name in there if NAME.fullmatch(name)} | set(_index(self.remote))
        return found

    def _copy(self, remote: str, name: str, kept: list[str]) -> None:
        storage.upload_folder(self.folder / name, f"{remote}/{name}", MANIFEST)
        storage.write_bytes(f"{remote}/{INDEX}", json.dumps(kept).encode())
        for old in {file.split("/")[0] for file in storage.list_files(remote)} - {*kept, INDEX}:
            storage.remove_folder(f"{remote}/{old}", MANIFEST)

    def _places(self, name: str) -> list[tuple[str, Callable[[str], bytes]]]:
        """Where a checkpoint may be, and how its files are read there."""
        local, remote = self.folder / name, f"{self.remote}/{name}"
        if not self.remote:
            return [(str(local), lambda file: (local / file).read_bytes())]
        here = [(str(local), lambda file: (local / file).read_bytes())] if local.is_dir() else []
        return [*here, (remote, lambda file: storage.read_bytes(f"{remote}/{file}"))]

    def _local(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("[0-9]*") if path.is_dir())


class Writer:
    """Writes checkpoints one after another in a thread of its own: `with Writer(store) as writer: …`.

    What can't be written is said, and training goes on: the next one may fit, and those of before are there still.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._shelf = store
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Writer":
        """Ready to write."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Waits for what is being written."""
        self._thread.shutdown(wait=True)
        if self._last and kind is None:
            self._last.result()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._last is not None and not self._last.done()

    def submit(self, checkpoint: Checkpoint) -> None:
        """Begins to write a checkpoint that nobody changes any more; raises what the last one's writing raised."""
        if self._last:
            self._last.result()
        self._last = self._thread.submit(self._write, checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._shelf.write(checkpoint)
        except StorageError as error:
            log(f"No checkpoint at step {checkpoint.progress.step}; training continues: {error}")


def _index(address: str) -> list[str]:
    """The names in an index; none if it is missing or damaged: what is there is seen without it."""
    try:
        names = json.loads(storage.read_bytes(f"{address}/{INDEX}"))
        return [name for name in names if NAME.fullmatch(name)]
    except (StorageError, ValueError, TypeError):
        return []


def _write_through(path: Path, parts: Sequence[Buffer]) -> None:
    """To the disk itself: a rename must not become visible before what it names."""
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
