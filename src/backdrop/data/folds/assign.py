"""Assigns objects to folds, and draws the holdout.

Randomness comes from a hash of the seed and the object's name: it needs no state and doesn't depend on the other
objects. Only the stratified folds are drawn by scikit-learn.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from backdrop.common.errors import PlanError
from backdrop.common.words import count
from backdrop.config.folds import Rule

BINS = 35  # of the winners' histogram of areas

# The fold of each object, None in the holdout.
Assignments = dict[str, int | None]


def assign(areas: Mapping[str, float], rule: Rule, kept: Mapping[str, int | None] | None = None) -> Assignments:
    """The fold (None: holdout) of every object.

    Args:
        areas: each object's mean mask area, or its mask area in the rule's view; pixels.
        rule: how to assign them.
        kept: objects that keep their fold; those no longer in `areas` are ignored.

    Raises:
        PlanError: if there are fewer objects than folds, the rule is invalid, or `kept` has other folds or no object of
            one that nothing else fills.
    """
    placed = {name: fold for name, fold in (kept or {}).items() if name in areas}
    held = list(placed.values()).count(None)
    holdout = max(held, round(rule.holdout * len(areas)) or int(rule.holdout > 0))
    _check(len(areas), holdout, rule, kept or {})
    ranking = sorted((name for name in areas if name not in placed), key=lambda name: (areas[name], name))
    placed |= dict.fromkeys(_draw_holdout(ranking, holdout - held, rule))
    rest = [name for name in ranking if name not in placed]
    placed |= _fill(rest, areas, rule, placed)
    if empty := set(range(rule.folds)).difference(placed.values()):
        what = f"No object is left of those that the older plan has in fold {min(empty)}, and too few are new"
        raise PlanError(what, "Add objects, or begin a plan that extends none")
    return placed


def _fill(rest: Sequence[str], areas: Mapping[str, float], rule: Rule, placed: Assignments) -> Assignments:
    """The folds of objects that are ranked by area, beside those that are placed."""
    if rule.by == "area":
        return _by_area(rest, areas, rule.folds, placed)
    if rule.by == "stratified":
        return _stratify(rest, areas, rule, placed)
    order = rest if rule.by == "area_rank" else sorted(rest, key=lambda name: _draw(rule.seed, name))
    existing = _in_folds(placed)
    return _join(order, dict.fromkeys([*existing, *order], 0), rule.folds, existing)


def _in_folds(placed: Assignments) -> dict[str, int]:
    return {name: fold for name, fold in placed.items() if fold is not None}


def _check(objects: int, held: int, rule: Rule, older: Mapping[str, int | None]) -> None:
    if rule.folds < 1 or not 0 <= rule.holdout < 1:
        raise PlanError(f"{rule.folds} folds with a holdout of {rule.holdout} can't be", "Use 1 or more, and 0 to 0.9")
    if objects - held < rule.folds:
        raise PlanError(
            f"{count(objects, 'object')}, {held} of them held out, don't fill {count(rule.folds, 'fold')}",
            "Ask for fewer folds",
        )
    if rule.view is not None and rule.by != "area_rank":
        raise PlanError(f"A split by {rule.by} doesn't use a view", "Use --view with --by area_rank, or remove it")
    others = {fold for fold in older.values() if fold is not None}
    if others and others != set(range(rule.folds)):
        raise PlanError(
            f"The older plan has {count(len(others), 'fold')}, not {rule.folds}", f"Use --folds {len(others)}"
        )


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _draw_holdout(ranking: Sequence[str], count: int, rule: Rule) -> list[str]:
    """Draws one object from each of `count` equal blocks of the ranking, so that the holdout spans all sizes."""
    if rule.by == "random":
        return sorted(ranking, key=lambda name: _draw(rule.seed, f"holdout:{name}"))[:count]
    count = min(count, len(ranking))
    bounds = [len(ranking) * i // count for i in range(count + 1)] if count else [0]
    blocks = [ranking[low:high] for low, high in pairwise(bounds)]
    return [min(block, key=lambda name: _draw(rule.seed, name)) for block in blocks]


def _by_area(ranking: Sequence[str], areas: Mapping[str, float], folds: int, placed: Assignments) -> Assignments:
    """Takes the largest first, in blocks of `folds`; the largest of a block joins the fold with the smallest sum."""
    sums = [sum(areas[name] for name, fold in placed.items() if fold == k) for k in range(folds)]
    result: Assignments = {}
    largest_first = ranking[::-1]
    for start in range(0, len(largest_first), folds):
        smallest_first = sorted(range(folds), key=lambda fold: (sums[fold], fold))
        for name, fold in zip(largest_first[start : start + folds], smallest_first, strict=False):
            result[name] = fold
            sums[fold] += areas[name]
    return result


def _stratify(ranking: Sequence[str], areas: Mapping[str, float], rule: Rule, placed: Assignments) -> Assignments:
    """Spreads every area class evenly over the folds; objects that join a plan are assigned one by one."""
    existing = _in_folds(placed)
    classes = _area_classes({name: areas[name] for name in [*existing, *ranking]}, rule.folds)
    if existing or rule.folds == 1:
        return _join(ranking, classes, rule.folds, existing)
    from sklearn.model_selection import StratifiedGroupKFold  # type: ignore[import-untyped]  # here: it takes a second

    splitter = StratifiedGroupKFold(rule.folds, shuffle=True, random_state=rule.seed % 2**32)
    splits = splitter.split(ranking, [classes[name] for name in ranking], groups=ranking)
    return {ranking[i]: fold for fold, (_, validation) in enumerate(splits) for i in validation}


def _join(ranking: Sequence[str], classes: Mapping[str, int], folds: int, existing: Mapping[str, int]) -> Assignments:
    """Assigns each object to the fold with the fewest objects of its class, and then the fewest objects in all."""
    of_class = Counter((classes[name], fold) for name, fold in existing.items())
    sizes = Counter(existing.values())
    result: Assignments = {}
    for name in ranking:
        fold = min(range(folds), key=lambda k: (of_class[classes[name], k], sizes[k], k))
        result[name] = fold
        of_class[classes[name], fold] += 1
        sizes[fold] += 1
    return result


def _area_classes(areas: Mapping[str, float], minimum: int) -> dict[str, int]:
    """Each object's class: 35 equal bins of area, merged from the left until a class has at least `minimum` objects.

    If too few are left at the right end for a class of their own, they join the last one. This is the winners' rule.
    """
    low, high = min(areas.values()), max(areas.values())
    width = (high - low) / BINS or 1.0
    bins = {name: min(BINS - 1, int((area - low) / width)) for name, area in areas.items()}
    sizes, classes, held = Counter(bins.values()), [0], 0
    for number in range(BINS):
        held += sizes[number]
        classes.append(classes[-1] + (held >= minimum))  # the next bin's
        held = 0 if held >= minimum else held
    last = max(0, classes[-1] - 1)
    return {name: min(classes[number], last) for name, number in bins.items()}
