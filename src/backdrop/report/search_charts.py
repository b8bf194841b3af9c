"""The charts of a schedule search: its best schedules, the training of every trial, and the sampled values."""

import math
from collections.abc import Sequence
from html import escape

from backdrop.common.words import count
from backdrop.report.charts import Scale, dice_scale, pick, positive_scale, runs, short, value_scale
from backdrop.report.lines import Line, Point, chart, end_labels, shorten, upright_axis, write
from backdrop.report.parts import dice_text
from backdrop.tuning.results import Search, Trial, ranked

FEW = 6  # sampled schedules that are shown, the best ones
LOW, MIDDLING, TALL = 104, 170, 360  # heights of a schedule, of a family's values, of Dice over epochs
LAYERS = ("stopped", "other", "halt", "preset", "best")  # kinds of lines, the last on top
FIFTHS = ("fifth-5", "fifth-4", "fifth-3", "fifth-2", "fifth-1")  # kinds of lines by Dice, the best last
CROWD = 60  # with more trials, lines are paler
LOWEST = 8  # the lowest 1/8 of all Dice is drawn at the bottom edge
AXIS_WIDTH = 72  # minimum pixels from one vertical axis to the next
APART = 26.0  # minimum distance of two labels of a vertical axis
NAME, WORD = 12, 16  # characters of the title above an axis, and of a label beside it
ROOMY = 4  # with at most this many folds, the word "fold" fits below each


def standing(trials: Sequence[Trial]) -> list[Trial]:
    """All trials in order: the finished ones by rank, then the others by Dice, then those without a Dice."""
    finished = ranked(trials)
    others = [trial for trial in trials if trial not in finished]
    return finished + sorted(others, key=lambda trial: (trial.dice is None, -(trial.dice or 0.0), trial.name))


def values_text(trial: Trial) -> str:
    """A trial's sampled values in one line."""
    return " · ".join(f"{name}\N{NO-BREAK SPACE}{_value_text(value)}" for name, value in trial.values.items())


def _value_text(value: float | str) -> str:
    """A number with at most three digits, or a word as it is."""
    return value if isinstance(value, str) else short(value, 3)


def legend(*keys: tuple[str, str]) -> str:
    """A legend of the kinds of lines: pairs of a kind and its meaning."""
    parts = (f'<span><svg class="{kind}"><path d="M1 6H29"/></svg>{meaning}</span>' for kind, meaning in keys)
    return f'<p class="note legend">{"".join(parts)}</p>'


def schedules(search: Search) -> str:
    """A small chart for each preset and for the best sampled schedules, all on the same scale, best first."""
    kinds, order = _kinds(search), [trial for trial in standing(search.trials) if trial.lrs]
    sampled = [trial for trial in order if not trial.preset and trial.dice is not None][:FEW]
    shown = [trial for trial in order if trial.preset or trial in sampled]
    scale = positive_scale([lr for trial in shown for lr in trial.lrs])
    lines = {trial.name: _rates(trial, scale, kinds[trial.name]) for trial in shown}
    ghosts = [Line("ghost", line.title, line.runs) for line in lines.values() if line.kind == "best"]
    figures = [_schedule(trial, [*ghosts, lines[trial.name]], scale) for trial in shown]
    return f'<div class="panels">{"".join(figures)}</div>'


def _schedule(trial: Trial, lines: Sequence[Line], scale: Scale) -> str:
    last = write(0, LOW + 14, "1", "start") + write(1, LOW + 14, str(len(trial.lrs)), "end")
    drawn = chart(lines, LOW, f"Learning rate of {trial.name}", upright_axis(scale, LOW) + last)
    result = dice_text(trial.dice) if trial.status == "finished" else f"{dice_text(trial.dice)} {trial.status}"
    return f"<figure><figcaption><b>{escape(trial.name)}</b><span>{result}</span></figcaption>{drawn}</figure>"


def _rates(trial: Trial, scale: Scale, kind: str) -> Line:
    last = max(1, len(trial.lrs) - 1)
    run = [(epoch / last, scale.place(lr, LOW, 0)) for epoch, lr in enumerate(trial.lrs)]
    return Line(kind, trial.name, [run])


def training(search: Search) -> str:
    """Dice over the epochs of every trial, one fold after another; a line ends where its trial was stopped."""
    kinds, begun = _kinds(search), [trial for trial in standing(search.trials) if trial.dices]
    length = max([search.budget_epochs * len(search.folds), *(len(trial.dices) for trial in begun)])
    scale = _dice_scale([dice for trial in begun for dice in trial.dices])
    lines, ends = [], []
    for trial in begun:
        kind, title = kinds[trial.name], f"{trial.name} {dice_text(trial.dice)}"
        points = [((i + 0.5) / length, scale.place(dice, TALL, 0)) for i, dice in enumerate(trial.dices)]
        starts = range(0, len(points), search.budget_epochs)
        lines.append(Line(kind, title, [_risen(points[i : i + search.budget_epochs]) for i in starts]))
        if kind == "stopped":
            lines.append(Line("halt", title, [points[-1:]]))
        if trial.preset or kind == "best" or trial.name == search.chosen:
            ends.append((points[-1], trial.name, kind))
    lines.sort(key=lambda line: LAYERS.index(line.kind))
    under, classes = upright_axis(scale, TALL) + _epochs(search, length), "labeled" + " crowded" * (len(begun) > CROWD)
    return chart(lines, TALL, "Dice over epochs of every trial", under, end_labels(ends, TALL), classes)


def _dice_scale(dices: Sequence[float]) -> Scale:
    """A scale without the lowest values, which are drawn at its bottom edge: first epochs would fill the chart."""
    return dice_scale(sorted(dices)[len(dices) // LOWEST :])


def _risen(run: Sequence[Point]) -> Sequence[Point]:
    """A line from the point where it leaves the bottom edge."""
    start = next((index for index, (_, y) in enumerate(run) if y < TALL), 0)
    return run[max(0, start - 1) :]


def _epochs(search: Search, length: int) -> str:
    """Labels of the epochs, or of the folds, below the chart."""
    if len(search.folds) == 1:
        ends = (
            write(0.5 / length, TALL + 16, "1", "middle"),
            write(1 - 0.5 / length, TALL + 16, str(length), "middle"),
        )
        return "".join(ends if length > 1 else ends[:1])
    parts = []
    for place, fold in enumerate(search.folds):
        start, middle = (search.budget_epochs * (place + shift) / length for shift in (0, 0.5))
        parts.append(write(middle, TALL + 16, f"fold {fold}" if len(search.folds) <= ROOMY else str(fold), "middle"))
        if place:
            parts.append(f'<line class="border" x1="{100 * start:.2f}%" x2="{100 * start:.2f}%" y1="0" y2="{TALL}"/>')
    return "".join(parts)


def families(search: Search) -> str:
    """For each family a chart with a vertical axis for each sampled value and for Dice; each line is a trial."""
    kinds, order = _fifths(search), [trial for trial in standing(search.trials) if trial.values]
    scale = _dice_scale([trial.dice for trial in order if trial.dice is not None])
    groups: dict[str, list[Trial]] = {}
    for trial in order:
        groups.setdefault(trial.family, []).append(trial)
    figures = [_family(family, trials, scale, kinds) for family, trials in groups.items()]
    return f'<div class="families">{"".join(figures)}</div>'


def _family(family: str, trials: Sequence[Trial], scale: Scale, kinds: dict[str, str]) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    axes = [_axis([trial.values.get(name) for trial in trials]) for name in names]
    axes.append((scale, [math.nan if trial.dice is None else trial.dice for trial in trials]))
    lines = []
    for index, trial in enumerate(trials):
        places = [scale.place(values[index], MIDDLING, 0) for scale, values in axes]
        present = runs([values[index] for _, values in axes])
        points = [[(axis / len(names), places[axis]) for axis in run] for run in present]
        lines.append(Line(kinds[trial.name], f"{trial.name} {dice_text(trial.dice)}: {values_text(trial)}", points))
    lines.reverse()
    titled = zip((*names, "Dice"), axes, strict=True)
    marks = [_upright(title, scale, place / len(names)) for place, (title, (scale, _)) in enumerate(titled)]
    drawn = chart(lines, MIDDLING, f"Values of {family}", "", "".join(marks), "values")
    best = f", the best {dice_text(trials[0].dice)}" if trials[0].dice is not None else ""
    caption = f"<b>{escape(family)}</b><span>{count(len(trials), 'trial')}{best}</span>"
    drawn = f'<div style="min-width:{AXIS_WIDTH * len(axes)}px">{drawn}</div>'
    return f'<figure><figcaption>{caption}</figcaption><div class="wide">{drawn}</div></figure>'


def _axis(values: Sequence[float | str | None]) -> tuple[Scale, list[float]]:
    """A scale for sampled values, and each value as a number; words become ranks in sorted order, None becomes NaN."""
    if not any(isinstance(value, str) for value in values):
        numbers = [math.nan if value is None else float(value) for value in values]
        return value_scale(numbers), numbers
    words = sorted({_value_text(value) for value in values if value is not None})
    ticks = tuple((float(place), shorten(word, WORD)) for place, word in enumerate(words))
    places = [math.nan if value is None else float(words.index(_value_text(value))) for value in values]
    return Scale(0, len(words) - 1, float, ticks), places


def _upright(title: str, scale: Scale, x: float) -> str:
    """A vertical axis with its title, and its labels on the right."""
    line = f'<line class="upright" x1="{100 * x:.2f}%" x2="{100 * x:.2f}%" y1="0" y2="{MIDDLING}"/>'
    ticks = pick(scale, MIDDLING, 0, APART)
    texts = [write(x, scale.place(tick, MIDDLING, 0) + 3.5, text, "start", 6) for tick, text in ticks]
    return line + "".join(texts) + f'<g class="heading">{write(x, -14, shorten(title, NAME), "start")}</g>'


def _kinds(search: Search) -> dict[str, str]:
    """The kind of each trial's line."""
    best = next((trial.name for trial in ranked(search.trials)), None)
    kinds = {}
    for trial in search.trials:
        finished = "other" if trial.status == "finished" else "stopped"
        kinds[trial.name] = "best" if trial.name == best else "preset" if trial.preset else finished
    return kinds


def _fifths(search: Search) -> dict[str, str]:
    """The kind of each trial's line in charts where the color shows its rank."""
    finished = ranked(search.trials)
    kinds = {trial.name: "stopped" for trial in search.trials}
    kinds |= {t.name: FIFTHS[-1 - len(FIFTHS) * rank // len(finished)] for rank, t in enumerate(finished)}
    return kinds | {trial.name: "best" for trial in finished[:1]}
