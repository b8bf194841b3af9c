"""The page of a schedule search: what was chosen, whether it beats what the winners used, and every trial."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from backdrop.common.words import count
from backdrop.report.charts import Scale, interval
from backdrop.report.lines import shorten
from backdrop.report.parts import dice_text, fact, frame, sheet, table, time_text
from backdrop.report.search_charts import families, legend, schedules, standing, training, values_text
from backdrop.tuning.results import Comparison, Search, Status, Trial, ranked

ERROR = 300  # characters of an error; trials.csv has them all
ABOUT = """Every Dice is out of fold, on images that the network did not train on: that of the best epoch, then the mean
over folds. Trials train for the epochs of the search, at its size of the input, so their Dice compares with each
other's only. Schedules were chosen by the same Dice that is shown for them, which flatters the best of many; hence the
comparison, for which two were trained again with fresh seeds, on the same folds."""
SCHEDULES = """Learning rates over the epochs of the search, on a log scale (linear if a rate is 0): those of all
presets and of the best that were drawn. The best of all is faint in each."""
TRAINING = """Out-of-fold Dice of every trial, on a log scale; the lowest eighth is drawn at the bottom edge. Names are
at the ends of their lines, a circle where a trial ended early."""
FOLDS = "A trial trains on one fold after another."
FAMILIES = "Each line is a trial: what was drawn for it, and the Dice it came to. The best fifth is drawn the boldest."
STATES: tuple[Status, ...] = ("finished", "stopped", "failed", "running")
BADGES = {
    1: ("promoted", "Beats the preset"),
    0: ("caution", "Within the noise"),
    -1: ("caution", "Worse than the preset"),
}
LINES = (("best", "the best"), ("preset", "preset"), ("other", "other"), ("stopped", "stopped or failed"))
RANKS = (("best", "the best"), ("fifth-1", "best fifth"), ("fifth-3", "middle"), ("fifth-5", "worst fifth"))


def render_search(search: Search) -> str:
    """The page of a search, below 1.5 MB for 200 trials of 100 epochs; the same search has the same bytes."""
    several = f" {FOLDS}" if len(search.folds) > 1 else ""
    body = _section("Best drawn against best preset", _comparison(search.comparison))
    if any(trial.lrs for trial in search.trials):
        body += _section("Schedules", schedules(search), legend(*LINES[:2], ("other", "drawn")), SCHEDULES)
    if any(trial.dices for trial in search.trials):
        body += _section("Dice over epochs", training(search), legend(*LINES), TRAINING + several)
    if any(trial.values and trial.dice is not None for trial in search.trials):
        body += _section("Values that were drawn", families(search), legend(*RANKS, LINES[-1]), FAMILIES)
    body += _section("Trials", _trials(search))
    kind, style = "Backdrop schedule search", sheet("search.css")
    return frame(kind, search.recipe, _headline(search), body, ABOUT, search.data, style)


def _section(title: str, content: str, keys: str = "", note: str = "") -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{note}{keys}{content}\n</section>\n"


def _headline(search: Search) -> str:
    folds = f"fold{'s' * (len(search.folds) > 1)} {', '.join(map(str, search.folds))}"
    counts = Counter(trial.status for trial in search.trials)
    states = ", ".join(f"{counts[status]} {status}" for status in STATES if counts[status])
    budget = f"at most {count(search.budget_epochs, 'epoch')} a fold"
    trials = f"{count(len(search.trials), 'trial')} ({states})"
    spent = f"{time_text(sum(trial.seconds for trial in search.trials))} of training"
    line = " · ".join((f"space {escape(search.space)}", folds, budget, trials, spent))
    return f'<p class="counts">{line}</p><div class="facts">{_chosen(search)}</div>'


def _chosen(search: Search) -> str:
    """The chosen schedule and its Dice; that of the best preset for comparison."""
    finished = ranked(search.trials)
    chosen = next((trial for trial in search.trials if trial.name == search.chosen), None)
    if chosen is None:
        return fact("Chosen schedule", '<span class="chosen-name">none</span>', "No trial finished with a Dice.")
    place = f"rank {finished.index(chosen) + 1} of the {len(finished)} that finished" if chosen in finished else ""
    name = f'<span class="chosen-name">{escape(chosen.name)}</span>'
    drawn = escape(values_text(chosen) or chosen.family)
    written = f"{drawn}<br>written for the recipe's {count(search.epochs, 'epoch')}"
    preset = next((trial for trial in finished if trial.preset), None)
    beside = f"<br>best preset {escape(preset.name)}: {dice_text(preset.dice)}" if preset else ""
    result = fact("Its Dice out of fold", dice_text(chosen.dice), (place or chosen.status) + beside)
    return fact("Chosen schedule", name, written) + result


def _comparison(found: Comparison | None) -> str:
    if found is None:
        why = "Either nothing but presets or no preset came to a Dice, so there is nothing to compare."
        return f'<p class="badge waiting">Not compared</p><p class="statement">{why}</p>'
    badge, title = BADGES[(found.low > 0) - (found.high < 0)]
    reach = max(1e-9, abs(found.low), abs(found.high))
    drawn = interval(found.low, found.difference, found.high, Scale(-reach, reach, float, ()), zero=True)
    sides = f"<span>← {escape(found.preset)} better</span><span>0</span><span>{escape(found.best)} better →</span>"
    said = f'<p class="badge {badge}">{title}</p><p class="statement">{escape(found.sentence)}.</p>'
    return f'<div class="versus"><div>{said}{drawn}<p class="sides">{sides}</p></div>{_seeds(found)}</div>'


def _seeds(found: Comparison) -> str:
    """Dice of the best and of the preset by seed."""
    rows = [
        [str(seed), dice_text(best), dice_text(preset)]
        for seed, best, preset in zip(found.seeds, found.best_dices, found.preset_dices, strict=True)
    ]
    means = (dice_text(sum(dices) / len(dices)) for dices in (found.best_dices, found.preset_dices))
    return table(("seed", escape(found.best), escape(found.preset)), [*rows, ["mean", *means]], "seeds")


def _trials(search: Search) -> str:
    ranks = {trial.name: str(rank) for rank, trial in enumerate(ranked(search.trials), 1)}
    rows = [_row(trial, ranks.get(trial.name, ""), search.chosen) for trial in standing(search.trials)]
    heads = ("rank", "name", "family", "status", "Dice", "epochs", "time", "drawn values")
    return table(heads, rows, "trials")


def _row(trial: Trial, rank: str, chosen: str) -> Sequence[str]:
    name = escape(trial.name) + (' <span class="badge promoted">chosen</span>' if trial.name == chosen else "")
    state = f'<span class="{trial.status}">{trial.status}</span>'
    words = escape(values_text(trial))
    error = f'<span class="error">{escape(shorten(trial.error, ERROR))}</span>' if trial.error else ""
    cells = rank, name, escape(trial.family), state, dice_text(trial.dice), str(len(trial.dices))
    return *cells, time_text(trial.seconds), "<br>".join(part for part in (words, error) if part)
