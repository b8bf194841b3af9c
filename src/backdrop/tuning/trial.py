"""One trial in a Ray process: the same training as `train`, reported to Ray after each epoch."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune

from backdrop.common import outputs, storage
from backdrop.common.environment import read_count
from backdrop.common.errors import TrainingError
from backdrop.config import Recipe
from backdrop.config.records import parse
from backdrop.config.space import within
from backdrop.data.dataset import Dataset, Digests, open_dataset
from backdrop.data.folds import FoldPlan, read_plan, verify
from backdrop.inference.member import CHECKPOINTS, MemberSpec
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.training.fit import FoldJob, claim_member, fit
from backdrop.tuning.trial_store import Entry, Row, TrialStore, as_row, judged

DICE = "dice"  # what Ray compares
EPOCHS = "epochs"  # trained so far, over all folds
ROW = "row"
ERROR = "error"


@dataclass(frozen=True)
class TrialSpec:
    """The settings that all trials of a search share.

    `plan` is an address that every machine can read; `recipe` is the trials' recipe, at the proxy size and with the
    budget's epochs; `search` is the search's key, `address` where a phase keeps its trials' records.
    """

    data: str
    plan: str
    recipe: Recipe
    folds: tuple[int, ...]
    search: str
    address: str

    @property
    def store(self) -> TrialStore:
        """The trials' records."""
        return TrialStore(self.address, self.search)

    @property
    def epochs(self) -> int:
        """Epochs of a trial that isn't stopped, over all folds."""
        return self.recipe.epochs * len(self.folds)


def trial_recipe(spec: TrialSpec, override: Mapping[str, Any]) -> Recipe:
    """The recipe that a trial trains.

    Raises:
        ConfigError: if its schedule isn't valid.
    """
    values = {**spec.recipe.model_dump(mode="json"), **within(dict(override), spec.recipe.epochs)}
    return parse(Recipe, values, spec.recipe.name)


@dataclass
class _Reporter:
    """Reports a trial's epochs to Ray; `rows` are those reported so far."""

    rows: list[Row] = field(default_factory=list)

    def __call__(self, row: Row) -> None:
        """Reports an epoch; Ray may end the trial here."""
        self.rows.append(row)
        tune.report({DICE: judged(self.rows), EPOCHS: len(self.rows), ROW: row.model_dump()})

    def failed(self, error: str) -> None:
        """Reports that the trial failed."""
        tune.report({DICE: judged(self.rows) if self.rows else 0.0, EPOCHS: len(self.rows), ERROR: error})


def run(config: dict[str, Any], spec: TrialSpec) -> None:
    """Runs a trial, or resumes it after its process was killed and reports its earlier epochs to Ray again.

    A training error, such as a NaN loss, is a result; any other error is raised, because a retry may succeed.
    """
    entry, store, report = parse(Entry, config["entry"], "a trial"), spec.store, _Reporter()
    known = store.read(entry.name) or entry
    try:
        for fold in spec.folds:
            done = [row for row in known.rows if row.fold == fold]
            if known.ended or len(done) == spec.recipe.epochs:
                for row in done:
                    report(row)
            else:
                _train(spec, entry, fold, store.folder(entry.name), report)
    except TrainingError as error:
        report.failed(str(error))


def _train(spec: TrialSpec, entry: Entry, fold: int, address: str, report: _Reporter) -> None:
    """Trains one fold of a trial, and deletes its checkpoints at the end."""
    member = MemberSpec(*_open(spec.data, spec.plan), trial_recipe(spec, entry.override), fold)
    target = f"{address}/fold-{fold}"
    remote = storage.is_remote(target)
    folder = storage.cache_folder() / "trials" / member.key if remote else Path(target)
    store = _checkpoints(target, folder)
    claim = claim_member(folder)
    store.require()

    def watch(history: Sequence[Mapping[str, Any]]) -> None:
        reported = sum(row.fold == fold for row in report.rows)
        for row in history[reported:]:
            report(as_row(fold, row))

    try:
        torch.set_num_threads(read_count("OMP_NUM_THREADS"))  # Ray sets it to the trial's CPUs
        fit(FoldJob(member, folder, store), claim, watch)
        _clear(target, store)
    finally:
        if remote:  # its checkpoints are in S3
            shutil.rmtree(folder, ignore_errors=True)


def sweep(spec: TrialSpec, names: Sequence[str]) -> None:
    """Removes what ended trials may have left: checkpoints and metrics.

    Raises:
        StorageError: if it can't be removed.
    """
    for name in names:
        folder = spec.store.folder(name)
        remote = storage.is_remote(folder)
        for fold in spec.folds:
            target = f"{folder}/fold-{fold}"
            _clear(target, _checkpoints(target, storage.cache_folder() / "trials" if remote else Path(target)))
        if not remote:
            with contextlib.suppress(OSError):  # missing, or not empty
                Path(folder).rmdir()


def _checkpoints(target: str, folder: Path) -> CheckpointStore:
    """The checkpoints of a fold: at its address, and while it trains in a folder of this machine."""
    remote = f"{target}/{CHECKPOINTS}" if storage.is_remote(target) else None
    return CheckpointStore(folder / CHECKPOINTS, remote)


def _clear(target: str, store: CheckpointStore) -> None:
    store.clear()
    outputs.remove(target)


@lru_cache(1)
def _open(data: str, plan: str) -> tuple[Dataset, FoldPlan, Digests]:
    """The dataset and the plan, verified once per process, which runs many trials."""
    dataset, folds = open_dataset(data), read_plan(plan)
    return dataset, folds, verify(folds, dataset)
