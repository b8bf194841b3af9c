"""The report's sections on what masks are like: their measures, where they are worse, and calibration."""

from collections.abc import Mapping, Sequence
from html import escape

from backdrop.evaluation.metrics import FEW_OBJECTS, estimate, object_means
from backdrop.evaluation.outline import Measures
from backdrop.evaluation.records import DICE, Calibration, Estimate, Evaluation, Quality, Score, Spread, Summary
from backdrop.evaluation.slices import group_order, slice_groups
from backdrop.report.charts import Scale, dice_scale, interval, reliability
from backdrop.report.parts import interval_text, table

SHOWN = {"view": 48}  # groups of a slice, those with the lowest Dice
OTHERS_SHOWN = 12
TITLES = {
    DICE: "Dice",
    "iou": "IoU",
    "boundary_iou": "boundary IoU",
    "nsd_1": "surface distance, 1 px",
    "nsd_2": "surface distance, 2 px",
    "nsd_4": "surface distance, 4 px",
    "boundary_error": "boundary error, px",
}
PARTS = {"holdout": "holdout", "oof": "out of fold"}
SLICES = {"area": "mask area", "edge_contrast": "edge contrast"}
MEASURES_NOTE = """Boundary IoU is that of the masks within 2 % of the diagonal of their outlines. Surface distance,
normalized, is the share of both outlines that is within 1, 2 or 4 pixels of the other. The boundary error is how far
outlines are off on average: positive if masks are too wide, negative if too narrow. Means are over objects, spread is
the standard deviation over images, and the worst tenth of images is ranked by each measure itself; by its size, if it
has a sign."""
SLICES_NOTE = f"""Numbers are grouped into thirds of the images. A group of fewer than {FEW_OBJECTS} objects is gray:
its interval is too uncertain to show an effect. Contrast is that of the whole product to the whole backdrop, edge
contrast that of what is near the outline on either side, piece by piece."""
COMPARISONS_NOTE = """On the holdout, or out of fold without one; the difference of Dice is paired by object. The best
member is the one with the highest Dice here, which flatters it."""
CALIBRATION_NOTE = """Each dot is the pixels of about one probability; on the line, that probability is right. The
calibration error is their mean distance from the line. A pixel is unsure if its probability is 1/16 to 15/16."""


def quality_section(quality: Mapping[str, Quality]) -> str:
    """Each measure of the masks, and how far their probability can be trusted; empty without any."""
    parts = [(title, quality[name]) for name, title in PARTS.items() if name in quality]
    if not parts:
        return ""
    heads = ["measure", *(head for title, _ in parts for head in (title, "95 % interval", "spread", "worst tenth"))]
    rows = [
        [escape(title), *(cell for _, part in parts for cell in _summary(name, part.measures.get(name)))]
        for name, title in TITLES.items()
    ]
    figures = "".join(_calibration(title, part.calibration) for title, part in parts)
    return (
        f'<section><h2>Masks and their outlines</h2>{table(heads, rows)}<p class="note">{MEASURES_NOTE}</p></section>'
        f'<section><h2>Calibration</h2><div class="figures">{figures}</div>'
        f'<p class="note">{CALIBRATION_NOTE}</p></section>'
    )


def comparisons_section(evaluation: Evaluation) -> str:
    """What the ensemble gains over other masks, paired by object; empty if there are none."""
    if not evaluation.comparisons:
        return ""
    own = evaluation.quality.get("holdout") or evaluation.quality.get("oof")
    ensemble = evaluation.holdout.ensemble or evaluation.oof_ensemble
    rows = [_compared("this ensemble", ensemble, None, own.measures if own else {})] if ensemble else []
    for one in evaluation.comparisons:
        name = {"champion": "champion of ", "member": "best member, ", "baseline": ""}[one.kind] + one.name
        rows.append(_compared(name, one.dice, one.gain, one.measures))
    heads = ["masks", "Dice", "ensemble's gain", "95 % interval", "boundary IoU", "within 2 px", "boundary error"]
    note = f'<p class="note">{COMPARISONS_NOTE}</p>'
    return f"<section><h2>Compared</h2>{table([*heads, 'objects'], rows)}{note}</section>"


def _compared(name: str, dice: Estimate, gain: Spread | None, measures: Mapping[str, Summary]) -> list[str]:
    forms = {"boundary_iou": ".5f", "nsd_2": ".5f", "boundary_error": "+.2f"}
    others = [f"{measures[key].mean:{form}}" if key in measures else "" for key, form in forms.items()]
    higher = f"{gain.mean:+.5f}" if gain else ""
    spread = interval_text(gain.low, gain.high) if gain else ""
    return [escape(name), f"{dice.dice:.5f}", higher, spread, *others, str(dice.objects)]


def slices_section(scores: Sequence[Score], measures: Mapping[str, Measures]) -> str:
    """Where masks are worse: by view, by what images show, and by columns of `metadata.csv`.

    Images of the holdout or out of fold are shown, of whichever there are more objects.
    """
    held = [score for score in scores if score.fold is None]
    folded = [score for score in scores if score.fold is not None]
    fewer = len({score.object for score in held}) < len({score.object for score in folded})
    shown, title = (folded, "out-of-fold") if fewer else (held, "holdout")
    traits = {trait for score in shown for trait in score.traits}
    names = dict.fromkeys(("view", "area", *sorted(traits)))  # `metadata.csv` may have columns of these names
    parts = "".join(_slice(shown, measures, name, title) for name in names)
    return f'<section><h2>By slice</h2><p class="note">{SLICES_NOTE}</p>{parts}</section>'


def _summary(name: str, found: Summary | None) -> list[str]:
    if found is None:
        return [""] * 4
    form, plain = ("+.2f", ".2f") if name == "boundary_error" else (".5f", ".5f")
    return [
        f"{found.mean:{form}}",
        interval_text(found.low, found.high, form),
        f"{found.spread:{plain}}",
        f"{found.worst_tenth:{plain}}",
    ]


def _calibration(title: str, found: Calibration) -> str:
    points = [(one.probability, one.product, f"{one.pixels:,} pixels") for one in found.bins]
    over = "" if found.unsure_error is None else f", and {found.unsure_error:.4f} over these"
    words = f"{title}: calibration error {found.error:.5f}; {100 * found.unsure:.2f} % of pixels are unsure{over}"
    return f"<figure>{reliability(points, f'calibration, {title}')}<figcaption>{words}</figcaption></figure>"


def _slice(scores: Sequence[Score], measures: Mapping[str, Measures], name: str, title: str) -> str:
    groups: dict[str, list[Score]] = {}
    for score, group in zip(scores, slice_groups(scores, name), strict=True):
        groups.setdefault(group, []).append(score)
    if len(groups) < 2 and name != "view":
        return ""
    means = {group: estimate(members) for group, members in groups.items()}
    most = SHOWN.get(name, OTHERS_SHOWN)
    shown = sorted(sorted(groups, key=lambda group: (means[group].dice, group))[:most], key=group_order)
    ends = [
        end for group in shown for end in (means[group].low, means[group].dice, means[group].high) if end is not None
    ]
    scale = dice_scale(ends)
    rows = [_group(group, means[group], _means(groups[group], measures), scale) for group in shown]
    kind = "views" if name == "view" else "groups"
    left_out = f'<p class="note">The {most} worst of {len(groups)} {kind}.</p>' if len(groups) > most else ""
    heads = (
        escape(SLICES.get(name, name)),
        "objects",
        "boundary IoU",
        "within 2 px",
        "boundary error",
        f"{title} Dice",
        "95 % interval",
        f"Dice{scale.note}",
    )
    return left_out + table(heads, rows, "spans")


def _group(group: str, mean: Estimate, others: Sequence[str], scale: Scale) -> list[str]:
    low, high = (mean.dice if end is None else end for end in (mean.low, mean.high))
    cells = [str(mean.objects), *others, f"{mean.dice:.5f}", interval_text(mean.low, mean.high, ".5f")]
    if mean.objects < FEW_OBJECTS:
        cells = [f'<span class="few">{cell}</span>' for cell in cells]
    return [escape(group), *cells, interval(low, mean.dice, high, scale)]


def _means(scores: Sequence[Score], measures: Mapping[str, Measures]) -> list[str]:
    """Means over objects of boundary IoU, surface distance at 2 px and boundary error; empty where there are none."""
    known = [(score.object, measures[score.image]) for score in scores if score.image in measures]
    columns = [
        ([(name, one.boundary_iou) for name, one in known], ".5f"),
        ([(name, one.nsd_2) for name, one in known], ".5f"),
        ([(name, one.boundary_error) for name, one in known if one.boundary_error is not None], "+.2f"),
    ]
    means = [(list(object_means(pairs).values()), form) for pairs, form in columns]
    return [f"{sum(values) / len(values):{form}}" if values else "" for values, form in means]
