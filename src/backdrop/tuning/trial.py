"""One trial, in a process of Ray's: the training that `train` does, notify to Ray epoch by epoch."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune

from backdrop.common import storage
from backdrop.common.errors import TrainingError
from backdrop.config import Recipe
from backdrop.config.records import parse
from backdrop.config.space import within
from backdrop.data.dataset import Dataset, Digests, open_dataset
from backdrop.data.folds import FoldPlan, read_plan, verify
from backdrop.inference.member import CHECKPOINTS, content_key
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.training.fit import FoldJob, fit
from backdrop.training.trainer import Watch
from backdrop.tuning.trial_store import Entry, Row, TrialStore, as_row, judged

DICE = "dice"  # what Ray compares
EPOCHS = "epochs"  # trained so far, all folds together
ROW = "row"
ERROR = "error"


@dataclass(frozen=True)
class TrialSpec:
    """What all trials of a search have in common.

    `plan` is an address that every machine can read; `recipe` is that of the trials, at its proxy size and with the
    budget as its epochs; `store` is where its trials are kept.
    """

    data: str
    plan: str
    recipe: Recipe
    folds: tuple[int, ...]
    store: str

    @property
    def epochs(self) -> int:
        """Those of a trial that isn't stopped, over all folds."""
        return self.recipe.epochs * len(self.folds)


def trial_recipe(spec: TrialSpec, override: Mapping[str, Any]) -> Recipe:
    """What a trial trains.

    Raises:
        ConfigError: if its schedule isn't valid.
    """
    values = {**spec.recipe.model_dump(mode="json"), **within(dict(override), spec.recipe.epochs)}
    return parse(Recipe, values, spec.recipe.name)


@dataclass
class _Teller:
    """Tells Ray a trial's epochs; `rows` are those that it has heard."""

    rows: list[Row] = field(default_factory=list)

    def __call__(self, row: Row) -> None:
        """One epoch more. Ray ends the trial here if it has seen enough."""
        self.rows.append(row)
        tune.report({DICE: judged(self.rows), EPOCHS: len(self.rows), ROW: row.model_dump()})

    def failed(self, error: str) -> None:
        """The trial can't go on."""
        tune.report({DICE: judged(self.rows) if self.rows else 0.0, EPOCHS: len(self.rows), ERROR: error})


def run(config: dict[str, Any], spec: TrialSpec) -> None:
    """A trial from its beginning, or from where an earlier process was killed; Ray hears its first epochs again then.

    What can't be trained (a loss that is no number) is a result; what may be otherwise next time is raised.
    """
    entry, store, tell = parse(Entry, config["entry"], "a trial"), TrialStore(spec.store), _Teller()
    known = store.read(entry.name) or entry
    try:
        for fold in spec.folds:
            done = [row for row in known.rows if row.fold == fold]
            if known.ended or len(done) == spec.recipe.epochs:
                for row in done:
                    tell(row)
            else:
                _train(spec, entry, fold, store.folder(entry.name), tell)
    except TrainingError as error:
        tell.failed(str(error))


def _train(spec: TrialSpec, entry: Entry, fold: int, place: str, tell: _Teller) -> None:
    """One fold of a trial; its checkpoints go when it is over."""
    _, plan, digests = _world(spec.data, spec.plan)
    recipe = trial_recipe(spec, entry.override)
    target = f"{place}/fold-{fold}"
    key = content_key(recipe, plan, digests, fold)
    remote = storage.is_remote(target)
    folder = storage.cache_folder() / "trials" / key if remote else Path(target)
    store = CheckpointStore(folder / CHECKPOINTS, f"{target}/{CHECKPOINTS}" if remote else None)

    def watch(history: Sequence[Mapping[str, Any]]) -> None:
        heard = sum(row.fold == fold for row in tell.rows)
        for row in history[heard:]:
            tell(as_row(fold, row))

    try:
        train_fold(spec, recipe, fold, folder, key, store, watch)
        store.clear()
    finally:
        if remote:  # what is needed to go on is there
            shutil.rmtree(folder, ignore_errors=True)


def train_fold(
    spec: TrialSpec, recipe: Recipe, fold: int, folder: Path, key: str, store: CheckpointStore, watch: Watch
) -> None:
    """Trains a recipe on one fold by the very loop of `train`, from the newest checkpoint on the store.

    Args and errors are those of `fit`.
    """
    dataset, plan, digests = _world(spec.data, spec.plan)
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))  # Ray sets it to the trial's CPUs
    fit(FoldJob(dataset, plan, digests, recipe, fold, folder, key, store), watch)


@lru_cache(1)
def _world(data: str, plan: str) -> tuple[Dataset, FoldPlan, Digests]:
    """Read and verified once in each process, which runs many trials."""
    dataset, folds = open_dataset(data), read_plan(plan)
    return dataset, folds, verify(folds, dataset)
