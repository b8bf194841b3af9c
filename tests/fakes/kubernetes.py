"""As much of a Kubernetes API server as RayJobs and the preflight need; a script plays KubeRay's operator."""

import contextlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fakes.http import JsonHandler, running

TOKEN = "secret"
PATH = re.compile(r"/apis/ray\.io/v1/namespaces/([^/?]+)/rayjobs(?:/([^/?]+))?$")
Answer = tuple[int, dict[str, Any]]


def refusal(code: int, reason: str, message: str) -> Answer:
    """As the API server words one."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return code, {**status, "code": code, "reason": reason, "message": message}


class FakeKubernetes(ThreadingHTTPServer):
    """Holds the RayJobs of all namespaces, and nodes.

    Attributes:
        nodes: of the cluster.
        kinds: of objects in the group ray.io; None if it isn't installed.
        bounds: resourcequotas and limitranges, each with its plural; None if one may not list them.
        refuses: a status that it answers everything with, if not 0.
        statuses: what the operator makes of any RayJob, one more each time somebody looks; the last stays. One that is
            callable is called instead.
        faults: for the next calls: an answer in place of the right one, or None to close the connection.
        linger: how often one that is deleted is still there.
        calls: `GET`, `POST`, … in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.nodes: list[dict[str, Any]] = []
        self.kinds: list[str] | None = None
        self.refuses = 0
        self.config_maps: dict[tuple[str, str], dict[str, str]] = {}  # that one may read, by namespace and name
        self.bounds: list[tuple[str, dict[str, Any]]] | None = []
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.statuses: list[dict[str, Any] | Callable[[], None]] = []
        self.faults: list[Answer | None] = []
        self.linger = 0
        self.calls: list[str] = []
        self._uids = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def kubeconfig(self) -> dict[str, Any]:
        """The way to it."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "fake", "user": "me", "namespace": "mine"}}],
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
        }

    def create(self, namespace: str, body: dict[str, Any]) -> Answer:
        """POST."""
        key = namespace, body["metadata"]["name"]
        if body["metadata"].get("namespace", namespace) != namespace:
            return refusal(400, "BadRequest", "the namespace of the object does not match the namespace on the request")
        self._sweep(key)
        if key in self.jobs:
            return refusal(409, "AlreadyExists", f'rayjobs.ray.io "{key[1]}" already exists')
        metadata = {**body["metadata"], "namespace": namespace, "uid": f"uid-{next(self._uids)}"}
        self.jobs[key] = {**body, "metadata": metadata}
        return 201, self.jobs[key]

    def look(self, key: tuple[str, str]) -> Answer:
        """GET."""
        self._sweep(key)
        if key not in self.jobs:
            return refusal(404, "NotFound", f'rayjobs.ray.io "{key[1]}" not found')
        if self.statuses:
            now = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
            if callable(now):
                now()
            else:
                self.jobs[key]["status"] = now
        return 200, self.jobs[key]

    def delete(self, key: tuple[str, str], options: dict[str, Any]) -> Answer:
        """DELETE: it goes when its finalizer is done."""
        if key not in self.jobs:
            return refusal(404, "NotFound", f'rayjobs.ray.io "{key[1]}" not found')
        metadata = self.jobs[key]["metadata"]
        wanted = options.get("preconditions", {}).get("uid", metadata["uid"])
        if wanted != metadata["uid"]:
            return refusal(409, "Conflict", "the UID in the precondition does not match the UID in record")
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return 200, self.jobs[key]

    def add_node(self, name: str, taints: list[dict[str, str]] | None = None, **amounts: str) -> dict[str, Any]:
        """A node with a GPU's label, and so much of `nvidia.com/…`."""
        extended = {f"nvidia.com/{key}": value for key, value in amounts.items()}
        node = {
            "metadata": {"name": name, "labels": {"nvidia.com/gpu.present": "true"}},
            "spec": {"taints": taints or []},
            "status": {"allocatable": {"cpu": "15890m", "memory": "60Gi", **extended}},
        }
        self.nodes.append(node)
        return node

    def add_quota(self, name: str, hard: dict[str, str], used: dict[str, str] | None = None, **more: Any) -> None:
        """A ResourceQuota; `more` are its scopes or its scopeSelector."""
        spec, status = {"hard": hard, **more}, {"hard": hard, "used": used or {}}
        self.bounds = [
            *(self.bounds or []),
            ("resourcequotas", {"metadata": {"name": name}, "spec": spec, "status": status}),
        ]

    def add_limits(self, **item: Any) -> None:
        """A LimitRange with one item."""
        self.bounds = [*(self.bounds or []), ("limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [item]}})]

    def look_at_cluster(self, path: str, query: dict[str, list[str]]) -> Answer:
        """GET of nodes by their labels, or of the kinds of a group."""
        if path == "/api/v1/nodes":
            wanted = [pair.split("=", 1) for pair in query.get("labelSelector", [""])[0].split(",") if pair]
            labeled = [n for n in self.nodes if all(n["metadata"]["labels"].get(key) == value for key, value in wanted)]
            return 200, {"kind": "NodeList", "items": labeled}
        if match := re.fullmatch("/api/v1/namespaces/([^/]+)/configmaps/([^/]+)", path):
            if match.groups() in self.config_maps:
                return 200, {"kind": "ConfigMap", "data": self.config_maps[match[1], match[2]]}
            return refusal(403, "Forbidden", f"cannot get resource configmaps in the namespace {match[1]}")
        if match := re.fullmatch("/api/v1/namespaces/([^/]+)/(resourcequotas|limitranges)", path):
            if self.bounds is None:
                return refusal(403, "Forbidden", f"cannot list resource {match[2]} in the namespace {match[1]}")
            items = [one for kind, one in self.bounds if kind == match[2]]
            return 200, {"kind": "List", "items": items}
        if path == "/apis/ray.io/v1" and self.kinds is not None:
            entries = [
                {"name": kind.lower(), "kind": kind, "namespaced": True, "singularName": "", "verbs": ["get"]}
                for kind in self.kinds
            ]
            return 200, {"kind": "APIResourceList", "groupVersion": "ray.io/v1", "resources": entries}
        return refusal(404, "NotFound", "the server could not find the requested resource")

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer | None:
        """What a call gets."""
        with self._lock:
            self.calls.append(method)
            if self.faults:
                return self.faults.pop(0)
            if self.refuses:
                return refusal(self.refuses, "Refused", "no")
            match = PATH.match(path)
            if match is None:
                return self.look_at_cluster(urlsplit(path).path, parse_qs(urlsplit(path).query))
            if method == "POST":
                return self.create(match[1], body)
            key = match[1], match[2]
            return self.delete(key, body) if method == "DELETE" else self.look(key)

    def _sweep(self, key: tuple[str, str]) -> None:
        if "deletionTimestamp" in self.jobs.get(key, {}).get("metadata", {}):
            self.linger -= 1
            if self.linger < 0:
                del self.jobs[key]


class _Handler(JsonHandler):
    server: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = json.loads(self.body() or b"{}")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            answer: Answer | None = refusal(401, "Unauthorized", "Unauthorized")
        else:
            answer = self.server.answer(self.command, self.path, body)
        if answer is None:
            self.close_connection = True
            return
        self.reply(*answer)

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815  # http.server's names


@contextlib.contextmanager
def fake_kubernetes(kubeconfig: Path) -> Iterator[FakeKubernetes]:
    """One that a file names, while the block lasts."""
    with running(FakeKubernetes()) as fake:
        kubeconfig.write_text(yaml.safe_dump(fake.kubeconfig))
        yield fake
