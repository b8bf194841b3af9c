"""Connects to a Kubeflow Pipelines endpoint, and turns its errors into ours."""

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

import kfp
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH, ServiceAccountTokenVolumeCredentials
from kfp_server_api import ApiClient, ApiException

from backdrop.common.environment import check_header, use_network
from backdrop.common.errors import EndpointError, shorten
from backdrop.common.kubernetes_client import pod_namespace
from backdrop.common.redact import ENCODE, is_http, is_misread, without_credentials

# kfp's own variables: its client reads the first two, its command line the others.
HOST = "KF_PIPELINES_ENDPOINT"
UI_HOST = "KF_PIPELINES_UI_ENDPOINT"
NAMESPACE = "KFP_NAMESPACE"
TOKEN = "KFP_EXISTING_TOKEN"  # noqa: S105  # the variable's name

MINIMUM = (2, 17)  # older backends silently drop the GPU limit
TIMEOUT_S = (10.0, 60.0)  # to connect, and to read; urllib3 tries four times
FIRST_TIMEOUT_S = (5.0, 20.0)  # the same for the first call, which tells whether anything answers
PAGE = 100

# It warns about each retry; we report one error when all of them have failed.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Endpoint:
    """A Kubeflow Pipelines API that has answered; `namespace` is None on a single-user installation."""

    client: kfp.Client
    host: str
    version: str
    namespace: str | None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns kfp's exceptions in the block into EndpointError."""
        with _errors(self.host):
            yield

    def named(self, listing: Callable[..., Any], field: str, name: str, **query: Any) -> list[Any]:
        """All entries with exactly this name; KFP's own filter ignores case."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        entries = self.every(listing, field, filter=json.dumps({"predicates": [predicate]}), **query)
        return [entry for entry in entries if entry.display_name == name]

    def every(self, listing: Callable[..., Any], field: str, **query: Any) -> Iterator[Any]:
        """All entries; each page is fetched when it is needed."""
        token: str | None = ""
        while token is not None:
            page = listing(page_token=token, page_size=PAGE, **query)
            yield from getattr(page, field) or []
            token = page.next_page_token or None

    def page(self, path: str) -> str:
        """URL of a page of the UI."""
        return f"{without_credentials(os.environ.get(UI_HOST, self.host)).rstrip('/')}/#/{path}"


class _Client(kfp.Client):
    """kfp's client, without its file in the home directory, without requests in the constructor, with timeouts.

    Unlike other libraries, kfp ignores the environment's proxy and certificates.
    """

    def __init__(self, host: str, **credentials: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that it works with KFP 2 only
            super().__init__(host=host, **credentials)
        _set_timeout(self._run_api.api_client)

    def _load_config(self, *arguments: Any) -> Any:
        config = super()._load_config(*arguments)
        use_network(config, config.host)
        return config

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": "any"}  # without it the constructor polls the server for 25 seconds


def connect(host: str = "", namespace: str = "") -> Endpoint:
    """Connects to an endpoint.

    It authenticates with a token: the user's, from KFP_EXISTING_TOKEN, or the pod's service account's, from the file
    that KF_PIPELINES_SA_TOKEN_PATH names or from its default path. That file is read again for each call.

    Args:
        host: its address; KF_PIPELINES_ENDPOINT if empty.
        namespace: of the user's profile; KFP_NAMESPACE or the pod's own if empty. Ignored on a single-user
            installation.

    Raises:
        EndpointError: if no address is set, nothing answers, it isn't KFP or is too old, or it refuses the token.
        ConfigError: if the environment's proxy or certificates can't be used.
    """
    host = (host or os.environ.get(HOST, "")).rstrip("/")
    if not host:
        raise EndpointError("No Kubeflow endpoint is set", f"Give --host, or set {HOST}")
    if is_misread(host):
        raise EndpointError(f"The password for Kubeflow at {without_credentials(host)} can't be read", ENCODE)
    if not is_http(host):
        shown = without_credentials(host)
        remedy = "Write it as http://HOST:PORT" if "://" in host else f"Write it as http://{shown}"
        raise EndpointError(f"{shown} isn't an http address", remedy)
    client = _Client(host, **_credentials())
    host = without_credentials(host)  # from here on it is only shown
    with _errors(host):
        body = _ask_health(client, host)
    version, multi_user = _health(host, body)
    chosen = namespace or os.environ.get(NAMESPACE, "") or pod_namespace()
    if multi_user and not chosen:
        remedy = f"Give --namespace, or set {NAMESPACE}"
        raise EndpointError(f"Kubeflow at {host} has a namespace for each user", remedy)
    client._context_setting["namespace"] = chosen if multi_user else ""
    return Endpoint(client, host, version, chosen if multi_user else None)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hides the links that kfp prints; we print better ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def get_or_create(find: Callable[[], list[Any]], create: Callable[[], Any]) -> tuple[Any, bool]:
    """The first existing entry, or else a new one, and whether it is new; another client may create it meanwhile."""
    existing = find()
    if existing:
        return existing[0], False
    try:
        return create(), True
    except ApiException as error:
        existing = find() if error.status == 409 else []
        if not existing:
            raise
        return existing[0], False


def _credentials() -> dict[str, Any]:
    token, path = os.environ.get(TOKEN, "").strip(), os.environ.get(KF_PIPELINES_SA_TOKEN_ENV, "")
    if token:
        check_header(TOKEN, token)
        return {"existing_token": token}
    if path and not Path(path).is_file():
        raise EndpointError(f"{path}, named by {KF_PIPELINES_SA_TOKEN_ENV}, isn't a file", "Mount the token there")
    if Path(path or KF_PIPELINES_SA_TOKEN_PATH).is_file():
        return {"credentials": ServiceAccountTokenVolumeCredentials()}
    return {}


def _ask_health(client: kfp.Client, host: str) -> bytes:
    """The raw response body: kfp's own record of it leaves out the version."""
    try:
        options = {"_preload_content": False, "_request_timeout": FIRST_TIMEOUT_S}
        answer: bytes = client.healthzs.healthz_service_get_healthz(**options).data
        return answer
    except ApiException as error:
        if error.status != 404:
            raise
        remedy = f"Upgrade Kubeflow Pipelines to {_minimum()} or newer, or fix the address"
        raise EndpointError(f"{host} has no API v2beta1", remedy) from error


def _minimum() -> str:
    return ".".join(map(str, MINIMUM))


def _health(host: str, body: bytes) -> tuple[str, bool]:
    """The version, empty if unknown, and whether each user has a namespace."""
    try:
        health = json.loads(body)
        version = str(health.get("tag_name") or health.get("apiServerTagName") or "")
    except (ValueError, AttributeError) as error:
        remedy = "Use the address of the API itself, not of a login page or another server"
        raise EndpointError(f"{host} answers, but it isn't Kubeflow Pipelines", remedy) from error
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < MINIMUM:
        what = f"Kubeflow Pipelines at {host} is {version}, which is too old"
        raise EndpointError(what, f"Upgrade it to {_minimum()} or newer")
    return version if numbers else "", bool(health.get("multi_user"))


@contextlib.contextmanager
def _errors(host: str) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise _refusal(host, error) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        what = f"Kubeflow at {host} doesn't answer ({shorten(re.sub(r'^.*?: ', '', str(reason)))})"
        raise EndpointError(what, "Check the address, and that the service ml-pipeline is running") from error


def _refusal(host: str, error: ApiException) -> EndpointError:
    if error.status == 401:
        remedy = f"Set {TOKEN} to a new token, or mount a service account's for the audience pipelines.kubeflow.org"
        return EndpointError(f"Kubeflow at {host} rejects the token, or none was sent (401)", remedy)
    if error.status == 403:
        remedy = "Ask for permission in that namespace, or choose another with --namespace"
        return EndpointError(f"Kubeflow at {host} denies permission (403: {_message(error)})", remedy)
    what = f"Kubeflow at {host} refuses the request ({error.status}: {_message(error)})"
    return EndpointError(what, "Fix what its message says")


def _message(error: ApiException) -> str:
    """The server's message in one line."""
    try:
        body = json.loads(error.body)
        return shorten(str(body.get("message") or body.get("error")))
    except (TypeError, ValueError, AttributeError):
        return shorten(str(error.reason))


def _set_timeout(api: ApiClient) -> None:
    """Sets a timeout where kfp has none: it would wait forever for a server that doesn't answer."""
    request = api.rest_client.request

    def limited(*arguments: Any, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT_S
        return request(*arguments, **options)

    api.rest_client.request = limited
