"""The gate: whether a challenger replaces the champion, judged only on objects that no member trained on.

The two models are compared on the same holdout images by a paired bootstrap over objects. Of equally good challengers,
about one in forty passes by chance. A challenger that can't be compared is rejected. Reasons include the numbers.
"""

from collections.abc import Sequence
from typing import Literal

from backdrop.common.words import count
from backdrop.config import Gate
from backdrop.config.records import Record
from backdrop.evaluation.metrics import Interval, Score, bootstrap, duplicate, estimate, object_means

Outcome = Literal["promoted", "rejected", "unchanged"]

NO_CHAMPION, UNFAIR = "there is no champion yet", "the two can't be compared; the champion stays"
MINIMUM_OBJECTS = 12  # an interval over fewer objects is too uncertain to replace a champion


class Slice(Record):
    """The change of Dice on one view of the holdout's objects; `worse` if it alone rejects the challenger.

    The interval of a view with only one object is None, and it never rejects the challenger.
    """

    view: str
    objects: int
    difference: float
    low: float | None
    high: float | None
    worse: bool


class Verdict(Record):
    """The gate's decision about a challenger.

    `rejected` means that the champion stays, or that there still is none; `unchanged` means that the challenger is the
    champion itself. `summary` gives the reason in a few words, `reasons` with numbers. `difference` is the challenger's
    Dice minus the champion's on the holdout, `low` and `high` its 95 % interval; None without a comparison.
    """

    outcome: Outcome
    summary: str = ""
    reasons: tuple[str, ...]
    objects: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    slices: tuple[Slice, ...] = ()


def judge(challenger: Sequence[Score], champion: Sequence[Score] | None, gate: Gate) -> Verdict:
    """Judges a challenger.

    Args:
        challenger: the challenger's scores; only those of the holdout count.
        champion: the champion's scores on the same holdout; None if there is no champion.
        gate: the thresholds.

    Returns:
        The verdict. Swapping the two models negates the interval exactly, and at most one of them is promoted.
    """
    new, old = _holdout(challenger), _holdout(champion or ())
    objects = len({score.object for score in new})
    fault = _fault(new, "challenger") or (champion is not None and (_fault(old, "champion") or _mismatch(new, old)))
    if fault:
        return rejected(UNFAIR if champion is not None else f"it can't be judged; {NO_CHAMPION}", fault, objects)
    if champion is None:
        return _first(new, gate)
    return _compare(new, old, gate)


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


def _first(scores: Sequence[Score], gate: Gate) -> Verdict:
    result = estimate(scores)
    passed = result.dice >= gate.minimum_dice
    interval = "" if result.low is None or result.high is None else f" ({_interval(result.low, result.high)})"
    asked = f"{'at least' if passed else 'below'} the {gate.minimum_dice} required of a first champion"
    reason = f"Dice on {count(result.objects, 'holdout object')} is {_number(result.dice)}{interval}, {asked}"
    return Verdict(
        outcome="promoted" if passed else "rejected",
        summary="the first champion" if passed else f"below gate.minimum_dice; {NO_CHAMPION}",
        reasons=(reason,),
        objects=result.objects,
    )


def _compare(new: Sequence[Score], old: Sequence[Score], gate: Gate) -> Verdict:
    differences = [(score, score.dice - other.dice) for score, other in zip(new, old, strict=True)]
    means = object_means((score.object, difference) for score, difference in differences)
    change, slices = bootstrap(means), _slices(differences, gate)
    few = len(means) < MINIMUM_OBJECTS
    worse = [part for part in slices if part.worse]
    reasons = [_few(len(means))] if few else []
    reasons += [_change(change, len(means)), *(_slice_reason(part, gate) for part in worse)]
    better = change.low > 0 and not few and not worse
    return Verdict(
        outcome="promoted" if better else "rejected",
        summary="better than the champion" if better else _summary(few, bool(worse)),
        reasons=tuple(reasons),
        objects=len(means),
        difference=change.mean,
        low=change.low,
        high=change.high,
        slices=slices,
    )


def rejected(why: str, reason: str, objects: int) -> Verdict:
    """The verdict on a challenger that can't be judged.

    Args:
        why: the reason in a few words.
        reason: the reason in a sentence.
        objects: number of objects in the holdout.
    """
    return Verdict(outcome="rejected", summary=why, reasons=(reason,), objects=objects)


def _summary(few: bool, worse: bool) -> str:
    why = "too few holdout objects" if few else "worse on a view" if worse else "not better than the champion"
    return f"{why}; the champion stays"


def _slices(differences: Sequence[tuple[Score, float]], gate: Gate) -> tuple[Slice, ...]:
    views = sorted({score.view for score, _ in differences})
    return tuple(
        _slice(view, [(s.object, change) for s, change in differences if s.view == view], gate) for view in views
    )


def _slice(view: str, changes: Sequence[tuple[str, float]], gate: Gate) -> Slice:
    means = object_means(changes)
    change = bootstrap(means)
    if len(means) == 1:
        return Slice(view=view, objects=1, difference=change.mean, low=None, high=None, worse=False)
    worse = change.mean < -gate.slice_drop and change.high < 0
    return Slice(view=view, objects=len(means), difference=change.mean, low=change.low, high=change.high, worse=worse)


def _few(objects: int) -> str:
    return f"{count(objects, 'object')} in the holdout: replacing a champion takes at least {MINIMUM_OBJECTS}"


def _change(change: Interval, objects: int) -> str:
    if change.low == change.high == 0:
        return f"Dice on {count(objects, 'holdout object')} is equal to the champion's"
    verb = "fell" if change.mean < 0 else "rose"
    tail = "" if change.low > 0 or change.high < 0 else ", which may be chance"
    spread = _interval(change.low, change.high)
    return f"Dice on {count(objects, 'holdout object')} {verb} by {_number(abs(change.mean))} ({spread}){tail}"


def _slice_reason(part: Slice, gate: Gate) -> str:
    assert part.low is not None  # a slice without an interval is never worse
    assert part.high is not None
    subject = f"Dice of view {part.view} on {count(part.objects, 'object')}"
    change = f"fell by {_number(-part.difference)} ({_interval(part.low, part.high)})"
    return f"{subject} {change}, more than the {gate.slice_drop} that the gate allows"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    """Five decimals, or scientific notation where they would round to zero."""
    text = f"{value:.5f}"
    return text if float(text) or not value else f"{value:.1e}"
