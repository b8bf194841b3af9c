"""`label`: predicts masks of unlabeled photographs, for each fold by members that never saw its masks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from backdrop.common.errors import DataError, MemberError
from backdrop.common.lock import alone
from backdrop.common.outputs import output_folder
from backdrop.common.progress import log, progress, working
from backdrop.common.threads import in_threads
from backdrop.config import find_ensemble
from backdrop.config.records import Record
from backdrop.data.dataset import Dataset, Digests, Photo, open_dataset, opened_image
from backdrop.data.digests import digest_if_readable
from backdrop.data.folds import FoldPlan, read_plans, verify
from backdrop.data.listing import none_found, printable, summarize
from backdrop.data.masks import encode_png, mask_digest
from backdrop.data.pseudo_labels import LABELS, Label, dump_labels, mask_name
from backdrop.evaluation.scoring import judges
from backdrop.inference.batch import keep_networks, outcomes, usable
from backdrop.inference.ensemble import EnsembleModel, Photograph, gather
from backdrop.inference.uncertainty import unconfidence
from backdrop.steps.members import open_member

STEP = "label"


class LabelRecord(Record):
    """The number of photographs, how many are kept for each fold, and how many can't be used."""

    photographs: int
    kept: dict[str, int]
    failed: int = 0


@working("labeling")
@alone(STEP)
def label(
    data: str,
    plan: str | Sequence[str],
    members: Sequence[str],
    out: str,
    ensemble: str | None = None,
    max_uncertainty: float = 0.01,
) -> LabelRecord:
    """Predicts the masks of a dataset's `test` photographs, and keeps the objects with confident predictions.

    For each fold of the plan, only members predict that trained on none of its photographs, so that the fold's own
    member can still be judged on them. A photograph that can't be used is named once, and left out.

    Args:
        data: the dataset, with photographs in `test`.
        plan: the plan to train by, and further plans if members were trained by others.
        members: their addresses: folders, `s3://` prefixes, `runs:/ID/member`.
        out: the folder to write: `labels.csv` and the masks.
        ensemble: a shipped ensemble's name or a YAML file's path, for its weights; None for equal weights.
        max_uncertainty: an object is kept if the mean unconfidence of its photographs is at most this.

    Raises:
        DataError: if there are no such photographs, none can be used, one isn't named `<object>_<view>`, or an object
            or a photograph is also in the plan.
        MemberError: if no member may label for a fold.
        PlanError: if a plan belongs to other data.
        StorageError: if something else is at `out`, or it can't be written.
    """
    config = None if ensemble is None else find_ensemble(ensemble)
    plans, dataset = read_plans(plan), open_dataset(data)
    check_unlabeled(dataset, plans[0])
    if not dataset.unlabeled:
        what = f"{printable(dataset.root)}/test has no photographs"
        raise none_found(what, "Put those without masks there", dataset.unlabeled_passed_over)
    if dataset.unlabeled_passed_over:
        log(summarize(dataset.unlabeled_passed_over))
    digests = verify(plans[0], dataset)
    images = check_copies(dataset, digests)
    model = keep_networks(gather([open_member(address) for address in members], config))
    able = labelers(plans[0], {row.object: one for row, one in judges(plans, digests, model).items()})
    labels: list[Label] = []
    failed: set[str] = set()
    with (
        output_folder(out, STEP, LABELS) as folder,
        progress("labeling photographs", len(images) * len(able)) as advance,
    ):
        for fold, one in able.items():
            (folder / mask_name(fold, "")).parent.mkdir()
            labels += _label_fold(folder, fold, one, images, max_uncertainty, advance, failed)
        if not labels:
            raise DataError(f"{printable(dataset.root)}/test has no photograph that can be used", "See the lines above")
        (folder / LABELS).write_bytes(dump_labels(plans[0], labels))
    kept = {str(fold): sum(row.kept for row in labels if row.fold == fold) for fold in able}
    return LabelRecord(photographs=len(images), kept=kept, failed=len(failed))


def labelers(plan: FoldPlan, judges: Mapping[str, EnsembleModel]) -> dict[int, EnsembleModel]:
    """For each fold, the members that trained on none of its objects; all of them label every photograph.

    Args:
        plan: the plan to train by.
        judges: for each object, the members that did not train on it.

    Raises:
        MemberError: if a fold has none.
    """
    labelers = {}
    for fold in plan.folds:
        models = [judges.get(name) for name, place in plan.assignment().items() if place == fold]
        names = set.intersection(*({m.name for m in one.members} if one else set() for one in models))
        first = models[0]
        if not names or first is None:
            raise MemberError(f"No member may label for fold {fold}: each has trained on it", "Name one of that fold")
        labelers[fold] = replace(first, members=tuple(m for m in first.members if m.name in names), early_exit=None)
    return labelers


def check_unlabeled(dataset: Dataset, plan: FoldPlan) -> None:
    """Makes sure that photographs without masks have good names, and that the plan has none of their objects.

    Raises:
        DataError: if not.
    """
    for fault in dataset.unlabeled_faults:
        raise fault.error()
    placed = plan.assignment()
    for photo in dataset.unlabeled.values():
        if photo.object in placed:
            what = f"{printable(photo.image)} is of {photo.object}, which the plan places"
            raise DataError(what, "Remove it from test")


def check_copies(dataset: Dataset, digests: Digests) -> dict[Photo, str]:
    """Makes sure that no photograph without a mask is one of the plan's under the name of another object.

    A member would train on what it is validated on, or on what is held out.

    Args:
        dataset: the photographs.
        digests: of the plan's photographs, as from `verify`.

    Returns:
        The sha256 of each photograph without a mask; empty if it can't be read.

    Raises:
        DataError: if one is.
    """
    placed = {image: stem for stem, (image, _) in digests.items()}
    photos = list(dataset.unlabeled.values())
    files = [photo.image for photo in photos]
    images = in_threads(digest_if_readable, files, "comparing photographs", lasting=False)
    for photo, image in zip(photos, images, strict=True):
        if image in placed:
            twin = printable(dataset.photos[placed[image]].image)
            what = f"{printable(photo.image)} is the same photograph as {twin}, which the plan places"
            raise DataError(what, "Remove it from test")
    return dict(zip(photos, images, strict=True))


def _label_fold(
    folder: Path,
    fold: int,
    model: EnsembleModel,
    images: Mapping[Photo, str],
    max_uncertainty: float,
    advance: Callable[[], None],
    failed: set[str],
) -> Iterator[Label]:
    """Writes all masks, then removes those of uncertain objects, because an object is kept or dropped as a whole.

    The names of photographs that can't be used are added to `failed`; one that isn't that of its sha256 any more can't.
    """
    doubts: dict[str, list[float]] = {}
    found: list[tuple[Photo, float, str]] = []
    prepared = usable(partial(_prepare, model, images), list(images), partial(_report, failed))
    for photo, outcome in outcomes(model, prepared):
        mask = model.cut(outcome, photo.view)
        assert outcome.probability is not None
        doubt = unconfidence(outcome.probability)
        found.append((photo, doubt, mask_digest(mask)))
        doubts.setdefault(photo.object, []).append(doubt)
        (folder / mask_name(fold, photo.stem)).write_bytes(encode_png(mask))
        advance()
    for _ in range(len(images) - len(found)):
        advance()
    for photo, doubt, digest in found:
        kept = sum(doubts[photo.object]) / len(doubts[photo.object]) <= max_uncertainty
        if not kept:
            (folder / mask_name(fold, photo.stem)).unlink()
        yield Label(photo.stem, photo.object, fold, doubt, kept, images[photo], digest if kept else "")


def _prepare(model: EnsembleModel, images: Mapping[Photo, str], photo: Photo) -> Photograph:
    with opened_image(photo.image, images[photo]) as image:
        return model.prepare(image)


def _report(failed: set[str], photo: Photo, error: DataError) -> None:
    """Names a photograph that can't be used, unless an earlier fold did."""
    if photo.stem not in failed:
        failed.add(photo.stem)
        log(str(error))
