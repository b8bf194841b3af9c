"""`history`: what happened to a model, and whether its records are what was written."""

from collections.abc import Sequence

from backdrop.tracking import history as records
from backdrop.tracking.ledger import Chain, Entry
from backdrop.tracking.students import outdated


def history(name: str) -> list[Entry]:
    """What happened to a registered model, in order.

    Raises:
        TrackingError: if there is no such model, its history was changed, or MLflow can't be reached.
    """
    return [link.entry for link in _known(name, records.read(name)).links]


def outdated_student(name: str) -> str:
    """A line that says that a student in use is out of date; empty if it isn't, or the model has no student.

    Raises:
        TrackingError: if a history was changed, or MLflow can't be reached.
    """
    return outdated(name, records.read(name).state.champion)


def verify_history(name: str) -> Sequence[str]:
    """What was changed in a model's history since it was written; nothing if all is well.

    Raises:
        TrackingError: if there is no such model, or MLflow can't be reached.
    """
    return _known(name, records.examine(name)).faults


def _known(name: str, chain: Chain) -> Chain:
    """The chain of a model that exists, or of one that was deleted; a wrong name has neither model nor chain."""
    if not chain.links and not chain.faults:
        records.require_model(name)
    return chain
