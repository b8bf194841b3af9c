"""The report's section on what members and recipes add, and which recipes give most Dice for their cost."""

from collections.abc import Sequence
from html import escape

from backdrop.common.words import count
from backdrop.evaluation.metrics import FEW_OBJECTS
from backdrop.evaluation.records import SPEED, Contribution, Evaluation, RecipeSet
from backdrop.report.charts import Scale, dice_scale, interval, pareto, positive_scale
from backdrop.report.parts import interval_text, table

FEW_ROWS = 12  # a longer table is folded away
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NOTE = f"""What it adds is the Dice of all members less that of all others, below zero if they are better without it:
of masks at p &gt; 0.5, with neither post-processing nor early exit. Out of fold, one member of each recipe sees a
photograph, so a recipe is left out there, and a member on the holdout. Cost is in multiply-accumulates for a
photograph; seconds are in <code>{SPEED}</code>, which <code>evaluate</code> wrote beside this page. With fewer than
{FEW_OBJECTS} objects a row is gray: its interval is too uncertain to show an effect."""
SETS_NOTE = """On the line, sets of recipes, one member of each: none that costs as much or less has as high a Dice. Off
the line, each other recipe alone, and all but one. The best of many is flattered a little by being chosen."""


def contributions_section(evaluation: Evaluation) -> str:
    """What each member and each recipe adds, and the best sets of recipes for their cost; empty without any."""
    oof = [one for one in evaluation.contributions if one.part == "oof"]
    held = [one for one in evaluation.contributions if one.part == "holdout"]
    if not oof and not held:
        return ""
    tables = _table(oof, "recipe", "out of fold") + _table(held, "member", "on the holdout")
    return f'<section><h2>What members add</h2>{tables}<p class="note">{NOTE}</p>{_sets(evaluation.sets)}</section>'


def _table(rows: Sequence[Contribution], noun: str, place: str) -> str:
    """A row for each, what adds most first."""
    if not rows:
        return ""
    ends = [end for one in rows for end in (one.added.mean, one.added.low, one.added.high) if end is not None]
    reach = max(1e-9, *map(abs, ends))
    scale = Scale(-reach, reach, float, ())
    heads = (f"{noun}, {place}", "objects", "cost", "Dice without it", "it adds", "95 % interval", "")
    ranked = sorted(rows, key=lambda one: (-one.added.mean, one.name))
    found = table(heads, [_row(one, scale) for one in ranked], "spans")
    if len(rows) <= FEW_ROWS:
        return found
    return f"<details><summary>{count(len(rows), noun)} {place}</summary>{found}</details>"


def _row(one: Contribution, scale: Scale) -> list[str]:
    added, low, high = one.added.mean, one.added.low, one.added.high
    figures = f"{one.without.dice:.5f}", f"{added:+.5f}", interval_text(low, high)
    cells = [str(one.without.objects), _macs(one.cost), *figures]
    if one.without.objects < FEW_OBJECTS:
        cells = [f'<span class="few">{cell}</span>' for cell in cells]
    ends = added if low is None else low, added if high is None else high
    return [escape(one.name), *cells, interval(ends[0], added, ends[1], scale, zero=True)]


def _sets(sets: Sequence[RecipeSet]) -> str:
    """The sets of recipes in a figure, and the best ones in a table."""
    if not sets:
        return ""
    best = [one for one in sets if one.best]
    whole = max((one.recipes for one in sets), key=len)
    names = {one.recipes: _names(one.recipes, whole) for one in sets}
    numbers = {one.recipes: str(number) for number, one in enumerate(best, 1)}
    points = [
        (one.cost, one.dice.dice, numbers.get(one.recipes, ""), f"{names[one.recipes]}: {one.dice.dice:.5f}")
        for one in sets
    ]
    costs, dices = positive_scale([one.cost for one in sets]), dice_scale([one.dice.dice for one in sets])
    words = "Dice out of fold against multiply-accumulates"
    rows = [
        [
            numbers[one.recipes],
            _macs(one.cost),
            f"{one.dice.dice:.5f}",
            str(one.dice.objects),
            escape(names[one.recipes]),
        ]
        for one in best
    ]
    found = table(("", "cost", "Dice out of fold", "objects", "recipes"), rows, "sets")
    figure = f"{pareto(points, _with_units(costs), dices, words)}<figcaption>{words}{costs.note}</figcaption>"
    note = f'<p class="note">{SETS_NOTE}</p>'
    return f'<div class="figures"><figure>{figure}</figure>{note}</div>{found}'


def _names(recipes: Sequence[str], whole: Sequence[str]) -> str:
    """All that are in a set, or those that aren't if these are fewer."""
    missing = [name for name in whole if name not in recipes]
    if len(recipes) <= len(missing) + 2:
        return " + ".join(recipes)
    return f"all but {', '.join(missing)}" if missing else "all"


def _with_units(scale: Scale) -> Scale:
    return Scale(scale.low, scale.high, scale.spread, tuple((tick, _macs(tick)) for tick, _ in scale.ticks))


def _macs(value: float) -> str:
    """A number of multiply-accumulates with three digits: `1.23 G`."""
    for size, unit in UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
