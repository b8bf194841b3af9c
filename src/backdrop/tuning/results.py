"""What a schedule search has come to: its trials, the best of them, and whether it beats what the winners used."""

import csv
import io
import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from scipy import stats

from backdrop.common.words import count
from backdrop.config.records import Record

CONFIDENCE = 0.95
COLUMNS = ("name", "family", "preset", "status", "dice", "epochs", "seconds")
Status = Literal["running", "finished", "stopped", "failed"]
# Names of files in an error may hold bytes that are no text, which no file could be written with.
Text = Annotated[str, AfterValidator(lambda text: text.encode(errors="replace").decode())]


class Trial(Record):
    """One schedule, tried.

    Attributes:
        name: `000-own`, `001-linknet34-faithful`, `007-cosine`: in the order of the search.
        family: the schedule's kind; `preset` for a recipe's own or one of the winners'.
        values: what was drawn for it, by name, such as `lr`; empty for a preset.
        lrs: the learning rate of each epoch of the budget; as far as it got for a plateau, then as if Dice rose.
        dices: by epoch, each fold after another, the out-of-fold Dice; NaN never stands here.
        dice: the judge: the mean over folds of the best epoch's out-of-fold Dice; None before the first epoch.
        seconds: of training.
        status: `stopped` by the scheduler before its budget was used up.
        error: why it failed, in a line.
    """

    name: str
    family: str
    values: dict[str, int | float | str] = Field(default_factory=dict)
    lrs: tuple[float, ...] = ()
    dices: tuple[float, ...] = ()
    dice: float | None = None
    seconds: float = 0.0
    status: Status = "running"
    error: Text = ""

    @property
    def preset(self) -> bool:
        """Whether it is a recipe's own schedule or one of the winners'."""
        return self.family == "preset"


class Comparison(Record):
    """The best schedule that was drawn against the best preset, each trained anew with the same fresh seeds.

    `difference` is the mean Dice of `best` less that of `preset`; `low` and `high` bound its 95 % interval (Welch's,
    over seeds). The search chose both by their Dice on the same folds, with another seed.
    """

    best: str
    preset: str
    seeds: tuple[int, ...]
    best_dices: tuple[float, ...]
    preset_dices: tuple[float, ...]
    difference: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        """Whether the gain exceeds the noise, in words."""
        spread = (
            f"{self.difference:+.5f} Dice ({self.low:+.5f} to {self.high:+.5f}, {count(len(self.seeds), 'seed')} each)"
        )
        if self.low > 0:
            return f"{self.best} beats {self.preset} by more than the noise: {spread}"
        if self.high < 0:
            return f"{self.best} is worse than {self.preset} by more than the noise: {spread}"
        return f"{self.best} against {self.preset}: the difference doesn't exceed the noise: {spread}"


class Search(Record):
    """A finished search.

    Attributes:
        recipe: its name.
        space: the space's name.
        data: the digest of the plan's data.
        folds: those that judged.
        budget_epochs: what a trial trains on each fold at most.
        epochs: the recipe's own, to which `schedule.yaml` is written.
        trials: in the order of their names.
        comparison: None if nothing but presets, or no preset, came to a Dice.
        chosen: the trial whose schedule `schedule.yaml` holds.
    """

    recipe: str
    space: str
    data: str
    folds: tuple[int, ...]
    budget_epochs: int
    epochs: int
    trials: tuple[Trial, ...]
    comparison: Comparison | None
    chosen: str

    def trial(self, name: str) -> Trial:
        """The trial of that name."""
        return next(trial for trial in self.trials if trial.name == name)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Those that came to a Dice and weren't stopped or failed on the way, the best first; of equal ones the earlier."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.dice is not None]
    return sorted(finished, key=lambda trial: (-(trial.dice or 0.0), trial.name))


def compare(
    best: str, preset: str, seeds: Sequence[int], best_dices: Sequence[float], preset_dices: Sequence[float]
) -> Comparison:
    """The difference of two means over seeds, with Welch's interval (Welch 1947, Biometrika 34:28).

    Where no seed differs from another on either side, the interval is the difference alone.

    Raises:
        StatisticsError: if there is but one seed.
    """
    difference, reach = fmean(best_dices) - fmean(preset_dices), _reach(best_dices, preset_dices)
    return Comparison(
        best=best,
        preset=preset,
        seeds=tuple(seeds),
        best_dices=tuple(best_dices),
        preset_dices=tuple(preset_dices),
        difference=difference,
        low=difference - reach,
        high=difference + reach,
    )


def _reach(*samples: Sequence[float]) -> float:
    """Half of Welch's interval; scipy's own warns and gives NaN where the values of a sample are (nearly) equal."""
    errors = [variance(sample) / len(sample) for sample in samples]
    whole = sum(errors)
    if whole == 0:
        return 0.0
    shares = ((error / whole) ** 2 / (len(sample) - 1) for error, sample in zip(errors, samples, strict=True))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, 1 / sum(shares))) * math.sqrt(whole)


def dump_trials(trials: Sequence[Trial]) -> bytes:
    """`trials.csv`: a row a trial, and a column for each value that was drawn for one."""
    names = sorted({name for trial in trials for name in trial.values})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*COLUMNS, *names, "error"))
    for trial in trials:
        dice = "" if trial.dice is None else f"{trial.dice:.6f}"
        came_to = trial.status, dice, len(trial.dices), f"{trial.seconds:.1f}"
        drawn = (trial.values.get(name, "") for name in names)
        table.writerow((trial.name, trial.family, int(trial.preset), *came_to, *drawn, trial.error))
    return text.getvalue().encode()
