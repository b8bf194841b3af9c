"""Makes, writes and reads fold plans, and verifies that a dataset is the one that a plan was made for."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backdrop.common import storage, text
from backdrop.common.errors import PlanError, shorten
from backdrop.common.threads import in_threads
from backdrop.config.folds import Rule
from backdrop.data.dataset import Dataset, Digests
from backdrop.data.digests import content_digests, dataset_digest, measure, twins
from backdrop.data.folds.assign import Assignments, assign
from backdrop.data.listing import printable

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

    def validation(self, fold: int | None) -> list[Row]:
        """The photographs of a fold; without a fold, the first one of each object that isn't in the holdout.

        Raises:
            PlanError: if the plan has no such fold.
        """
        if fold is None:
            firsts: dict[str, Row] = {}
            for row in self.training(None):
                firsts.setdefault(row.object, row)
            return list(firsts.values())
        if fold not in self.folds:
            known = ", ".join(map(str, self.folds))
            raise PlanError(f"The plan has no fold {fold}", f"Use one of {known}")
        return [row for row in self.rows if row.fold == fold]

    def training(self, fold: int | None) -> list[Row]:
        """The photographs of all other folds, which the member of `fold` trains on; without a fold, those of all.

        Raises:
            PlanError: if the plan has no such fold, or no other fold.
        """
        if fold is None:
            return [row for row in self.rows if row.fold is not None]
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
        DataError: if a photograph has no mask, can't be read, or is also one of another object.
    """
    photos = dataset.select(dataset.first(objects).photos)
    measured = in_threads(measure, photos, "reading photographs", lasting=False)
    pairs = list(zip(photos, measured, strict=True))
    for fault in twins((photo, digests[0]) for photo, (digests, _) in pairs):
        raise fault.error()
    rows = tuple(Row(p.stem, p.object, p.view, area, None) for p, (_, area) in pairs)
    data = dataset_digest({photo.stem: digests for photo, (digests, _) in pairs})
    return _placed(FoldPlan(data, rows), rule, old.assignment() if old else {})


def check_rules(stems: Iterable[str], rules: Iterable[Rule]) -> None:
    """Checks that photographs can be split by rules, as far as their names say: no mask is needed.

    Args:
        stems: the photographs', `<object>_<view>`.
        rules: the fold schemes.

    Raises:
        PlanError: if there are fewer objects than folds, or one lacks a rule's view.
    """
    rows = [Row(stem, *stem.rpartition("_")[::2], 0, None) for stem in stems]
    for rule in rules:
        # Ranked by area, whatever the rule: other schemes draw by areas that aren't known yet.
        assign(object_areas(rows, rule.view), replace(rule, by="area_rank"))


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
    kept = old.assignment() if old else {}
    for name, fold in kept.items():
        if name in assignments and (fold is None) != (assignments[name] is None):
            verbs = ("holds out", "trains on") if fold is None else ("trains on", "holds out")
            what = f"The older plan {verbs[0]} {name}, which the plan of --holdout-from {verbs[1]}"
            raise PlanError(what, "Extend a plan with that holdout")
    held: Assignments = {name: None for name, fold in assignments.items() if fold is None}
    return _placed(plan, replace(rule, holdout=0.0), kept | held)


def follows(plan: FoldPlan, rule: Rule, own: FoldPlan | None = None) -> bool:
    """Whether a rule alone makes a plan of the same photographs, without an older plan to extend.

    Args:
        plan: the plan.
        rule: how its objects may have been assigned.
        own: the plan whose holdout it has, if it was made from that.
    """
    try:
        return (_placed(plan, rule, {}) if own is None else refold(own, rule)) == plan
    except PlanError:  # such as a view that not all objects have
        return False


def dump_plan(plan: FoldPlan) -> bytes:
    """The plan as CSV; the same plan has the same bytes."""
    rows = ([r.image, r.object, r.view, r.area, HOLDOUT if r.fold is None else r.fold] for r in plan.rows)
    return f"{HEADER}{plan.data}\n".encode() + text.dump_table(COLUMNS, rows)


def plans_digest(plans: Iterable[FoldPlan]) -> str:
    """The sha256 of an ensemble's plans, the own one first."""
    return storage.sha256(b"".join(map(dump_plan, plans)))


def is_plan(data: bytes) -> bool:
    """Whether a file's content begins as a plan's does."""
    return data.startswith(HEADER.encode()) and data.split(b"\n")[1:2] == [",".join(COLUMNS).encode()]


def read_plan(address: str | Path) -> FoldPlan:
    """Reads a plan.

    Raises:
        StorageError: if the file can't be read.
        PlanError: if it isn't a plan, or a row can't be right, such as one that puts an object into a second fold.
    """
    remedy = "Make one with `backdrop split`"
    try:
        head, body = text.split_title(text.decode(storage.read_bytes(address)))
    except ValueError as error:
        raise PlanError(f"{address} isn't a fold plan ({error})", remedy) from error
    if head.startswith(OLD_HEADER):
        raise PlanError(f"{address} was made by an older version of Backdrop (its first line says v1)", remedy)
    if not head.startswith(HEADER):
        raise PlanError(f"{address} isn't a fold plan", remedy)
    try:
        _, lines = text.read_table(body, COLUMNS, line=2)
        rows = {line: _row(line, *values) for line, values in lines}
        _check(rows)
    except ValueError as error:
        raise PlanError(f"{address} is damaged ({shorten(error)})", remedy) from error
    if not rows:
        raise PlanError(f"{address} places no object", remedy)
    return FoldPlan(head.removeprefix(HEADER), tuple(rows.values()))


def read_plans(addresses: str | Sequence[str]) -> list[FoldPlan]:
    """Reads the plans of an ensemble, one or several; the first is the ensemble's own.

    Raises:
        StorageError: if a file can't be read.
        PlanError: if one isn't a plan, or they are of different data, or hold out different objects.
    """
    names = [addresses] if isinstance(addresses, str) else addresses
    plans = [read_plan(name) for name in names]
    for name, plan in zip(names, plans, strict=True):
        remedy = f"Make it with `backdrop split --holdout-from {shlex.quote(names[0])}`"
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
    digest = dataset_digest(digests)
    if digest != plan.data:
        raise PlanError(
            f"The plan was made for data {plan.data[:19]}…, but {printable(dataset.root)} is {digest[:19]}…",
            "Make a new plan with `backdrop split`, with --extend to keep every object's place",
        )
    return digests


def _placed(plan: FoldPlan, rule: Rule, kept: Assignments) -> FoldPlan:
    assignments = assign(object_areas(plan.rows, rule.view), rule, kept)
    return FoldPlan(plan.data, tuple(replace(row, fold=assignments[row.object]) for row in plan.rows))


def object_areas(rows: Iterable[Row], view: str | None) -> dict[str, float]:
    """Mean mask area of each object, so that one with fewer views isn't taken for a small one; or that of a view.

    Raises:
        PlanError: if an object has no photograph of the view.
    """
    groups: dict[str, list[int]] = {}
    for row in rows:
        areas = groups.setdefault(row.object, [])
        if view in (None, row.view):
            areas.append(row.area)
    for name, areas in groups.items():
        if not areas:
            raise PlanError(f"Object {name} has no photograph of view {view}", "Name a view that all objects have")
    return {name: sum(areas) / len(areas) for name, areas in groups.items()}


def _check(rows: Mapping[int, Row]) -> None:
    """Checks the rows, by their line numbers, against their own names and each other.

    Raises:
        ValueError: if an image isn't its object and view, is listed twice, or an object is in two places.
    """
    images: dict[str, int] = {}
    objects: dict[str, int] = {}
    for line, row in rows.items():
        if row.image != f"{row.object}_{row.view}":
            raise ValueError(f"line {line}: image {row.image} isn't view {row.view} of object {row.object}")
        if (first := images.setdefault(row.image, line)) != line:
            raise ValueError(f"line {line} lists {row.image} again, after line {first}")
        first = objects.setdefault(row.object, line)
        if rows[first].fold != row.fold:
            places = [HOLDOUT if one.fold is None else f"fold {one.fold}" for one in (rows[first], row)]
            raise ValueError(f"it puts {row.object} into {places[0]} in line {first} and {places[1]} in line {line}")


def _row(line: int, image: str, name: str, view: str, area: str, fold: str) -> Row:
    if not area.isdecimal() or not (fold.isdecimal() or fold == HOLDOUT):
        raise ValueError(f"line {line}: area {area} or fold {fold} is not a whole number")
    return Row(image, name, view, int(area), None if fold == HOLDOUT else int(fold))
