"""A search from start to end: the trials, then the best sampled schedule and the best preset with fresh seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backdrop.common.errors import ConfigError, TuningError
from backdrop.common.progress import log
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
    """What to search.

    Attributes:
        data: the dataset.
        plan: the fold plan's address below `out`.
        digest: of the plan's data.
        key: the search's key, which its trials' records bear.
        recipe: the recipe as it will be trained.
        proxy: the recipe as the trials train it.
        space: the search space.
        presets: schedules to try first, by name.
        budget: the search's limits.
        out: folder or `s3://` prefix of everything that the search writes.
    """

    data: str
    plan: str
    digest: str
    key: str
    recipe: Recipe
    proxy: Recipe
    space: Space
    presets: Mapping[str, Candidate]
    budget: Budget
    out: str

    def spec(self, phase: str) -> TrialSpec:
        """The settings that the trials of a phase share."""
        return TrialSpec(self.data, self.plan, self.proxy, self.budget.folds, self.key, f"{self.out}/{phase}")

    def entries(self) -> list[Entry]:
        """The presets as trials."""
        return [entry(named(i, name), candidate) for i, (name, candidate) in enumerate(self.presets.items())]

    def check(self) -> None:
        """Checks before the search that it has more trials than presets, and that they can be trained and recorded.

        Raises:
            ConfigError: if it hasn't, or they can't be trained.
            StorageError: if somebody else's file has the name of a trial's record.
        """
        if self.budget.trials <= len(self.presets):
            presets = count(len(self.presets), "preset")
            what = f"--trials {self.budget.trials} leaves nothing to search after the {presets} of {self.space.name}"
            raise ConfigError(what, f"Use --trials {len(self.presets) + 1} or more")
        samples = [Random(self.space, self.recipe, [], self.budget.trials, self.budget.seed).give(0, None)]
        for trial in (*self.entries(), *samples):
            trial_recipe(self.spec(TRIALS), trial.override)
        for phase in (TRIALS, REPEATS):
            self.spec(phase).store.require()


Notify = Callable[[str, Entry, Recipe], None]


def run_search(plan: Plan, parallel: int | None, notify: Notify) -> tuple[Search, Entry]:
    """Runs a search, or resumes it.

    Args:
        plan: what to search.
        parallel: how many trials run at a time; None means one for each GPU, or one without a GPU.
        notify: called with a trial's name, the trial and its recipe when it starts, after each epoch and when it ends.

    Returns:
        The result, and the trial whose schedule was chosen.

    Raises:
        TuningError: if no trial finishes.
        StorageError: if a file can't be written.
    """
    with cluster():
        workers = parallel or slots()
        entries = _phase(plan, TRIALS, _source(plan), workers, notify)
        trials = [as_trial(trial, _trained(plan, trial)) for trial in entries]
        finalists = _finalists(ranked(trials), entries)
        if not finalists:
            raise TuningError("No trial trained to its end", f"See the errors in {plan.out}/{TRIALS}")
        seeds = [plan.proxy.seed + number for number in range(1, plan.budget.repeats + 1)]
        pairs = enumerate((finalist, seed) for seed in seeds for finalist in finalists)
        repeats = [_with_seed(index, finalist, seed) for index, (finalist, seed) in pairs]
        repeated = _phase(plan, REPEATS, Listed(repeats), workers, notify) if len(finalists) == 2 and seeds else []
    comparison = _compare(finalists, seeds, repeated)
    winner = _winner(finalists, comparison, repeated)
    if repeated and comparison is None:
        what = f"A repeat failed, so {winner.name} is chosen without a comparison"
        log(f"{what}. To try it again, delete {plan.out}/search.json and run the same command")
    result = Search(
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
    return result, winner


def _phase(plan: Plan, phase: str, source: Source, parallel: int, notify: Notify) -> list[Entry]:
    early = phase == TRIALS and plan.budget.scheduler == "asha"
    label = f"{plan.recipe.name} {phase}, epoch"
    name = "repeat-{}" if phase == REPEATS else "{}"

    def pass_on(trial: Entry) -> None:
        notify(name.format(trial.name), trial, _trained(plan, trial))

    return search(plan.spec(phase), source, early, parallel, pass_on, label)


def _source(plan: Plan) -> Source:
    sampler = Tpe if plan.budget.searcher == "tpe" else Random
    return sampler(plan.space, plan.recipe, plan.entries(), plan.budget.trials, plan.budget.seed)


def _trained(plan: Plan, trial: Entry) -> Recipe:
    return trial_recipe(plan.spec(TRIALS), trial.override)


def _finalists(order: Sequence[Trial], entries: Sequence[Entry]) -> list[Entry]:
    """The best sampled schedule, then the best preset; only one of them if the other doesn't exist."""
    firsts = [next((trial for trial in order if trial.preset == preset), None) for preset in (False, True)]
    names = [trial.name for trial in firsts if trial]
    return [entry for name in names for entry in entries if entry.name == name]


def _with_seed(index: int, trial: Entry, seed: int) -> Entry:
    name = named(index, f"{trial.name}-seed-{seed}")
    return Entry(name=name, family=trial.family, override={**trial.override, SEED: seed})


def _winner(finalists: Sequence[Entry], comparison: Comparison | None, repeated: Sequence[Entry]) -> Entry:
    """The better finalist; the preset if a repeat failed, because a sampled schedule has to prove itself."""
    better = comparison.difference > 0 if comparison else not repeated
    return finalists[0 if better else 1]


def _compare(finalists: Sequence[Entry], seeds: Sequence[int], repeated: Sequence[Entry]) -> Comparison | None:
    """The comparison of the two finalists; None if there are no repeats, or one of them didn't finish."""
    if not repeated or any(trial.status != "finished" for trial in repeated):
        return None
    dices = [judged(trial.rows) for trial in repeated]
    return compare(finalists[0].name, finalists[1].name, seeds, dices[::2], dices[1::2])
