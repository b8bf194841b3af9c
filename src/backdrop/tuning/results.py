"""The result of a schedule search: its trials, the best one, and whether it beats the winners' schedules."""

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from scipy import special

from backdrop.common.text import dump_table
from backdrop.common.words import count
from backdrop.config.records import Record

CONFIDENCE = 0.95
COLUMNS = ("name", "family", "preset", "status", "dice", "epochs", "seconds")
Status = Literal["running", "finished", "stopped", "failed"]
# A file's name in an error may contain bytes that aren't valid UTF-8, and such a text can't be written to a file.
Text = Annotated[str, AfterValidator(lambda text: text.encode(errors="replace").decode())]


class Trial(Record):
    """One trial of a schedule.

    Attributes:
        name: such as `000-own`, `001-linknet34-faithful`, `007-cosine`; numbered in the order of the search.
        family: the schedule's kind; `preset` for the recipe's own or one of the winners'.
        values: its sampled values by name, such as `lr`; empty for a preset.
        lrs: the learning rate of each epoch of the budget; for a plateau, epochs not trained are computed as if Dice
            rose.
        dices: the out-of-fold Dice of each epoch, one fold after another; never NaN.
        dice: the score: the best epoch's out-of-fold Dice, averaged over folds; None before the first epoch.
        seconds: training time.
        status: `stopped` if the scheduler ended it before its budget was used up.
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
        """Whether it is the recipe's own schedule or one of the winners'."""
        return self.family == "preset"


class Comparison(Record):
    """The best sampled schedule against the best preset, both trained again with the same fresh seeds.

    `difference` is the mean Dice of `best` minus that of `preset`; `low` and `high` are its 95 % interval (Welch's,
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
        """A sentence that says whether the gain exceeds the noise."""
        spread = (
            f"{self.difference:+.5f} Dice ({self.low:+.5f} to {self.high:+.5f}, {count(len(self.seeds), 'seed')} each)"
        )
        if self.low > 0:
            return f"{self.best} beats {self.preset} by more than the noise: {spread}"
        if self.high < 0:
            return f"{self.best} is worse than {self.preset} by more than the noise: {spread}"
        return f"{self.best} and {self.preset} differ by less than the noise: {spread}"


class Search(Record):
    """A finished search.

    Attributes:
        recipe: its name.
        space: the space's name.
        data: the digest of the plan's data.
        folds: those that the trials were scored on.
        budget_epochs: maximum epochs of a trial on each fold.
        epochs: the recipe's own, to which `schedule.yaml` is scaled.
        trials: in the order of their names.
        comparison: None if only presets or no preset have a Dice, or a repeat failed.
        chosen: the trial whose schedule is in `schedule.yaml`.
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

    If all seeds of each schedule give the same Dice, the interval is just the difference.

    Raises:
        StatisticsError: if there is only one seed.
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
    """Half of Welch's interval; scipy's own function warns and gives NaN if a sample's values are (nearly) equal."""
    errors = [variance(sample) / len(sample) for sample in samples]
    total = sum(errors)
    if total == 0:
        return 0.0
    shares = ((error / total) ** 2 / (len(sample) - 1) for error, sample in zip(errors, samples, strict=True))
    return float(special.stdtrit(1 / sum(shares), (1 + CONFIDENCE) / 2)) * math.sqrt(total)


def dump_trials(trials: Sequence[Trial]) -> bytes:
    """`trials.csv`: a row for each trial, and a column for each sampled value."""
    names = sorted({name for trial in trials for name in trial.values})

    def cells(trial: Trial) -> tuple[object, ...]:
        dice = "" if trial.dice is None else f"{trial.dice:.6f}"
        result = trial.status, dice, len(trial.dices), f"{trial.seconds:.1f}"
        values = (trial.values.get(name, "") for name in names)
        return trial.name, trial.family, int(trial.preset), *result, *values, trial.error

    return dump_table((*COLUMNS, *names, "error"), map(cells, trials))
