"""`release`: the gate may replace a held champion again."""

from backdrop.common.progress import working
from backdrop.tracking import history
from backdrop.tracking.ledger import Entry, State


@working("releasing the champion")
def release(name: str, reason: str = "") -> bool:
    """Lets the gate replace the champion again; the next challenger is judged.

    Args:
        name: the registered model.
        reason: stands in the model's history.

    Returns:
        Whether it was held.

    Raises:
        TrackingError: if there is no such model, or MLflow can't be reached.
    """
    held = False

    def make(state: State) -> Entry | None:
        nonlocal held
        held = held or state.hold is not None
        if state.hold is None or state.champion is None:
            return None
        return Entry(event="released", version=state.champion, champion=state.champion, reason=reason)

    history.decide(name, make)
    return held
