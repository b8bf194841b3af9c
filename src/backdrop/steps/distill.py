"""`distill`: one small network that learns an ensemble's soft masks, and runs on CPUs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, MemberError
from backdrop.common.progress import log, progress, working
from backdrop.common.threads import in_threads
from backdrop.common.words import count
from backdrop.config import Recipe, find_recipe
from backdrop.config.network import Tta
from backdrop.data.dataset import Dataset, Digests, Photo, file_digest, open_dataset, opened_image
from backdrop.data.digests import digest_if_readable
from backdrop.data.folds import FoldPlan, read_plans, verify
from backdrop.data.masks import encode_soft_png
from backdrop.data.pseudo_labels import PseudoLabels, Teacher
from backdrop.evaluation.scoring import judges
from backdrop.inference.batch import outcomes, usable
from backdrop.inference.ensemble import EnsembleModel, Photograph
from backdrop.inference.member import MemberSpec
from backdrop.steps.label import check_copies, check_unlabeled
from backdrop.steps.train import TrainRecord, make_member

PLAIN = Tta()
Taught = list[tuple[EnsembleModel, list[Photo]]]


@working("distilling")
def distill(
    data: str,
    plan: str | Sequence[str],
    model: str,
    out: str,
    recipe: str | Recipe = "student",
    overrides: Sequence[str] = (),
    fresh: bool = False,
) -> TrainRecord:
    """Trains a student on an ensemble's soft masks, or reuses it: from MLflow by its content key, or from `out`.

    The soft mask of each photograph is the mean probability of the members that did not train on it, and of all members
    for a photograph in `test`. They are in the cache, so that a killed run doesn't predict them again. The holdout
    teaches nothing. The student is a member without a fold, with its network as an ONNX graph: `evaluate`, `register`
    and `promote` take it as they take others.

    Args:
        data: the dataset that the ensemble was trained on; its photographs in `test`, if any, teach, too.
        plan: the ensemble's fold plan, and further plans if members were trained by others.
        model: the registered model that teaches, such as `models:/NAME@champion`.
        out: the member folder, as for `train`.
        recipe: a shipped recipe's name, a YAML file's path, or the recipe itself.
        overrides: `a.b=c` for the recipe.
        fresh: train again, whatever MLflow or `out` holds.

    Raises:
        ConfigError: if the recipe isn't valid or scales photographs, or onnx or onnxruntime isn't installed.
        DataError: if a photograph of the plan can't be read, or has changed, or if an object or a photograph in `test`
            is also in the plan.
        PlanError: if a plan belongs to other data.
        MemberError: if the model wasn't trained by the plans, is a student itself, or `out` holds another member.
        StorageError: if `out` holds something else, or something can't be written.
        TrackingError: if MLflow can't be reached, or has no such model.
        TrainingError: if training can't continue.
    """
    from backdrop.inference.onnx import require_export  # slow: imports torch

    require_export()
    chosen = find_recipe(recipe, overrides)
    if chosen.tta.scales != PLAIN.scales:
        raise ConfigError("A student's graph has one input size, and tta.scales names others", "Leave tta.scales out")
    plans, dataset = read_plans(plan), open_dataset(data)
    digests = verify(plans[0], dataset)
    teacher, ensemble = _open_teacher(model)
    taught = _divide(dataset, plans, digests, ensemble)
    soft = replace(soften(taught), teacher=teacher)
    return make_member(MemberSpec(dataset, plans[0], digests, chosen, None, soft), out, fresh)


def soften(taught: Taught) -> PseudoLabels:
    """Predicts photographs' soft masks into the cache; those that are there already aren't predicted again.

    A photograph that can't be used is named, and left out.

    Args:
        taught: photographs, each with the ensemble that may teach it.

    Raises:
        StorageError: if the cache can't be written.
    """
    photos: list[Photo] = []
    digests: Digests = {}
    total = sum(len(group) for _, group in taught)
    with progress("predicting soft masks", total) as advance:
        for model, group in taught:
            name = storage.sha256(" ".join([model.digest(), *model.computation()]).encode())
            folder = storage.cache_folder() / "soft" / name
            images = dict(zip(group, in_threads(lambda photo: digest_if_readable(photo.image), group), strict=True))
            for photo, (mask, digest) in _soft_masks(model, images, folder, advance):
                photos.append(replace(photo, mask=mask, soft=True))
                digests[photo.stem] = (images[photo], digest)
    return PseudoLabels(tuple(sorted(photos, key=lambda photo: photo.stem)), digests)


def _open_teacher(model: str) -> tuple[Teacher, EnsembleModel]:
    from backdrop.steps.champion import load  # slow: imports mlflow
    from backdrop.tracking.registry import require_version

    version = require_version(model)
    ensemble = replace(load(version), operations=(), early_exit=None)
    if any(member.record.teacher for member in ensemble.members):
        raise MemberError(f"{version.address} is a student itself", "Name the ensemble that taught it")
    return Teacher(address=version.address, digest=version.digest), ensemble


def _divide(dataset: Dataset, plans: Sequence[FoldPlan], digests: Digests, ensemble: EnsembleModel) -> Taught:
    """The photographs that teach, by the members that may predict them: those that did not train on them."""
    check_unlabeled(dataset, plans[0])
    check_copies(dataset, digests)
    groups: dict[tuple[str, ...], tuple[EnsembleModel, list[Photo]]] = {}
    rows = {row: model for row, model in judges(plans, digests, ensemble).items() if row.fold is not None}
    for row, model in rows.items():
        names = tuple(member.name for member in model.members)
        groups.setdefault(names, (model, []))[1].append(dataset.photos[row.image])
    left = len(plans[0].training(None)) - len(rows)
    if not rows:
        raise MemberError(
            "All members trained on all photographs, so none can teach", "Name an ensemble of several folds"
        )
    if left:
        log(f"{count(left, 'photograph')} can't teach: all members trained on them")
    unlabeled = list(dataset.unlabeled.values())
    return [*groups.values(), *([(ensemble, unlabeled)] if unlabeled else [])]


def _soft_masks(
    model: EnsembleModel, images: dict[Photo, str], folder: Path, advance: Callable[[], None]
) -> Iterator[tuple[Photo, tuple[Path, str]]]:
    """Each photograph's soft mask and the sha256 of its file, which is in its name, so that damage is found."""
    found = {path.name.partition("-")[0]: path for path in folder.glob("*-*.png")}  # by their photographs' sha256
    missing: list[Photo] = []
    for photo, image in images.items():
        path = found.get(image)
        digest = path.stem.partition("-")[2] if path else ""
        if path and file_digest(path) == digest:
            advance()
            yield photo, (path, digest)
        else:
            missing.append(photo)
    for photo, data in _predict(model, missing, images, advance):
        digest = storage.sha256(data)
        path = folder / f"{images[photo]}-{digest}.png"
        storage.write_bytes(path, data)
        advance()
        yield photo, (path, digest)


def _predict(
    model: EnsembleModel, photos: Sequence[Photo], images: dict[Photo, str], advance: Callable[[], None]
) -> Iterator[tuple[Photo, bytes]]:
    def prepare(photo: Photo) -> Photograph:
        with opened_image(photo.image, images[photo]) as image:
            return model.prepare(image)

    def report(_photo: Photo, error: DataError) -> None:
        log(str(error))
        advance()

    for photo, outcome in outcomes(model, usable(prepare, photos, report)):
        assert outcome.probability is not None
        yield photo, encode_soft_png(outcome.probability)
