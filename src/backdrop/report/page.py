"""The evaluation report: one HTML file that needs no other file, no network and no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from backdrop.common.words import count
from backdrop.evaluation.outline import Measures
from backdrop.evaluation.pictures import number
from backdrop.evaluation.records import DicePrediction, Effect, Estimate, Evaluation, Exit, Saving, Score
from backdrop.report.charts import Scale, dice_scale, histogram, line_chart, positive_scale, risk_coverage
from backdrop.report.contributions import contributions_section
from backdrop.report.gallery import Gallery
from backdrop.report.lineage import Lineage, lineage_section
from backdrop.report.parts import dice_text, fact, fill, frame, interval_text, table, time_text
from backdrop.report.quality import comparisons_section, quality_section, slices_section
from backdrop.report.verdict import verdict_section

PAGE_BYTES = 1_850_000  # limit of the page without its verdict, which is added later
CURVES = (("loss", "loss"), ("dice", "out-of-fold Dice"), ("lr", "learning rate"))
ABOUT = """A Dice of several images is the mean over objects of each object's mean over its images. No member trained
on an object of the holdout. Out of fold, an image is predicted only by members that did not train on it. Intervals are
bootstrapped over objects."""
ACCEPTED_NOTE = (
    "In predictions.csv, accept the photographs without a look whose low is at least the Dice that you need: of ten "
    "objects never seen, at most one has an accepted photograph that is worse."
)
EXIT_NOTE = """Saved is the share of multiply-accumulates. Out of fold, each fold is measured by a rule learned on the
other folds, with one member of each recipe; on the holdout, the rule and the members are those of the model."""


@dataclass(frozen=True)
class MemberSummary:
    """A member's row in the report.

    `oof_dice` is the Dice on its own fold (None of a student, which trained on all), `holdout_dice` the member's own on
    the holdout (None without a holdout), `seconds` its training time, `history` the rows of its `metrics.jsonl`.
    """

    name: str
    fold: int | None
    epochs: int
    selected_epoch: int
    oof_dice: float | None
    holdout_dice: float | None
    seconds: float
    history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """The content of the page.

    `data` is the digest of the plan's data. The scores' traits are all that images can be grouped by. `measures` has
    what is known of images' masks. Without a `lineage`, the page doesn't say how to make the ensemble again.
    """

    name: str
    data: str
    evaluation: Evaluation
    scores: Sequence[Score]
    measures: Mapping[str, Measures]
    members: Sequence[MemberSummary]
    gallery: Gallery
    lineage: Lineage | None = None


def render(report: Report) -> str:
    """The page `index.html`, below 2 MB; the same report gives the same bytes."""
    held = [score for score in report.scores if score.fold is None]
    folded = [score for score in report.scores if score.fold is not None]
    parts = {
        "verdict": verdict_section(None),
        "lineage": lineage_section(report.lineage) if report.lineage else "",
        "members": _members(report.members),
        "curves": curves_of(report.members),
        "images": _distributions(held, folded),
        "repair": _repair(report.evaluation.repair),
        "early_exit": _early_exit(report.evaluation.early_exit),
        "predicted_dice": _predicted_dice(report.evaluation.predicted_dice),
        "comparisons": comparisons_section(report.evaluation),
        "contributions": contributions_section(report.evaluation),
        "quality": quality_section(report.evaluation.quality),
        "slices": slices_section(report.scores, report.measures),
    }
    # The pictures get the remaining bytes.
    room = PAGE_BYTES - sum(len(part.encode()) for part in parts.values())
    body = fill("page.html", **parts, **report.gallery.sections(room))
    return frame("Backdrop evaluation", report.name, _headline(report), body, ABOUT, ("data", report.data))


def _headline(report: Report) -> str:
    held, folded = report.evaluation.holdout.ensemble, report.evaluation.oof_ensemble
    facts = [_fact("Dice on the holdout", held)] if held else []
    facts += [_fact("Dice out of fold", folded)] if folded else []
    note = "" if held else '<p class="note">There is no holdout, so nothing can be promoted.</p>'
    counts = (len(report.members), "member"), (len(report.scores), "image")
    objects = len({score.object for score in report.scores})
    line = " · ".join(count(number, noun) for number, noun in (*counts, (objects, "object")))
    return f'<p class="counts">{line}</p><div class="facts">{"".join(facts)}</div>{note}'


def _fact(title: str, score: Estimate) -> str:
    spread = interval_text(score.low, score.high, ".5f")
    interval = f"95 % interval {spread}, " if spread else ""
    return fact(title, f"{score.dice:.5f}", interval + count(score.objects, "object"))


def _members(members: Sequence[MemberSummary]) -> str:
    heads = ("member", "fold", "epochs", "selected epoch", "out-of-fold Dice", "holdout Dice", "time")
    rows = [
        (
            m.name,
            "all" if m.fold is None else m.fold,
            m.epochs,
            m.selected_epoch + 1,
            *map(dice_text, (m.oof_dice, m.holdout_dice)),
            time_text(m.seconds),
        )
        for m in members
    ]
    return table(heads, [[escape(str(cell)) for cell in row] for row in rows])


def curves_of(members: Sequence[MemberSummary]) -> str:
    """A row of small charts for each member, all on the same scales."""
    values = {key: [[number(row.get(key)) for row in m.history] for m in members] for key, _ in CURVES}
    scales = {
        key: (dice_scale if key == "dice" else positive_scale)([value for row in rows for value in row])
        for key, rows in values.items()
    }
    heads = "<span></span>" + "".join(f"<span>{title}{scales[key].note}</span>" for key, title in CURVES)
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
        f"<figcaption>{count(len(scores), f'{title} image')} by Dice{scale.note}</figcaption></figure>"
        for title, scores in (("holdout", held), ("out-of-fold", folded))
        if scores
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


def _repair(effects: Sequence[Effect]) -> str:
    """The gain of each post-processing operation out of fold; empty if there are none."""
    if not effects:
        return ""
    heads = ("operation", "difference of Dice", "95 % interval", "images changed", "verdict")
    rows = [
        [
            escape(e.operation),
            f"{e.difference:+.5f}",
            interval_text(e.low, e.high),
            f"{e.changed:,} of {e.images:,}",
            e.verdict,
        ]
        for e in effects
    ]
    note = '<p class="note">Each operation on its own, then all together, out of fold.</p>'
    return f"<section><h2>Post-processing</h2>{table(heads, rows)}{note}</section>"


def _early_exit(learned: Exit | None) -> str:
    """What the early exit is, and what it saves and costs; empty if none was asked for."""
    if learned is None:
        return ""
    heads = ("", "images", "stopped at the first members", "saved", "95 % interval", "Dice lost", "95 % interval")
    rows = [_saving("out of fold", learned.oof)]
    rows += [_saving("holdout", learned.holdout)] if learned.holdout and learned.rule else []
    note = f'<p class="note">{EXIT_NOTE}</p>'
    return f"<section><h2>Early exit</h2><p>{escape(exit_text(learned))}</p>{table(heads, rows)}{note}</section>"


def _predicted_dice(learned: DicePrediction | None) -> str:
    if learned is None:
        return ""
    text = f"<p>{escape(prediction_text(learned))}</p>"
    chart = _risks(learned.holdout.risks) if learned.holdout and learned.holdout.risks else ""
    return f"<section><h2>Predicted Dice</h2>{text}{chart}</section>"


def _risks(risks: Sequence[tuple[float, float, float]]) -> str:
    points = [
        (share, 1 - risk, f"{100 * share:.0f} %, predicted Dice from {limit:.4f}: {1 - risk:.4f} on average")
        for share, risk, limit in risks
    ]
    scale = dice_scale([dice for _, dice, _ in points])
    words = "Accepting those with the highest predicted Dice: their share of the holdout, and their mean Dice"
    chart = risk_coverage(points, scale, "risk and coverage")
    figure = f"<figure>{chart}<figcaption>{words}</figcaption></figure>"
    return f'<div class="figures">{figure}<p class="note">{ACCEPTED_NOTE}</p></div>'


def prediction_text(learned: DicePrediction) -> str:
    """How well the Dice of unlabeled photographs is predicted, in a sentence or two."""
    if learned.rule is None:
        return "The Dice of unlabeled photographs isn't predicted: that takes 9 objects held out, or 18 out of fold."
    held = learned.holdout
    by_holdout = held is not None and held.right is None
    holds = "holds for 90 % of objects never seen" if by_holdout else "out of fold holds for 90 % of objects"
    text = f"The Dice of unlabeled photographs is predicted, with an interval that {holds}."
    if held is None:
        return text
    right = "" if held.right is None else f"holds for {held.right} of {count(held.objects, 'object')}, and "
    source = ", from which its width was learned," if by_holdout else ","
    figures = f"it {right}is {held.width:.4f} wide on average; the predicted Dice is {held.error:.4f} off"
    area = "" if held.auroc is None else f", with AUROC {held.auroc:.2f} for the worst 5 % of photographs"
    return f"{text} On the holdout{source} {figures}{area}."


def exit_text(learned: Exit) -> str:
    """The rule of an early exit in a sentence."""
    if learned.rule is None:
        return f"All members see every photograph: no rule is shown to lose at most {learned.max_loss:g} Dice."
    first, limit = ", ".join(learned.rule.first), learned.rule.unconfidence_above
    return f"Members of {first} see each photograph first, the others only if their unconfidence is above {limit:.4g}."


def _saving(title: str, saving: Saving) -> list[str]:
    saved, lost = saving.saved, saving.lost
    return [
        title,
        f"{saving.images:,}",
        f"{saving.stopped:,}",
        f"{100 * saved.mean:.1f} %",
        "" if saved.low is None or saved.high is None else f"{100 * saved.low:.1f} to {100 * saved.high:.1f} %",
        f"{lost.mean:+.5f}",
        interval_text(lost.low, lost.high),
    ]
