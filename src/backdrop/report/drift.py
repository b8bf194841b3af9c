"""The page about drift: what moved, in which views, and the photographs that are the most unusual."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from backdrop.common.words import count
from backdrop.data.masks import Mask
from backdrop.evaluation.drift import ALL, ANY, Comparison, Drift, Verdict
from backdrop.evaluation.pictures import Image, data_uri, pair
from backdrop.evaluation.statistics import NAMES
from backdrop.report.charts import Scale
from backdrop.report.parts import fact, frame, table

SHOWN = 24  # unusual photographs
FEW = 4  # views that are named
PICTURE_BYTES = 60_000  # limit of one picture, so that the page stays below 2 MB
BADGES: dict[Verdict, tuple[str, str]] = {
    "no drift": ("promoted", "No drift"),
    "drift": ("rejected", "Drift"),
    "unclear": ("waiting", "Too few objects to tell"),
}
TITLES = {
    "expected_dice": "expected Dice",
    "area": "mask area",
    "center_x": "middle of the mask, from the left",
    "center_y": "middle of the mask, from the top",
    "width": "width of the mask",
    "height": "height of the mask",
}
ABOUT = """The objects of the holdout, which no member trained on, are compared with the current ones by their ranks.
<code>drift.json</code> has all comparisons, <code>statistics.csv</code> the figures of each current photograph."""
DOTS_NOTE = """Each dot is a view. A difference is that of the objects' mean ranks in standard deviations; beyond the
dashed lines it is an alarm."""
UNUSUAL_NOTE = """Furthest from the mean of the holdout's photographs of their view, in standard deviations, each with
its mask."""


@dataclass(frozen=True)
class Unusual:
    """A photograph (H, W, 3) RGB, its mask (H, W), and in what it is unusual: by how many standard deviations."""

    image: str
    statistic: str
    away: float
    photo: Image
    mask: Mask


def verdict_line(found: Drift) -> str:
    """The verdict in one line of text."""
    objects = f"{count(found.current_objects, 'object')} against {found.reference_objects:,} of the holdout"
    if found.verdict == "unclear":
        return f"too few objects to tell: {objects}"
    return f"{found.verdict}: p = {found.p:.4f} (an alarm up to {found.alpha:g}), {objects}"


def moved_lines(found: Drift) -> list[str]:
    """What moved, a line of text for each statistic, the one that moved most first."""
    lines = []
    for ones in _moved_statistics(found):
        first = ones[0]
        higher = "higher" if first.difference > 0 else "lower"
        lines.append(
            f"{first.statistic} {higher} in {_where(ones, found)}: {first.current:.4g}, was {first.reference:.4g}"
        )
    return lines


def render_drift(model: str, found: Drift, notes: Sequence[str], unusual: Sequence[Unusual]) -> str:
    """The page; the same findings give the same bytes.

    Args:
        model: the address of the model's version.
        found: what the comparison says.
        notes: what else is to be said, such as photographs that were left out.
        unusual: at most SHOWN, the most unusual first.
    """
    kind, title = BADGES[found.verdict]
    badge = f'<p class="badge {kind}">{title}</p>'
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    facts = [
        fact("p", f"{found.p:.4f}", f"an alarm up to {found.alpha:g}: the rate of false alarms of one such run"),
        fact("Current objects", f"{found.current_objects:,}", _views(found)),
        fact("Reference", f"{found.reference_objects:,}", f"objects that {escape(model)} was judged on"),
    ]
    gallery = "".join(map(_figure, unusual))
    body = (
        f'<section><div class="facts">{"".join(facts)}</div>{f"<ul class=reasons>{items}</ul>" if items else ""}'
        f"</section>{_moved(found)}{_statistics(found)}"
        f'<section><h2>The most unusual photographs</h2><p class="note">{UNUSUAL_NOTE}</p>'
        f'<div class="gallery">{gallery}</div></section>'
    )
    return frame("Drift", "New photographs", badge, body, ABOUT, ("model", model))


def _views(found: Drift) -> str:
    return "their names tell no view" if found.views == (ANY,) else f"in {count(len(found.views), 'view')}"


def _view(view: str) -> str:
    return {ALL: "all views", ANY: "all photographs"}.get(view, f"view {view}")


def _title(statistic: str) -> str:
    return TITLES.get(statistic, statistic.replace("_", " "))


def _moved_statistics(found: Drift) -> list[list[Comparison]]:
    """The comparisons that are alarms by statistic; the largest difference of each is the first."""
    groups: dict[str, list[Comparison]] = {}
    for one in found.moved:
        groups.setdefault(one.statistic, []).append(one)
    return list(groups.values())


def _where(ones: Sequence[Comparison], found: Drift) -> str:
    """The views in which a statistic moved."""
    views = sorted(one.view for one in ones if one.view != ALL)
    if not views or len(found.views) == 1:
        return "all views together" if not views else _view(found.views[0])
    if len(views) == len(found.views):
        return f"all {len(views)} views"
    if len(views) > FEW:
        return f"{len(views)} of {len(found.views)} views"
    return f"{'view' if len(views) == 1 else 'views'} {', '.join(views)}"


def _moved(found: Drift) -> str:
    rows = [
        [
            _title(ones[0].statistic),
            escape(_where(ones, found)),
            f"{ones[0].reference:.4g}",
            f"{ones[0].current:.4g}",
            f"{ones[0].difference:+.1f}",
            f"{ones[0].p:.4f}",
        ]
        for ones in _moved_statistics(found)
    ]
    if not rows:
        return ""
    heads = ["statistic", "where", "reference", "current", "difference", "p"]
    note = '<p class="note">The figures are those of the view in which the difference is the largest.</p>'
    return f"<section><h2>What moved</h2>{table(heads, rows, 'moved')}{note}</section>"


def _statistics(found: Drift) -> str:
    """Each statistic's means, and its differences in all views on one line."""
    reach = 1.05 * max(found.limit, *(abs(one.difference) for one in found.comparisons))
    scale = Scale(-reach, reach, float, ())
    rows = []
    for name in NAMES:
        ones = [one for one in found.comparisons if one.statistic == name]
        whole = [one for one in ones if one.view in (ALL, ANY)]
        means = [f"{one.reference:.4g}" for one in whole] + [f"{one.current:.4g}" for one in whole]
        away = [f"{one.difference:+.1f}" for one in whole]
        rows.append([_title(name), *(means or ["", ""]), *(away or [""]), _dots(ones, found.limit, scale)])
    heads = ["statistic", "reference", "current", "over all views", "difference by view"]
    return (
        f"<section><h2>All statistics</h2>{table(heads, rows, 'spans')}"
        f'<p class="note">{DOTS_NOTE} The lines are at {found.limit:.1f}.</p></section>'
    )


def _dots(ones: Sequence[Comparison], limit: float, scale: Scale) -> str:
    parts = []
    for place in (scale.place(end, 0, 100) for end in (-limit, limit)):
        parts.append(f'<line class="zero" x1="{place:.2f}%" x2="{place:.2f}%" y1="0" y2="18"/>')
    middle = scale.place(0, 0, 100)
    parts.append(f'<line class="axis" x1="{middle:.2f}%" x2="{middle:.2f}%" y1="0" y2="18"/>')
    for one in ones:
        if one.view == ALL:
            continue
        kind, radius = ("mean", 4) if abs(one.difference) > limit else ("bar", 3)
        dot = f'<circle class="{kind}" cx="{scale.place(one.difference, 0, 100):.2f}%" cy="9" r="{radius}"/>'
        parts.append(f"<g><title>{escape(_view(one.view))}: {one.difference:+.1f}</title>{dot}</g>")
    return f'<svg class="interval" aria-hidden="true">{"".join(parts)}</svg>'


def _figure(one: Unusual) -> str:
    mask = np.repeat(one.mask[..., None], 3, axis=2) * np.uint8(255)
    name, picture = escape(one.image), data_uri(pair(one.photo, mask), PICTURE_BYTES)
    words = f"<b>{name}</b>{_title(one.statistic)} {one.away:+.1f}"
    return f'<figure><img alt="{name} and its mask" src="{picture}"><figcaption>{words}</figcaption></figure>'
