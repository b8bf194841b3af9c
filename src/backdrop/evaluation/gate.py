"""The gate: whether a challenger replaces the champion, judged only on objects that no member trained on.

The two models are compared on the same holdout images, object by object. The more often a holdout has been asked, the
clearer a difference must be, so that few champions are ever replaced by chance. A challenger that can't be compared is
rejected. Reasons include the numbers.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from backdrop.common.words import count
from backdrop.config import Gate
from backdrop.config.records import Record
from backdrop.evaluation.metrics import Interval, bootstrap, estimate, object_means
from backdrop.evaluation.records import Score, duplicate
from backdrop.evaluation.significance import adjusted_p, level, p_value
from backdrop.evaluation.slices import slice_groups

Outcome = Literal["promoted", "rejected", "unchanged"]

NO_CHAMPION, UNFAIR = "there is no champion yet", "the two can't be compared; the champion stays"
SLICE_ALPHA = 0.05  # the chance that an equally good challenger is rejected by any slice
NAMED = 10  # groups that a verdict's reasons name, those that lose most


class Slice(Record):
    """The change of Dice in one group of a slice; `worse` if it alone rejects the challenger.

    `slice` is what images are grouped by, `group` the group's name, `p_value` the chance of such a loss. A group with
    only one object has no interval and no p, and never rejects the challenger.
    """

    slice: str
    group: str
    objects: int
    difference: float
    low: float | None
    high: float | None
    p_value: float | None = None
    worse: bool


class Verdict(Record):
    """The gate's decision about a challenger.

    `rejected` means that the champion stays, or that there still is none; `unchanged` means that the challenger is the
    champion itself. `summary` gives the reason in a few words, `reasons` with numbers. `difference` is the challenger's
    Dice minus the champion's on the holdout, `low` and `high` its 95 % interval; None without a comparison.

    `look` counts the comparisons on this holdout, this one included; None if none was spent. It promotes if `p_value`
    is below `level`; the next needs less than `next_level`.
    """

    outcome: Outcome
    summary: str = ""
    reasons: tuple[str, ...]
    objects: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    look: int | None = None
    level: float | None = None
    p_value: float | None = None
    next_level: float | None = None
    slices: tuple[Slice, ...] = ()


def judge(
    challenger: Sequence[Score],
    champion: Sequence[Score] | None,
    gate: Gate,
    looks: int = 0,
    costs: tuple[float | None, float | None] = (None, None),
) -> Verdict:
    """Judges a challenger.

    Args:
        challenger: the challenger's scores; only those of the holdout count.
        champion: the champion's scores on the same holdout; None if there is no champion.
        gate: the thresholds.
        looks: how many verdicts on this holdout had a `look`, 0 or more.
        costs: multiply-accumulates per photograph of challenger and champion; None where unknown.

    Returns:
        The verdict. Swapping the two models negates the interval exactly, and at most one of them is promoted.
    """
    new, old = _holdout(challenger), _holdout(champion or ())
    objects = len({score.object for score in new})
    fault = _fault(new, "challenger") or (champion is not None and (_fault(old, "champion") or _mismatch(new, old)))
    fault = fault or (champion is not None and _missing_slice(new, gate))
    if fault:
        return rejected(UNFAIR if champion is not None else f"it can't be judged; {NO_CHAMPION}", fault, objects)
    if champion is None:
        return _first(new, gate)
    return _compare(new, old, gate, looks + 1, costs)


def rejected(why: str, reason: str, objects: int) -> Verdict:
    """The verdict on a challenger that can't be judged.

    Args:
        why: the reason in a few words.
        reason: the reason in a sentence.
        objects: number of objects in the holdout.
    """
    return Verdict(outcome="rejected", summary=why, reasons=(reason,), objects=objects)


def _holdout(scores: Sequence[Score]) -> list[Score]:
    return sorted((score for score in scores if score.fold is None), key=lambda score: score.image)


def _fault(scores: Sequence[Score], role: str) -> str | None:
    """The reason why a model's scores can't be judged; None if they can."""
    if not scores:
        return f"The {role} has no scores on a holdout"
    broken = [score.image for score in scores if not 0 <= score.dice <= 1]
    if broken:
        return f"The {role}'s Dice on holdout image {broken[0]} is not a number between 0 and 1"
    twice = duplicate(score.image for score in scores)
    return f"The {role} has two scores for holdout image {twice}" if twice is not None else None


def _mismatch(new: Sequence[Score], old: Sequence[Score]) -> str | None:
    """The reason why two models' scores can't be compared; None if they can."""
    ours, theirs = {score.image: score for score in new}, {score.image: score for score in old}
    for missing, role in ((ours.keys() - theirs.keys(), "champion"), (theirs.keys() - ours.keys(), "challenger")):
        if missing:
            return f"The {role} has no score for holdout image {min(missing)}"
    for image, score in ours.items():
        other = theirs[image]
        if (score.object, score.view, score.area) != (other.object, other.view, other.area):
            return f"The two models were scored on different versions of holdout image {image}"
    return None


def _missing_slice(scores: Sequence[Score], gate: Gate) -> str | None:
    """The reason why a slice can't be guarded; None if all can."""
    recorded = {"view", "area"}.union(*(score.traits for score in scores))
    missing = [name for name in gate.slices if name not in recorded]
    if not missing:
        return None
    return f"The challenger's evaluation has no column {missing[0]}, which gate.slices names: evaluate it again"


def _first(scores: Sequence[Score], gate: Gate) -> Verdict:
    result = estimate(scores)
    passed = result.dice >= gate.minimum_dice
    interval = "" if result.low is None or result.high is None else f" ({_interval(result.low, result.high)})"
    asked = f"{'at least' if passed else 'below'} the {gate.minimum_dice} required of a first champion"
    dice = _number(result.dice, _digits(result.dice, gate.minimum_dice))
    reason = f"Dice on {count(result.objects, 'holdout object')} is {dice}{interval}, {asked}"
    return Verdict(
        outcome="promoted" if passed else "rejected",
        summary="the first champion" if passed else f"below gate.minimum_dice; {NO_CHAMPION}",
        reasons=(reason,),
        objects=result.objects,
    )


def _compare(
    new: Sequence[Score], old: Sequence[Score], gate: Gate, look: int, costs: tuple[float | None, float | None]
) -> Verdict:
    differences = [(score.object, score.dice - other.dice) for score, other in zip(new, old, strict=True)]
    means, allowed = object_means(differences), _allowance(gate, costs)
    change, slices = bootstrap(means), _slices(new, [difference for _, difference in differences], gate, allowed)
    few, worse = len(means) < gate.minimum_objects, [part for part in slices if part.worse]
    p = None if few else float(p_value([value + allowed for value in means.values()]))
    clear = p is not None and p < level(look)
    promoted = clear and not worse
    reasons = [_few(len(means), gate)] if few else []
    reasons += [_change(change, len(means)), *(_cost(costs, allowed) if gate.mode == "cheaper" else ())]
    reasons += [_evidence(p, look)] if p is not None else []
    reasons += _slice_reasons(worse, gate.slice_drop + max(allowed, 0.0))
    return Verdict(
        outcome="promoted" if promoted else "rejected",
        summary=_promotion(allowed) if promoted else _rejection(few, bool(worse), allowed),
        reasons=tuple(reasons),
        objects=len(means),
        difference=change.mean,
        low=change.low,
        high=change.high,
        look=None if few else look,
        level=None if few else level(look),
        p_value=p,
        next_level=None if few else level(look + 1),
        slices=slices,
    )


def _allowance(gate: Gate, costs: tuple[float | None, float | None]) -> float:
    """How much Dice a challenger may lose; below zero, how much it must gain. Swapping the models negates it."""
    new, old = costs
    if gate.mode == "better" or new is None or old is None or new == old:
        return 0.0
    return gate.margin if new < old else -gate.margin


def _slices(scores: Sequence[Score], changes: Sequence[float], gate: Gate, allowed: float) -> tuple[Slice, ...]:
    """All groups of all slices. Their losses share one rate of false alarms (Bonferroni)."""
    groups: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name in gate.slices:
        for score, change, group in zip(scores, changes, slice_groups(scores, name), strict=True):
            groups.setdefault((name, group), []).append((score.object, change))
    means = {key: object_means(values) for key, values in groups.items()}
    asked = SLICE_ALPHA / max(1, sum(len(group) > 1 for group in means.values()))
    return tuple(
        _slice(name, group, means[name, group], gate.slice_drop, max(allowed, 0.0), asked)
        for name, group in sorted(means, key=lambda key: (gate.slices.index(key[0]), key[1]))
    )


def _slice(name: str, group: str, means: Mapping[str, float], drop: float, allowed: float, asked: float) -> Slice:
    change = bootstrap(means)
    if len(means) == 1:
        return Slice(slice=name, group=group, objects=1, difference=change.mean, low=None, high=None, worse=False)
    p = float(adjusted_p(-(np.array(list(means.values())) + allowed)))
    return Slice(
        slice=name,
        group=group,
        objects=len(means),
        difference=change.mean,
        low=change.low,
        high=change.high,
        p_value=p,
        worse=change.mean < -(drop + allowed) and p < asked,
    )


def _promotion(allowed: float) -> str:
    if allowed > 0:
        return "cheaper than the champion, and loses less than gate.margin"
    return f"better than the champion{' by more than gate.margin' if allowed < 0 else ''}"


def _rejection(few: bool, worse: bool, allowed: float) -> str:
    asked = "to lose less than gate.margin" if allowed > 0 else "to be better than the champion"
    why = "too few holdout objects" if few else "worse on a slice" if worse else f"not shown {asked}"
    return f"{why}; the champion stays"


def _few(objects: int, gate: Gate) -> str:
    asked = f"replacing a champion takes at least {gate.minimum_objects}"
    return f"{count(objects, 'object')} in the holdout: {asked}"


def _change(change: Interval, objects: int) -> str:
    if change.low == change.high == 0:
        return f"Dice on {count(objects, 'holdout object')} is equal to the champion's"
    verb = "fell" if change.mean < 0 else "rose"
    tail = "" if change.low > 0 or change.high < 0 else ", which may be chance"
    spread = _interval(change.low, change.high)
    return f"Dice on {count(objects, 'holdout object')} {verb} by {_number(abs(change.mean))} ({spread}){tail}"


def _evidence(p: float, look: int) -> str:
    digits = _digits(p, level(look), 3, "g")
    shown = "p < 1e-9" if p < 1e-9 else f"p = {p:.{digits}g}"
    asked, following = f"p < {level(look):.{digits}g}", f"p < {level(look + 1):.3g}"
    return f"Look {look} at this holdout needs {asked} and has {shown}; the next needs {following}"


def _cost(costs: tuple[float | None, float | None], allowed: float) -> tuple[str]:
    new, old = costs
    if new is None or old is None:
        return ("The cost of one of the two isn't known, so the challenger must be better",)
    asked = f"may lose less than {allowed:g}" if allowed > 0 else f"must gain more than {-allowed:g}"
    both = f"It costs {new:.3g} multiply-accumulates per photograph, the champion {old:.3g}"
    return (f"{both}: it {asked if allowed else 'must be better'}",)


def _slice_reasons(worse: Sequence[Slice], allowed: float) -> list[str]:
    named = sorted(worse, key=lambda part: part.difference)[:NAMED]
    more = len(worse) - len(named)
    rest = [f"So did {count(more, 'more group')}" if more else ""]
    return [*(_slice_reason(part, allowed) for part in worse if part in named), *filter(None, rest)]


def _slice_reason(part: Slice, allowed: float) -> str:
    assert part.low is not None  # a slice without an interval is never worse
    assert part.high is not None
    loss = -part.difference
    subject = f"Dice of {part.slice} {part.group} on {count(part.objects, 'object')}"
    change = f"fell by {_number(loss, _digits(loss, allowed))} ({_interval(part.low, part.high)})"
    return f"{subject} {change}, more than the {allowed:g} that the gate allows"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {_number(low)} to {_number(high)}"


def _number(value: float, digits: int = 5) -> str:
    """That many decimals, or scientific notation where they would round to zero."""
    text = f"{value:.{digits}f}"
    return text if float(text) or not value else f"{value:.1e}"


def _digits(value: float, bound: float, least: int = 5, kind: str = "f") -> int:
    """As few digits, but `least`, as show on which side of the bound a value is."""

    def is_below(digits: int) -> bool:
        return float(f"{value:.{digits}{kind}}") < float(f"{bound:.{digits}{kind}}")

    return next(digits for digits in itertools.count(least) if is_below(digits) == (value < bound))
