"""Outputs: folders and `s3://` prefixes that Backdrop writes. Nothing of anybody else's is replaced or removed.

Each output has an inventory, `.backdrop.json`, with the step that wrote it and the sha256 of each of its files. So a
target is ours (its inventory says so), new (missing or empty), or refused; in S3 as on disk. What is replaced or
removed is in the inventory, and has not changed since. Where a step writes file by file (`Claim`), that holds for each
file: others beside them stay.

Names that begin with `.backdrop.` are our own: beside an output while it's written, and at its top.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from backdrop.common import s3, storage
from backdrop.common.errors import StorageError
from backdrop.common.names import checked_name
from backdrop.common.places import INVENTORY, PROBE, REMEDY, SYSTEM, Entry, Place, State, checked_address, find_place
from backdrop.common.retry import workers
from backdrop.common.storage import disk_errors, is_remote, sha256
from backdrop.common.temporary import temporary_beside
from backdrop.common.text import parse_json

Files = Mapping[str, Entry]


@dataclass(frozen=True)
class Inventory:
    """What a step wrote, or is about to write, until it is sealed. An output without its key file is unfinished."""

    step: str
    key_file: str
    files: Files = field(default_factory=dict)
    sealed: bool = False

    def dump(self) -> bytes:
        """As JSON; equal inventories have equal bytes."""
        files = {name: [entry.sha256, entry.size] for name, entry in sorted(self.files.items())}
        values = {"step": self.step, "key_file": self.key_file, "sealed": self.sealed, "files": files}
        return json.dumps(values, indent=0).encode()


def inspect(address: str | Path, step: str, whole: bool = True) -> Inventory | None:
    """The inventory of what a step wrote at an address earlier; None if nothing is there.

    Args:
        address: a folder or `s3://` prefix, as a command was given it.
        step: the step that wants to write there.
        whole: whether all of it would be replaced, so that nothing else may be there.

    Raises:
        StorageError: if something else is there, or our files have changed.
    """
    place = find_place(address)
    place.require_folder(whole)
    inventory = _read(place)
    if inventory is None:
        if whole and (other := place.first()):
            raise StorageError(f"{place} exists and is not the output of an earlier run (it holds {other!r})", REMEDY)
        return None
    if inventory.step != step:
        raise StorageError(f"{place} holds the output of `backdrop {inventory.step}`", REMEDY)
    present = place.scan() if whole else place.look_up(inventory.files)
    others = sorted(present.keys() - inventory.files.keys() - {INVENTORY})
    if others:
        raise StorageError(f"{place} holds {others[0]}, which `backdrop {step}` didn't write", REMEDY)
    _require_unchanged(place, inventory.files, present)
    return inventory


def written_by(address: str | Path) -> str:
    """The step whose output is at an address, by its inventory; empty without one.

    Raises:
        StorageError: if it can't be read.
    """
    try:
        return str(parse_json(find_place(address).read(INVENTORY) or b"{}").get("step", ""))
    except (ValueError, AttributeError):  # somebody else's
        return ""


def require(address: str | Path, step: str) -> None:
    """Makes sure, before any work, that `output_folder` may write there and can.

    Raises:
        StorageError: if something else is there, or it can't be written.
    """
    inspect(address, step)
    find_place(address).probe()


def probe(address: str | Path) -> None:
    """Makes sure, before any work, that files can be written into a folder or below a prefix.

    Raises:
        StorageError: if they can't.
    """
    find_place(address).require_folder(whole=False)
    find_place(address if is_remote(address) else Path(address, PROBE)).probe()


@contextlib.contextmanager
def output_folder(address: str | Path, step: str, key_file: str) -> Iterator[Path]:
    """A temporary folder that becomes the output at `address` if the block succeeds, and is removed if it fails.

    Args:
        address: the folder or `s3://` prefix. An output of the same step is replaced.
        step: what writes it.
        key_file: the file by which readers know that the output is complete; in S3 it goes first and comes last.

    Raises:
        StorageError: if something else is there, or it can't be written.
    """
    inspect(address, step)
    target = storage.cache_folder() / "outgoing" if is_remote(address) else Path(address).resolve()
    with disk_errors(target), temporary_beside(target) as temporary:
        temporary.mkdir()
        yield temporary
        (temporary / INVENTORY).write_bytes(Inventory(step, key_file, entries(temporary), sealed=True).dump())
        if is_remote(address):
            copy_output(temporary, str(address))
        else:
            inspect(address, step)  # again: much time may have passed
            _replace_folder(target, temporary)


def copy_output(folder: Path, address: str) -> None:
    """Copies a finished output on disk to S3; an output of the same step there is replaced.

    Raises:
        StorageError: if something else is there, or it can't be written.
    """
    inventory = _read(find_place(folder))
    assert inventory is not None  # the caller wrote it
    _replace_prefix(address, inspect(address, inventory.step), inventory, folder)


class Claim:
    """An output that is written file by file; each is in the inventory before it's first written.

    Other files may be in the folder: they are neither replaced nor removed.

    Args:
        address: a folder or `s3://` prefix that no other step has written.
        step: what writes it.
        key_file: the file by which readers know that the output is complete.
        names: files that will be written, to reserve before anything is.

    Raises:
        StorageError: if another step's output is there, our files have changed, or it can't be written; as `reserve`.
    """

    def __init__(self, address: str | Path, step: str, key_file: str, names: Iterable[str] = ()) -> None:
        self.address = checked_address(address)
        self._place = find_place(address)
        self._inventory = inspect(address, step, whole=False) or Inventory(step, key_file)
        self.reserve(*names)
        probe(self.address)
        self._save(self._inventory.files, self._inventory.sealed)

    def reserve(self, *names: str) -> None:
        """Makes sure, before any work, that files may be written.

        Raises:
            StorageError: if one is there that we didn't write, or that has changed since; or if something else is in
                the place of its folder.
        """
        if other := self._place.in_the_way(names):
            raise StorageError(f"{self._place}/{other} is not a folder that can be written to", REMEDY)
        present, known = self._place.look_up(names), self._inventory.files
        for name in names:
            if name in present and name not in known:
                raise StorageError(f"{self._place}/{name} exists, and Backdrop didn't write it", REMEDY)
        _require_unchanged(self._place, {name: known[name] for name in names if name in known}, present)

    def record(self, files: Files) -> None:
        """Adds files that are about to be written; a file of ours with other content is removed.

        Raises:
            StorageError: as `reserve`, or if the inventory can't be written.
        """
        self.reserve(*files)
        known = self._inventory.files
        for name, entry in files.items():
            if name in known and known[name] != entry:
                self._place.remove(name)
        self._save({**known, **files}, sealed=False)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Records files, and writes each atomically, in order; raises as `record`, or if one can't be written."""
        self.record({name: Entry(sha256(data), len(data)) for name, data in files.items()})
        for name, data in files.items():
            self._place.write(name, data)

    def add(self, folder: Path, files: Files) -> None:
        """Records files, and copies them from a folder; raises as `record`, or if one can't be read or written."""
        self.record(files)
        with workers(s3.THREADS) as pool:
            list(pool.map(lambda name: self._place.copy(folder / name, name), sorted(files)))

    def copy(self, folder: Path) -> None:
        """Writes the files of a sealed claim on disk; raises as `record`, or if one can't be read or written."""
        source = _read(find_place(folder))
        assert source is not None  # the caller sealed it
        self.record(source.files)
        names = sorted(name for name in source.files if (folder / name).is_file())
        storage.upload_folder(folder, self.address, source.key_file, names)
        self.seal()

    def seal(self) -> None:
        """Writes the inventory again: files that are older than it are known to be unchanged."""
        self._save(self._inventory.files, sealed=True)

    def remove(self, names: Collection[str]) -> None:
        """Removes files of ours; what has changed stays."""
        files = self._inventory.files
        chosen = {name: files[name] for name in names if name in files}
        _remove_files(self._place, replace(self._inventory, files=chosen))
        self._save({name: entry for name, entry in files.items() if name not in chosen}, self._inventory.sealed)

    def clear(self) -> None:
        """Removes our files, but not the claim."""
        self.remove(self._inventory.files)
        self._place.tidy()

    def _save(self, files: Files, sealed: bool) -> None:
        self._inventory = replace(self._inventory, files=dict(files), sealed=sealed)
        self._place.write(INVENTORY, self._inventory.dump())


def repair(address: str | Path, step: str, needed: Collection[str]) -> list[str]:
    """Makes a finished output unfinished if files that it needs are missing or have changed, so that its step can run.

    Args:
        address: the output.
        step: the step that wrote it; another step's output isn't touched.
        needed: the files without which the output is of no use.

    Returns:
        What is wrong with each of them; nothing if the output isn't finished.

    Raises:
        StorageError: if a file can't be read, renamed or removed.
    """
    place = find_place(address)
    inventory = _read(place)
    if inventory is None or inventory.step != step or inventory.key_file not in inventory.files:
        return []  # a key file that isn't in it is somebody else's
    if place.read(inventory.key_file) is None:
        return []
    present = place.look_up({*inventory.files, *needed})
    changed = _changed(place, inventory.files, present)
    if inventory.key_file in changed and not inventory.sealed:
        return []  # ours was about to be written: this one, too, is somebody else's
    if not any(name in changed or name not in present for name in needed):
        return []
    kept = {name: _set_aside(place, name) for name in changed}
    place.remove(inventory.key_file)
    missing = [f"{name} is missing" for name in needed if name not in present]
    return missing + [f"{name} has changed (kept as {copy})" for name, copy in kept.items()]


def set_changed_aside(address: str | Path, name: str) -> str | None:
    """Gives a file of ours another name if it has changed, since it may hold somebody's work.

    Returns:
        The new name; None if the file is missing, unchanged or not ours.

    Raises:
        StorageError: if it can't be read or renamed.
    """
    place = find_place(address)
    inventory = _read(place)
    ours = {name: inventory.files[name]} if inventory and name in inventory.files else {}
    return _set_aside(place, name) if _changed(place, ours, place.look_up(ours)) else None


def remove(address: str | Path) -> None:
    """Removes the output at an address, its key file first; what else is there, or has changed, stays.

    Raises:
        StorageError: if it can't be removed.
    """
    place = find_place(address)
    inventory = _read(place)
    if inventory is not None:
        _remove_files(place, inventory)
        place.tidy()
        place.remove(INVENTORY)


def is_output(address: str | Path) -> bool:
    """Whether there is an output of ours.

    Raises:
        StorageError: if S3 doesn't answer.
    """
    return storage.exists(storage.within(address, INVENTORY))


def _read(place: Place) -> Inventory | None:
    """The inventory; None if there is none.

    Raises:
        StorageError: if it's damaged, or somebody else's.
    """
    data = place.read(INVENTORY)
    if data is None:
        return None
    try:
        values = parse_json(data)
        files = {
            checked_name(name, f"{place}/{INVENTORY}"): Entry(str(entry[0]), int(entry[1]))
            for name, entry in values["files"].items()
        }
        return Inventory(str(values["step"]), str(values["key_file"]), files, bool(values["sealed"]))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StorageError(f"{place}/{INVENTORY} is not an inventory of Backdrop", REMEDY) from error


def _set_aside(place: Place, name: str) -> str:
    return storage.set_aside(f"{place}/{name}").removeprefix(f"{place}/")


def _require_unchanged(place: Place, files: Files, present: Mapping[str, State]) -> None:
    changed = _changed(place, files, present)
    if changed:
        raise StorageError(f"{place}/{changed[0]} has changed since Backdrop wrote it", REMEDY)


def _changed(place: Place, files: Files, present: Mapping[str, State]) -> list[str]:
    """Those of our files that are there with other content, sorted."""
    sealed_at = present[INVENTORY].changed_at if INVENTORY in present else 0

    def has_changed(name: str) -> bool:
        entry, state = files[name], present[name]
        if state.size != entry.size:
            return True
        return state.changed_at >= sealed_at and place.entry(name) != entry  # written before the inventory: unchanged

    names = sorted(files.keys() & present.keys())
    with workers(s3.THREADS) as pool:
        return [name for name, is_changed in zip(names, pool.map(has_changed, names), strict=True) if is_changed]


def _remove_files(place: Place, inventory: Inventory) -> None:
    """Removes the files that haven't changed, the key file first."""
    present = place.look_up(inventory.files)
    names = inventory.files.keys() & present.keys() - set(_changed(place, inventory.files, present))
    if inventory.key_file in names:
        place.remove(inventory.key_file)
    with workers(s3.THREADS) as pool:
        list(pool.map(place.remove, sorted(names - {inventory.key_file})))


def entries(folder: Path) -> Files:
    """What an inventory says of the files below a folder on disk."""
    place = find_place(folder)
    names = sorted(place.scan().keys() - {INVENTORY})
    with workers(s3.THREADS) as pool:
        return dict(zip(names, pool.map(place.entry, names), strict=True))


def _replace_folder(target: Path, source: Path) -> None:
    """Puts a folder in the place of an output, which is back if that fails; what a file manager wrote stays."""
    old = source.parent / f"{source.name}.old"
    if target.exists():
        for path in (path for path in target.rglob("*") if path.name in SYSTEM):
            copy = source / path.relative_to(target)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(source, target)
    except BaseException:  # Ctrl-C between the two, too
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


def _replace_prefix(address: str, old: Inventory | None, new: Inventory, source: Path) -> None:
    """Puts a folder in the place of an output in S3, so that at any moment an inventory there names all that is ours.

    Every file is in the old inventory until what differs is gone, and in the new one from then on.
    """
    place = find_place(address.rstrip("/"))
    if old is not None and old.files != new.files:
        same = {name for name, entry in old.files.items() if new.files.get(name) == entry} - {old.key_file}
        _remove_files(place, replace(old, files={name: old.files[name] for name in old.files if name not in same}))
    place.write(INVENTORY, replace(new, sealed=False).dump())
    storage.upload_folder(source, address, new.key_file, sorted(new.files))
    place.write(INVENTORY, new.dump())  # later than all files, by which they are known as unchanged
