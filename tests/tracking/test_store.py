"""The embedded store: made once, upgraded once, whatever else starts or is killed at the same time."""

import contextlib
import fcntl
import multiprocessing
import os
import random
import sqlite3
import sys
import threading
import time
import warnings
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import cv2
import mlflow.store
import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine
from typer.testing import CliRunner

from backdrop.cli.app import app
from backdrop.common.errors import TrackingError
from backdrop.tracking import store as embedded
from backdrop.tracking import tracking_uri
from backdrop.tracking.client import connect, experiment_id, retry, server_errors
from backdrop.tracking.store import is_current, prepare, revision

CUTS = sys.version_info >= (3, 14)  # Python's url2pathname, by which MLflow finds artifacts, knows fragments
# Its children are forked from a process that has imported what takes seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mlflow.db", "mlflow.store.tracking.sqlalchemy_store", "backdrop.tracking.client"])
SCRATCH = ".mlflow.db.new"
OLD = "97727af70f4d"  # MLflow 1.30


def log_a_run(folder: Path, number: int) -> None:
    """What a task does: a run with a parameter and a file, and a version of a registered model."""
    os.chdir(folder)
    # Its environment is that in which the server of forks was started, perhaps by another test.
    for name in ("BACKDROP_TRACKING", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)
    os.environ["MLFLOW_EXPERIMENT_NAME"] = folder.name
    client = connect()
    run = client.create_run(experiment_id(client), run_name=f"run-{number}")
    client.log_param(run.info.run_id, "number", number)
    client.log_text(run.info.run_id, str(number), "number.txt")
    client.create_registered_model(f"model-{number}")
    client.create_model_version(f"model-{number}", run.info.artifact_uri, run.info.run_id, await_creation_for=0)


def prepare_here(folder: Path) -> None:
    prepare(folder / "mlflow.db")


def read_without_the_right_to_write(folder: Path) -> None:
    """What `backdrop models` does for a second user, and what `register` gets."""
    os.chdir(folder)
    for name in ("BACKDROP_TRACKING", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)
    os.setuid(65534)
    client = connect()
    assert [model.name for model in client.search_registered_models()] == ["model-1"]

    def write() -> None:
        client.create_registered_model("another")

    with pytest.raises(TrackingError, match=rf"It failed: you may only read {folder}/mlflow\.db\. Ask for the right"):
        retry("It failed", write)  # at once
    with pytest.raises(TrackingError, match="It failed: you may only read"), server_errors("It failed"):
        write()


def at_once(target: object, *arguments: tuple[object, ...]) -> list[int | None]:
    """Exit codes of processes that run side by side."""
    processes: list[BaseProcess] = [PROCESSES.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def wait_until_begun(folder: Path, process: BaseProcess) -> None:
    """Until the database is being made: in another file, which a killed process may have left there before."""
    left = scratch(folder)
    while process.is_alive() and not (folder / "mlflow.db").exists() and scratch(folder) in (None, left):
        time.sleep(0.001)


def scratch(folder: Path) -> tuple[int, int] | None:
    """Which file it is being made in, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        stat = (folder / SCRATCH).stat()
        return stat.st_ino, stat.st_ctime_ns
    return None


def time_to_make(folder: Path) -> float:
    """Seconds from the start of a database in another file until it is renamed."""
    process = PROCESSES.Process(target=prepare_here, args=(folder,))
    process.start()
    wait_until_begun(folder, process)
    start = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - start


def old_database(path: Path) -> None:
    """A database as an old MLflow made it, with an experiment in it."""
    engine = create_engine(f"sqlite:///{path}")
    (folder,) = mlflow.store.__path__
    config = Config()
    config.set_main_option("script_location", f"{folder}/db_migrations")
    with warnings.catch_warnings(), engine.begin() as connection:
        warnings.simplefilter("ignore")
        Base.metadata.create_all(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, OLD)
    engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'old', 'active')")
    connection.close()


def experiments(folder: Path) -> set[str]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return {experiment.name for experiment in client.search_experiments()}


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".coverage")} - {"mlruns"}


def test_eight_processes_at_once_share_a_new_store(clean: None, tmp_path: Path) -> None:
    assert at_once(log_a_run, *((tmp_path, number) for number in range(8))) == [0] * 8
    os.chdir(tmp_path)
    client = connect()
    runs = client.search_runs([experiment_id(client)])
    assert {run.data.params["number"] for run in runs} == {str(number) for number in range(8)}
    for run in runs:
        text = Path(run.info.artifact_uri) / "number.txt"
        assert text.read_text() == run.data.params["number"]
        assert text.is_relative_to(tmp_path / "mlruns")
    assert len(client.search_registered_models()) == 8
    assert left_over(tmp_path) == {"mlflow.db", ".mlflow.db.lock"}


@pytest.mark.thorough
def test_a_start_that_is_killed_leaves_nothing_that_the_next_cannot_use(clean: None, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole_s, chance = time_to_make(tmp_path / "whole"), random.Random(0)
    folder, unfinished = tmp_path / "killed", 0
    folder.mkdir()
    for kill in range(6):
        process = PROCESSES.Process(target=prepare_here, args=(folder,))
        process.start()
        wait_until_begun(folder, process)
        time.sleep(chance.uniform(0, whole_s) if kill else 0)  # the first while the database is certainly not whole
        process.kill()
        process.join()
        finished = (folder / "mlflow.db").exists()
        assert not finished or revision(folder / "mlflow.db") == revision(tmp_path / "whole" / "mlflow.db")
        unfinished += not finished
        if finished:
            (folder / "mlflow.db").unlink()
    assert unfinished
    assert at_once(log_a_run, (folder, 1)) == [0]
    assert left_over(folder) == {"mlflow.db", ".mlflow.db.lock"}


def test_an_older_store_is_upgraded_once_by_whoever_comes_first(clean: None, tmp_path: Path) -> None:
    old_database(tmp_path / "mlflow.db")
    assert at_once(log_a_run, *((tmp_path, number) for number in range(3))) == [0] * 3
    assert is_current(tmp_path / "mlflow.db")
    assert experiments(tmp_path) >= {"old", tmp_path.name}
    assert left_over(tmp_path) == {"mlflow.db", ".mlflow.db.lock"}


def test_nobody_upgrades_a_store_in_use(clean: None, tmp_path: Path) -> None:
    old_database(tmp_path / "mlflow.db")
    said: SimpleQueue[str] = SimpleQueue()  # captured text that is read while a thread writes may be lost
    with (tmp_path / ".mlflow.db.lock").open("w") as user, pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "QUIET_S", 0.2)
        patch.setattr(embedded, "log", said.put)
        fcntl.flock(user, fcntl.LOCK_SH)
        upgrade = threading.Thread(target=prepare_here, args=(tmp_path,))
        upgrade.start()
        assert said.get(timeout=300).startswith("Waiting for the processes that create or use")
        assert revision(tmp_path / "mlflow.db") == OLD
    upgrade.join()
    assert is_current(tmp_path / "mlflow.db")


def test_a_store_that_mlflow_itself_made_is_used_as_it_is(clean: None, tmp_path: Path, store: Path) -> None:
    data = (store / "mlflow.db").read_bytes()
    (tmp_path / "mlflow.db").write_bytes(data)
    prepare_here(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == data


@pytest.mark.parametrize("fault", ["no database", "not MLflow's", "newer"])
def test_what_cannot_be_used_is_one_line_and_stays_as_it_is(
    clean: None, tmp_path: Path, store: Path, fault: str
) -> None:
    path = tmp_path / "mlflow.db"
    if fault == "no database":
        path.write_bytes(b"no database" * 100)
    else:
        path.write_bytes((store / "mlflow.db").read_bytes())
        statement = (
            "UPDATE alembic_version SET version_num = 'abcdef'" if fault == "newer" else "DROP TABLE alembic_version"
        )
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
    before = path.read_bytes()
    with pytest.raises(
        TrackingError, match="can't be upgraded" if fault == "newer" else "isn't an MLflow database"
    ) as caught:
        connect()
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == before


def test_a_store_that_cannot_be_read_is_not_called_another_programs(tmp_path: Path, store: Path) -> None:
    """As by a limit of files' size: whoever took it for another program's would move it away."""
    path = tmp_path / "mlflow.db"
    path.write_bytes((store / "mlflow.db").read_bytes())
    path.with_name("mlflow.db-journal").mkdir()  # SQLite reads it first
    with pytest.raises(TrackingError, match=f"^{path} can't be read .*Check its disk, permissions and limits"):
        revision(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become another user")
@pytest.mark.parametrize("rights", [0o644, 0o666], ids=oct)
def test_who_may_not_write_a_store_can_read_it(clean: None, rights: int) -> None:
    with TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        assert at_once(log_a_run, (Path(folder), 1)) == [0]
        Path(folder, "mlflow.db").chmod(rights)
        assert at_once(read_without_the_right_to_write, (Path(folder),)) == [0]


def test_an_empty_file_becomes_a_store(clean: None, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert experiment_id(connect())


def test_another_working_folder_means_the_same_store(
    clean: None, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    monkeypatch.chdir(tmp_path)
    client = connect()
    run = client.create_run(experiment_id(client))
    client.log_text(run.info.run_id, "text", "file.txt")
    assert Path(run.info.artifact_uri).is_relative_to(store / "mlruns")
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(store)
    assert connect().get_run(run.info.run_id)


@pytest.mark.parametrize(
    "name",
    ["Müller & Söhne's 100%", pytest.param("shoes #1", marks=pytest.mark.skipif(CUTS, reason="cut off at the #"))],
)
def test_odd_folder_names_work(
    clean: None, name: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mlflow.db").write_bytes((store / "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team/a b")
    monkeypatch.chdir(folder)
    client = connect()
    run = client.create_run(experiment_id(client))
    client.log_text(run.info.run_id, "text", "file.txt")
    assert Path(client.download_artifacts(run.info.run_id, "file.txt", str(tmp_path))).read_text() == "text"
    assert [path.name for path in folder.rglob("file.txt")] == ["file.txt"]


@pytest.mark.parametrize(
    "name",
    [
        *("what now?", "my%20photos", "back\\slash", "two\nlines", "Anna's 5\" photos"),
        pytest.param("shoes #1", marks=pytest.mark.skipif(not CUTS, reason="found in spite of the #")),
    ],
)
def test_a_folder_that_mlflow_would_take_for_another_is_refused(
    clean: None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(TrackingError, match=r"can't open a store at .*, whose path has .*\. Rename the folder"):
        connect()
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["history", "products"],
        ["history", "products", "--verify"],
        ["verify", "products"],
        ["models"],
        ["promote", "photos", "--name", "products"],
        ["rollback", "products"],
        ["hold", "products", "--reason", "a sale"],
        ["release", "products"],
        ["predict", "photos", "--model", "models:/products@champion", "--out", "out"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_command_that_only_reads_makes_no_store(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("BACKDROP_TRACKING", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", np.zeros((8, 8, 3), np.uint8))
    said = CliRunner().invoke(app, command)
    store = tmp_path / "mlflow.db"
    if command == ["models"]:
        assert f"No registered models in {store}" in said.output
    else:
        assert f"because there is no {store}" in str(said.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
