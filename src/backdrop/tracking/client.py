"""The way to the MLflow server: a client of it, its experiment, and its errors in our words."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from backdrop.common.errors import TrackingError, shorten
from backdrop.common.redact import ENCODE, is_misread, without_credentials
from backdrop.common.retry import RetryPolicy, trying
from backdrop.common.retry import retry as wait_for
from backdrop.tracking import EXPERIMENT, SWITCH, URI, enabled, is_server, sqlite_path, tracking_uri
from backdrop.tracking.store import artifact_folder, prepare

with warnings.catch_warnings():
    # MLflow loads this part sooner or later, and warns then of its own type hints.
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc  # noqa: F401  # only so that it warns here

ANSWER_S = 10  # a server that is up but says nothing for so long counts as down
POLICY = RetryPolicy(pause_s=1.0, max_pause_s=30.0, give_up_s=600.0)  # of a finished training, while the server is away
AGAIN = "Check the server and run the same command again: what was done already is used, not made anew"


def connect() -> MlflowClient:
    """A client of the server or store that the environment names, else of the current folder's store.

    Raises:
        TrackingError: if there is none, MLflow doesn't know that kind of address, or a server doesn't answer within
            seconds.
    """
    if not enabled():
        raise TrackingError(f"{URI} is not set, and {SWITCH} is off", f"Set {URI}, or unset {SWITCH}")
    uri = tracking_uri()
    shown = without_credentials(uri)
    if path := sqlite_path(uri):
        prepare(path)
    elif is_misread(uri):
        raise TrackingError(f"{URI} is {shown} with a password that can't be read", ENCODE)
    if is_server(uri):
        with server_errors(
            f"MLflow at {without_credentials(uri)} doesn't answer", f"Start the server or correct {URI}"
        ):
            ping()
    try:
        return MlflowClient(uri)
    except Exception as error:  # MLflow's, SQLAlchemy's, or that of a missing driver
        what = f"{URI} is {without_credentials(uri)}, which MLflow can't use ({_words(error)})"
        raise TrackingError(what, f"Correct {URI}") from error


@contextlib.contextmanager
def server_errors(what: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turns MLflow's exceptions into ours.

    Args:
        what: what failed then; MLflow's own words follow it in brackets.
        remedy: what to do about it.

    Raises:
        TrackingError: in place of whatever MLflow, or the connection below it, raises in the block.
    """
    try:
        yield
    except (MlflowException, OSError) as error:  # errors of the connection are OSErrors
        raise TrackingError(f"{what} ({_words(error)})", remedy) from error


def retry(what: str, act: Callable[[], None]) -> None:
    """Does what a finished training asks of the server; while that is away, again and again.

    Args:
        what: what can't be done then.
        act: the calls; those that went through are made once more, and must do no harm.

    Raises:
        TrackingError: if the server refuses, or is away for more than ten minutes.
    """

    def ask() -> None:
        ping()
        act()

    try:
        wait_for(ask, POLICY, _may_pass, trying(f"{what} yet", POLICY, _words))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{what} ({_words(error)})", AGAIN) from error


def place() -> str:
    """Where runs and models are, for a message: the store's file, or the server's address."""
    uri = tracking_uri()
    return str(sqlite_path(uri) or without_credentials(uri))


def experiment_id(client: MlflowClient) -> str:
    """The experiment that MLflow's variables name, else `backdrop`; made if it isn't there.

    Raises:
        TrackingError: if it was deleted, or the server doesn't answer.
    """
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with server_errors(f"Experiment {name} can't be opened"):
        found = client.get_experiment_by_name(name)
        if found is None:
            return _create_experiment(client, name)
    if found.lifecycle_stage != "active":
        raise TrackingError(f"Experiment {name} was deleted", "Restore it or set MLFLOW_EXPERIMENT_NAME to another")
    return str(found.experiment_id)


def find_run(client: MlflowClient, wanted: str) -> Run | None:
    """The oldest run of our experiment that one of MLflow's filters finds.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    experiment = experiment_id(client)
    with server_errors("The server can't be searched"):
        found = client.search_runs([experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0] if found else None


def ping() -> None:
    """Asks the server for a sign of life, for which the client itself would wait minutes if the server hangs.

    A store on this machine is always there.

    Raises:
        MlflowException: if there is none.
    """
    uri = tracking_uri()
    if not is_server(uri):
        return
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]  # mlflow left it untyped
    body = {"max_results": 1}
    http_request(  # type: ignore[no-untyped-call]  # mlflow left it untyped
        credentials, "/api/2.0/mlflow/experiments/search", "POST", timeout=ANSWER_S, json=body
    )


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow says that there is no such thing."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def _create_experiment(client: MlflowClient, name: str) -> str:
    try:
        return str(client.create_experiment(name, _artifact_location(name)))
    except MlflowException as error:
        # Members start at once: another one may have been a moment faster.
        found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if found is None:
            raise
        return str(found.experiment_id)


def _artifact_location(name: str) -> str | None:
    """A folder beside the store, whatever the working folder; a server chooses for itself."""
    path = sqlite_path(tracking_uri())
    return str(artifact_folder(path) / quote(name, safe="")) if path else None


def _may_pass(error: Exception) -> bool:
    """Whether it may be otherwise in a while: nobody answers, or the server has troubles of its own."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]  # mlflow left it untyped
    elif not isinstance(error, OSError) or error.filename:  # one of our own files
        return False
    else:
        response = getattr(error, "response", None)
        status = 503 if response is None else response.status_code
    return bool(status >= 500 or status == 429)


def _words(error: Exception) -> str:
    uri = tracking_uri()
    return shorten(str(error).replace(uri, without_credentials(uri)))
