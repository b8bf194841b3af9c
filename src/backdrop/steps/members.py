"""Opens members by address: a folder, an `s3://` prefix, or MLflow's `runs:/ID/member`."""

from pathlib import Path

from backdrop.common import storage
from backdrop.inference.member import Member, read_member
from backdrop.tracking.members import fetch_member


def open_member(address: str) -> Member:
    """Reads a finished member from its address.

    Raises:
        MemberError: if it isn't complete.
        TrackingError: if MLflow can't be reached or has no such run.
        StorageError: if the address is empty, or the folder or the prefix can't be read.
    """
    storage.require_named(address)
    if address.startswith("runs:/"):
        return read_member(fetch_member(address))
    return read_member(storage.local_folder(address) if storage.is_remote(address) else Path(address))
