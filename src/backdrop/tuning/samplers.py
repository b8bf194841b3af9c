"""The source of a search's schedules: presets first, then samples from a space.

A sample depends only on the seed, the trial's number and earlier results. So a search that is resumed samples the same
schedules again, from its trials' records alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from backdrop.config import Recipe, Space
from backdrop.config.space import Candidate, draw
from backdrop.tuning.trial_store import Entry, named, number

STARTUP = 5  # random samples before TPE learns from them

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Source(Protocol):
    """Gives the schedules to try, and learns from their results."""

    total: int

    def give(self, index: int, known: Mapping[str, int | float | str] | None) -> Entry:
        """The trial of that number; `known` has its parameters if it was sampled before."""

    def tell(self, entry: Entry, dice: float) -> None:
        """Learns from a trial's result."""


class Listed:
    """A fixed list of trials."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries, self.total = entries, len(entries)

    def give(self, index: int, known: Mapping[str, int | float | str] | None) -> Entry:
        """The trial of that number."""
        return self.entries[index]

    def tell(self, entry: Entry, dice: float) -> None:
        """Learns nothing."""


class Random:
    """Presets, then random samples that depend only on the seed and the trial's number.

    Args:
        space: the search space.
        recipe: the recipe whose schedule is searched.
        presets: the first trials.
        total: number of trials, presets included.
        seed: random seed.
    """

    def __init__(self, space: Space, recipe: Recipe, presets: Sequence[Entry], total: int, seed: int) -> None:
        self.space, self.recipe, self.presets = space, recipe, presets
        self.total, self.seed = total, seed

    def give(self, index: int, known: Mapping[str, int | float | str] | None) -> Entry:
        """A preset, an earlier sample, or a new sample."""
        if index < len(self.presets):
            return self.presets[index]
        sampler = Recorder(Recorded(known) if known else self.sampler(index))
        candidate = draw(self.space, self.recipe, sampler)
        return entry(named(index, candidate.family), candidate, sampler.params)

    def sampler(self, index: int) -> Any:
        """The sampler of a new trial."""
        return Counted(self.seed, index)

    def tell(self, entry: Entry, dice: float) -> None:
        """Learns nothing."""


class Tpe(Random):
    """Presets, then samples near the best so far: the Tree-structured Parzen Estimator.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", in Optuna's implementation.
    """

    def __init__(self, space: Space, recipe: Recipe, presets: Sequence[Entry], total: int, seed: int) -> None:
        super().__init__(space, recipe, presets, total, seed)
        self.study = optuna.create_study(direction="maximize")
        self.asked: dict[int, optuna.Trial] = {}

    def sampler(self, index: int) -> Any:
        """Optuna's next trial, seeded by its number, so that it doesn't depend on how many came before."""
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        self.asked[index] = self.study.ask()
        return self.asked[index]

    def tell(self, entry: Entry, dice: float) -> None:
        """Learns from a trial that isn't a preset, whether it was sampled in this process or an earlier one."""
        if not entry.params:
            return
        if (index := number(entry.name)) in self.asked:
            self.study.tell(self.asked.pop(index), dice)
            return
        sampler = Recorder(Recorded(entry.params))
        draw(self.space, self.recipe, sampler)
        known = optuna.create_trial(params=dict(sampler.params), distributions=sampler.distributions, value=dice)
        self.study.add_trial(known)


class Counted:
    """Samples that depend only on a seed, a trial's number and their order."""

    def __init__(self, seed: int, index: int) -> None:
        self.generator = np.random.Generator(np.random.Philox([seed, index]))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number from a range."""
        if log:
            return float(np.exp(self.generator.uniform(np.log(low), np.log(high))))
        return float(self.generator.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from a range, both ends included."""
        return int(self.generator.integers(low, high, endpoint=True))

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""
        return choices[int(self.generator.integers(len(choices)))]


class Recorded:
    """The values of an earlier sample."""

    def __init__(self, params: Mapping[str, int | float | str]) -> None:
        self.params = params

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """The earlier number."""
        return float(self.params[name])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The earlier whole number."""
        return int(self.params[name])

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """The earlier choice."""
        return str(self.params[name])


class Recorder:
    """Passes on another sampler's values, and records them with their distributions."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.params: dict[str, int | float | str] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number from a range."""
        self.distributions[name] = FloatDistribution(low, high, log=log)
        value = self.params[name] = float(self.sampler.suggest_float(name, low, high, log=log))
        return value

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from a range."""
        self.distributions[name] = IntDistribution(low, high)
        value = self.params[name] = int(self.sampler.suggest_int(name, low, high))
        return value

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""
        self.distributions[name] = CategoricalDistribution(choices)
        choice = self.params[name] = str(self.sampler.suggest_categorical(name, choices))
        return choice


def entry(name: str, candidate: Candidate, params: Mapping[str, int | float | str] | None = None) -> Entry:
    """A trial that hasn't started."""
    return Entry(
        name=name,
        family=candidate.family,
        params=dict(params or {}),
        values=candidate.values,
        override=candidate.override,
    )
