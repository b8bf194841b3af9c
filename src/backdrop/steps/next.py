"""`next`: which unlabeled objects to label first."""

from collections.abc import Sequence

from backdrop.common.errors import ConfigError, DataError
from backdrop.common.lock import alone
from backdrop.common.outputs import output_folder
from backdrop.common.progress import log, progress, working
from backdrop.common.text import dump_table
from backdrop.common.threads import in_threads
from backdrop.config.records import Record
from backdrop.data.dataset import Dataset, Photo, open_dataset, opened_image
from backdrop.data.listing import none_found, printable, summarize
from backdrop.data.photographs import Source
from backdrop.evaluation.selection import choose, look
from backdrop.evaluation.statistics import measure_image
from backdrop.evaluation.survey import Measured, measure_photographs
from backdrop.inference.ensemble import EnsembleModel

STEP = "next"
TABLE = "next.csv"
HEAD = ["rank", "object", "photographs", "doubt", "distance"]


class Next(Record):
    """An object to label: `doubt` is one minus its photographs' mean predicted Dice, `distance` as in `choose`."""

    rank: int
    object: str
    photographs: int
    doubt: float
    distance: float


@working("choosing objects")
@alone(STEP)
def next(data: str, model: str, out: str, count: int = 20) -> list[Next]:  # noqa: A001  # the command's name
    """Chooses objects of a dataset's `test` to label: those whose masks are doubtful, and that are unlike the others.

    Args:
        data: the dataset, with photographs in `test`.
        model: a registered model's address, such as `models:/NAME@champion`.
        out: the folder to write: `next.csv`, a row per object.
        count: how many objects to choose, at least 1.

    Returns:
        The objects, the first to label first.

    Raises:
        ConfigError: if the count is out of range.
        DataError: if there are no such photographs, or none that can be used, one isn't named `<object>_<view>`, or one
            in `train` can't be read.
        TrackingError: if MLflow can't be reached or has no such model.
        StorageError: if something else is at `out`, or it can't be written.
    """
    if count < 1:
        raise ConfigError(f"--count must be at least 1, not {count}", "Use another, such as 20")
    dataset = open_dataset(data)
    candidates = _candidates(dataset)
    from backdrop.steps.champion import load  # slow: imports mlflow
    from backdrop.tracking.registry import require_version

    network = load(require_version(model))
    found = _measure(network, list(candidates.values()))
    if not found:
        raise DataError(f"{printable(dataset.root)}/test has no photograph that can be used", "See the lines above")
    labeled: dict[str, list[dict[str, float]]] = {}
    photos = dataset.labeled
    for photo, values in zip(photos, in_threads(_look, photos, "reading labeled photographs"), strict=True):
        labeled.setdefault(photo.object, []).append(values)
    chosen = choose(
        {name: sum(_doubt(one) for one in ones) / len(ones) for name, ones in found.items()},
        {name: look([one.values for one in ones]) for name, ones in found.items()},
        [look(ones) for ones in labeled.values()],
        count,
    )
    result = [
        Next(rank=rank, object=one.object, photographs=len(found[one.object]), doubt=one.doubt, distance=one.distance)
        for rank, one in enumerate(chosen, 1)
    ]
    rows = ([o.rank, o.object, o.photographs, f"{o.doubt:.6f}", f"{o.distance:.4f}"] for o in result)
    with output_folder(out, STEP, TABLE) as folder:
        (folder / TABLE).write_bytes(dump_table(HEAD, rows))
    return result


def _candidates(dataset: Dataset) -> dict[str, Photo]:
    """The unlabeled photographs by name, without those of labeled objects."""
    for fault in dataset.unlabeled_faults:
        raise fault.error()
    labeled = {photo.object for photo in dataset.labeled}
    found = {stem: photo for stem, photo in dataset.unlabeled.items() if photo.object not in labeled}
    if not found:
        what = f"{printable(dataset.root)}/test has no photographs of new objects"
        raise none_found(what, "Put those without masks there", dataset.unlabeled_passed_over)
    if dataset.unlabeled_passed_over:
        log(summarize(dataset.unlabeled_passed_over))
    return found


def _measure(model: EnsembleModel, photos: Sequence[Photo]) -> dict[str, list[Measured]]:
    """The photographs of each object, without those that can't be used."""
    objects = {photo.image.name: photo.object for photo in photos}
    found: dict[str, list[Measured]] = {}
    with progress("measuring photographs", len(photos)) as advance:
        for cutout in measure_photographs(model, [Source(photo.image, photo.image.name) for photo in photos]):
            advance()
            if isinstance(cutout, Measured):
                found.setdefault(objects[cutout.image], []).append(cutout)
            else:
                log(f"{cutout.image} {cutout.failure}")
    return found


def _doubt(photo: Measured) -> float:
    return 1 - (photo.dice.dice if photo.dice else photo.values["expected_dice"])


def _look(photo: Photo) -> dict[str, float]:
    with opened_image(photo.image) as image:
        return measure_image(image)
