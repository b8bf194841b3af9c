"""Line charts of any width: horizontal positions are shares of the width, vertical ones are pixels, to keep text sharp.

A chart can have several lines. The kind of each is a class of the page's style sheet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from backdrop.report.charts import NEAREST, Scale, pick

Point = tuple[float, float]  # share of the width, pixels from the top

ACROSS, UP = 2000, 4  # steps per width and per pixel
LINE_HEIGHT = 15.0  # of a label beside a chart
LONGEST = 26  # characters in a label


@dataclass(frozen=True)
class Line:
    """One line of a chart: its class, its tooltip and its points; there is a gap between runs."""

    kind: str
    title: str
    runs: Sequence[Sequence[Point]]


def chart(lines: Sequence[Line], height: int, label: str, under: str = "", over: str = "", kind: str = "") -> str:
    """A line chart; later lines are drawn over earlier ones.

    Args:
        lines: to draw.
        height: in pixels; labels beside the chart are in its padding.
        label: text for screen readers.
        under: SVG below the lines, such as axes.
        over: SVG above them, such as labels.
        kind: the chart's classes.
    """
    drawn = "".join(_line(line, height) for line in lines)
    svg = f'<svg style="height:{height}px" role="img" aria-label="{escape(label)}">{under}{drawn}{over}</svg>'
    return f'<div class="{f"plot {kind}".strip()}">{svg}</div>'


def upright_axis(scale: Scale, height: int) -> str:
    """Horizontal grid lines with labels on the left, and the bottom axis."""
    parts = []
    for tick, text in pick(scale, height, 0, NEAREST):
        y = scale.place(tick, height, 0)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(write(0, y + 3.5, text, "end", -6))
    return "".join(parts) + f'<line class="axis" x1="0" x2="100%" y1="{height}" y2="{height}"/>'


def write(across: float, y: float, text: str, anchor: str, dx: float = 0) -> str:
    """A text at a share of the width, moved by `dx` pixels."""
    shift = f' dx="{dx:g}"' if dx else ""
    return f'<text x="{100 * across:.2f}%" y="{y:.1f}"{shift} text-anchor="{anchor}">{escape(text)}</text>'


def shorten(text: str, longest: int) -> str:
    """A text cut to `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def end_labels(ends: Sequence[tuple[Point, str, str]], height: int) -> str:
    """Names on the right of a chart, each joined to the end of its line.

    Args:
        ends: (point, name, classes) in order of preference; those that don't fit are left out.
        height: of the chart, pixels.
    """
    room = ends[: int((height + LINE_HEIGHT) // LINE_HEIGHT)]
    shown = sorted(room, key=lambda end: end[0][1])
    places = _spread([end[0][1] for end in shown], height)
    parts = [_joined(*end, place) for end, place in zip(shown, places, strict=True)]
    return "".join(parts)


def _joined(point: Point, name: str, kind: str, place: float) -> str:
    x, y = point
    lead = f'<line x1="{100 * x:.2f}%" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
    bend = f'<svg x="100%"><path d="M0 {y:.1f}L10 {place:.1f}"/>'
    words = f'<text x="14" y="{place + 3.5:.1f}">{escape(shorten(name, LONGEST))}</text></svg>'
    return f'<g class="end {kind}">{lead}<circle cx="{100 * x:.2f}%" cy="{y:.1f}" r="3"/>{bend}{words}</g>'


def _spread(positions: Sequence[float], height: float) -> list[float]:
    """Moves ascending positions so that they are a line's height apart, and inside the chart if there is room."""
    places: list[float] = []
    for y in positions:
        places.append(max(y, places[-1] + LINE_HEIGHT) if places else y)
    limit = height
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - LINE_HEIGHT
    return places


def _line(line: Line, height: int) -> str:
    paths = "".join(_path(run) for run in line.runs if len(run) > 1)
    dots = "".join(_dot(*run[0]) for run in line.runs if len(run) == 1)
    box = f'<svg viewBox="0 0 {ACROSS} {UP * height}" preserveAspectRatio="none"><path d="{paths}"/></svg>'
    return f'<g class="{line.kind}"><title>{escape(line.title)}</title>{box if paths else ""}{dots}</g>'


def _path(run: Sequence[Point]) -> str:
    """A path of relative steps, rounded to whole numbers to save bytes."""
    places = [(round(ACROSS * x), round(UP * y)) for x, y in run]
    steps = [f"{x - left} {y - top}" for (left, top), (x, y) in pairwise(places)]
    return f"M{places[0][0]} {places[0][1]}l{' '.join(steps)}".replace(" -", "-")


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{100 * x:.2f}%" cy="{y:.1f}" r="2.5"/>'
