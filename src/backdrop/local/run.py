"""Runs a pipeline on this machine: the same graph as on a cluster, its tasks in processes or in containers."""

import contextlib
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp import local
from rich.console import Console

from backdrop.common import s3_client, storage
from backdrop.common.environment import environment
from backdrop.common.errors import TrackingError
from backdrop.common.lock import hold
from backdrop.common.outputs import output_folder, require
from backdrop.common.processes import terminable
from backdrop.common.redact import without_credentials
from backdrop.config import Ensemble
from backdrop.config.planned import planned
from backdrop.evaluation.records import PAGE
from backdrop.local.console import Screen, Task
from backdrop.local.docker_runner import docker_runner, find_docker
from backdrop.local.forecast import Forecast
from backdrop.local.logs import task_logs
from backdrop.local.results import Outputs, members_table, prediction_summary, read_outputs, summary
from backdrop.local.subprocess_runner import process_runner
from backdrop.pipelines.prediction import prediction
from backdrop.pipelines.training import Tuned, searched, training
from backdrop.tracking import DATABASE, INSTALL, SWITCH, URI, enabled, sqlite_path, tracking_uri
from backdrop.tracking.server import store_server
from backdrop.tracking.store import artifact_folder, prepare

SOURCE = Path(__file__).resolve().parents[2]
STEP, REPORT = "pipeline run", "report"
BESIDE_MEMBERS = ("check", "plan", "evaluate", "register")
BESIDE_SHARES = ("shard", "merge")


@dataclass(frozen=True)
class Request:
    """What to run; `objects` 0 and `folds` None mean all; `containers` needs Docker and the image."""

    ensemble: Ensemble
    data: str
    name: str
    work: Path
    objects: int = 0
    folds: Sequence[int] | None = None
    promotion: bool = True
    tuned: Tuned = "off"
    containers: bool = False


@dataclass(frozen=True)
class Prediction:
    """Photographs to predict: the number of shares, and the prediction pipeline's parameters with absolute paths."""

    shards: int
    parameters: Mapping[str, Any]
    work: Path
    containers: bool = False


def run_here(request: Request, console: Console) -> int:
    """Runs the training pipeline and prints its results.

    Returns:
        The exit code: 0 on success (a rejected challenger is not a failure), 1 if a task failed or the dataset has
        errors, 2 if the input can't be used.

    Raises:
        ConfigError: if the ensemble has no such fold.
        DockerError: if it should run in containers, but Docker doesn't answer or doesn't have the image.
        StorageError: if there is no dataset at that path, its address contains credentials, or another run has the work
            folder.
        TrackingError: if MLflow's store can't be used, or its server for containers doesn't start.
    """
    members = planned(request.ensemble, request.folds)
    if storage.is_remote(request.data):
        s3_client.split(request.data)  # refuses credentials, which would be in the tasks' arguments
    else:
        storage.local_folder(request.data)
    if request.containers:
        find_docker()
    require(request.work / REPORT, STEP)
    work = (request.work / "members").resolve()
    graph = partial(
        training(request.ensemble, request.folds, retries=0, tuned=request.tuned, flat=True),
        data=_absolute(request.data),
        name=request.name,
        work=str(work),
        objects=request.objects,
        promotion=request.promotion,
    )
    total = len(searched(request.ensemble, request.tuned)) + len(members) + len(BESIDE_MEMBERS) + request.promotion
    forecast = Forecast(members, total, bool(request.ensemble.postprocessing))
    mounts = (_absolute(request.data), [work]) if request.containers else None
    with terminable(), hold(request.work, "pipeline run", "--work"):
        done = _run(graph, request.work, mounts, Screen(console, total, forecast))
        outputs = read_outputs(done.root)
        if any(member.task in done.tasks for member in members) or outputs.is_unchanged:
            console.print(members_table(members, done.tasks, outputs))
        return _show(console, done, [*summary(outputs), *_pages(request, outputs)])


def predict_here(request: Prediction, console: Console) -> int:
    """Runs the prediction pipeline and prints where its results are.

    Returns:
        The exit code: 0 on success, 1 if a task failed, 2 if the input can't be used.

    Raises:
        DockerError: as `run_here` does.
        StorageError: if another run has the work folder.
        TrackingError: as `run_here` does.
    """
    if request.containers:
        find_docker()
    values = request.parameters
    folders = [Path(values[name]) for name in ("out", "work") if not storage.is_remote(values[name])]
    graph = partial(prediction(request.shards, retries=0), **values)
    screen = Screen(console, request.shards + len(BESIDE_SHARES), lambda *_: None)
    with terminable(), hold(request.work, "pipeline run", "--work"):
        done = _run(graph, request.work, (values["images"], folders) if request.containers else None, screen)
        return _show(console, done, prediction_summary(read_outputs(done.root), values["out"]))


def _show(console: Console, done: "Done", lines: Sequence[str]) -> int:
    """Prints some lines, and where the logs are; returns the exit code."""
    for line in (*lines, *_failures(done.tasks, done.logs)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return exit_code(done.tasks)


def exit_code(tasks: Mapping[str, Task]) -> int:
    """0 if every task succeeded, 2 if check, plan or shard refused its input, 1 otherwise."""
    failed = [task for task in tasks.values() if not task.well]
    if any(task.name in ("check", "plan", "shard") and task.error for task in failed):
        return 2
    return 1 if failed or not tasks else 0


def own_folder(parent: Path) -> Path:
    """A new folder, named by the present second, and by a number if that name is taken.

    Raises:
        StorageError: if it can't be made.
    """
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    folder, number = parent / stamp, 1
    with storage.disk_errors(folder):
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                folder = parent / f"{stamp}-{number}"
            else:
                return folder


@dataclass(frozen=True)
class Done:
    """A run that has ended: its tasks, and the folders of their outputs and logs."""

    tasks: Mapping[str, Task]
    root: Path
    logs: Path


def _run(graph: Callable[[], object], work: Path, mounts: tuple[str, list[Path]] | None, screen: Screen) -> Done:
    """Runs a graph's tasks in processes, or in containers if `mounts` has what they read and the folders they write."""
    root = own_folder(work / "runs")
    logs = work / "logs" / root.name
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    with _tracking(mounts is not None, logs, screen.console) as artifacts:
        runner = docker_runner(mounts[0], [*mounts[1], *artifacts], work) if mounts else process_runner()
        local.init(runner, pipeline_root=str(root), raise_on_error=False)
        with (
            screen,
            task_logs(logs, screen),
            TemporaryDirectory() as scratch,  # each task leaves a folder in it
            environment(PYTHONPATH=path, TMPDIR=scratch),
            _quiet(),
        ):
            graph()
    return Done(screen.tasks, root, logs)


def _absolute(place: str) -> str:
    return place if storage.is_remote(place) else str(Path(place).resolve())


@contextlib.contextmanager
def _tracking(containers: bool, logs: Path, console: Console) -> Iterator[Sequence[Path]]:
    """Sets the tracking address of the tasks: a server's, or the absolute path of this folder's store.

    Containers can't open the store, so for them a server over it runs while the block lasts.

    Yields:
        The folders that tasks write artifacts to directly, not through a server.
    """
    if not enabled():
        raise TrackingError("A pipeline run needs MLflow", f"Install it ({INSTALL}), or don't set {SWITCH}")
    uri = tracking_uri()
    database = sqlite_path(uri)
    if database is None:
        with environment(**{URI: uri}):
            yield ()
        return
    prepare(database)  # once, before the tasks open it
    with contextlib.ExitStack() as stack:
        if containers:
            console.print(f"Starting MLflow on {database}", highlight=False)
            uri = stack.enter_context(store_server(database, logs / "mlflow.log"))
        stack.enter_context(environment(**{URI: uri}))
        yield (artifact_folder(database),)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides kfp's warnings that a local run ignores images and GPU nodes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        warnings.filterwarnings("ignore", ".* have no effect in the current local runner", UserWarning)
        yield


def _pages(request: Request, outputs: Outputs) -> list[str]:
    """Lines with the paths of the report, which is copied to the work folder, and of MLflow."""
    page, target = outputs.path("promote", "page") or outputs.path("evaluate", "page"), request.work / REPORT / PAGE
    if page is not None:
        with output_folder(request.work / REPORT, STEP, PAGE) as folder:
            (folder / PAGE).write_bytes(page.read_bytes())
    lines = [f"Report     {target}"] if page or (outputs.is_unchanged and target.is_file()) else []
    return [*lines, f"MLflow     {_mlflow()}"]


def _mlflow() -> str:
    """The server's address, or the command that opens the store's UI."""
    uri = tracking_uri()
    database = sqlite_path(uri)
    if database is None:
        return without_credentials(uri)
    named = [] if database == Path(DATABASE).absolute() else ["--backend-store-uri", uri]
    return shlex.join([f"{os.path.relpath(Path(sys.executable).parent)}/mlflow", "ui", *named])


def _failures(tasks: Mapping[str, Task], logs: Path) -> list[str]:
    failed = [f"FAILED     {name}: see {logs / name}.log" for name, task in tasks.items() if not task.well]
    remedy = "Fix the error and run the same command again. Finished members are not trained again."
    return [*failed, f"           {remedy}"] if failed else [f"Logs       {logs}"]
