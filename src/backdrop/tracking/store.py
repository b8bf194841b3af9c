"""Creates, upgrades and shares MLflow's default store safely: an SQLite file and a folder of artifacts.

MLflow migrates a new database in place, so most processes that open it at the same time crash, and a killed one leaves
it incomplete. Here one process creates it in another file, under a lock, and renames it; the others wait.
"""

import contextlib
import fcntl
import logging
import os
import re
import sqlite3
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

from backdrop.common.errors import TrackingError, shorten
from backdrop.common.progress import log
from backdrop.common.storage import disk_errors
from backdrop.tracking import SQLITE, URI

ARTIFACTS = "mlruns"
POLL_S = 0.1
QUIET_S = 10.0  # a longer wait is logged
# What an address of a database can't have in its path, and what MLflow writes wrongly into the statement that makes it.
# MLflow finds its artifacts by url2pathname, which cuts off what follows a number sign since Python 3.14.
NO_PATH = re.compile(
    r"""\?|%[0-9A-Fa-f]{2}|\\|[\x00-\x1f\x7f-\x9f]|'(?=.*")|"(?=.*')""" + ("|#" if sys.version_info >= (3, 14) else "")
)

# The locks of the stores that this process uses, held until it ends, so that no process upgrades a store in use.
_locks: dict[Path, int] = {}


def prepare(database: Path) -> None:
    """Creates the store if needed, or upgrades it to the installed MLflow, and locks it against upgrades by others.

    Raises:
        TrackingError: if the file isn't an MLflow database, was written by a newer MLflow, or its path can't be in an
            address.
        StorageError: if it can't be written.
    """
    if misread := NO_PATH.search(str(database)):
        what = f"MLflow can't open a store at {shorten(repr(str(database)))}, whose path has {misread[0]!r}"
        raise TrackingError(what, f"Rename the folder, work in another, or set {URI} to a store elsewhere")
    if database in _locks and database.is_file():
        return
    if database in _locks:
        os.close(_locks.pop(database))
    with disk_errors(database):
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = _open_lock(database)
    try:
        _wait_until_current(database, lock)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        os.close(lock)
        raise
    _locks[database] = lock


def artifact_folder(database: Path) -> Path:
    """The folder of the store's artifacts."""
    return database.parent / ARTIFACTS


def is_current(database: Path) -> bool:
    """Whether the store exists, and the installed MLflow created or checked it."""
    try:
        current = revision(database)
        return current is not None and _lock_path(database).read_text(encoding="utf-8") == _marker(current)
    except (OSError, TrackingError):
        return False


def revision(database: Path) -> str | None:
    """The revision of the database's tables; None if the file doesn't exist or is empty.

    Raises:
        TrackingError: if it isn't an MLflow database, or can't be read.
    """
    if not database.is_file() or not database.stat().st_size:
        return None
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            (number,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return str(number)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # it has no such table
            raise _not_mlflows(database, error) from error
        what = f"{database} can't be read ({error})"
        raise TrackingError(what, "Check its disk, permissions and limits") from error
    except (sqlite3.DatabaseError, TypeError) as error:
        raise _not_mlflows(database, error) from error


def _not_mlflows(database: Path, error: Exception) -> TrackingError:
    what = f"{database} isn't an MLflow database ({shorten(error)})"
    return TrackingError(what, f"Move it away, or set {URI} to another store")


def _lock_path(database: Path) -> Path:
    return database.with_name(f".{database.name}.lock")


def _open_lock(database: Path) -> int:
    path = _lock_path(database)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        if not is_current(database):
            raise
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints each refusal with a traceback
        return os.open(path, os.O_RDONLY)  # enough for those who may only read the store


def _wait_until_current(database: Path, lock: int) -> None:
    start, logged = time.monotonic(), False
    while not is_current(database):
        if _claim(lock):
            if not is_current(database):
                with disk_errors(database):
                    _make(database)
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, _marker(str(revision(database))).encode(), 0)
            return
        if not logged and time.monotonic() - start > QUIET_S:
            log(f"Waiting for the processes that create or use {database}")
            logged = True
        time.sleep(POLL_S)


def _claim(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(database: Path) -> None:
    """Creates or upgrades the database in another file, and renames it. The caller must hold the lock."""
    before, scratch = revision(database), database.with_name(f".{database.name}.new")
    if before and before == _latest():
        return
    from mlflow.db import upgrade  # slow: imported only when needed
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in scratch.parent.glob(f"{scratch.name}*"):  # left by a killed process
        left.unlink()
    log(f"{'Upgrading' if before else 'Creating'} MLflow's store {database}")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    uri = f"{SQLITE}{scratch}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of migrations that aren't ours
        if before:
            _copy(database, scratch)
            try:
                upgrade.callback(uri)  # type: ignore[misc]  # the function of the command `mlflow db upgrade`
            except Exception as error:  # alembic's, SQLAlchemy's or MLflow's; only the copy is damaged
                what = f"{database} can't be upgraded to MLflow {version('mlflow')} ({shorten(error)})"
                raise TrackingError(what, "Install the MLflow that wrote it, or a newer one") from error
        # This also creates MLflow's default experiment.
        store = SqlAlchemyStore(uri, str(artifact_folder(database)))  # type: ignore[no-untyped-call]  # mlflow's
    store.engine.dispose()
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, database)


def _latest() -> str | None:
    """The revision that the installed MLflow needs."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    (folder,) = mlflow.store.__path__
    return ScriptDirectory(f"{folder}/db_migrations").get_current_head()


def _copy(database: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(database, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)


def _marker(number: str) -> str:
    return f"MLflow {version('mlflow')}, revision {number}\n"
