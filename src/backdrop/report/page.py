"""The page: one HTML file that needs nothing else, no network and no script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from backdrop import __version__
from backdrop.evaluation import Effect, Estimate, Evaluation, Score, estimate
from backdrop.report.charts import Scale, dice_scale, histogram, interval, line_chart, positive_scale
from backdrop.report.pictures import Image, data_uri, number
from backdrop.report.verdict import verdict_section

PAGE_BYTES = 1_400_000  # what the page may take; a verdict comes later
PICTURE_BYTES = 90_000  # what one picture may take
VIEWS = 48  # the page shows so many views, those with the least Dice
CURVES = (("loss", "loss"), ("dice", "out-of-fold Dice"), ("rate", "learning rate"))
LEGEND = (
    '<p class="note"><span class="key missing"></span>missing: true, but not found '
    '<span class="key surplus"></span>surplus: found, but not true. The frame is where the close-up is.</p>'
)


@dataclass(frozen=True)
class MemberSummary:
    """A member as the report shows it.

    `oof_dice` is that of its own fold, `holdout_dice` that of the member alone (None without a holdout), `seconds`
    its training time, `history` the rows of its `metrics.jsonl`.
    """

    name: str
    recipe: str
    fold: int
    epochs: int
    selected_epoch: int
    oof_dice: float
    holdout_dice: float | None
    seconds: float
    history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class WorstImage:
    """An image that the ensemble does badly on, and its panel (see `pictures.panel`)."""

    score: Score
    panel: Image


@dataclass(frozen=True)
class Report:
    """All that the page shows; `data` is the digest of the plan's data."""

    name: str
    data: str
    evaluation: Evaluation
    scores: Sequence[Score]
    members: Sequence[MemberSummary]
    worst: Sequence[WorstImage]


def choose_worst(scores: Sequence[Score], count: int = 12) -> list[Score]:
    """The images to show: the `count` worst of the holdout, then the `count` worst out of fold, the worst first."""
    ranking = sorted(scores, key=lambda score: (score.dice, score.image))
    held = [score for score in ranking if score.fold is None]
    return held[:count] + [score for score in ranking if score.fold is not None][:count]


def render(report: Report) -> str:
    """The page `index.html`, below 1.5 MB; the same report has the same bytes."""
    folder = resources.files("backdrop.report")
    held = [score for score in report.scores if score.fold is None]
    folded = [score for score in report.scores if score.fold is not None]
    parts = {
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "name": escape(report.name),
        "headline": _headline(report),
        "verdict": verdict_section(None),
        "members": _members(report.members),
        "curves": _curves(report.members),
        "images": _distributions(held, folded),
        "repair": _repair(report.evaluation.repair),
        "views": _views(held or folded, "holdout" if held else "out-of-fold"),
        "data": escape(report.data),
        "version": escape(__version__),
    }
    # The pictures get what the rest leaves.
    room = PAGE_BYTES - sum(len(part.encode()) for part in parts.values())
    page = Template((folder / "page.html").read_text(encoding="utf-8"))
    return page.substitute(parts, worst=_worst(report.worst, room))


def _headline(report: Report) -> str:
    held, folded = report.evaluation.holdout.ensemble, report.evaluation.oof_ensemble
    facts = [_fact("Dice on the holdout", held)] if held else []
    facts += [_fact("Dice out of fold", folded)] if folded else []
    note = "" if held else '<p class="note">There is no holdout, so nothing can be promoted.</p>'
    counts = {"members": len(report.members), "images": len(report.scores)}
    counts["objects"] = len({score.object for score in report.scores})
    line = " · ".join(f"{count:,} {what[:-1] if count == 1 else what}" for what, count in counts.items())
    return f'<p class="counts">{line}</p><div class="facts">{"".join(facts)}</div>{note}'


def _fact(title: str, found: Estimate) -> str:
    spread = f"{found.low:.5f} to {found.high:.5f}, " if found.low is not None and found.high is not None else ""
    note = f"{'95 % interval ' if spread else ''}{spread}{found.objects:,} object{'s' if found.objects != 1 else ''}"
    return f'<div class="fact"><p>{title}</p><p class="figure">{found.dice:.5f}</p><p>{note}</p></div>'


def _members(members: Sequence[MemberSummary]) -> str:
    heads = ("member", "fold", "epochs", "selected epoch", "out-of-fold Dice", "holdout Dice", "time")
    rows = [
        [m.name, m.fold, m.epochs, m.selected_epoch, _dice(m.oof_dice), _dice(m.holdout_dice), _time(m.seconds)]
        for m in members
    ]
    return _table(heads, [[escape(str(cell)) for cell in row] for row in rows])


def _curves(members: Sequence[MemberSummary]) -> str:
    """A row of small charts for each member, on scales that all members share."""
    values = {key: [[number(row.get(key)) for row in m.history] for m in members] for key, _ in CURVES}
    scales = {
        key: (dice_scale if key == "dice" else positive_scale)([value for row in rows for value in row])
        for key, rows in values.items()
    }
    heads = "<span></span>" + "".join(f"<span>{title}</span>" for _, title in CURVES)
    rows = [
        _curve_row(member, {key: values[key][index] for key in values}, scales)
        for index, member in enumerate(members)
        if member.history
    ]
    return f'<div class="wide"><div class="curves"><div class="row head">{heads}</div>{"".join(rows)}</div></div>'


def _curve_row(member: MemberSummary, values: Mapping[str, Sequence[float]], scales: Mapping[str, Scale]) -> str:
    charts = [
        line_chart(values[key], scales[key], f"{title} of {member.name}", member.selected_epoch)
        for key, title in CURVES
    ]
    return f'<div class="row"><span class="name">{escape(member.name)}</span>{"".join(charts)}</div>'


def _distributions(held: Sequence[Score], folded: Sequence[Score]) -> str:
    scale = dice_scale([score.dice for score in (*held, *folded)])
    parts = [
        f"<figure>{histogram([score.dice for score in scores], scale, f'images by {title} Dice')}"
        f"<figcaption>{len(scores):,} {title} images</figcaption></figure>"
        for title, scores in (("holdout", held), ("out-of-fold", folded))
        if scores
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


def _views(scores: Sequence[Score], title: str) -> str:
    views = sorted({score.view for score in scores})
    found = {view: estimate([score for score in scores if score.view == view]) for view in views}
    shown = sorted(sorted(views, key=lambda view: found[view].dice)[:VIEWS])
    ends = [end for view in shown for end in (found[view].low, found[view].dice, found[view].high) if end is not None]
    scale = dice_scale(ends)
    rows = [_view(view, found[view], scale) for view in shown]
    left_out = f'<p class="note">The {VIEWS} worst of {len(views)} views.</p>' if len(views) > VIEWS else ""
    return left_out + _table(("view", "objects", f"{title} Dice", "95 % interval", ""), rows, "spans")


def _view(view: str, found: Estimate, scale: Scale) -> list[str]:
    low, high = (found.dice if end is None else end for end in (found.low, found.high))
    spread = "" if found.low is None else f"{low:.5f} to {high:.5f}"
    return [escape(view), str(found.objects), f"{found.dice:.5f}", spread, interval(low, found.dice, high, scale)]


def _repair(effects: Sequence[Effect]) -> str:
    """What each operation after the mean adds out of fold; nothing if there are none."""
    if not effects:
        return ""
    heads = ("operation", "difference of Dice", "95 % interval", "images changed", "verdict")
    rows = [
        [escape(e.operation), f"{e.difference:+.5f}", _spread(e), f"{e.changed:,} of {e.images:,}", e.verdict]
        for e in effects
    ]
    note = '<p class="note">Each alone, then all together, out of fold.</p>'
    return f"<section><h2>After the mean</h2>{_table(heads, rows)}{note}</section>"


def _spread(effect: Effect) -> str:
    return "" if effect.low is None else f"{effect.low:+.5f} to {effect.high:+.5f}"


def _worst(worst: Sequence[WorstImage], room: int) -> str:
    limit = min(PICTURE_BYTES, room // max(1, len(worst)))
    groups = {
        "Worst holdout images": [image for image in worst if image.score.fold is None],
        "Worst out-of-fold images": [image for image in worst if image.score.fold is not None],
    }
    return "".join(_gallery(title, images, limit) for title, images in groups.items() if images)


def _gallery(title: str, images: Sequence[WorstImage], limit: int) -> str:
    cards = "".join(_card(image, limit) for image in images)
    return f'<section><h2>{title}</h2>{LEGEND}<div class="gallery">{cards}</div></section>'


def _card(image: WorstImage, limit: int) -> str:
    score = image.score
    place = "holdout" if score.fold is None else f"fold {score.fold}"
    alone = " · ".join(f"{escape(recipe)} {_dice(dice)}" for recipe, dice in sorted(score.recipes.items()))
    words = f"<b>{escape(score.image)}</b> Dice {_dice(score.dice)}, {place}"
    extra = f"<br><small>{alone}</small>" if len(score.recipes) > 1 else ""
    picture = f'<img alt="Panel of {escape(score.image)}" loading="lazy" src="{data_uri(image.panel, limit)}">'
    return f"<figure>{picture}<figcaption>{words}{extra}</figcaption></figure>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{title}</th>" for title in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _dice(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.5f}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
