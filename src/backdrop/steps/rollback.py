"""`rollback`: makes the previous champion the champion again."""

from backdrop.common.progress import working
from backdrop.tracking import registry
from backdrop.tracking.registry import Version


@working("rolling back")
def rollback(name: str) -> Version:
    """Makes the previous champion the champion; a second call undoes the first.

    Args:
        name: the registered model.

    Returns:
        The new champion.

    Raises:
        TrackingError: if there is no champion or no previous one, or MLflow can't be reached.
    """
    return registry.restore(name)
