"""`models`: the registered models and their champions."""

from backdrop.tracking.model_list import ListedModel, list_models


def models() -> list[ListedModel]:
    """Lists Backdrop's registered models by name, each with its champion and the champion's Dice.

    Raises:
        TrackingError: if MLflow can't be reached.
    """
    return list(list_models())
