"""Students of registered models: where they are registered, and whether another version has replaced their teacher."""

from backdrop.common.errors import ConfigError, TrackingError
from backdrop.data.pseudo_labels import Teacher
from backdrop.tracking import history
from backdrop.tracking.client import place
from backdrop.tracking.ledger import State
from backdrop.tracking.registry import find_versions, parse_address
from backdrop.tracking.version_files import TEACHER, Version

SUFFIX = "-student"


def student_name(teacher: Teacher) -> str:
    """The registered model of a teacher's students."""
    return f"{parse_address(teacher.address)[0]}{SUFFIX}"


def student_address(model: str) -> str:
    """The address of the student in use for a model.

    Args:
        model: `models:/NAME@champion`.

    Raises:
        ConfigError: if it is another address.
        TrackingError: if it is none.
    """
    name, alias, _ = parse_address(model)
    if alias != history.CHAMPION:
        raise ConfigError(f"{model} can't be used with --student", f"Name models:/{name}@champion")
    return f"models:/{name}{SUFFIX}@champion"


def find_teacher(name: str, version: int, state: State) -> Version | None:
    """The version that taught a student; None if a version isn't a student.

    Args:
        name: of the registered model.
        version: one of its versions.
        state: of its history.

    Raises:
        TrackingError: if the teacher was deleted, or the server doesn't answer.
    """
    digest = _teacher_digest(version, state)
    if not digest:
        return None
    base = name.removesuffix(SUFFIX)
    versions = find_versions(base, digest)
    if not versions:
        raise TrackingError(f"{place()} has no version of {base} that taught models:/{name}/{version}", "Distill again")
    return versions[0]


def outdated(name: str, version: int | None) -> str:
    """A line that says that a student's teacher isn't the champion any more; empty if it is, or for no student.

    Args:
        name: of the registered model.
        version: one of its versions; None for none.

    Raises:
        TrackingError: if a history was changed, or the server doesn't answer.
    """
    if version is None or not name.endswith(SUFFIX):
        return ""
    digest = _teacher_digest(version, history.read(name).state)
    base = name.removesuffix(SUFFIX)
    teacher = history.read(base).state
    champion = teacher.registered.get(teacher.champion or 0)
    if not digest or champion is None or champion.digests.get("ensemble") == digest:
        return ""
    return f"models:/{name}/{version} is out of date: models:/{base}/{champion.version} didn't teach it; distill again"


def _teacher_digest(version: int, state: State) -> str:
    entry = state.registered.get(version)
    return entry.digests.get(TEACHER, "") if entry else ""
