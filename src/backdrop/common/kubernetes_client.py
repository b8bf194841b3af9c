"""The Kubernetes client: connection, namespaces, and errors with remedies."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from backdrop.common.environment import use_network
from backdrop.common.errors import EndpointError, shorten

TIMEOUT_S = (5.0, 20.0)  # to connect, and to read, in one attempt; Kubernetes' client ignores a single float
RETRIES = 2  # of a request without an answer; urllib3 makes no pause
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ApiError(EndpointError):
    """A call that Kubernetes rejects or doesn't answer.

    Attributes:
        status: HTTP status, 0 without a response.
        words: the API server's message, or the reason why there is no response.
    """

    def __init__(self, what: str, remedy: str, status: int = 0, words: str = "") -> None:
        super().__init__(what, remedy)
        self.status, self.words = status, words

    @property
    def may_pass(self) -> bool:
        """Whether a retry may help: there is no response, or the server is overloaded or failing."""
        return self.status == 0 or self.status == 429 or self.status >= 500


@dataclass(frozen=True)
class Resource:
    """A namespaced custom resource."""

    group: str
    version: str
    plural: str


@dataclass(frozen=True)
class Kubernetes:
    """An API server. Every method raises ApiError if the server rejects the call, or doesn't answer within a minute."""

    host: str
    api: client.ApiClient

    def nodes(self, labels: Mapping[str, str]) -> list[Any]:
        """The cluster's nodes with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        with self._errors("list nodes"):
            listing = client.CoreV1Api(self.api).list_node(label_selector=selector, _request_timeout=TIMEOUT_S)
            return list(listing.items)

    def config_map(self, namespace: str, name: str) -> dict[str, str]:
        """The keys of a ConfigMap and their texts."""
        with self._errors(f"read the ConfigMap {name} in namespace {namespace}"):
            found = client.CoreV1Api(self.api).read_namespaced_config_map(name, namespace, _request_timeout=TIMEOUT_S)
            return dict(found.data or {})

    def quotas(self, namespace: str) -> list[Any]:
        """The ResourceQuotas of a namespace."""
        with self._errors(f"list resourcequotas in namespace {namespace}"):
            core = client.CoreV1Api(self.api)
            return list(core.list_namespaced_resource_quota(namespace, _request_timeout=TIMEOUT_S).items)

    def limit_ranges(self, namespace: str) -> list[Any]:
        """The LimitRanges of a namespace."""
        with self._errors(f"list limitranges in namespace {namespace}"):
            core = client.CoreV1Api(self.api)
            return list(core.list_namespaced_limit_range(namespace, _request_timeout=TIMEOUT_S).items)

    def kinds(self, group: str, version: str) -> set[str]:
        """The kinds of objects in an API group; none if the group doesn't exist."""
        try:
            with self._errors(f"list the resources of {group}/{version}"):
                objects = client.CustomObjectsApi(self.api)
                listing = objects.get_api_resources(group, version, _request_timeout=TIMEOUT_S)
                return {resource.kind for resource in listing.resources}
        except ApiError as error:
            if error.status == 404:
                return set()
            raise

    def create(self, resource: Resource, namespace: str, body: dict[str, Any]) -> None:
        """Creates an object."""
        with self._objects(resource, namespace) as (objects, address):
            objects.create_namespaced_custom_object(**address, body=body)

    def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        """The current state of an object."""
        with self._objects(resource, namespace) as (objects, address):
            result: dict[str, Any] = objects.get_namespaced_custom_object(**address, name=name)
            return result

    def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes an object and everything it owns; with a `uid`, only if the object has that uid."""
        preconditions = client.V1Preconditions(uid=uid) if uid else None
        options = client.V1DeleteOptions(propagation_policy="Background", preconditions=preconditions)
        with self._objects(resource, namespace) as (objects, address):
            objects.delete_namespaced_custom_object(**address, name=name, body=options)

    @contextlib.contextmanager
    def _objects(self, resource: Resource, namespace: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        address = {"group": resource.group, "version": resource.version, "plural": resource.plural}
        with self._errors(f"use {resource.plural} of {resource.group} in namespace {namespace}"):
            objects = client.CustomObjectsApi(self.api)
            yield objects, {**address, "namespace": namespace, "_request_timeout": TIMEOUT_S}

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            what = f"Kubernetes at {self.host} doesn't allow us to {verb} ({error.status} {error.reason})"
            remedy = "Grant the account this permission, or use another account"
            raise ApiError(what, remedy, error.status, _words(error)) from error
        except HTTPError as error:
            words = _words(error)
            what = f"Kubernetes at {self.host} doesn't answer ({words})"
            raise ApiError(what, "Check KUBECONFIG", words=words) from error


@contextlib.contextmanager
def connect() -> Iterator[Kubernetes]:
    """Connects to the cluster of this pod, or else of the kubeconfig's current context.

    Raises:
        EndpointError: if no cluster is configured.
        ConfigError: if the environment's proxy or certificates can't be used.
    """
    settings = client.Configuration()
    settings.retries = RETRIES
    try:
        config.load_incluster_config(client_configuration=settings)
    except ConfigException:
        with _kubeconfig_errors():
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
    use_network(settings, settings.host)
    with client.ApiClient(settings) as api:
        yield Kubernetes(settings.host, api)


def pod_namespace() -> str:
    """The namespace of this process's pod; empty outside a pod."""
    return POD_NAMESPACE.read_text(encoding="utf-8").strip() if POD_NAMESPACE.is_file() else ""


def own_namespace() -> str:
    """The pod's namespace, or the namespace of the kubeconfig's current context, or `default`.

    Raises:
        EndpointError: if the kubeconfig can't be read.
    """
    if namespace := pod_namespace():
        return namespace
    with _kubeconfig_errors():
        _, active = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
        return str(active["context"].get("namespace", "default"))


@contextlib.contextmanager
def _kubeconfig_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ConfigException, or whatever a damaged file makes its reader raise
        what = f"No Kubernetes cluster is configured here ({shorten(error)})"
        raise EndpointError(what, "Run this in a pod, or set KUBECONFIG") from error


def _words(error: Exception) -> str:
    """The API server's message, or else the reason of the error."""
    try:
        return shorten(json.loads(getattr(error, "body", ""))["message"])
    except (ValueError, TypeError, KeyError):
        return shorten(getattr(error, "reason", None) or error)
