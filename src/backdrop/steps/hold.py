"""`hold`: the gate replaces the champion no more."""

from backdrop.common.errors import TrackingError
from backdrop.common.progress import working
from backdrop.tracking import history
from backdrop.tracking.ledger import Entry, State


@working("holding the champion")
def hold(name: str, reason: str = "") -> Entry:
    """Keeps the champion where it is: only people replace it, until `release`.

    Args:
        name: the registered model.
        reason: stands in the model's history.

    Returns:
        The entry since which it is held, an earlier one if it was held already.

    Raises:
        TrackingError: if there is no champion, or MLflow can't be reached.
    """

    def make(state: State) -> Entry | None:
        if state.champion is None:
            raise TrackingError(f"{name} has no champion", "Promote a version with `backdrop promote`")
        entry = Entry(event="held", version=state.champion, champion=state.champion, reason=reason)
        return None if state.hold else entry

    held = history.decide(name, make).hold
    assert held is not None  # it was made, or there already
    return held
