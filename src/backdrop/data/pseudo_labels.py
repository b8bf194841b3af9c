"""Pseudo-labels: masks that members predicted for unlabeled photographs, separate for each fold so that nothing leaks.

The folder: `labels.csv`, whose first line `# backdrop-labels v1 plan=sha256:…` names the plan by its digest, and
`fold-K/<image>.png`, the masks that fold K may train on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from backdrop.common import storage, text
from backdrop.common.errors import DataError, shorten
from backdrop.config.records import Record
from backdrop.data.dataset import Dataset, Digests, Photo
from backdrop.data.digests import dataset_digest
from backdrop.data.folds import FoldPlan, dump_plan
from backdrop.data.listing import printable

LABELS = "labels.csv"
HEADER = "# backdrop-labels v1 plan="
COLUMNS = ["image", "object", "fold", "unconfidence", "kept", "image_sha256", "mask_sha256"]


@dataclass(frozen=True)
class Label:
    """A photograph's pseudo-label for one fold; `mask_sha256` is empty if it isn't kept."""

    image: str
    object: str
    fold: int
    unconfidence: float
    kept: bool
    image_sha256: str
    mask_sha256: str


class Teacher(Record):
    """The version of a registered model whose soft masks a student learns: `models:/NAME/VERSION`, and its digest."""

    address: str
    digest: str


@dataclass(frozen=True)
class PseudoLabels:
    """Photographs with predicted masks, and their digests: those that a fold may train on as well, or a student's."""

    photos: tuple[Photo, ...] = ()
    digests: Digests = field(default_factory=dict)
    teacher: Teacher | None = None

    @property
    def digest(self) -> str:
        """The digest of all images and masks, and of the teacher; empty if there are none."""
        if self.teacher:
            return storage.sha256(f"{self.teacher.model_dump_json()} {dataset_digest(self.digests)}".encode())
        return dataset_digest(self.digests) if self.digests else ""


def mask_name(fold: int, image: str) -> str:
    """Where a mask is, seen from the folder."""
    return f"fold-{fold}/{image}.png"


def plan_digest(plan: FoldPlan) -> str:
    """`sha256:…` of the plan's file."""
    return f"sha256:{storage.sha256(dump_plan(plan))}"


def dump_labels(plan: FoldPlan, labels: Iterable[Label]) -> bytes:
    """The table as CSV; the same labels have the same bytes."""
    rows = (
        [
            *(label.image, label.object, label.fold, f"{label.unconfidence:.6g}", "yes" if label.kept else "no"),
            *(label.image_sha256, label.mask_sha256),
        ]
        for label in labels
    )
    return f"{HEADER}{plan_digest(plan)}\n".encode() + text.dump_table(COLUMNS, rows)


def read_labels(folder: Path, plan: FoldPlan, dataset: Dataset, fold: int) -> PseudoLabels:
    """The kept photographs of a fold with their predicted masks.

    Args:
        folder: the folder that `backdrop label` wrote.
        plan: the plan to train by.
        dataset: has the photographs in `test`.
        fold: the fold that is left out.

    Raises:
        DataError: if the labels are damaged or were made for another plan, or a photograph is missing.
        StorageError: if they can't be read.
    """
    remedy = "Make them with `backdrop label`"
    photos: list[Photo] = []
    digests: Digests = {}
    try:
        head, body = text.split_title(text.decode(storage.read_bytes(folder / LABELS)))
        if head != f"{HEADER}{plan_digest(plan)}":
            raise DataError(f"{folder / LABELS} has no pseudo-labels for this plan", remedy)
        for _, (image, _, number, _, kept, *both) in text.read_table(body, COLUMNS, line=2)[1]:
            if int(number) == fold and kept == "yes":
                if image not in dataset.unlabeled:
                    raise DataError(f"{printable(dataset.root)}/test has no photograph {image}", remedy)
                photos.append(replace(dataset.unlabeled[image], mask=folder / mask_name(fold, image)))
                digests[image] = (both[0], both[1])
    except ValueError as error:
        raise DataError(f"{folder / LABELS} is damaged ({shorten(error)})", remedy) from error
    return PseudoLabels(tuple(photos), digests)
