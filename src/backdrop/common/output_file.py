"""Outputs that are one file, such as a fold plan: a file that isn't ours is never replaced."""

import os
from collections.abc import Callable
from pathlib import Path

from backdrop.common import storage
from backdrop.common.errors import StorageError
from backdrop.common.places import REMEDY, checked_address, find_place
from backdrop.common.storage import disk_errors, is_remote


def write_file(address: str | Path, data: bytes, is_ours: Callable[[bytes], bool], what: str) -> None:
    """Writes a single file atomically; one that is there is replaced only if it is ours.

    Args:
        address: the file.
        data: its content.
        is_ours: whether a content is that of a file which the same command wrote.
        what: such a file, for the error: "a fold plan".

    Raises:
        StorageError: if another file or a folder is there, or it can't be written.
    """
    inspect_file(address, is_ours, what)
    storage.write_bytes(address, data)


def require_file(address: str | Path, is_ours: Callable[[bytes], bool], what: str) -> None:
    """Makes sure, before any work, that `write_file` may write there and can; raises as it does."""
    inspect_file(address, is_ours, what)
    find_place(storage.parent(str(address)) if is_remote(address) else address).probe()


def inspect_file(address: str | Path, is_ours: Callable[[bytes], bool], what: str) -> None:
    """Makes sure that nothing is at an address but what `write_file` wrote; raises as it does."""
    name = checked_address(address)
    if is_remote(name) and (name != str(address) or "/" not in name.removeprefix("s3://")):
        raise StorageError(
            f"{address} is a bucket or a prefix", f"Name an object for {what}, without a slash at its end"
        )
    there = storage.exists(name)
    if not is_remote(name):
        with disk_errors(path := Path(name)):
            if path.is_dir():
                raise StorageError(f"{path} is a folder", "Name a file")
            if os.path.lexists(path) and not there:  # a pipe or a device would never end
                raise StorageError(f"{path} is not a regular file", REMEDY)
    if there and not is_ours(storage.read_bytes(name)):
        raise StorageError(f"{name} exists, and it isn't {what} that Backdrop wrote", REMEDY)
