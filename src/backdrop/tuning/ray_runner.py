"""Runs trials on Ray: which begin, which are stopped early, and what each has come to."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from backdrop.common.errors import TuningError, shorten
from backdrop.common.progress import log, progress, working
from backdrop.tuning.cluster.auth import USAGE, local_cluster
from backdrop.tuning.samplers import Source
from backdrop.tuning.trial import DICE, EPOCHS, ERROR, ROW, TrialSpec, run
from backdrop.tuning.trial_store import Entry, Row, TrialStore, judged

TRIES = 2  # more, for a trial whose machine went away
REDUCTION = 3  # of so many trials one goes on at each rung
FIRST_RUNG = 4  # which is after this part of a fold's budget
LITTLE = 100 * 2**20  # bytes of Ray's object store: trials hand each other nothing
PRESET = "preset"
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints whole tracebacks; our errors say what they say

# Ray's own wishes for a directory of logs, and figures sent home.
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    **USAGE,
    "RAY_worker_niceness": "0",  # training is what the machine is for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would make an end of an interruption
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}

Notify = Callable[[Entry], None]


def search(spec: TrialSpec, source: Source, early: bool, parallel: int, notify: Notify, label: str) -> list[Entry]:
    """Runs all trials of a source, or what is left of them; the same source and spec give the same trials.

    Args:
        spec: what all trials have in common.
        source: where their schedules come from.
        early: whether trials that do badly are stopped early (ASHA: Li et al. 2018, arXiv:1810.05934); presets never.
        parallel: how many run at a time.
        notify: hears of a trial when it begins, at each epoch and when it ends.
        label: of the progress, which counts epochs.

    Returns:
        The trials in their order.

    Raises:
        TuningError: if none came to a Dice.
    """
    store = TrialStore(spec.store)
    candidates = Candidates(source, store)
    with progress(label, source.total * spec.epochs) as advance:
        recorder = TrialRecorder(store, spec.epochs, candidates.tell, notify, advance)
        with tempfile.TemporaryDirectory() as scratch:  # nobody restores what Ray keeps there
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(run, spec=spec), share(parallel)),
                tune_config=tune.TuneConfig(
                    metric=DICE,
                    mode="max",
                    search_alg=candidates,
                    scheduler=_asha(spec) if early else FIFOScheduler(),
                    num_samples=source.total,
                    max_concurrent_trials=parallel,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=scratch,
                    callbacks=[recorder],
                    failure_config=tune.FailureConfig(max_failures=TRIES),
                    verbose=0,
                ),
            )
            tuner.fit()
    entries = [recorder.entries[name] for name in sorted(recorder.entries)]
    store.sweep([entry.name for entry in entries])
    if not any(entry.rows for entry in entries):
        errors = sorted({entry.error for entry in entries})
        raise TuningError(f"No trial came to a Dice ({'; '.join(errors)})", "Mend that, and run the same command again")
    return entries


@contextmanager
def cluster() -> Iterator[None]:
    """Ray: the cluster that RAY_ADDRESS names, else one of this machine for as long as the block lasts.

    Raises:
        TuningError: if Ray doesn't start.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    there = os.environ.get("RAY_ADDRESS")
    # Sockets' paths are short, so it can't be any folder.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        try:
            if there:
                ray.init(there, **QUIET)
                yield
            else:
                with local_cluster():
                    with working("starting Ray"):
                        _start(folder)
                    yield
        finally:
            ray.shutdown()


def _start(folder: str) -> None:
    """Ray gives its own processes half a minute to start, which a busy machine may need more of."""
    for last in (False, False, True):
        try:
            ray.init("local", include_dashboard=False, object_store_memory=LITTLE, _temp_dir=folder, **QUIET)
            return
        except Exception as error:  # Ray has no other for it
            ray.shutdown()
            if last or "timed out" not in str(error):
                raise TuningError(
                    f"Ray doesn't start ({shorten(error)})", "Look at memory, /dev/shm and /tmp"
                ) from error
            log("Ray didn't start in time; trying again")


def slots() -> int:
    """How many trials run at a time if nobody says: one for each GPU, else one."""
    return max(1, int(ray.cluster_resources().get("GPU", 0)))


class NeverPickled:
    """Ray writes what it is given as a pickle too, which nobody reads: nothing of this."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Candidates(NeverPickled, Searcher):
    """A source, as Ray asks for its schedules; a trial that the store knows is given as it was."""

    def __init__(self, source: Source, store: TrialStore) -> None:
        super().__init__(metric=DICE, mode="max")
        self.source, self.store, self.count = source, store, 0

    def suggest(self, trial_id: str) -> Any:
        """The next trial, or word that there are no more."""
        if self.count >= self.source.total:
            return Searcher.FINISHED
        index, self.count = self.count, self.count + 1
        known = self.store.find(index)
        return {"entry": self.source.give(index, known.params if known else None).model_dump(mode="json")}

    def tell(self, entry: Entry) -> None:
        """What a trial has come to; Ray's own word of it lacks the trial."""
        if entry.rows:
            self.source.tell(entry, judged(entry.rows))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Said by `tell`."""

    def save(self, checkpoint_path: str) -> None:
        """All that matters is in the store."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never done."""


class TrialRecorder(NeverPickled, tune.Callback):
    """Writes the store as results come in."""

    def __init__(
        self, store: TrialStore, epochs: int, tell: Notify, notify: Notify, advance: Callable[[str], None]
    ) -> None:
        self.store, self.epochs, self.learn, self.notify, self.advance = store, epochs, tell, notify, advance
        self.entries: dict[str, Entry] = {}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """A trial begins, or goes on."""
        entry = self.store.read(trial.config["entry"]["name"]) or Entry(**trial.config["entry"])
        self._keep(entry.model_copy(update={"error": ""} if entry.ended else {"error": "", "status": "running"}))

    def on_trial_result(self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: Any, **_: Any) -> None:
        """An epoch is over; what is notify again after a restart is known."""
        entry = self._entry(trial)
        if ERROR in result:
            self._keep(entry.model_copy(update={"error": result[ERROR]}))
        elif result[EPOCHS] > len(entry.rows):
            row = Row(**result[ROW])
            self._keep(entry.model_copy(update={"rows": (*entry.rows, row)}))
        self.advance(f"{entry.name} Dice {result[DICE]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """A trial is over, or was stopped."""
        entry = self._entry(trial)
        if not entry.ended:
            status = "failed" if entry.error else "finished" if len(entry.rows) == self.epochs else "stopped"
            self._keep(entry.model_copy(update={"status": status}))
        self.learn(self._entry(trial))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """A trial failed so often that it is given up."""
        entry, error = self._entry(trial), _why(trial)
        log(f"{entry.name} failed: {error}")
        self._keep(entry.model_copy(update={"status": "failed", "error": error}))

    def _entry(self, trial: RayTrial) -> Entry:
        return self.entries[trial.config["entry"]["name"]]

    def _keep(self, entry: Entry) -> None:
        self.entries[entry.name] = entry
        self.store.write(entry)
        self.notify(entry)


class PresetSafeASHA(ASHAScheduler):
    """ASHA that lets presets train to the end, so that the search never ends below them."""

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: Mapping[str, Any]) -> str:
        """Whether a trial goes on."""
        decision = super().on_trial_result(tune_controller, trial, result)
        spared = trial.config["entry"]["family"] == PRESET
        return TrialScheduler.CONTINUE if spared else str(decision)


def _why(trial: RayTrial) -> str:
    """What its process said last, our own error if there is one."""
    path = Path(trial.error_file)
    lines = [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    ours = [line.partition(": ")[2] for line in lines if line.startswith("backdrop.common.errors.")]
    return shorten((ours or lines or ["its process died"])[-1])


def _asha(spec: TrialSpec) -> PresetSafeASHA:
    return PresetSafeASHA(
        time_attr=EPOCHS,
        max_t=spec.epochs,
        grace_period=max(1, spec.recipe.epochs // FIRST_RUNG),
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )


def share(parallel: int) -> dict[str, float]:
    """A trial's part of the cluster if `parallel` run at a time: whole CPUs or part of one, one GPU at most."""
    found = ray.cluster_resources()
    cpu, gpu = found.get("CPU", 1.0) / parallel, found.get("GPU", 0.0) / parallel
    return {"cpu": int(cpu) if cpu >= 1 else cpu, "gpu": min(1.0, gpu)}
