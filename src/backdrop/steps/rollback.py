"""`rollback`: the champion before this one takes its place again."""

from backdrop.common.progress import working
from backdrop.tracking import registry
from backdrop.tracking.registry import Version


@working("rolling back")
def rollback(name: str) -> Version:
    """Makes the previous champion the champion; doing it twice returns to where it began.

    Args:
        name: of the registered model.

    Returns:
        The version that is the champion now.

    Raises:
        TrackingError: if there is no champion or no previous one, or MLflow can't be reached.
    """
    return registry.restore(name)
