"""Small charts as inline SVG. Colors come from the page's style sheet, so they follow its light or dark mode.

Dice is drawn by its distance from 1 on a logarithmic scale, so that 0.9, 0.99 and 0.999 are equally far apart. On a
linear scale the differences that matter would all be in the top line of pixels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from backdrop.evaluation.pictures import PERFECT

WIDTH, HEIGHT = 320, 130  # of a line chart, in the units of its text
WIDE = 520  # width of a histogram
TALL = 220  # height of a calibration chart
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 18
NEAREST = 17.0  # minimum distance of two labels
BINS = 36
# In order of preference.
DICE_TICKS = [0.9, 0.99, 0.999, 0.5, 0.95, 0.995, 0.98, 0.998, 0.97, 0.997, 0.996, 0.992, 0.994, 0.8, 0.7, 0.6, 0.0]
DICE_TICKS += [0.9995, 0.9999, 0.9998, 0.85, 0.93, 0.96, 0.985, 0.988, 0.991, 0.993, 0.9965, 0.9975, 0.92, 0.94]


@dataclass(frozen=True)
class Scale:
    """A chart's axis: its lowest and highest value, its transformation, and its ticks in order of preference."""

    low: float
    high: float
    spread: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]

    @property
    def note(self) -> str:
        """A heading's note about an axis that isn't linear; empty if it is."""
        return "" if self.spread is float else ", log scale"

    def place(self, value: float, start: float, end: float) -> float:
        """A value's position between two pixels; values beyond an end are drawn at that end."""
        low, high = self.spread(self.low), self.spread(self.high)
        share = (self.spread(value) - low) / (high - low) if high > low else 0.5
        return start + (end - start) * min(1.0, max(0.0, share))


def dice_scale(values: Sequence[float]) -> Scale:
    """A scale for Dice that includes all of `values`."""
    shown = [value for value in values if math.isfinite(value)] or [0.5]
    low, high = _nines(min(shown)), _nines(max(shown))
    margin = max(0.02, 0.04 * (high - low))
    bounds = 1 - 10 ** -(low - margin), 1 - 10 ** -(high + margin)
    return Scale(max(0.0, bounds[0]), bounds[1], _nines, tuple((tick, f"{tick:g}") for tick in DICE_TICKS))


def positive_scale(values: Sequence[float]) -> Scale:
    """A logarithmic scale for losses and learning rates; linear if some aren't positive."""
    shown = [value for value in values if math.isfinite(value)] or [1.0]
    low, high = min(shown), max(shown)
    if low <= 0:
        return Scale(low, high, float, ((low, f"{low:.2g}"), (high, f"{high:.2g}")))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for step in (1, 3, 2, 5, 7) for power in powers]
    return Scale(low / 1.08, high * 1.08, math.log10, tuple((tick, short(tick)) for tick in ticks))


def value_scale(values: Sequence[float]) -> Scale:
    """A scale for any values: logarithmic if they are positive and span a decade or more, otherwise linear."""
    shown = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(shown), max(shown)
    if low > 0 and high >= 10 * low:
        return positive_scale(shown)
    step = 10.0 ** math.floor(math.log10(high - low)) if high > low else 1.0
    between = [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Scale(low, high, float, tuple((tick, short(tick, 2)) for tick in (low, high, *between)))


def line_chart(values: Sequence[float], scale: Scale, label: str, chosen: int | None = None) -> str:
    """A line chart of values over epochs.

    Args:
        values: one per epoch; one that isn't finite leaves a gap.
        scale: of the vertical axis.
        label: text for screen readers.
        chosen: an epoch from 0 to mark.
    """
    last = max(1, len(values) - 1)

    def point(epoch: int) -> tuple[float, float]:
        x = LEFT + (WIDTH - RIGHT - LEFT) * epoch / last
        return x, scale.place(values[epoch], HEIGHT - BOTTOM, TOP)

    parts = _upright_axis(scale)
    parts += [_text(LEFT, HEIGHT - 4, "1", "start"), _text(WIDTH - RIGHT, HEIGHT - 4, str(len(values)), "end")]
    for run in runs(values):
        parts.append(_line(map(point, run)) if len(run) > 1 else _dot(*point(run[0]), "line-dot"))
    if chosen is not None and 0 <= chosen < len(values) and math.isfinite(values[chosen]):
        parts.append(_dot(*point(chosen), "chosen"))
    return _svg(parts, label)


def histogram(values: Sequence[float], scale: Scale, label: str) -> str:
    """A histogram of values, with the highest count on its vertical axis."""
    left, right, floor = LEFT, WIDE - RIGHT, HEIGHT - BOTTOM
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int(scale.place(value, 0, BINS)))] += 1
    top, step, parts = max(1, *counts), (right - left) / BINS, []
    for tick, text in pick(scale, left, right, 2.5 * NEAREST):
        x = scale.place(tick, left, right)
        parts += [f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>', _text(x, HEIGHT - 4, text, "middle")]
    for index, count in enumerate(counts):
        tall = max(1.0, (floor - TOP) * count / top)  # a single image stays visible
        box = f'x="{left + step * index:.1f}" y="{floor - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}"'
        parts += [f'<rect class="bar" {box}/>'] if count else []
    parts += [f'<path class="axis" d="M{left} {floor}H{right}"/>', _text(left - 6, TOP + 8, str(top), "end")]
    return _svg(parts, label, WIDE)


def reliability(points: Sequence[tuple[float, float, str]], label: str) -> str:
    """The share of product against the probability, both 0..1, and the line where they are equal.

    Args:
        points: (probability, share, tooltip), ascending.
        label: text for screen readers.
    """
    left, right, floor = LEFT, WIDE - RIGHT, TALL - BOTTOM
    places = [(left + (right - left) * x, floor - (floor - TOP) * y) for x, y, _ in points]
    parts = [f'<path class="axis" d="M{left} {TOP}V{floor}H{right}"/>']
    parts.append(f'<path class="zero" d="M{left} {floor}L{right} {TOP}"/>')
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(left + (right - left) * tick, TALL - 4, f"{tick:g}", "middle"))
        parts.append(_text(left - 6, floor - (floor - TOP) * tick + 3.5, f"{tick:g}", "end"))
    return _svg([*parts, *_dotted_line(places, [title for _, _, title in points])], label, WIDE, TALL)


def risk_coverage(points: Sequence[tuple[float, float, str]], dices: Scale, label: str) -> str:
    """The mean Dice of the photographs that are accepted against their share, 0..1.

    Args:
        points: (share, Dice, tooltip), ascending.
        dices: the upright scale.
        label: text for screen readers.
    """
    left, right, floor = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    places = [(left + (right - left) * x, dices.place(y, floor, TOP)) for x, y, _ in points]
    parts = _upright_axis(dices)
    parts += [
        _text(left + (right - left) * tick, HEIGHT - 4, f"{tick:.0%}", "middle") for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    return _svg([*parts, *_dotted_line(places, [title for _, _, title in points])], label)


def pareto(points: Sequence[tuple[float, float, str, str]], costs: Scale, dices: Scale, label: str) -> str:
    """Dice against cost: what is best for its cost on a line, with its number, and others as small dots.

    Args:
        points: (cost, Dice, number, tooltip), cheapest first; without a number it isn't on the line. A number without
            room is left out.
        costs: the horizontal axis.
        dices: the vertical axis.
        label: text for screen readers.
    """
    left, right, floor = LEFT, WIDE - RIGHT, TALL - BOTTOM
    places = [(costs.place(x, left + 8, right - 8), dices.place(y, floor, TOP)) for x, y, _, _ in points]
    parts = [f'<path class="axis" d="M{left} {floor}H{right}"/>']
    for tick, text in pick(dices, floor, TOP, NEAREST):
        y = dices.place(tick, floor, TOP)
        parts += [f'<path class="grid" d="M{left} {y:.1f}H{right}"/>', _text(left - 6, y + 3.5, text, "end")]
    for tick, text in pick(costs, left + 8, right - 8, 2.5 * NEAREST):
        parts.append(_text(costs.place(tick, left + 8, right - 8), TALL - 4, text, "middle"))
    best = [place for place, point in zip(places, points, strict=True) if point[2]]
    parts.append(_line(best))
    written: list[tuple[float, float]] = []
    for (x, y), (_, _, number, title) in sorted(zip(places, points, strict=True), key=lambda pair: bool(pair[1][2])):
        has_room = all(math.dist((x, y), other) >= NEAREST for other in written)
        word = _text(x - 5, y - 6, number, "end") if number and has_room else ""
        written += [(x, y)] if word else []
        parts.append(f"<g><title>{escape(title)}</title>{_dot(x, y, 'line-dot' if number else 'other-dot')}{word}</g>")
    return _svg(parts, label, WIDE, TALL)


def interval(low: float, mean: float, high: float, scale: Scale, zero: bool = False) -> str:
    """A mean and its interval on one line that fills its cell; `zero` marks the value 0."""
    left, middle, right, origin = (scale.place(value, 2, 98) for value in (low, mean, high, 0.0))
    parts = [f'<line class="zero" x1="{origin:.2f}%" x2="{origin:.2f}%" y1="0" y2="18"/>'] if zero else []
    parts.append(f'<line class="span" x1="{left:.2f}%" x2="{right:.2f}%" y1="9" y2="9"/>')
    parts.append(f'<circle class="mean" cx="{middle:.2f}%" cy="9" r="3.5"/>')
    return f'<svg class="interval" aria-hidden="true">{"".join(parts)}</svg>'


def short(value: float, digits: int = 1) -> str:
    """A number in few characters: `0.003`, `3e-4`; `digits` applies to numbers with an exponent."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.{3 if abs(value) < 100 else 4}g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if exponent else mantissa


def pick(scale: Scale, start: float, end: float, nearest: float) -> list[tuple[float, str]]:
    """The preferred ticks whose labels fit, at least `nearest` pixels apart."""
    chosen: dict[float, tuple[float, str]] = {}
    for tick in scale.ticks:
        place = scale.place(tick[0], start, end)
        if scale.low <= tick[0] <= scale.high and all(abs(place - other) >= nearest for other in chosen):
            chosen[place] = tick
    return list(chosen.values())


def runs(values: Sequence[float]) -> list[list[int]]:
    """Runs of consecutive finite values, as lists of their indices."""
    runs: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if math.isfinite(value):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _nines(dice: float) -> float:
    return -math.log10(max(PERFECT, 1 - dice))


def _upright_axis(scale: Scale) -> list[str]:
    parts = []
    for tick, label in pick(scale, HEIGHT - BOTTOM, TOP, NEAREST):
        y = scale.place(tick, HEIGHT - BOTTOM, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 3.5, label, "end"))
    return [*parts, f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']


def _dotted_line(places: Sequence[tuple[float, float]], titles: Sequence[str]) -> list[str]:
    """A line with a dot at each place, which has a tooltip."""
    dots = (
        f"<g><title>{escape(title)}</title>{_dot(x, y, 'line-dot')}</g>"
        for (x, y), title in zip(places, titles, strict=True)
    )
    return [_line(places), *dots]


def _line(places: Iterable[tuple[float, float]]) -> str:
    return f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _dot(x: float, y: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
