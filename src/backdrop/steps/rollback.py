"""`rollback`: an earlier champion takes its place again, and is held."""

from datetime import date, datetime, time

from backdrop.common.errors import TrackingError
from backdrop.common.progress import working
from backdrop.tracking import history, registry
from backdrop.tracking.client import AGAIN
from backdrop.tracking.ledger import Entry, State
from backdrop.tracking.version_files import Version, check_files


@working("rolling back")
def rollback(name: str, to: str = "", reason: str = "") -> Version:
    """Makes an earlier champion the champion again, and holds it: only people replace it, until `release`.

    A call that was cut short is finished by another with `to`.

    Args:
        name: the registered model.
        to: a version that was champion; or a date (until its end) or time in ISO 8601, for what was champion then. By
            default the champion before the present one, so that doing it twice returns to where it began.
        reason: stands in the model's history.

    Returns:
        The new champion.

    Raises:
        GateError: if somebody else changes the champion meanwhile.
        TrackingError: if there is no such version to go back to, or MLflow has lost its files or can't be reached.
    """
    chosen = list[Version]()

    def choose(state: State) -> Entry | None:
        number = _target(name, to, state)
        version = registry.find_number(name, number)
        check_files(version)
        chosen.append(version)
        if number == state.champion:  # an earlier call was cut short
            return None
        return Entry(event="rolled back", version=number, champion=state.champion, reason=reason)

    try:
        history.decide(name, choose)
    except TrackingError as error:
        if not chosen:
            raise
        # Without `to`, a second call would undo what this one may have done.
        first = "Check the server" if error.remedy == AGAIN else error.remedy
        then = f"Then run `backdrop rollback {name} --to {chosen[-1].version}`"
        raise TrackingError(error.what, f"{first}. {then}") from error
    return chosen[-1]


def _target(name: str, to: str, state: State) -> int:
    if state.champion is None:
        raise TrackingError(f"{name} has no champion", "Promote a version with `backdrop promote`")
    present = f"models:/{name}/{state.champion}"
    if not to:
        if state.previous is None:
            what = f"{present} is the only champion that {name} has had, so there is nothing to roll back to"
            raise TrackingError(what, "Promote another version first")
        return state.previous
    number = int(to) if to.isdecimal() else state.champion_at(_time(to))
    if number is None or number not in {entry.version for entry in state.changes}:
        remedy = (
            f"Look at `backdrop history {name}`, or make any version the champion with `backdrop promote --override`"
        )
        who = f"Version {to} was never" if to.isdecimal() else f"At {to} there was no"
        raise TrackingError(f"{who} champion of {name}", remedy)
    if number == state.champion and not state.hold:
        raise TrackingError(f"{present} is the champion already", "To keep it there, use `backdrop hold`")
    return number


def _time(to: str) -> datetime:
    """A time; of a date, its end."""
    try:
        day = len(to) == len("2026-01-31")
        return (datetime.combine(date.fromisoformat(to), time.max) if day else datetime.fromisoformat(to)).astimezone()
    except (ValueError, OverflowError) as error:  # the latter at the end of the year 9999
        what = f"--to {to} is neither a version nor a date"
        raise TrackingError(what, "Write it as 3, 2026-01-31 or 2026-01-31T12:00") from error
