"""`estimate`: the cost of training an ensemble, before anything is spent."""

import heapq
import math
from collections import Counter
from collections.abc import Sequence

from backdrop.common.devices import device
from backdrop.common.errors import ConfigError, DataError, TrainingError
from backdrop.common.output_file import require_file, write_file
from backdrop.common.progress import working
from backdrop.common.threads import in_threads
from backdrop.config import Ensemble, Part, Recipe, find_ensemble
from backdrop.config.catalog import require_path
from backdrop.config.ensemble import AUTO
from backdrop.config.records import Record, parse_yaml
from backdrop.data.dataset import Dataset, Photo, open_dataset, read_image
from backdrop.data.digests import content_digests
from backdrop.data.listing import printable
from backdrop.training.proposal import Photographs, Proposal, propose, training_hours
from backdrop.training.throughput import Throughput, measure

HOURS = 1.0  # of one device, that a proposal may take
PROPOSAL = "a proposed ensemble"
# Four batches of photographs are enough: after that they are read from the cache, as in training's second epoch.
BATCHES = 4
# A proposal's measurements are short. Of huge photographs, even judging a few would take long.
SAMPLE, FEWEST, PIXELS, QUICK_S, LIMIT_S = 16, 4, 40_000_000, 4.0, 10.0


class RecipeCost(Record):
    """A recipe's cost on one device: photographs per second, bytes of memory, and hours of each of its `members`."""

    recipe: str
    members: int
    training: float
    judging: float
    memory: int
    hours: float


class CostEstimate(Record):
    """The cost of training an ensemble: of each recipe, of all on one device, and the hours on several devices.

    If the ensemble was proposed, `reasons` has a line for each choice.
    """

    ensemble: str
    device: str
    recipes: tuple[RecipeCost, ...]
    device_hours: float
    hours: dict[int, float]
    reasons: tuple[str, ...] = ()


@working("estimating the cost")
def estimate(
    data: str, ensemble: str = AUTO, hours: float = HOURS, seconds: float = 15.0, out: str | None = None
) -> CostEstimate:
    """Estimates the cost of training an ensemble, from a short measurement of each recipe on this machine.

    Args:
        data: the dataset to train on.
        ensemble: a shipped ensemble's name, a YAML file's path, or `auto` for one that this machine trains in time.
        hours: of one device, for `auto`.
        seconds: minimum time to measure each recipe of another ensemble.
        out: the YAML file to write a proposal to; None writes nothing.

    Raises:
        ConfigError: if there is no such ensemble, it isn't valid, or `out` isn't the name of a YAML file.
        StorageError: if `out` can't be written, or is another file.
        DataError: if the dataset has no masks or too few objects, or a photograph can't be read.
        TrainingError: if a recipe is too large for this machine, or nothing can be trained in time.
    """
    if out:
        require_path(out)
        require_file(out, is_proposal, PROPOSAL)
    dataset = open_dataset(data)
    if ensemble == AUTO:
        found = propose_for(dataset, hours, min(seconds, QUICK_S))
        if out:
            write_file(out, found.text.encode(), is_proposal, PROPOSAL)
        chosen, paces, reasons = found.ensemble, [found.pace], found.reasons
    else:
        chosen, reasons = find_ensemble(ensemble), ()
        paces = [_pace(part.resolve(), dataset, seconds) for part in chosen.parts()]
    costs = tuple(_cost(chosen, part, pace, dataset) for part, pace in zip(chosen.parts(), paces, strict=True))
    each = [cost.hours for cost in costs for _ in range(cost.members)]
    counts = [2**power for power in range(len(each).bit_length()) if 2**power < len(each)]
    return CostEstimate(
        ensemble=chosen.name,
        device=paces[0].device,
        recipes=costs,
        device_hours=sum(each),
        hours={count: makespan(each, count) for count in [*counts, len(each)]},
        reasons=reasons,
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


def is_proposal(content: bytes) -> bool:
    """Whether a file is a proposal as it was written or changed since."""
    try:
        return parse_yaml(content.decode(), "").get("name") == AUTO
    except (ConfigError, ValueError):
        return False


@working("proposing an ensemble")
def propose_for(dataset: Dataset, hours: float, seconds: float = QUICK_S) -> Proposal:
    """The best ensemble that this machine trains on a dataset within some hours of one device.

    On a CPU it takes two minutes at most; a GPU's machine reads the size of every photograph.

    Args:
        dataset: the dataset.
        hours: of one device, for everything.
        seconds: minimum time to measure each recipe.

    Raises:
        DataError: if the dataset has no masks or too few objects, or a photograph can't be read.
        TrainingError: if nothing can be trained in time.
    """
    photos, gpu = _labeled(dataset), device().type == "cuda"
    sample = photos if gpu else photos[:: -(-len(photos) // SAMPLE)]
    shapes = in_threads(lambda photo: read_image(photo.image).shape, sample, "reading photographs", lasting=False)
    sizes = Counter(f"{width}x{height}" for height, width, _ in shapes)
    largest = max(height * width for height, width, _ in shapes)
    few = sample[: min(SAMPLE, max(FEWEST, PIXELS // largest))]
    digests = content_digests(few)

    def pace(recipe: Recipe) -> Throughput:
        with working(f"measuring {recipe.name} at {recipe.input.size}"):
            return measure(recipe, few, digests, seconds, math.inf if gpu else LIMIT_S)

    objects = len({photo.object for photo in photos})
    return propose(Photographs(objects, len(photos), sizes, len(sample) == len(photos)), gpu, hours, pace)


def _labeled(dataset: Dataset) -> list[Photo]:
    if not dataset.labeled:
        raise DataError(f"{printable(dataset.root)} has no photograph with a mask", "Add train_masks/")
    return dataset.labeled


def _pace(recipe: Recipe, dataset: Dataset, seconds: float) -> Throughput:
    few = _labeled(dataset)[: BATCHES * recipe.batch_size * recipe.accumulate]
    return measure(recipe, few, content_digests(few), seconds)


def _cost(ensemble: Ensemble, part: Part, pace: Throughput, dataset: Dataset) -> RecipeCost:
    recipe, folds = part.resolve(), ensemble.rule(part).folds
    seen = len(dataset.photos) * (1 - ensemble.folds.holdout)
    return RecipeCost(
        recipe=recipe.name,
        members=folds,
        training=pace.training,
        judging=pace.judging,
        memory=pace.memory,
        hours=training_hours(recipe, pace, seen, folds),
    )
