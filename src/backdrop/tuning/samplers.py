"""Where a search's schedules come from: presets first, then draws from a space. Each depends on its number alone.

So a search that is taken up again comes to the same schedules, and needs nothing but what its trials came to.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from backdrop.config import Recipe, Space
from backdrop.config.space import Candidate, draw
from backdrop.tuning.trial_store import Entry, named, number

STARTUP = 5  # so many draws are random before TPE learns from them

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Source(Protocol):
    """Gives the schedules to try, and is notify what they came to."""

    total: int

    def give(self, index: int, known: Mapping[str, int | float | str] | None) -> Entry:
        """The trial of that number; `known` are its numbers if it was drawn before."""

    def tell(self, entry: Entry, dice: float) -> None:
        """What a trial came to."""


class Listed:
    """Trials that are known beforehand."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries, self.total = entries, len(entries)

    def give(self, index: int, known: Mapping[str, int | float | str] | None) -> Entry:
        """The entry of that number."""
        return self.entries[index]

    def tell(self, entry: Entry, dice: float) -> None:
        """Nothing is learned."""


class Random:
    """Presets, then draws that depend on nothing but seed and number.

    Args:
        space: what may be tried.
        recipe: what is searched for.
        presets: come first.
        total: how many trials there are in all.
        seed: of the draws.
    """

    def __init__(self, space: Space, recipe: Recipe, presets: Sequence[Entry], total: int, seed: int) -> None:
        self.space, self.recipe, self.presets = space, recipe, presets
        self.total, self.seed = total, seed

    def give(self, index: int, known: Mapping[str, int | float | str] | None) -> Entry:
        """A preset, what was drawn before, or a draw."""
        if index < len(self.presets):
            return self.presets[index]
        chance = Recorder(Recorded(known) if known else self.draws(index))
        found = draw(self.space, self.recipe, chance)
        return entry(named(index, found.family), found, chance.params)

    def draws(self, index: int) -> Any:
        """Where the numbers of a new trial come from."""
        return Counted(self.seed, index)

    def tell(self, entry: Entry, dice: float) -> None:
        """Nothing is learned."""


class Tpe(Random):
    """Presets, then draws near what did well so far: the Tree-structured Parzen Estimator.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", as Optuna has it.
    """

    def __init__(self, space: Space, recipe: Recipe, presets: Sequence[Entry], total: int, seed: int) -> None:
        super().__init__(space, recipe, presets, total, seed)
        self.study = optuna.create_study(direction="maximize")
        self.asked: dict[int, optuna.Trial] = {}

    def draws(self, index: int) -> Any:
        """Optuna's next trial; its chance begins anew each time, so that it depends on the number alone."""
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        self.asked[index] = self.study.ask()
        return self.asked[index]

    def tell(self, entry: Entry, dice: float) -> None:
        """Learns from a trial that isn't a preset, drawn now or before."""
        if not entry.params:
            return
        if (index := number(entry.name)) in self.asked:
            self.study.tell(self.asked.pop(index), dice)
            return
        chance = Recorder(Recorded(entry.params))
        draw(self.space, self.recipe, chance)
        drawn = optuna.create_trial(params=dict(chance.params), distributions=chance.distributions, value=dice)
        self.study.add_trial(drawn)


class Counted:
    """Numbers that depend on a seed, a trial's number and their place alone."""

    def __init__(self, seed: int, index: int) -> None:
        self.generator = np.random.Generator(np.random.Philox([seed, index]))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number of a range."""
        if log:
            return float(np.exp(self.generator.uniform(np.log(low), np.log(high))))
        return float(self.generator.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.generator.integers(low, high, endpoint=True))

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of several words."""
        return choices[int(self.generator.integers(len(choices)))]


class Recorded:
    """Numbers that were drawn before."""

    def __init__(self, params: Mapping[str, int | float | str]) -> None:
        self.params = params

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """The number."""
        return float(self.params[name])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The whole number."""
        return int(self.params[name])

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """The word."""
        return str(self.params[name])


class Recorder:
    """Passes on another's numbers and keeps them, and how they are distributed."""

    def __init__(self, chance: Any) -> None:
        self.chance = chance
        self.params: dict[str, int | float | str] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number of a range."""
        self.distributions[name] = FloatDistribution(low, high, log=log)
        value = self.params[name] = float(self.chance.suggest_float(name, low, high, log=log))
        return value

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number."""
        self.distributions[name] = IntDistribution(low, high)
        value = self.params[name] = int(self.chance.suggest_int(name, low, high))
        return value

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """A word."""
        self.distributions[name] = CategoricalDistribution(choices)
        word = self.params[name] = str(self.chance.suggest_categorical(name, choices))
        return word


def entry(name: str, candidate: Candidate, params: Mapping[str, int | float | str] | None = None) -> Entry:
    """A trial that has not begun."""
    return Entry(
        name=name,
        family=candidate.family,
        params=dict(params or {}),
        values=candidate.values,
        override=candidate.override,
    )
