"""One trial of a population, in a process of Ray's: it trains a stretch at a time, and may wake up as another's copy.

Its weights and what they came to go with Ray's checkpoints; which trial it is says Ray's trial id alone.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ray import tune

from backdrop.common import storage
from backdrop.common.errors import TrainingError
from backdrop.config import Recipe
from backdrop.config.space import DIGITS, Phases
from backdrop.inference.member import CHECKPOINTS
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.tuning.trial import DICE, ERROR, TrialSpec, train_fold, trial_recipe
from backdrop.tuning.trial_store import Row, as_row, judged

EXPONENT = "exponent"  # log10 of the rate: what PB2 changes
AGE = "age"  # epochs on each fold that the weights have which are handed on
ROWS = "rows"
STRETCHES = 4  # of a budget, with an exchange after each but the last
KEPT = "rows.json"


def stretch(epochs: int) -> int:
    """How many epochs of a budget lie between two exchanges of weights."""
    return max(1, round(epochs / STRETCHES))


def as_rate(exponent: float) -> float:
    """The rate, as text has it."""
    return float(f"{10**exponent:.{DIGITS}g}")


def constant(rates: Sequence[float]) -> Phases:
    """A schedule with these rates, an epoch each."""
    return [{"kind": "constant", "epochs": len(list(same)), "rate": rate} for rate, same in groupby(rates)]


def rates_of(rows: Sequence[Row]) -> list[float]:
    """The rate of each epoch so far."""
    return [row.rate for row in rows if row.fold == rows[0].fold]


def run(config: dict[str, Any], spec: TrialSpec) -> None:
    """Trains to the end of the budget from the checkpoint that Ray hands over, if there is one."""
    folder = storage.cache_folder() / "population" / tune.get_context().get_trial_id()
    lineage = Lineage(spec, as_rate(config[EXPONENT]), folder)
    try:
        lineage.take_up()
        while lineage.age < spec.recipe.epochs:
            lineage.go_on()
    except TrainingError as error:
        lineage.give_up(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Lineage:
    """Weights from their first epoch on, whichever trials had them: `rows` are their epochs as they came."""

    spec: TrialSpec
    rate: float
    folder: Path
    age: int = 0
    rows: list[Row] = field(default_factory=list)

    def take_up(self) -> None:
        """Begins where the checkpoint ends."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if checkpoint := tune.get_checkpoint():
            checkpoint.to_directory(str(self.folder))
            self.rows = [Row(**row) for row in json.loads((self.folder / KEPT).read_bytes())]
            self.age = len(self.rows) // len(self.spec.folds)

    def go_on(self) -> None:
        """Trains a stretch on each fold, with one rate, and hands on what came of it."""
        folds, whole = self.spec.folds, self.spec.recipe.epochs
        end = min(self.age + stretch(whole), whole)
        rates = [*rates_of(self.rows), *[self.rate] * (end - self.age)]
        recipe = _shorter(self.spec, end, rates)
        for fold in folds:
            self._train(recipe, fold, end * len(folds))
        self.age = end
        storage.write_bytes(self.folder / KEPT, json.dumps([row.model_dump() for row in self.rows]).encode())
        self._tell(tune.Checkpoint.from_directory(str(self.folder)))

    def give_up(self, error: TrainingError) -> None:
        """Is the worst from now on, at each exchange, until it gets better weights."""
        while self.age < self.spec.recipe.epochs:
            self.age += stretch(self.spec.recipe.epochs)
            tune.report({DICE: 0.0, AGE: self.age, ROWS: self._told(), ERROR: str(error)})

    def _train(self, recipe: Recipe, fold: int, last: int) -> None:
        """The last row of a stretch is notify later, with the checkpoint."""
        home = self.folder / f"fold-{fold}"
        store = CheckpointStore(home / CHECKPOINTS)

        def watch(history: Sequence[Mapping[str, Any]]) -> None:
            done = sum(row.fold == fold for row in self.rows)
            for row in history[done:]:
                self.rows.append(as_row(fold, row))
                if len(self.rows) < last:
                    self._tell()

        train_fold(self.spec, recipe, fold, home, self.folder.name, store, watch)
        for old in sorted(store.names())[:-1]:
            shutil.rmtree(store.folder / old, ignore_errors=True)

    def _tell(self, checkpoint: tune.Checkpoint | None = None) -> None:
        tune.report({DICE: judged(self.rows), AGE: self.age, ROWS: self._told()}, checkpoint=checkpoint)

    def _told(self) -> list[dict[str, Any]]:
        return [row.model_dump() for row in self.rows]


def _shorter(spec: TrialSpec, epochs: int, rates: Sequence[float]) -> Recipe:
    """The recipe up to some epoch: no epoch depends on how many follow."""
    recipe = spec.recipe.model_copy(update={"epochs": epochs})
    return trial_recipe(replace(spec, recipe=recipe), {"schedule": constant(rates)})
