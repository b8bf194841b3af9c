"""The report's verdict section: `evaluate` leaves it empty, `promote` fills it."""

from html import escape

from backdrop.common.errors import GateError
from backdrop.common.words import moment
from backdrop.config.records import Record
from backdrop.evaluation.gate import SLICE_ALPHA, Outcome, Slice, Verdict
from backdrop.report.charts import Scale, interval

BEGIN, END = "<!-- verdict -->", "<!-- /verdict -->"
SLICES = 48  # groups shown, those with the largest loss
TITLES: dict[Outcome, str] = {"promoted": "Promoted", "rejected": "Rejected", "unchanged": "Champion unchanged"}
HELD = "Held: champion unchanged"


class Standing(Record):
    """Where a verdict stands in a model's history.

    Attributes:
        version: the address of the version that was judged, `models:/NAME/VERSION`.
        champion: that of the champion before the verdict; None if there was none.
        rival: that of the version that it was compared with: the champion, or a student's teacher; None if there was
            none.
        time: of the verdict, in ISO 8601 with the offset from UTC; without one, since when the champion reigns, or is
            held.
        is_held: whether nothing was judged because a person holds the champion.
        page: the version's page in MLflow; None without a server.
    """

    version: str
    champion: str | None
    rival: str | None
    time: str
    is_held: bool = False
    page: str | None = None


def verdict_section(verdict: Verdict | None, standing: Standing | None = None) -> str:
    """The section between its two markers; escaped text can't contain a marker, so each is unique."""
    waiting = '<p class="badge waiting">Not judged yet</p>'
    body = _judged(verdict, standing) if verdict and standing else waiting
    return f'{BEGIN}<section id="verdict"><h2>Verdict</h2>{body}</section>{END}'


def with_verdict(html: str, verdict: Verdict, standing: Standing) -> str:
    """Puts the gate's verdict into a report, in place of an earlier one.

    Args:
        html: a page by `render`.
        verdict: the gate's.
        standing: where it stands in the model's history.

    Raises:
        GateError: if the page has no section for a verdict.
    """
    head, begin, rest = html.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise GateError("The report has no section for a verdict", "Create it again with `backdrop evaluate`")
    return head + verdict_section(verdict, standing) + tail


def standing_text(verdict: Verdict, standing: Standing) -> str:
    """What became of the version, when, and what it was compared with, in a sentence or two."""
    version, champion, when = standing.version, standing.champion, moment(standing.time)
    if standing.is_held:
        return f"{champion} has been held since {when}, so {version} wasn't judged."
    if verdict.outcome == "unchanged":
        since = f"{champion} has been the champion since {when}"
        return f"{since}." if champion == version else f"{since}, so {version} wasn't judged yet."
    became = "became the champion" if verdict.outcome == "promoted" else "was rejected"
    instead = f" instead of {champion}" if verdict.outcome == "promoted" and champion else ""
    stays = f"; {champion} stays the champion" if verdict.outcome == "rejected" and champion else ""
    compared = "was compared" if verdict.difference is not None else "couldn't be compared"
    other = f"It {compared} with {standing.rival}." if standing.rival else "There was no champion to compare it with."
    return f"{version} {became}{instead} on {when}{stays}. {other}"


def _judged(verdict: Verdict, standing: Standing) -> str:
    reasons = "".join(f"<li>{escape(reason)}.</li>" for reason in verdict.reasons)
    title = HELD if standing.is_held else TITLES[verdict.outcome]
    link = f' <a href="{escape(standing.page)}">{escape(standing.version)} in MLflow</a>' if standing.page else ""
    return (
        f'<p class="badge {verdict.outcome}">{title}</p><p>{escape(standing_text(verdict, standing))}{link}</p>'
        f'<ul class="reasons">{reasons}</ul>{_changes(verdict)}'
    )


def _changes(verdict: Verdict) -> str:
    """The change on the holdout and in each group: intervals, and the p of a rise or, in a group, of a loss."""
    if verdict.difference is None or verdict.low is None or verdict.high is None:
        return ""
    ends = [verdict.low, verdict.high, *(end for part in verdict.slices for end in _ends(part))]
    reach = max(1e-9, *map(abs, ends))
    scale = Scale(-reach, reach, float, ())
    total = _row(
        "all objects", verdict.objects, (verdict.difference, verdict.low, verdict.high), verdict.p_value, scale
    )
    shown = sorted(sorted(verdict.slices, key=lambda part: part.difference)[:SLICES], key=_name)
    rows = "".join(_slice(part, scale) for part in shown)
    head = "<th>group</th><th>objects</th><th>change of Dice</th><th>95 % interval</th><th>p</th><th></th>"
    table = f'<table class="spans"><thead><tr>{head}</tr></thead><tbody>{total}{rows}</tbody></table>'
    opened = " open" if any(part.worse for part in verdict.slices) else ""
    tested = sum(part.p_value is not None for part in verdict.slices)
    note = f" (a group rejects below p = {SLICE_ALPHA / tested:.2g})" if tested else ""
    return f'<details{opened}><summary>Change by group{note}</summary><div class="wide">{table}</div></details>'


def _name(part: Slice) -> str:
    return f"{part.slice} {part.group}"


def _ends(part: Slice) -> tuple[float, float]:
    """The interval of a slice; for a single object, its own value twice."""
    if part.low is None or part.high is None:
        return part.difference, part.difference
    return part.low, part.high


def _slice(part: Slice, scale: Scale) -> str:
    mark = "worse" if part.worse else ""
    return _row(_name(part), part.objects, (part.difference, *_ends(part)), part.p_value, scale, mark)


def _row(
    name: str, objects: int, change: tuple[float, float, float], p: float | None, scale: Scale, mark: str = ""
) -> str:
    mean, low, high = change
    spread = f"{low:+.5f} to {high:+.5f}" if objects > 1 else ""
    chance = "" if p is None else f"{p:.2g}"
    cells = f"<td>{escape(name)}</td><td>{objects}</td><td>{mean:+.5f}</td><td>{spread}</td><td>{chance}</td>"
    return f'<tr class="{mark}">{cells}<td>{interval(low, mean, high, scale, zero=True)}</td></tr>'
