"""A search from its first trial to its verdict: the trials, then the best and the best preset with fresh seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backdrop.common.errors import ConfigError, TuningError
from backdrop.common.words import count
from backdrop.config import Budget, Recipe, Space
from backdrop.config.space import Candidate
from backdrop.tuning.ray_runner import cluster, search, slots
from backdrop.tuning.results import Comparison, Search, Trial, compare, ranked
from backdrop.tuning.samplers import Listed, Random, Source, Tpe, entry
from backdrop.tuning.trial import TrialSpec, trial_recipe
from backdrop.tuning.trial_store import Entry, as_trial, judged, named

TRIALS, REPEATS = "trials", "repeats"
SEED = "seed"


@dataclass(frozen=True)
class Plan:
    """What is searched: `recipe` as it will be trained, `proxy` as the trials train it, the presets by their names.

    `out` is where all that comes of it is kept, a folder or an `s3://` prefix; `plan` the fold plan's address there,
    and `digest` that of its data.
    """

    data: str
    plan: str
    digest: str
    recipe: Recipe
    proxy: Recipe
    space: Space
    presets: Mapping[str, Candidate]
    budget: Budget
    out: str

    def spec(self, phase: str) -> TrialSpec:
        """What the trials of a phase have in common."""
        return TrialSpec(self.data, self.plan, self.proxy, self.budget.folds, f"{self.out}/{phase}")

    def entries(self) -> list[Entry]:
        """The presets as trials."""
        return [entry(named(i, name), candidate) for i, (name, candidate) in enumerate(self.presets.items())]

    def check(self) -> None:
        """Makes sure, before anything is spent, that there is something to search, and that all of it can be trained.

        Raises:
            ConfigError: if there are no trials but presets, or one can't be trained.
        """
        if self.budget.trials <= len(self.presets):
            presets = count(len(self.presets), "preset")
            what = f"--trials {self.budget.trials} is no more than the {presets} of {self.space.name}"
            raise ConfigError(what, f"Ask for --trials {len(self.presets) + 1} or more")
        samples = [Random(self.space, self.recipe, [], self.budget.trials, self.budget.seed).give(0, None)]
        for one in (*self.entries(), *samples):
            trial_recipe(self.spec(TRIALS), one.override)


Notify = Callable[[str, Entry, Recipe], None]


def run_search(plan: Plan, parallel: int | None, notify: Notify) -> tuple[Search, Entry]:
    """Runs a search, or what is left of it.

    Args:
        plan: what is searched.
        parallel: how many trials run at a time; None: one for each GPU, else one.
        notify: hears of a trial when it begins, at each epoch and when it ends: its name, itself, and what it trains.

    Returns:
        What came of it, and the trial whose schedule was chosen.

    Raises:
        TuningError: if no trial comes to a Dice.
        StorageError: if something can't be written.
    """
    with cluster():
        at_once = parallel or slots()
        entries = _phase(plan, TRIALS, _source(plan), at_once, notify)
        trials = [as_trial(one, _trained(plan, one)) for one in entries]
        finalists = _finalists(ranked(trials), entries)
        if not finalists:
            raise TuningError("No trial trained to its end", f"Look at the errors in {plan.out}/{TRIALS}")
        seeds = [plan.proxy.seed + number for number in range(1, plan.budget.repeats + 1)]
        pairs = enumerate((one, seed) for seed in seeds for one in finalists)
        again = [_with_seed(index, one, seed) for index, (one, seed) in pairs]
        repeated = _phase(plan, REPEATS, Listed(again), at_once, notify) if len(finalists) == 2 and seeds else []
    comparison = _compare(finalists, seeds, repeated)
    better = comparison is None or comparison.difference > 0
    winner = finalists[0 if better else 1]
    found = Search(
        recipe=plan.recipe.name,
        space=plan.space.name,
        data=plan.digest,
        folds=plan.budget.folds,
        budget_epochs=plan.budget.epochs,
        epochs=plan.recipe.epochs,
        trials=tuple(trials),
        comparison=comparison,
        chosen=winner.name,
    )
    return found, winner


def _phase(plan: Plan, phase: str, source: Source, parallel: int, notify: Notify) -> list[Entry]:
    early = phase == TRIALS and plan.budget.scheduler == "asha"
    label = f"{plan.recipe.name} {phase}, epoch"
    name = "repeat-{}" if phase == REPEATS else "{}"

    def hear(one: Entry) -> None:
        notify(name.format(one.name), one, _trained(plan, one))

    return search(plan.spec(phase), source, early, parallel, hear, label)


def _source(plan: Plan) -> Source:
    kind = Tpe if plan.budget.searcher == "tpe" else Random
    return kind(plan.space, plan.recipe, plan.entries(), plan.budget.trials, plan.budget.seed)


def _trained(plan: Plan, one: Entry) -> Recipe:
    return trial_recipe(plan.spec(TRIALS), one.override)


def _finalists(order: Sequence[Trial], entries: Sequence[Entry]) -> list[Entry]:
    """The best that was drawn, then the best preset; the best of all, first, where one of them is missing."""
    firsts = [next((trial for trial in order if trial.preset == kind), None) for kind in (False, True)]
    names = [trial.name for trial in firsts if trial]
    return [one for name in names for one in entries if one.name == name]


def _with_seed(index: int, one: Entry, seed: int) -> Entry:
    name = named(index, f"{one.name}-seed-{seed}")
    return Entry(name=name, family=one.family, override={**one.override, SEED: seed})


def _compare(finalists: Sequence[Entry], seeds: Sequence[int], repeated: Sequence[Entry]) -> Comparison | None:
    """None if there are no repeats, or one of them never came to its end."""
    if not repeated or any(one.status != "finished" for one in repeated):
        return None
    found = [judged(one.rows) for one in repeated]
    return compare(finalists[0].name, finalists[1].name, seeds, found[::2], found[1::2])
