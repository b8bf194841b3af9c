"""`split`: assigns objects to folds and a holdout."""

from statistics import mean

from backdrop.common.errors import PlanError
from backdrop.common.output_file import require_file, write_file
from backdrop.common.progress import log, working
from backdrop.config.folds import PLAN, Rule
from backdrop.config.records import Record
from backdrop.data.dataset import Dataset, open_dataset
from backdrop.data.folds import FoldPlan, dump_plan, is_plan, make_plan, read_plan, refold, verify

RULE = Rule()


class SplitRecord(Record):
    """The data's digest, and the number of objects and mean mask area (pixels) of each fold."""

    data: str
    objects: dict[str, int]
    areas: dict[str, float]


@working("splitting")
def split(
    data: str,
    out: str,
    rule: Rule = RULE,
    objects: int | None = None,
    extend: str | None = None,
    holdout_from: str | None = None,
) -> SplitRecord:
    """Assigns every object of a dataset to a fold or to the holdout.

    Args:
        data: the dataset.
        out: the plan to write, a CSV file; an older plan there is replaced.
        rule: the number of folds, the share of the holdout, and the order.
        objects: only this number of objects, the first by name.
        extend: an older plan whose objects keep their folds, or `models:/NAME@champion` for the plan of a
            registered model's version (with `holdout_from`, its plan of the same scheme); what isn't there yet has
            nothing to extend.
        holdout_from: another plan of these data, whose objects and holdout are taken: for a further scheme of the same
            ensemble. The rule's own `holdout` isn't looked at then.

    Raises:
        PlanError: if there are fewer objects than places, one lacks the view, the older plan has other folds or
            another holdout, or `holdout_from` is of other data.
        DataError: if a photograph has no mask or can't be read.
        StorageError: if another file is at `out`, or it can't be written.
    """
    if holdout_from is not None and objects:
        raise PlanError("--objects doesn't go with --holdout-from", "Leave it out: the objects are that plan's")
    require_file(out, is_plan, "a fold plan")
    dataset = open_dataset(data)
    if holdout_from is not None:
        first = read_plan(holdout_from)
        verify(first, dataset)
        plan = refold(first, rule, _older(extend, rule.file))
    else:
        older = _older(extend, PLAN)
        if older:
            _tell_missing(older, dataset, f"{extend} places objects that aren't in {data} any more")
        plan = make_plan(dataset, rule, objects, older)
    write_file(out, dump_plan(plan), is_plan, "a fold plan")
    return summary(plan)


def summary(plan: FoldPlan) -> SplitRecord:
    """The number of objects and mean mask area of each fold."""
    groups = {str(fold): plan.validation(fold) for fold in plan.folds}
    if plan.holdout:
        groups["holdout"] = plan.holdout
    return SplitRecord(
        data=plan.data,
        objects={name: len({row.object for row in rows}) for name, rows in groups.items()},
        areas={name: round(mean(row.area for row in rows), 1) for name, rows in groups.items()},
    )


def _older(extend: str | None, name: str) -> FoldPlan | None:
    """The plan to extend; of a registered version that which is called so."""
    if extend is None or not extend.startswith("models:/"):
        return None if extend is None else read_plan(extend)
    from backdrop.tracking import registry  # slow: imports mlflow

    path = registry.champion_plan(extend, name)
    if path is None:
        log(f"{extend} has no {name} yet, so that there is nothing to extend")
        return None
    return read_plan(path)


def _tell_missing(older: FoldPlan, dataset: Dataset, what: str) -> None:
    """Says which objects of an older plan are gone: perhaps they have other names now, and so lose their places."""
    placed = older.assignment().keys()
    missing = sorted(placed - {photo.object for photo in dataset.photos.values()})
    if missing:
        which = "all" if len(missing) == len(placed) else f"{len(missing)} of {len(placed)}"
        log(f"{what} ({which}, such as {missing[0]})")
