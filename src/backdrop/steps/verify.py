"""`verify`: whether a version's files and its model's history are what was written."""

from backdrop.common.errors import TrackingError
from backdrop.common.progress import working
from backdrop.config.records import Record
from backdrop.tracking import history, registry, signing
from backdrop.tracking.client import missing
from backdrop.tracking.version_files import examine

SHOWN = 5  # files that an error names


class Verification(Record):
    """What `verify` found to be as it was written.

    Attributes:
        address: the version, `models:/NAME/VERSION`.
        files: the number of its files.
        entries: the number of entries in its model's history.
        actor, time: who registered it, and when, in ISO 8601.
        signature: `valid`, `none`, or `not checked` without BACKDROP_TRUSTED_KEY.
    """

    address: str
    files: int
    entries: int
    actor: str
    time: str
    signature: str


@working("verifying")
def verify(model: str) -> Verification:
    """Compares every file of a version, and its model's history, with what was written.

    The history is a chain of digests, and holds that of the list of the version's files. If BACKDROP_TRUSTED_KEY is
    set, the signature of the files is verified, too.

    Args:
        model: `NAME` for its champion, `NAME@ALIAS` or `NAME/VERSION`; it may begin with `models:/`.

    Raises:
        ConfigError: if BACKDROP_TRUSTED_KEY can't be used.
        TrackingError: if anything was changed, is missing or was added; if there is no such version; or if MLflow can't
            be reached.
    """
    short = model.removeprefix("models:/")
    address = f"models:/{short}" if {"@", "/"} & set(short) else f"models:/{short}@{history.CHAMPION}"
    name, _, _ = registry.parse_address(address)
    known = history.read(name)
    version = registry.find_address(address)
    if version is None:
        raise missing(address)
    entry = known.state.registered.get(version.version)
    if entry is None:
        raise TrackingError(f"The history of {name} doesn't know {version.address}", "Register it with Backdrop")
    count, faults, signed = examine(version, entry.digests.get("files", ""))
    if version.digest != entry.digests["ensemble"]:
        faults = [*faults, "its ensemble's digest was changed"]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        what = f"{version.address} isn't what was registered: {'; '.join(faults[:SHOWN])}{more}"
        raise TrackingError(what, "Delete the version, and register the ensemble again")
    checked = "valid" if signing.trusted_key() else "not checked" if signed else "none"
    return Verification(
        address=version.address,
        files=count,
        entries=len(known.links),
        actor=entry.actor,
        time=entry.time,
        signature=checked,
    )
