"""Connects to the MLflow server or store, finds its experiment, and turns MLflow's errors into ours."""

import contextlib
import errno
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from mlflow import MlflowClient, environment_variables
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from backdrop.common.environment import KUBERNETES_HOST, check_bundles, check_header
from backdrop.common.errors import TrackingError, shorten
from backdrop.common.redact import ENCODE, is_misread, without_credentials
from backdrop.common.retry import RetryPolicy, trying
from backdrop.common.retry import retry as wait_for
from backdrop.tracking import EXPERIMENT, SWITCH, URI, enabled, is_server, sqlite_path, tracking_uri
from backdrop.tracking.store import artifact_folder, prepare

with warnings.catch_warnings():
    # MLflow loads this module at some point, and then warns about its own type hints.
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc  # noqa: F401  # only so that it warns here

REGISTRY = "MLFLOW_REGISTRY_URI"  # of another server for the models; MLflow reads it
DATABRICKS = re.compile(r"(databricks(-uc)?|uc)(:|$)")  # names models and experiments in its own way
BUNDLES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # as its client reads them
TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105  # the variable's name
ANSWER_S = 10  # a server that doesn't answer for this long counts as down
POLICY = RetryPolicy(pause_s=1.0, max_pause_s=30.0, give_up_s=600.0)  # after training, while the server is away
# Databases' words for a second row with the same key; MLflow inserts a new tag without expecting another writer.
TAKEN = re.compile(r"unique|duplicate", re.IGNORECASE)
# SQLite's words for a file or a folder that may only be read.
READ_ONLY = re.compile("readonly database|unable to open database file")
T = TypeVar("T")
LOGIN = f"Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or {TOKEN}"
# A proxy's own page, or MLflow's below another path; a login page comes with a 200.
NOWHERE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
OTHER_NAME = "Invalid Host header"  # of a server that doesn't know the name by which it is called
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)  # a login that expires in the middle, or lacks a right
ADDRESS = f"Fix {URI}: in a browser it is what stands before /#/, a path such as /mlflow included"
AGAIN = "Check the server and run the same command again: finished work is reused"


def connect(wait: bool | None = None) -> MlflowClient:
    """A client of the server or store that the environment names, or else of the current folder's store.

    Args:
        wait: whether to wait ten minutes for a server that is away; by default in a pod, where servers move between
            nodes and nobody is there to start the work again.

    Raises:
        TrackingError: if tracking is off, MLflow can't use the address, or the server doesn't answer within seconds.
    """
    if not enabled():
        raise TrackingError(f"{URI} is not set, and {SWITCH} is off", f"Set {URI}, or unset {SWITCH}")
    _check_variables()
    uri = tracking_uri()
    shown = without_credentials(uri)
    if path := sqlite_path(uri):
        prepare(path)
    elif is_misread(uri):
        raise TrackingError(f"The password in {URI} ({shown}) can't be read", ENCODE)
    servers = {os.environ.get(REGISTRY, ""): REGISTRY, uri: URI}
    for address in filter(DATABRICKS.match, servers):
        what = f"{servers[address]} is {without_credentials(address)}, and Backdrop doesn't support Databricks"
        raise TrackingError(what, f"Set {servers[address]} to another server, or unset it")
    for address in filter(is_server, servers):
        check_header(TOKEN, os.environ.get(TOKEN))
        if address.startswith("https:"):
            check_bundles(*BUNDLES)
        what = f"MLflow at {without_credentials(address)} doesn't answer"
        if wait if wait is not None else KUBERNETES_HOST in os.environ:
            retry(what, functools.partial(ping, address))
        else:
            with server_errors(what, f"Start the server or fix {servers[address]}"):
                ping(address)
    try:
        return MlflowClient(uri)
    except Warning:  # which PYTHONWARNINGS made an error
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's, or that of a missing driver
        what = f"{URI} is {without_credentials(uri)}, which MLflow can't use ({_words(error)})"
        raise TrackingError(what, f"Fix {URI}") from error


@contextlib.contextmanager
def server_errors(what: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turns MLflow's exceptions into ours.

    Args:
        what: what failed; MLflow's message follows in brackets.
        remedy: what to do about it.

    Raises:
        TrackingError: instead of any exception of MLflow or the connection in the block.
    """
    try:
        yield
    except (MlflowException, OSError, ImportError) as error:  # of a connection, of a missing driver
        raise _explained(error, what, remedy) from error


def retry(what: str, act: Callable[[], T], policy: RetryPolicy | None = None) -> T:
    """Makes calls that must not be lost, and retries them while the server is away.

    Args:
        what: what failed, for messages.
        act: the calls; all of them are repeated in a retry, so they must be idempotent.
        policy: how often and how long to retry; by default for ten minutes.

    Raises:
        TrackingError: if the server refuses a call, or is away for longer than the policy allows.
    """
    policy = policy or POLICY

    def attempt() -> T:
        ping()
        return act()

    try:
        return wait_for(attempt, policy, is_transient, trying(f"{what} yet", policy, _words))
    except (MlflowException, OSError, ImportError) as error:
        raise _explained(error, what, AGAIN) from error


def place() -> str:
    """The store's file or the server's address, for messages."""
    uri = tracking_uri()
    return str(sqlite_path(uri) or without_credentials(uri))


def has_store() -> bool:
    """Whether there is a store or a registry to read: `connect` would create the file that isn't there."""
    path = sqlite_path(tracking_uri())
    return path is None or path.is_file() or bool(os.environ.get(REGISTRY))


def missing(what: str) -> TrackingError:
    """The error of a model or version that isn't there."""
    if has_store():
        return TrackingError(f"There is no {what} in {place()}", "List the models with `backdrop models`")
    return TrackingError(f"There is no {what}, because there is no {place()}", f"Work where you trained, or set {URI}")


def experiment_id(client: MlflowClient) -> str:
    """The id of the experiment that MLflow's variables name, or else of `backdrop`, which is created if needed.

    Raises:
        TrackingError: if it was deleted or isn't there, or the server doesn't answer.
    """
    number = os.environ.get("MLFLOW_EXPERIMENT_ID")
    name = number or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    variable = "MLFLOW_EXPERIMENT_ID" if number else "MLFLOW_EXPERIMENT_NAME"
    with server_errors(f"Experiment {name} can't be opened", f"Check the server and {variable}"):
        experiment = client.get_experiment(name) if number else client.get_experiment_by_name(name)
        if experiment is None:
            return _create_experiment(client, name)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(f"Experiment {name} was deleted", f"Restore it or set {variable} to another")
    return str(experiment.experiment_id)


def find_runs(client: MlflowClient, query: str) -> list[Run]:
    """The runs of our experiment that match a filter in MLflow's syntax, the newest first.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    experiment = experiment_id(client)
    with server_errors("The server can't be searched"):
        return list(pages(client.search_runs, [experiment], query, order_by=["attributes.start_time DESC"]))


def pages(search: Callable[..., PagedList[Any]], *what: Any, **options: Any) -> Iterator[Any]:
    """All results of a search of MLflow's."""
    token = None
    while True:
        page = search(*what, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def ping(uri: str = "") -> None:
    """Checks that the server answers within seconds; MLflow's client would wait minutes for a server that hangs.

    A store on this machine needs no check.

    Args:
        uri: its address; by default that of the runs.

    Raises:
        MlflowException: if it doesn't answer.
        TrackingError: if it asks for other credentials, or is no MLflow at this address.
    """
    uri = uri or tracking_uri()
    if not is_server(uri):
        return
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]  # mlflow left it untyped
    body = {"max_results": 1}
    response = http_request(  # type: ignore[no-untyped-call]  # mlflow left it untyped
        credentials, "/api/2.0/mlflow/experiments/search", "POST", timeout=ANSWER_S, json=body
    )
    shown, status = without_credentials(uri), response.status_code
    if status == HTTPStatus.UNAUTHORIZED:
        raise TrackingError(f"MLflow at {shown} doesn't accept your credentials, or has got none", LOGIN)
    if status in NOWHERE or (status == HTTPStatus.OK and not response.text.lstrip().startswith("{")):
        raise TrackingError(f"{shown} answers, but it isn't MLflow ({status})", ADDRESS)


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow's error says that the run or model doesn't exist."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def _check_variables() -> None:
    """Reads MLflow's variables of the environment once, because MLflow reads them in the middle of its calls.

    Raises:
        TrackingError: if one has a value that MLflow can't convert.
    """
    for name in os.environ:
        variable = getattr(environment_variables, name, None) if name.startswith("MLFLOW_") else None
        if variable is not None:
            try:
                variable.get()
            except ValueError as error:
                raise TrackingError(f"{name} can't be used ({shorten(error)})", f"Fix {name}") from error


def _create_experiment(client: MlflowClient, name: str) -> str:
    try:
        return str(client.create_experiment(name, _artifact_location(name)))
    except MlflowException as error:
        # Members start at the same time: another one may have just created it.
        existing = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if existing is None:
            raise
        return str(existing.experiment_id)


def _artifact_location(name: str) -> str | None:
    """A folder beside the store, whatever the working folder; None for a server, which has its own."""
    path = sqlite_path(tracking_uri())
    return str(artifact_folder(path) / quote(name, safe="")) if path else None


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed: no answer, an internal error, or a row that another process has just inserted."""
    if isinstance(error, MlflowException):
        if error.error_code == "BAD_REQUEST" and TAKEN.search(str(error)):
            return True
        if READ_ONLY.search(str(error)):
            return False
    elif not isinstance(error, OSError) or error.filename:  # one of our own files
        return False
    status = _status(error)
    return status >= 500 or status == 429


def _status(error: Exception) -> int:
    """The HTTP status of the answer that an error is of; 503 if there was none."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]  # mlflow left it untyped
    response = getattr(error, "response", None)
    return 503 if response is None else int(response.status_code)


def _explained(error: Exception, what: str, remedy: str) -> TrackingError:
    """Our error for MLflow's, with its words unless they are the database's."""
    if READ_ONLY.search(str(error)):
        remedy = f"Ask for the right to write that file and its folder, or set {URI} to another store"
        return TrackingError(f"{what}: you may only read {place()}", remedy)
    if os.strerror(errno.ENOSPC) in str(error):
        remedy = "Free some space"
    elif OTHER_NAME in str(error):
        remedy = f"Add {urlsplit(without_credentials(tracking_uri())).netloc} to the server's --allowed-hosts"
    elif _status(error) in REFUSED:
        remedy = f"{LOGIN}, of a user who may do this"
    return TrackingError(f"{what} ({_words(error)})", remedy)


def _words(error: Exception) -> str:
    """An error's message in a line, without credentials."""
    uri = tracking_uri()
    return shorten(str(error).replace(uri, without_credentials(uri)))
