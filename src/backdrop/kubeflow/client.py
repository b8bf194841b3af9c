"""A Kubeflow Pipelines endpoint: how it is reached, by whom, and its errors in our words."""

import contextlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH, ServiceAccountTokenVolumeCredentials
from kfp_server_api import ApiClient, ApiException

from backdrop.common.errors import EndpointError, shorten
from backdrop.common.kubernetes_client import pod_namespace
from backdrop.common.redact import ENCODE, is_misread, without_credentials

# kfp's own variables: of its client the first two, of its command line the others.
HOST = "KF_PIPELINES_ENDPOINT"
UI_HOST = "KF_PIPELINES_UI_ENDPOINT"
NAMESPACE = "KFP_NAMESPACE"
TOKEN = "KFP_EXISTING_TOKEN"  # noqa: S105  # the variable's name

MINIMUM = (2, 17)  # older backends drop the GPU limit without a word
TIMEOUT_S = (10.0, 60.0)  # to connect, and for an answer; what changes nothing is asked four times
PAGE = 100

# Retries are its business; our one error says the same when they are over.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Endpoint:
    """A Kubeflow Pipelines API that has answered; `namespace` is None where all users share one."""

    client: kfp.Client
    host: str
    version: str
    namespace: str | None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what kfp raises in the block into EndpointError."""
        with _errors(self.host):
            yield

    def named(self, listing: Callable[..., Any], field: str, name: str, **query: Any) -> list[Any]:
        """All of a kind that have this very name; KFP's own filter takes `A` for `a`."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        found = self.every(listing, field, filter=json.dumps({"predicates": [predicate]}), **query)
        return [entry for entry in found if entry.display_name == name]

    def every(self, listing: Callable[..., Any], field: str, **query: Any) -> Iterator[Any]:
        """All of a kind, page by page, as far as they are taken."""
        token: str | None = ""
        while token is not None:
            page = listing(page_token=token, page_size=PAGE, **query)
            yield from getattr(page, field) or []
            token = page.next_page_token or None

    def page(self, path: str) -> str:
        """Address of a page of the UI."""
        return f"{without_credentials(os.environ.get(UI_HOST, self.host)).rstrip('/')}/#/{path}"


class _Client(kfp.Client):
    """kfp's client; it keeps no file in the home directory, asks nothing while it's made, and doesn't wait for ever."""

    def __init__(self, host: str, **who: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that it works with KFP 2 only
            super().__init__(host=host, **who)
        _be_impatient(self._run_api.api_client)

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": "any"}  # with none, the constructor would ask the server for 25 seconds


def connect(host: str = "", namespace: str = "") -> Endpoint:
    """Reaches an endpoint.

    Who asks is told by a token: of the user, in KFP_EXISTING_TOKEN, or of the pod's service account, in the file that
    KF_PIPELINES_SA_TOKEN_PATH names or in its usual place; that file is read anew for each call.

    Args:
        host: its address; KF_PIPELINES_ENDPOINT if empty.
        namespace: of the user's profile; KFP_NAMESPACE or the pod's own if empty. Of no account where all users
            share the endpoint.

    Raises:
        EndpointError: if no address is known, nothing answers there, it isn't KFP or too old, or the token is refused.
    """
    host = (host or os.environ.get(HOST, "")).rstrip("/")
    if not host:
        raise EndpointError("No Kubeflow endpoint is named", f"Give --host, or set {HOST}")
    if is_misread(host):
        raise EndpointError(f"The password for Kubeflow at {without_credentials(host)} can't be read", ENCODE)
    if urlsplit(host).scheme not in ("http", "https"):
        shown = without_credentials(host)
        raise EndpointError(f"{shown} is no http address", f"Write it as http://{shown}")
    client = _Client(host, **_who())
    host = without_credentials(host)  # from here on it is only shown
    with _errors(host):
        body = _ask_health(client, host)
    version, many_users = _health(host, body)
    chosen = namespace or os.environ.get(NAMESPACE, "") or pod_namespace()
    if many_users and not chosen:
        remedy = f"Give --namespace, or set {NAMESPACE}"
        raise EndpointError(f"Kubeflow at {host} has a namespace for each user", remedy)
    client._context_setting["namespace"] = chosen if many_users else ""
    return Endpoint(client, host, version, chosen if many_users else None)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the links that kfp prints; ours say more."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def found_or_made(find: Callable[[], list[Any]], make: Callable[[], Any]) -> tuple[Any, bool]:
    """The first that is found, else a new one, and whether it is new; somebody else may make it at the same time."""
    found = find()
    if found:
        return found[0], False
    try:
        return make(), True
    except ApiException as error:
        found = find() if error.status == 409 else []
        if not found:
            raise
        return found[0], False


def _who() -> dict[str, Any]:
    token, path = os.environ.get(TOKEN, "").strip(), os.environ.get(KF_PIPELINES_SA_TOKEN_ENV, "")
    if token:
        return {"existing_token": token}
    if path and not Path(path).is_file():
        raise EndpointError(f"{path}, which {KF_PIPELINES_SA_TOKEN_ENV} names, is no file", "Mount the token there")
    if Path(path or KF_PIPELINES_SA_TOKEN_PATH).is_file():
        return {"credentials": ServiceAccountTokenVolumeCredentials()}
    return {}


def _ask_health(client: kfp.Client, host: str) -> bytes:
    """The whole answer, for kfp's own record of it leaves the version out."""
    try:
        answer: bytes = client.healthzs.healthz_service_get_healthz(_preload_content=False).data
        return answer
    except ApiException as error:
        if error.status != 404:
            raise
        remedy = f"Upgrade Kubeflow Pipelines to {_least()} or newer, or mend the address"
        raise EndpointError(f"{host} has no API of the version v2beta1", remedy) from error


def _least() -> str:
    return ".".join(map(str, MINIMUM))


def _health(host: str, body: bytes) -> tuple[str, bool]:
    """The version, empty if it isn't told, and whether each user has a namespace."""
    try:
        found = json.loads(body)
        version = str(found.get("tag_name") or found.get("apiServerTagName") or "")
    except (ValueError, AttributeError) as error:
        remedy = "Name the API's own address; a page that asks who you are is in its place here, or something else"
        raise EndpointError(f"{host} answers, but not as Kubeflow Pipelines does", remedy) from error
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < MINIMUM:
        raise EndpointError(f"Kubeflow Pipelines at {host} is {version}, too old", f"Upgrade it to {_least()} or newer")
    return version if numbers else "", bool(found.get("multi_user"))


@contextlib.contextmanager
def _errors(host: str) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise _refusal(host, error) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        what = f"Kubeflow at {host} doesn't answer ({shorten(re.sub(r'^.*?: ', '', str(reason)))})"
        raise EndpointError(what, "Check the address, and that the service ml-pipeline runs") from error


def _refusal(host: str, error: ApiException) -> EndpointError:
    if error.status == 401:
        remedy = f"Get a new one into {TOKEN}, or mount the service account's for the audience pipelines.kubeflow.org"
        return EndpointError(f"Kubeflow at {host} doesn't take the token, or there is none (401)", remedy)
    if error.status == 403:
        remedy = "Ask for the right to do it in that namespace, or name another by --namespace"
        return EndpointError(f"Kubeflow at {host} forbids it (403: {_message(error)})", remedy)
    return EndpointError(f"Kubeflow at {host} refuses it ({error.status}: {_message(error)})", "See its own message")


def _message(error: ApiException) -> str:
    """What the server says, in one line."""
    try:
        body = json.loads(error.body)
        return shorten(str(body.get("message") or body.get("error")))
    except (TypeError, ValueError, AttributeError):
        return shorten(str(error.reason))


def _be_impatient(api: ApiClient) -> None:
    """Sets a limit where kfp has none: it would wait for ever for a server that says nothing."""
    request = api.rest_client.request

    def limited(*arguments: Any, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT_S
        return request(*arguments, **options)

    api.rest_client.request = limited
