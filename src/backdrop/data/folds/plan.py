"""Makes, writes and reads fold plans, and verifies that a dataset is the one that a plan was made for."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backdrop.common import storage, text
from backdrop.common.errors import PlanError, shorten
from backdrop.config.folds import Rule
from backdrop.data.dataset import Dataset, Digests, content_digests, dataset_digest, in_threads, measure
from backdrop.data.folds.assign import Assignments, assign

HOLDOUT = "holdout"
# v2: masks are known by their pixels, not by their files' bytes.
HEADER = "# backdrop-plan v2 data="
OLD_HEADER = "# backdrop-plan v1 "
COLUMNS = ["image", "object", "view", "area", "fold"]


@dataclass(frozen=True)
class Row:
    """A photograph's fold: `image` is its stem, `area` its mask's pixels, `fold` None in the holdout."""

    image: str
    object: str
    view: str
    area: int
    fold: int | None


@dataclass(frozen=True)
class FoldPlan:
    """All photographs with their folds, and the digest of their data."""

    data: str
    rows: tuple[Row, ...]

    @property
    def folds(self) -> list[int]:
        """The folds' numbers."""
        return sorted({row.fold for row in self.rows if row.fold is not None})

    @property
    def holdout(self) -> list[Row]:
        """The photographs of the holdout."""
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
        """The photographs of all other folds, which the member of `fold` trains on.

        Raises:
            PlanError: if the plan has no such fold, or no other fold.
        """
        self.validation(fold)
        rows = [row for row in self.rows if row.fold is not None and row.fold != fold]
        if not rows:
            raise PlanError(f"No photographs are left to train fold {fold} on", "Split into two folds or more")
        return rows

    def assignment(self) -> Assignments:
        """The fold of every object."""
        return {row.object: row.fold for row in self.rows}


def make_plan(dataset: Dataset, rule: Rule, objects: int | None = None, old: FoldPlan | None = None) -> FoldPlan:
    """Assigns a dataset's objects to folds and the holdout.

    Args:
        dataset: the photographs; each needs a mask.
        rule: how to assign them.
        objects: take only this number of objects, the first by name.
        old: a plan whose objects keep their folds; only new objects are assigned.

    Raises:
        PlanError: if there are fewer objects than folds, one lacks the rule's view, or the old plan has other folds.
        DataError: if a photograph has no mask or can't be read.
    """
    photos = dataset.select(dataset.first(objects).photos)
    measured = in_threads(measure, photos, "reading photographs", lasting=False)
    pairs = list(zip(photos, measured, strict=True))
    rows = tuple(Row(p.stem, p.object, p.view, area, None) for p, (_, area) in pairs)
    data = dataset_digest({photo.stem: digests for photo, (digests, _) in pairs})
    return _placed(FoldPlan(data, rows), rule, old.assignment() if old else {})


def refold(plan: FoldPlan, rule: Rule, old: FoldPlan | None = None) -> FoldPlan:
    """A plan of the same objects with the same holdout, but other folds.

    Args:
        plan: the plan whose objects and holdout to take.
        rule: how to assign the others; its holdout is ignored.
        old: a plan by the same rule whose objects keep their folds.

    Raises:
        PlanError: as `make_plan`, and if the old plan has another holdout.
    """
    assignments = plan.assignment()
    kept = {name: fold for name, fold in (old.assignment() if old else {}).items() if name in assignments}
    for name, fold in kept.items():
        if (fold is None) != (assignments[name] is None):
            verbs = ("holds out", "trains on") if fold is None else ("trains on", "holds out")
            what = f"The older plan {verbs[0]} {name}, which the plan of --holdout-from {verbs[1]}"
            raise PlanError(what, "Extend a plan with that holdout")
    held: Assignments = {name: None for name, fold in assignments.items() if fold is None}
    return _placed(plan, replace(rule, holdout=0.0), kept | held)


def dump_plan(plan: FoldPlan) -> bytes:
    """The plan as CSV; the same plan has the same bytes."""
    table = io.StringIO()
    table.write(f"{HEADER}{plan.data}\n")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in plan.rows:
        fold = HOLDOUT if row.fold is None else row.fold
        writer.writerow([row.image, row.object, row.view, row.area, fold])
    return table.getvalue().encode()


def read_plan(address: str | Path) -> FoldPlan:
    """Reads a plan.

    Raises:
        StorageError: if the file can't be read.
        PlanError: if it is no plan, or puts an object into two folds.
    """
    remedy = "Make one with `backdrop split`"
    try:
        head, body = text.split_title(text.decode(storage.read_bytes(address)))
    except ValueError as error:
        raise PlanError(f"{address} is no fold plan ({error})", remedy) from error
    if head.startswith(OLD_HEADER):
        raise PlanError(f"{address} was made by an older version of Backdrop (its first line says v1)", remedy)
    if not head.startswith(HEADER):
        raise PlanError(f"{address} is no fold plan", remedy)
    try:
        _, lines = text.read_table(body, COLUMNS, line=2)
        rows = tuple(_row(line, *values) for line, values in lines)
    except ValueError as error:
        raise PlanError(f"{address} is damaged ({shorten(error)})", remedy) from error
    assignments = {(row.object, row.fold) for row in rows}
    twice = [name for name, count in Counter(name for name, _ in assignments).items() if count > 1]
    if twice or not rows:
        fault = f"puts {twice[0]} into two folds" if twice else "places no object"
        raise PlanError(f"{address} {fault}", remedy)
    return FoldPlan(head.removeprefix(HEADER), rows)


def read_plans(addresses: str | Sequence[str]) -> list[FoldPlan]:
    """Reads the plans of an ensemble, one or several; the first is the ensemble's own.

    Raises:
        StorageError: if a file can't be read.
        PlanError: if one is no plan, or they are of different data, or hold out different objects.
    """
    names = [addresses] if isinstance(addresses, str) else addresses
    plans = [read_plan(name) for name in names]
    for name, plan in zip(names, plans, strict=True):
        remedy = f"Make it with `backdrop split --holdout-from {names[0]}`"
        if plan.data != plans[0].data or {row.image for row in plan.rows} != {row.image for row in plans[0].rows}:
            raise PlanError(f"{name} was made for other data than {names[0]}", remedy)
        if set(plan.holdout) != set(plans[0].holdout):
            raise PlanError(f"{name} holds out other objects than {names[0]}", remedy)
    return plans


def verify(plan: FoldPlan, dataset: Dataset) -> Digests:
    """Digests of the plan's images and masks, by stem, if they are the ones that it was made for.

    Raises:
        PlanError: if the plan belongs to other data.
        DataError: if a photograph or its mask is missing.
    """
    digests = content_digests(dataset.select(row.image for row in plan.rows))
    found = dataset_digest(digests)
    if found != plan.data:
        raise PlanError(
            f"The plan was made for data {plan.data[:19]}…, but {dataset.root} is {found[:19]}…",
            "Make a new plan with `backdrop split`, with --extend to keep every object's place",
        )
    return digests


def _placed(plan: FoldPlan, rule: Rule, kept: Assignments) -> FoldPlan:
    assignments = assign(_object_areas(plan.rows, rule.view), rule, kept)
    return FoldPlan(plan.data, tuple(replace(row, fold=assignments[row.object]) for row in plan.rows))


def _object_areas(rows: Iterable[Row], view: str | None) -> dict[str, float]:
    """Mean mask area of each object, so that one with fewer views isn't taken for a small one; or that of a view."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        areas = groups.setdefault(row.object, [])
        if view in (None, row.view):
            areas.append(row.area)
    for name, areas in groups.items():
        if not areas:
            raise PlanError(f"Object {name} has no photograph of view {view}", "Name a view that all objects have")
    return {name: sum(areas) / len(areas) for name, areas in groups.items()}


def _row(line: int, image: str, name: str, view: str, area: str, fold: str) -> Row:
    try:
        return Row(image, name, view, int(area), None if fold == HOLDOUT else int(fold))
    except ValueError as error:
        raise ValueError(f"line {line}: area {area} or fold {fold} is not a whole number") from error
