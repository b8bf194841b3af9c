"""The report of a schedule search: the chosen schedule, whether it beats the winners' schedules, and every trial."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from backdrop.common.words import count
from backdrop.report.charts import Scale, interval
from backdrop.report.lines import shorten
from backdrop.report.parts import dice_text, fact, frame, sheet, table, time_text
from backdrop.report.search_charts import families, legend, schedules, standing, training, values_text
from backdrop.tuning.results import Comparison, Search, Status, Trial, ranked

ERROR = 300  # characters of an error; trials.csv has its full text
ABOUT = """Every Dice is out of fold, on images that the network did not train on: the best epoch's, averaged over
folds. Trials train for the search's epochs at its input size, so compare their Dice only with each other. The schedule
was chosen by the Dice shown for it, and the best of many looks better than it is. That is why the best sampled schedule
and the best preset were trained again with fresh seeds, on the same folds, and compared."""
SCHEDULES = """Learning rates over the epochs of the search, on a log scale (linear if a rate is 0), for all presets and
the best sampled schedules. The best schedule is shown faintly in every chart."""
TRAINING = """Out-of-fold Dice of every trial, on a log scale; the lowest eighth is drawn at the bottom edge. Names are
at the ends of their lines. A circle marks a trial that was stopped early."""
FOLDS = "A trial trains on one fold after another."
FAMILIES = """Each line is a trial: its sampled values, and its Dice. The best fifth has the boldest lines. Dice, and
values that span a decade or more, are on a log scale."""
STATES: tuple[Status, ...] = ("finished", "stopped", "failed", "running")
BADGES = {
    1: ("promoted", "Beats the preset"),
    0: ("caution", "Within the noise"),
    -1: ("caution", "Worse than the preset"),
}
LINES = (("best", "the best"), ("preset", "preset"), ("other", "other"), ("stopped", "stopped or failed"))
RANKS = (("best", "the best"), ("fifth-1", "best fifth"), ("fifth-3", "middle"), ("fifth-5", "worst fifth"))


def render_search(search: Search) -> str:
    """The page of a search, below 1.5 MB for 200 trials of 100 epochs; the same search gives the same bytes."""
    several = f" {FOLDS}" if len(search.folds) > 1 else ""
    body = _section("Best sampled schedule against best preset", _comparison(search.comparison))
    if any(trial.lrs for trial in search.trials):
        body += _section("Schedules", schedules(search), legend(*LINES[:2], ("other", "sampled")), SCHEDULES)
    if any(trial.dices for trial in search.trials):
        body += _section("Dice over epochs", training(search), legend(*LINES), TRAINING + several)
    if any(trial.values and trial.dice is not None for trial in search.trials):
        body += _section("Sampled values", families(search), legend(*RANKS, LINES[-1]), FAMILIES)
    body += _section("Trials", _trials(search))
    kind, style = "Backdrop schedule search", sheet("search.css")
    return frame(kind, search.recipe, _headline(search), body, ABOUT, ("data", search.data), style)


def _section(title: str, content: str, keys: str = "", note: str = "") -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{note}{keys}{content}\n</section>\n"


def _headline(search: Search) -> str:
    folds = f"fold{'s' * (len(search.folds) > 1)} {', '.join(map(str, search.folds))}"
    counts = Counter(trial.status for trial in search.trials)
    states = ", ".join(f"{counts[status]} {status}" for status in STATES if counts[status])
    budget = f"at most {count(search.budget_epochs, 'epoch')} per fold"
    trials = f"{count(len(search.trials), 'trial')} ({states})"
    spent = f"{time_text(sum(trial.seconds for trial in search.trials))} of training"
    line = " · ".join((f"space {escape(search.space)}", folds, budget, trials, spent))
    return f'<p class="counts">{line}</p><div class="facts">{_chosen(search)}</div>'


def _chosen(search: Search) -> str:
    """The chosen schedule and its Dice, with the best preset's Dice for comparison."""
    finished = ranked(search.trials)
    chosen = next((trial for trial in search.trials if trial.name == search.chosen), None)
    if chosen is None:
        return fact("Chosen schedule", '<span class="chosen-name">none</span>', "No trial finished with a Dice.")
    ranked_trials = count(len(finished), "finished trial")
    place = f"rank {finished.index(chosen) + 1} of {ranked_trials}" if chosen in finished else ""
    name = f'<span class="chosen-name">{escape(chosen.name)}</span>'
    values = escape(values_text(chosen) or chosen.family)
    written = f"{values}<br>scaled to the recipe's {count(search.epochs, 'epoch')}"
    preset = next((trial for trial in finished if trial.preset), None)
    beside = f"<br>best preset {escape(preset.name)}: {dice_text(preset.dice)}" if preset else ""
    result = fact("Its out-of-fold Dice", dice_text(chosen.dice), (place or chosen.status) + beside)
    return fact("Chosen schedule", name, written) + result


def _comparison(comparison: Comparison | None) -> str:
    if comparison is None:
        reason = "Only presets or no preset have a Dice, so there is nothing to compare."
        return f'<p class="badge waiting">Not compared</p><p class="statement">{reason}</p>'
    low, high = comparison.low, comparison.high
    badge, title = BADGES[(low > 0) - (high < 0)]
    reach = max(1e-9, abs(low), abs(high))
    chart = interval(low, comparison.difference, high, Scale(-reach, reach, float, ()), zero=True)
    preset, best = escape(comparison.preset), escape(comparison.best)
    sides = f"<span>← {preset} better</span><span>0</span><span>{best} better →</span>"
    result = f'<p class="badge {badge}">{title}</p><p class="statement">{escape(comparison.sentence)}.</p>'
    return f'<div class="versus"><div>{result}{chart}<p class="sides">{sides}</p></div>{_seeds(comparison)}</div>'


def _seeds(comparison: Comparison) -> str:
    """A table of the best schedule's and the preset's Dice by seed."""
    rows = [
        [str(seed), dice_text(best), dice_text(preset)]
        for seed, best, preset in zip(comparison.seeds, comparison.best_dices, comparison.preset_dices, strict=True)
    ]
    means = (dice_text(sum(dices) / len(dices)) for dices in (comparison.best_dices, comparison.preset_dices))
    return table(("seed", escape(comparison.best), escape(comparison.preset)), [*rows, ["mean", *means]], "seeds")


def _trials(search: Search) -> str:
    ranks = {trial.name: str(rank) for rank, trial in enumerate(ranked(search.trials), 1)}
    rows = [_row(trial, ranks.get(trial.name, ""), search.chosen) for trial in standing(search.trials)]
    heads = ("rank", "name", "family", "status", "Dice", "epochs", "time", "sampled values")
    return table(heads, rows, "trials")


def _row(trial: Trial, rank: str, chosen: str) -> Sequence[str]:
    name = escape(trial.name) + (' <span class="badge promoted">chosen</span>' if trial.name == chosen else "")
    state = f'<span class="{trial.status}">{trial.status}</span>'
    words = escape(values_text(trial))
    error = f'<span class="error">{escape(shorten(trial.error, ERROR))}</span>' if trial.error else ""
    cells = rank, name, escape(trial.family), state, dice_text(trial.dice), str(len(trial.dices))
    return *cells, time_text(trial.seconds), "<br>".join(part for part in (words, error) if part)
