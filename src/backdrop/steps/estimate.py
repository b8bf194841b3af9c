"""`estimate`: the cost of training an ensemble, before anything is spent."""

import heapq
from collections.abc import Sequence

from backdrop.common.errors import DataError, TrainingError
from backdrop.common.progress import working
from backdrop.config import Ensemble, Part, Recipe, find_ensemble
from backdrop.config.records import Record
from backdrop.data.dataset import Dataset, content_digests, open_dataset
from backdrop.training.throughput import Throughput, measure

# Four batches of photographs are enough: after that they are read from the cache, as in training's second epoch.
BATCHES = 4


class RecipeCost(Record):
    """A recipe's cost on one device: photographs per second, bytes of memory, and hours of each of its `members`."""

    recipe: str
    members: int
    training: float
    judging: float
    memory: int
    hours: float


class CostEstimate(Record):
    """The cost of training an ensemble: of each recipe, of all on one device, and the hours on several devices."""

    ensemble: str
    device: str
    recipes: tuple[RecipeCost, ...]
    device_hours: float
    hours: dict[int, float]


@working("estimating the cost")
def estimate(ensemble: str, data: str, seconds: float = 15.0) -> CostEstimate:
    """Estimates the cost of training an ensemble, from a short measurement of each recipe on this machine.

    Args:
        ensemble: a shipped ensemble's name, or a YAML file's path.
        data: the dataset to train on.
        seconds: minimum time to measure each recipe.

    Raises:
        ConfigError: if there is no such ensemble, or it isn't valid.
        DataError: if the dataset has no masks, or a photograph can't be read.
        TrainingError: if a recipe is too large for this machine.
    """
    chosen, dataset = find_ensemble(ensemble), open_dataset(data)
    parts = chosen.parts()
    paces = [_pace(part.resolve(), dataset, seconds) for part in parts]
    costs = tuple(_cost(chosen, part, pace, dataset) for part, pace in zip(parts, paces, strict=True))
    hours = [cost.hours for cost in costs for _ in range(cost.members)]
    counts = [2**power for power in range(len(hours).bit_length()) if 2**power < len(hours)]
    return CostEstimate(
        ensemble=chosen.name,
        device=paces[0].device,
        recipes=costs,
        device_hours=sum(hours),
        hours={count: makespan(hours, count) for count in [*counts, len(hours)]},
    )


def afford(record: CostEstimate, max_hours: float) -> None:
    """Refuses an ensemble whose training takes more device hours than allowed.

    Raises:
        TrainingError: if it takes more.
    """
    if record.device_hours > max_hours:
        what = (
            f"{record.ensemble} takes {record.device_hours:.3g} hours of one {record.device}, more than {max_hours:g}"
        )
        raise TrainingError(what, "Allow more, or train fewer folds, fewer epochs or a smaller network")


def makespan(hours: Sequence[float], devices: int) -> float:
    """Hours until some devices have finished jobs of these hours, longest first (LPT: Graham 1969)."""
    busy = [0.0] * devices
    for job in sorted(hours, reverse=True):
        heapq.heapreplace(busy, busy[0] + job)
    return max(busy)


def _pace(recipe: Recipe, dataset: Dataset, seconds: float) -> Throughput:
    photos = [photo for photo in dataset.photos.values() if photo.mask is not None]
    if not photos:
        raise DataError(f"{dataset.root} has no photograph with a mask", "Add train_masks/")
    few = photos[: BATCHES * recipe.batch_size * recipe.accumulate]
    return measure(recipe, few, content_digests(few), seconds)


def _cost(ensemble: Ensemble, part: Part, pace: Throughput, dataset: Dataset) -> RecipeCost:
    recipe, folds = part.resolve(), ensemble.rule(part).folds
    seen = len(dataset.photos) * (1 - ensemble.folds.holdout)
    trained = recipe.epochs * seen * (folds - 1) / folds * (1 + 1 / recipe.replay_every if recipe.replay_every else 1)
    judged = (recipe.epochs + 1) * seen / folds
    hours = (trained / pace.training + judged / pace.judging) / 3600
    return RecipeCost(
        recipe=recipe.name,
        members=folds,
        training=pace.training,
        judging=pace.judging,
        memory=pace.memory,
        hours=hours,
    )
