"""Runs trials on Ray: starts them, stops bad ones early, and records their results."""

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private.services import canonicalize_bootstrap_address_or_die  # Ray has no public name for it
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from backdrop.common.errors import TuningError, shorten
from backdrop.common.processes import terminable
from backdrop.common.progress import log, progress, working
from backdrop.common.redact import without_credentials
from backdrop.common.temporary import temporary_beside
from backdrop.tuning.cluster.auth import USAGE, local_cluster
from backdrop.tuning.samplers import Source
from backdrop.tuning.trial import DICE, EPOCHS, ERROR, ROW, TrialSpec, run, sweep
from backdrop.tuning.trial_store import Entry, Row, TrialStore, judged

TRIES = 2  # retries of a trial whose machine went away
REDUCTION = 3  # at each rung, one of this many trials continues
FIRST_RUNG = 4  # the first rung is after 1/4 of a fold's budget
OBJECT_STORE = 100 * 2**20  # bytes; small, because trials don't pass data to each other
PRESET = "preset"
AUTO, LOCAL = "auto", "local"  # Ray's own words for RAY_ADDRESS
CONNECT_S = 10.0
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an HTTP/2 client's first words
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints tracebacks; our errors say the same in a line

# They turn off Ray's log files and usage reports, among others.
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    **USAGE,
    "RAY_worker_niceness": "0",  # trials run at normal priority
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would treat an interruption as the regular end
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}

Notify = Callable[[Entry], None]


def search(spec: TrialSpec, source: Source, early: bool, parallel: int, notify: Notify, label: str) -> list[Entry]:
    """Runs all trials of a source, or those that aren't finished; the same source and spec give the same trials.

    Args:
        spec: the settings that all trials share.
        source: gives their schedules.
        early: whether bad trials, but never presets, are stopped early (ASHA: Li et al. 2018, arXiv:1810.05934).
        parallel: how many trials run at a time.
        notify: called with a trial when it starts, after each epoch and when it ends.
        label: of the progress, which counts epochs.

    Returns:
        The trials in order.

    Raises:
        TuningError: if no trial has a Dice.
    """
    store = spec.store
    candidates = Candidates(source, store)
    with progress(label, source.total * spec.epochs) as advance:
        recorder = TrialRecorder(store, spec.epochs, candidates.tell, notify, advance)
        # For Ray's own state, which we never restore.
        with temporary_beside(Path(tempfile.gettempdir(), "search")) as scratch:
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
                    storage_path=str(scratch),
                    callbacks=[recorder],
                    failure_config=tune.FailureConfig(max_failures=TRIES),
                    verbose=0,
                ),
            )
            tuner.fit()
    entries = [recorder.entries[name] for name in sorted(recorder.entries)]
    sweep(spec, [entry.name for entry in entries])
    if not any(entry.rows for entry in entries):
        errors = sorted({entry.error for entry in entries})
        raise TuningError(
            f"No trial finished an epoch ({'; '.join(errors)})", "Fix the cause and run the same command again"
        )
    return entries


@contextmanager
def cluster() -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names, or else starts one on this machine while the block lasts.

    A SIGTERM ends the block. Left to itself, Ray would abort this process three seconds later, whatever it still does.

    Raises:
        TuningError: if Ray doesn't start, or the cluster can't be reached.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if address == LOCAL:
        address = None
    # Socket paths have a length limit, so the folder's path must be short.
    with temporary_beside(Path("/tmp/ray")) as path:  # noqa: S108  # a new folder in /tmp
        path.mkdir()
        folder = str(path)
        try:
            if address:
                _join(address, folder)
                with terminable():
                    yield
            else:
                with local_cluster():
                    with working("starting Ray"):
                        _start(folder)
                    with terminable():
                        yield
        finally:
            ray.shutdown()


def _join(address: str, folder: str) -> None:
    """Connects to a running cluster: `auto`, or the `host:port` that Ray gives its own jobs.

    Ray's workers look for modules in the folder that the driver connects in, and before Python's own, so that is an
    empty one: a photographs' folder may have a `statistics.py`.

    Raises:
        TuningError: if it is another kind of address, or nobody answers there within seconds.
    """
    host, _, port = address.rpartition(":")
    bare = without_credentials(address)
    if address != AUTO and ("//" in address or not host or not port.isdecimal() or int(port) > 65535):
        remedy = "Set it to the dashboard's http address, to host:port, to auto or to local"
        raise TuningError(f"RAY_ADDRESS={bare} isn't an address that a search can use", remedy)
    remedy = "Start the cluster, or unset RAY_ADDRESS to search on this machine"
    try:
        if address == AUTO:
            address = canonicalize_bootstrap_address_or_die(AUTO)
            host, _, port = address.rpartition(":")
        # Ray itself would ask a cluster that has died, or a server that never answers, for thirteen minutes.
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
            connection.sendall(HELLO)
            connection.recv(1)
        with chdir(folder):
            ray.init(address, **QUIET)
    except Exception as error:  # Ray raises no narrower type
        raise TuningError(f"There is no Ray cluster at RAY_ADDRESS={bare} ({shorten(error)})", remedy) from error


def _start(folder: str) -> None:
    """Starts Ray, up to three times: it gives its processes 30 s to start, too little on a busy machine.

    Its working folder is the new one, for its workers as in `_join`.
    """
    for last in (False, False, True):
        try:
            with chdir(folder):
                ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE, _temp_dir=folder, **QUIET)
            return
        except Exception as error:  # Ray raises no narrower type
            ray.shutdown()
            if last or "timed out" not in str(error):
                raise TuningError(
                    f"Ray doesn't start ({shorten(error)})", "Check the free memory, /dev/shm and /tmp"
                ) from error
            log("Ray didn't start in time; trying again")


def slots() -> int:
    """The default number of trials at a time: one for each GPU, or one without a GPU."""
    return max(1, int(ray.cluster_resources().get("GPU", 0)))


class NeverPickled:
    """Base of objects that Ray would pickle into its own state: it pickles an empty object instead."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Candidates(NeverPickled, Searcher):
    """Lets Ray ask a source for schedules; a trial in the store gets the same values again."""

    def __init__(self, source: Source, store: TrialStore) -> None:
        super().__init__(metric=DICE, mode="max")
        self.source, self.store, self.count = source, store, 0

    def suggest(self, trial_id: str) -> Any:
        """The next trial, or Ray's mark that there are no more."""
        if self.count >= self.source.total:
            return Searcher.FINISHED
        index, self.count = self.count, self.count + 1
        known = self.store.find(index)
        return {"entry": self.source.give(index, known.params if known else None).model_dump(mode="json")}

    def tell(self, entry: Entry) -> None:
        """Passes a trial's result to the source; Ray's `on_trial_complete` doesn't have the trial."""
        if entry.rows:
            self.source.tell(entry, judged(entry.rows))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Does nothing: `tell` has passed on the result."""

    def save(self, checkpoint_path: str) -> None:
        """Writes an empty file: the store has the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: a search resumes from the store."""


class TrialRecorder(NeverPickled, tune.Callback):
    """Writes each result to the store when it arrives."""

    def __init__(
        self, store: TrialStore, epochs: int, tell: Notify, notify: Notify, advance: Callable[[str], None]
    ) -> None:
        self.store, self.epochs, self.learn, self.notify, self.advance = store, epochs, tell, notify, advance
        self.entries: dict[str, Entry] = {}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """Records that a trial starts or resumes."""
        entry = self._entry(trial)
        self._keep(entry.model_copy(update={"error": ""} if entry.ended else {"error": "", "status": "running"}))

    def on_trial_result(self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: Any, **_: Any) -> None:
        """Records an epoch, unless it is known; a restarted trial reports its earlier epochs again."""
        entry = self._entry(trial)
        if ERROR in result:
            self._keep(entry.model_copy(update={"error": result[ERROR]}))
        elif result[EPOCHS] > len(entry.rows):
            row = Row(**result[ROW])
            self._keep(entry.model_copy(update={"rows": (*entry.rows, row)}))
        self.advance(f"{entry.name} Dice {result[DICE]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """Records that a trial has finished, failed or was stopped."""
        entry = self._entry(trial)
        if not entry.ended:
            status = "failed" if entry.error else "finished" if len(entry.rows) == self.epochs else "stopped"
            self._keep(entry.model_copy(update={"status": status}))
        self.learn(self._entry(trial))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        """Records that a trial has failed after all retries."""
        entry, error = self._entry(trial), _reason(trial)
        log(f"{entry.name} failed: {error}")
        self._keep(entry.model_copy(update={"status": "failed", "error": error}))

    def _entry(self, trial: RayTrial) -> Entry:
        entry = Entry(**trial.config["entry"])  # Ray doesn't say that a trial starts if its process can't
        return self.entries.get(entry.name) or self.store.read(entry.name) or entry

    def _keep(self, entry: Entry) -> None:
        self.entries[entry.name] = entry
        self.store.write(entry)
        self.notify(entry)


class PresetSafeASHA(ASHAScheduler):
    """ASHA that lets presets train to the end, so that the result is never worse than a preset."""

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: Mapping[str, Any]) -> str:
        """Ray's decision whether a trial continues; presets always do."""
        decision = super().on_trial_result(tune_controller, trial, result)
        is_preset = trial.config["entry"]["family"] == PRESET
        return TrialScheduler.CONTINUE if is_preset else str(decision)


def _reason(trial: RayTrial) -> str:
    """The last line of the trial's traceback, or our own error if there is one."""
    path = Path(trial.error_file)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
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
    """A trial's share of the cluster if `parallel` run at a time: whole CPUs or part of one, at most one GPU."""
    resources = ray.cluster_resources()
    cpu, gpu = resources.get("CPU", 1.0) / parallel, resources.get("GPU", 0.0) / parallel
    return {"cpu": int(cpu) if cpu >= 1 else cpu, "gpu": min(1.0, gpu)}
