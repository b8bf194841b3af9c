"""The fold plan: which object is in which fold, or in the holdout that no member ever trains on.

Objects, never single images, are placed, so that no fold knows another's cars. Chance comes from a hash of
the seed and the object's name: it needs no state and doesn't depend on how many other objects there are.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast, get_args

from backdrop import storage
from backdrop.config import meant
from backdrop.dataset import Dataset, Digests, Photo, dataset_digest, file_digests, in_threads, read_mask
from backdrop.errors import PlanError

By = Literal["area", "area-rank", "stratified", "random"]
HOLDOUT = "holdout"
HEADER = "# backdrop-plan v1 data="
COLUMNS = ["image", "object", "view", "area", "fold"]


@dataclass(frozen=True)
class Row:
    """One photograph's place: `image` is its stem, `area` its mask's pixels, `fold` None in the holdout."""

    image: str
    object: str
    view: str
    area: int
    fold: int | None


@dataclass(frozen=True)
class FoldPlan:
    """All photographs with their folds, and the digest of the data that they were made for."""

    data: str
    rows: tuple[Row, ...]

    @property
    def folds(self) -> list[int]:
        """The folds' numbers."""
        return sorted({row.fold for row in self.rows if row.fold is not None})

    @property
    def holdout(self) -> list[Row]:
        """The photographs that only judge."""
        return [row for row in self.rows if row.fold is None]

    def validation(self, fold: int) -> list[Row]:
        """The photographs of a fold.

        Raises:
            PlanError: if the plan has no such fold.
        """
        if fold not in self.folds:
            known = ", ".join(map(str, self.folds))
            raise PlanError(f"The plan has no fold {fold}", f"Use one of {known}")
        return [row for row in self.rows if row.fold == fold]

    def training(self, fold: int) -> list[Row]:
        """The photographs that the member of `fold` trains on: those of all other folds; raises as `validation`.

        Raises:
            PlanError: if no other fold is there to train on.
        """
        self.validation(fold)
        rows = [row for row in self.rows if row.fold is not None and row.fold != fold]
        if not rows:
            raise PlanError(f"No photographs are left to train fold {fold} on", "Split into two folds or more")
        return rows

    def assignment(self) -> dict[str, int | None]:
        """The fold of every object."""
        return {row.object: row.fold for row in self.rows}


@dataclass(frozen=True)
class Rule:
    """How objects are placed: into how many folds, which share is held out, by what order, with what seed."""

    folds: int
    holdout: float
    by: By
    seed: int


def as_by(text: str) -> By:
    """The word as an order.

    Raises:
        PlanError: if it is none.
    """
    if text not in get_args(By):
        raise PlanError(f"Objects can't be split by {text}", meant(text, get_args(By)))
    return cast(By, text)


def make_plan(dataset: Dataset, rule: Rule, objects: int | None = None, old: FoldPlan | None = None) -> FoldPlan:
    """Places a dataset's objects.

    Args:
        dataset: the photographs; every one needs its mask.
        rule: how to place them.
        objects: take only the first so many objects by name.
        old: a plan whose objects keep their places; only new ones are placed.

    Raises:
        PlanError: if there are fewer objects than places, or the old plan has other folds.
        DataError: if a photograph has no mask or can't be read.
    """
    names = sorted({photo.object for photo in dataset.photos.values()})[:objects]
    photos = dataset.select([stem for stem, photo in dataset.photos.items() if photo.object in set(names)])
    areas = dict(zip([photo.stem for photo in photos], in_threads(_mask_area, photos), strict=True))
    placed = place(_object_areas(photos, areas), rule, old.assignment() if old else {})
    rows = [Row(p.stem, p.object, p.view, areas[p.stem], placed[p.object]) for p in photos]
    return FoldPlan(dataset_digest(file_digests(photos)), tuple(rows))


def place(areas: dict[str, float], rule: Rule, kept: dict[str, int | None] | None = None) -> dict[str, int | None]:
    """The fold (None: holdout) of every object.

    Args:
        areas: each object's mean mask area, pixels.
        rule: how to place them.
        kept: objects that have a place already; those no longer in `areas` are ignored.

    Raises:
        PlanError: if there are fewer objects than folds, the rule makes no sense, or `kept` has other folds.
    """
    placed = {name: fold for name, fold in (kept or {}).items() if name in areas}
    _check(areas, rule, placed)
    ranking = sorted((name for name in areas if name not in placed), key=lambda name: (areas[name], name))
    wanted = round(rule.holdout * len(areas)) or int(rule.holdout > 0)
    held = _draw_holdout(ranking, wanted - list(placed.values()).count(None), rule)
    placed |= dict.fromkeys(held)
    rest = [name for name in ranking if name not in placed]
    if rule.by == "area":
        return placed | _by_area(rest, areas, rule.folds, placed)
    order = rest if rule.by == "area-rank" else sorted(rest, key=lambda name: _draw(rule.seed, name))
    return placed | _deal(order, rule.folds, placed)


def dump_plan(plan: FoldPlan) -> bytes:
    """The plan as CSV; the same plan has the same bytes."""
    text = io.StringIO()
    text.write(f"{HEADER}{plan.data}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in plan.rows:
        fold = HOLDOUT if row.fold is None else row.fold
        writer.writerow([row.image, row.object, row.view, row.area, fold])
    return text.getvalue().encode()


def read_plan(address: str | Path) -> FoldPlan:
    """Reads a plan.

    Raises:
        StorageError: if the file can't be read.
        PlanError: if it is no plan, or puts an object into two folds.
    """
    head, _, body = storage.read_bytes(address).decode(errors="replace").partition("\n")
    remedy = "Make one with `backdrop split`"
    if not head.startswith(HEADER):
        raise PlanError(f"{address} is no fold plan", remedy)
    try:
        entries = csv.DictReader(io.StringIO(body))
        if entries.fieldnames != COLUMNS:
            raise ValueError(f"its columns are not {','.join(COLUMNS)}")
        rows = tuple(_row(entry) for entry in entries)
    except (ValueError, TypeError) as error:
        raise PlanError(f"{address} is damaged ({error})", remedy) from error
    places = {(row.object, row.fold) for row in rows}
    twice = [name for name, count in Counter(name for name, _ in places).items() if count > 1]
    if twice or not rows:
        fault = f"puts {twice[0]} into two folds" if twice else "places no object"
        raise PlanError(f"{address} {fault}", remedy)
    return FoldPlan(head.removeprefix(HEADER), rows)


def verify(plan: FoldPlan, dataset: Dataset) -> Digests:
    """Digests of the plan's images and masks, by stem, if they are the ones that it was made for.

    Raises:
        PlanError: if the plan belongs to other data.
        DataError: if a photograph or its mask is missing.
    """
    digests = file_digests(dataset.select(row.image for row in plan.rows))
    found = dataset_digest(digests)
    if found != plan.data:
        raise PlanError(
            f"The plan was made for data {plan.data[:19]}…, but {dataset.root} is {found[:19]}…",
            "Make a new plan with `backdrop split`, with --extend to keep every object's place",
        )
    return digests


def _mask_area(photo: Photo) -> int:
    assert photo.mask is not None  # Dataset.select saw to it
    return int(read_mask(photo.mask).sum())


def _object_areas(photos: Iterable[Photo], areas: dict[str, int]) -> dict[str, float]:
    """Mean mask area of each object, so that one with fewer views isn't taken for a small one."""
    groups: dict[str, list[int]] = {}
    for photo in photos:
        groups.setdefault(photo.object, []).append(areas[photo.stem])
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _check(areas: dict[str, float], rule: Rule, placed: dict[str, int | None]) -> None:
    if rule.folds < 1 or not 0 <= rule.holdout < 1:
        raise PlanError(f"{rule.folds} folds with a holdout of {rule.holdout} can't be", "Use 1 or more, and 0 to 0.9")
    held = round(rule.holdout * len(areas)) or int(rule.holdout > 0)
    if len(areas) - held < rule.folds:
        raise PlanError(
            f"{len(areas)} objects, {held} of them held out, don't fill {rule.folds} folds", "Ask for fewer folds"
        )
    others = {fold for fold in placed.values() if fold is not None}
    if others and others != set(range(rule.folds)):
        raise PlanError(f"The older plan has {len(others)} folds, not {rule.folds}", f"Use --folds {len(others)}")


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _draw_holdout(ranking: list[str], count: int, rule: Rule) -> list[str]:
    """One object at random from each of `count` equal blocks of the ranking, so that the holdout spans all sizes."""
    if rule.by == "random":
        return sorted(ranking, key=lambda name: _draw(rule.seed, f"{HOLDOUT}:{name}"))[: max(0, count)]
    count = min(count, len(ranking))
    bounds = [len(ranking) * i // count for i in range(count + 1)] if count > 0 else [0]
    blocks = [ranking[low:high] for low, high in pairwise(bounds)]
    return [min(block, key=lambda name: _draw(rule.seed, name)) for block in blocks]


def _by_area(
    ranking: list[str], areas: dict[str, float], folds: int, placed: dict[str, int | None]
) -> dict[str, int | None]:
    """Largest first, in blocks of `folds`, the largest of a block to the fold with the smallest sum so far."""
    sums = [sum(areas[name] for name, fold in placed.items() if fold == k) for k in range(folds)]
    result: dict[str, int | None] = {}
    largest_first = ranking[::-1]
    for start in range(0, len(largest_first), folds):
        smallest_first = sorted(range(folds), key=lambda fold: (sums[fold], fold))
        for name, fold in zip(largest_first[start : start + folds], smallest_first, strict=False):
            result[name] = fold
            sums[fold] += areas[name]
    return result


def _deal(order: list[str], folds: int, placed: dict[str, int | None]) -> dict[str, int | None]:
    """One after another to the folds in turn, beginning behind what is placed already."""
    offset = sum(fold is not None for fold in placed.values())
    return {name: (offset + rank) % folds for rank, name in enumerate(order)}


def _row(entry: dict[str, str]) -> Row:
    fold = None if entry["fold"] == HOLDOUT else int(entry["fold"])
    return Row(entry["image"], entry["object"], entry["view"], int(entry["area"]), fold)
