"""Schedules that are grown, not drawn: a population whose worst trials go on with the weights of better ones.

Source: Parker-Holder et al. 2020, arXiv:2002.02518, as Ray's PB2 has it. Of a killed population Ray's own state is
kept, in pickles that nobody but Ray reads; a state that is of no use costs the population, not the search.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as RayTrial

from backdrop.common import storage
from backdrop.common.errors import ConfigError, TuningError
from backdrop.common.progress import log, progress
from backdrop.config import Recipe, Space
from backdrop.config.schedule import Constant
from backdrop.training.lr_schedules import lengths
from backdrop.tuning.bandits import Bandits, place
from backdrop.tuning.lineage import EXPONENT, ROWS, as_rate, constant, rates_of, run
from backdrop.tuning.ray_runner import TRIES, TrialRecorder, share
from backdrop.tuning.trial import DICE, ERROR, TrialSpec
from backdrop.tuning.trial_store import Entry, Row, TrialStore, named

LEAST = 4  # trials: a quarter of them is replaced at each exchange
FAMILY = "pb2"
STATE = "ray"
# Others may still begin from a checkpoint when its trial has made the next one, and a state may be one more behind.
CHECKPOINTS = 3


@dataclass(frozen=True)
class Population:
    """A population: `first` is the number of its first trial, and `ends` the least and the greatest rate.

    `recipe` is what the schedules are written for, and `state` where Ray keeps its own.
    """

    spec: TrialSpec
    recipe: Recipe
    first: int
    size: int
    ends: tuple[float, float]
    seed: int
    state: str

    def check(self) -> None:
        """Makes sure that there is something to exchange.

        Raises:
            ConfigError: if the trials are too few, or the space knows but one rate.
        """
        if self.size < LEAST:
            what = f"{self.size} trials beside {self.first} presets are too few for a population"
            raise ConfigError(what, f"Ask for --trials {self.first + LEAST} or more")
        if self.ends[0] == self.ends[1]:
            raise ConfigError(f"A population of rates needs more than {self.ends[0]}", "Give families a range of rates")

    def exponents(self) -> list[float]:
        """Where the rates begin: spread evenly over the decades, both ends among them."""
        low, high = map(math.log10, self.ends)
        return [low + (high - low) * index / (self.size - 1) for index in range(self.size)]

    def entry(self, index: int, rows: Sequence[Row], rate: float) -> Entry:
        """A trial with such epochs behind it, and one rate from there on, for the recipe's own number of epochs."""
        whole = self.spec.recipe.epochs
        rates = [*(rates_of(rows) if rows else ()), *[rate] * whole][:whole]
        phases = constant(rates)
        sizes = lengths([Constant(**phase) for phase in phases], self.recipe.epochs)
        schedule = [{**phase, "epochs": size} for phase, size in zip(phases, sizes, strict=True) if size]
        return Entry(
            name=named(self.first + index, FAMILY),
            family=FAMILY,
            values={"first": rates[0], "last": rates[-1]},
            override={"schedule": schedule, "optimizer": self.recipe.optimizer.model_dump(mode="json")},
            rows=tuple(sorted(rows, key=lambda row: self.spec.folds.index(row.fold))),
        )

    def start(self) -> list[Entry]:
        """Its trials before their first epoch."""
        return [self.entry(index, (), as_rate(exponent)) for index, exponent in enumerate(self.exponents())]


def rates_between(space: Space) -> tuple[float, float]:
    """The least and the greatest rate of a space's families."""
    return min(family.rate[0] for family in space.families), max(family.rate[1] for family in space.families)


def grow(population: Population, parallel: int, notify: Callable[[Entry], None], label: str) -> list[Entry]:
    """Runs a population to the end of its budget, or what is left of it.

    Args:
        population: what it is.
        parallel: how many trials run at a time; the others wait, as checkpoints.
        notify: hears of a trial when its lineage is known, which is at the end: until then it may become another's.
        label: of the progress, which counts epochs.

    Returns:
        The trials in their order.

    Raises:
        TuningError: if it is interrupted.
        StorageError: if something can't be written.
    """
    store = TrialStore(population.spec.store)
    found = [store.read(one.name) or one for one in population.start()]
    if any(one.status == "running" for one in found):
        found = _grown(population, store, parallel, label)
    storage.remove_folder(population.state)
    for one in found:
        notify(one)
    return found


def _grown(population: Population, store: TrialStore, parallel: int, label: str) -> list[Entry]:
    going_on = _left(population.state)
    while True:
        if not going_on:
            storage.remove_folder(population.state)
        with progress(label, population.size * population.spec.epochs) as advance:
            recorder = Breeder(population, store, advance)
            try:
                _run(population, recorder, parallel, going_on)
            except (tune.TuneError, TypeError, ValueError, KeyError, OSError):  # a kill left what Ray can't use
                if not going_on:
                    raise
                recorder.died = True
        if not (going_on and recorder.died):
            break
        log("The population can't go on from what a kill left of it, and begins anew")
        going_on = False
    found = [recorder.entries[name] for name in sorted(recorder.entries)]
    if any(one.status == "running" for one in found):
        raise TuningError("The population was interrupted", "Run the same command again: it goes on")
    return found


def _run(population: Population, recorder: "Breeder", parallel: int, going_on: bool) -> None:
    """Ray's `Tuner.restore` would take scheduler and callbacks from a pickle; `tune.run`, below it, takes ours."""
    state, exponents = population.state, population.exponents()
    resources = share(parallel, math.ceil)  # Ray's own limit of trials at a time would count those that wait
    epochs = population.spec.recipe.epochs
    tune.run(
        tune.with_parameters(run, spec=population.spec),
        name=STATE,
        metric=DICE,
        mode="max",
        config={EXPONENT: tune.grid_search(exponents)},
        resources_per_trial=resources,
        storage_path=state if storage.is_remote(state) else str(Path(state).absolute()),
        scheduler=Bandits(exponents[0], exponents[-1], epochs, population.seed, resources),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=CHECKPOINTS),
        max_failures=TRIES,
        resume="AUTO+ERRORED" if going_on else False,
        reuse_actors=True,
        raise_on_failed_trial=False,
        callbacks=[recorder],
        verbose=0,
    )


def _left(state: str) -> bool:
    """Whether a killed population left a state that is whole."""
    names = [name for name in storage.list_files(f"{state}/{STATE}") if name.startswith("experiment_state")]
    if not names:
        return False
    try:
        json.loads(storage.read_bytes(f"{state}/{STATE}/{max(names)}"))
    except ValueError:
        log("The kill has torn the population's state: it begins anew")
        return False
    return True


class Breeder(TrialRecorder):
    """Writes the store as trials train and become others' copies."""

    def __init__(self, population: Population, store: TrialStore, advance: Callable[[str], None]) -> None:
        super().__init__(store, population.spec.epochs, lambda _: None, lambda _: None, advance)
        self.population, self.died = population, False
        self.entries = {one.name: store.read(one.name) or one for one in population.start()}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """A trial begins, or goes on."""
        self._grow(trial, self._entry(trial).rows)

    def on_trial_result(self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: Any, **_: Any) -> None:
        """An epoch is over, or the trial has another's epochs behind it."""
        before = len(self._entry(trial).rows)
        self._grow(trial, [Row(**row) for row in result[ROWS]], result.get(ERROR, ""))
        for _epoch in range(before, len(result[ROWS])):
            self.advance(f"{self._entry(trial).name} Dice {result[DICE]:.4f}")

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """A trial failed so often that it is given up."""
        self.died = True
        super().on_trial_error(iteration, trials, trial)

    def _grow(self, trial: RayTrial, rows: Sequence[Row], error: str = "") -> None:
        entry = self.population.entry(place(trial), rows, as_rate(trial.config[EXPONENT]))
        self._keep(entry.model_copy(update={"error": error}))

    def _entry(self, trial: RayTrial) -> Entry:
        return self.entries[named(self.population.first + place(trial), FAMILY)]
