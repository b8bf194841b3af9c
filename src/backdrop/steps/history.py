"""`history`: what happened to a model, and whether its records are what was written."""

from collections.abc import Sequence

from backdrop.tracking import history as records
from backdrop.tracking.ledger import Entry
from backdrop.tracking.students import outdated


def history(name: str) -> list[Entry]:
    """What happened to a registered model, in order.

    Raises:
        TrackingError: if there is no such model, its history was changed, or MLflow can't be reached.
    """
    return [link.entry for link in records.read(name).links]


def outdated_student(name: str) -> str:
    """A line that says that a student in use is out of date; empty if it isn't, or the model has no student.

    Raises:
        TrackingError: if a history was changed, or MLflow can't be reached.
    """
    return outdated(name, records.read(name).state.champion)


def verify_history(name: str) -> Sequence[str]:
    """What was changed in a model's history since it was written; nothing if all is well.

    Raises:
        TrackingError: if MLflow can't be reached.
    """
    return records.examine(name).faults
