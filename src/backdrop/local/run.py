"""Runs a pipeline on this machine: the same graph as on a cluster, its tasks in processes or in containers."""

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import local
from rich.console import Console

from backdrop.common import s3, storage
from backdrop.common.environment import environment
from backdrop.common.errors import TrackingError
from backdrop.common.lock import hold
from backdrop.common.outputs import output_folder, require
from backdrop.common.processes import terminable
from backdrop.common.redact import without_credentials
from backdrop.config import Ensemble
from backdrop.config.planned import Planned, planned
from backdrop.evaluation.metrics import PAGE
from backdrop.local.console import Screen, Task
from backdrop.local.docker_runner import docker_runner, find_docker
from backdrop.local.forecast import Forecast
from backdrop.local.logs import TaskLogs
from backdrop.local.results import Outputs, members_table, read_outputs, summary
from backdrop.local.subprocess_runner import process_runner
from backdrop.pipelines.training import Tuned, searched, training
from backdrop.tracking import DATABASE, INSTALL, SWITCH, URI, enabled, sqlite_path, tracking_uri
from backdrop.tracking.server import store_server
from backdrop.tracking.store import artifact_folder, prepare

SOURCE = Path(__file__).resolve().parents[2]
STEP, REPORT = "pipeline run", "report"
BESIDE_MEMBERS = ("check", "plan", "evaluate", "register")


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
        s3.split(request.data)  # refuses credentials, which would be in the tasks' arguments
    else:
        storage.local_folder(request.data)
    if request.containers:
        find_docker()
    require(request.work / REPORT, STEP)
    with terminable(), hold(request.work, "pipeline run", "--work"):
        return _run_alone(request, members, console)


def _run_alone(request: Request, members: Sequence[Planned], console: Console) -> int:
    root = own_folder(request.work / "runs")
    logs = request.work / "logs" / root.name
    with _tracking(request, logs, console) as artifacts:
        tasks = _run(request, root, logs, artifacts, console)
    outputs = read_outputs(root)
    if any(member.task in tasks for member in members) or outputs.is_unchanged:
        console.print(members_table(members, tasks, outputs))
    for line in (*summary(outputs), *_pages(request, outputs), *_failures(tasks, logs)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return exit_code(tasks)


def exit_code(tasks: Mapping[str, Task]) -> int:
    """0 if every task succeeded, 2 if check or plan refused its input, 1 otherwise."""
    failed = [task for task in tasks.values() if not task.well]
    if any(task.name in ("check", "plan") and task.error for task in failed):
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


def _run(request: Request, root: Path, logs: Path, artifacts: Sequence[Path], console: Console) -> Mapping[str, Task]:
    graph = training(request.ensemble, request.folds, retries=0, tuned=request.tuned, flat=True)
    members, searches = planned(request.ensemble, request.folds), searched(request.ensemble, request.tuned)
    total = len(searches) + len(members) + len(BESIDE_MEMBERS) + int(request.promotion)
    data = request.data if storage.is_remote(request.data) else str(Path(request.data).resolve())
    work = (request.work / "members").resolve()
    runner = docker_runner(data, [work, *artifacts], request.work) if request.containers else process_runner()
    local.init(runner, pipeline_root=str(root), raise_on_error=False)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    with (
        Screen(console, total, Forecast(members, total, bool(request.ensemble.postprocessing))) as screen,
        contextlib.closing(TaskLogs(logs, screen)) as stream,
        contextlib.redirect_stdout(stream),
        TemporaryDirectory() as scratch,  # each task leaves a folder in it
        environment(PYTHONPATH=path, TMPDIR=scratch),
        _quiet(),
    ):
        graph(
            data=data,
            name=request.name,
            work=str(work),
            objects=request.objects,
            promotion=request.promotion,
        )
    return screen.tasks


@contextlib.contextmanager
def _tracking(request: Request, logs: Path, console: Console) -> Iterator[Sequence[Path]]:
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
        if request.containers:
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
    command = f"{os.path.relpath(Path(sys.executable).parent)}/mlflow ui"
    return command if database == Path(DATABASE).absolute() else f"{command} --backend-store-uri {uri}"


def _failures(tasks: Mapping[str, Task], logs: Path) -> list[str]:
    failed = [f"FAILED     {name}: see {logs / name}.log" for name, task in tasks.items() if not task.well]
    remedy = "Fix the error and run the same command again. Finished members are not trained again."
    return [*failed, f"           {remedy}"] if failed else [f"Logs       {logs}"]
