"""A Kubeflow Pipelines API in memory, as far as the real kfp.Client is told to use it; it fails when it's told to.

It keeps the real one's habits: names that clash (of schedules) or don't (of all else), filters that take `A` for `a`,
short pages, times in whole seconds, and `recurringRuns` as the only field in camelCase.
"""

import contextlib
import email
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fakes.http import JsonHandler, running

PAGE = 2  # entries, whatever is asked for
ID = "([^/:]+)"
VERBS = {"POST": "create", "DELETE": "delete"}  # Kubernetes' for what it is asked

Entry = dict[str, Any]


class Refused(Exception):  # noqa: N818  # an answer
    """An answer other than 200; None hangs up without one."""

    def __init__(self, status: int | None, message: str = "") -> None:
        super().__init__(message)
        self.status, self.message = status, message


class FakeKfp:
    """What the API holds, and how it behaves.

    Attributes:
        token: the bearer token that it wants; any if None.
        rights: what its bearer may do, as pairs of resource and verb; everything if None.
        before: called with who asks (the bearer token) and what for (method and path) before anything is done.
        after: the same, when it is done and not answered yet.
        calls: what was asked so far.
    """

    def __init__(self, version: str = "2.17.0", many_users: bool = False) -> None:
        self.health: Any = {"tag_name": version, "multi_user": many_users}
        self.many_users = many_users
        self.token: str | None = None
        self.rights: set[tuple[str, str]] | None = None
        self.before: Callable[[str, str], None] = lambda _who, _what: None
        self.after: Callable[[str, str], None] = lambda _who, _what: None
        self.calls: list[str] = []
        self.pipelines: dict[str, Entry] = {}
        self.versions: dict[str, Entry] = {}
        self.experiments: dict[str, Entry] = {}
        self.runs: dict[str, Entry] = {}
        self.schedules: dict[str, Entry] = {}
        self.logs: dict[tuple[str, str], str] = {}  # by run and pod
        self.deleted: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        if not many_users:
            self.add(self.experiments, "experiment_id", {"display_name": "Default"})

    def add(self, table: dict[str, Entry], key: str, given: Entry) -> Entry:
        entry = {**given, key: str(uuid.uuid4()), "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        table[entry[key]] = entry
        return entry

    def answer(self, method: str, address: str, who: str, body: Any) -> Any:
        parts = urlsplit(address)
        if match := re.fullmatch(f"/apis/v1alpha1/runs/{ID}/nodes/{ID}/log", parts.path):
            self.authorize("runs", "readLog")
            if (match[1], match[2]) not in self.logs:
                raise Refused(500, "pod not found")
            return self.logs[match[1], match[2]].encode()
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        for verb, pattern, act in ROUTES:
            match = re.fullmatch(f"/apis/v2beta1/{pattern}", parts.path)
            if verb == method and match:
                if self.token is not None and who != self.token and pattern != "healthz":
                    raise Refused(401, "Request header error: there is no valid user identity")
                if pattern != "healthz":
                    resource = pattern.partition("/")[0].replace("recurringruns", "jobs")
                    self.authorize(resource, VERBS.get(method, "get" if pattern.endswith(ID) else "list"))
                with self.lock:
                    return act(self, query, body, *match.groups())
        raise Refused(404, "Not Found")

    def authorize(self, resource: str, verb: str) -> None:
        if self.rights is not None and (resource, verb) not in self.rights:
            raise Refused(403, f"User may not {verb} {resource}")

    def list_of(self, table: dict[str, Entry], field: str, query: Entry, **of: str) -> Entry:
        if self.many_users and table is not self.versions and not (query.get("namespace") or "experiment_id" in of):
            raise Refused(400, "Invalid input error: a namespace is needed")
        if self.many_users and query.get("namespace"):
            of["namespace"] = query["namespace"]
        entries = [entry for entry in table.values() if all(entry.get(key) == value for key, value in of.items())]
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            entries = [e for e in entries if e[predicate["key"]].lower() == predicate["stringValue"].lower()]
        if query.get("sort_by", "").endswith("desc"):
            entries.sort(key=lambda entry: entry["created_at"], reverse=True)
        start = int(query.get("page_token") or 0)
        more = {"next_page_token": str(start + PAGE)} if start + PAGE < len(entries) else {}
        return {field: entries[start : start + PAGE], "total_size": len(entries), **more}

    def create_named(self, table: dict[str, Entry], key: str, body: Entry, *unique: str) -> Entry:
        for entry in table.values():
            if all(entry.get(name) == body.get(name) for name in ("display_name", *unique)):
                raise Refused(409, f"Already exist error: {body['display_name']}")
        return self.add(table, key, body)

    def upload_version(self, query: Entry, body: bytes) -> Entry:
        if query["pipelineid"] not in self.pipelines:
            raise Refused(404, "Pipeline not found")
        spec = list(yaml.safe_load_all(body))
        entry = {"display_name": query["name"], "pipeline_id": query["pipelineid"], "pipeline_spec": spec}
        return self.create_named(self.versions, "pipeline_version_id", entry, "pipeline_id")

    def check_run(self, body: Entry) -> None:
        reference = body["pipeline_version_reference"]
        if reference["pipeline_version_id"] not in self.versions:
            raise Refused(404, "Pipeline version not found")
        if body["experiment_id"] not in self.experiments:
            raise Refused(404, "Experiment not found")

    def create_run(self, body: Entry) -> Entry:
        self.check_run(body)
        namespace = self.experiments[body["experiment_id"]].get("namespace")
        body = {**body, "namespace": namespace}
        return self.add(self.runs, "run_id", {**body, "state": "PENDING"})

    def create_schedule(self, body: Entry) -> Entry:
        self.check_run(body)
        if not 1 <= int(body["max_concurrency"]) <= 10 or len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
            raise Refused(400, "Invalid input error")
        namespace = self.experiments[body["experiment_id"]].get("namespace")
        return self.add(self.schedules, "recurring_run_id", {**body, "namespace": namespace})

    def delete_schedule(self, query: Entry, key: str) -> Entry:
        if self.schedules.pop(key, None) is None:
            raise Refused(404, "Recurring run not found")
        self.deleted.append((key, query.get("propagation_policy", "")))
        return {}


def entry_of(table: dict[str, Entry], key: str) -> Entry:
    if key not in table:
        raise Refused(404, "Not found")
    return table[key]


ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "healthz", lambda kfp, _q, _b: kfp.health),
    ("GET", "pipelines", lambda kfp, q, _b: kfp.list_of(kfp.pipelines, "pipelines", q)),
    ("POST", "pipelines", lambda kfp, _q, b: kfp.create_named(kfp.pipelines, "pipeline_id", b, "namespace")),
    ("POST", "pipelines/upload_version", lambda kfp, q, b: kfp.upload_version(q, b)),
    ("GET", f"pipelines/{ID}", lambda kfp, _q, _b, key: entry_of(kfp.pipelines, key)),
    (
        "GET",
        f"pipelines/{ID}/versions",
        lambda kfp, q, _b, key: kfp.list_of(kfp.versions, "pipeline_versions", q, pipeline_id=key),
    ),
    ("GET", f"pipelines/{ID}/versions/{ID}", lambda kfp, _q, _b, _p, key: entry_of(kfp.versions, key)),
    ("GET", "experiments", lambda kfp, q, _b: kfp.list_of(kfp.experiments, "experiments", q)),
    ("POST", "experiments", lambda kfp, _q, b: kfp.create_named(kfp.experiments, "experiment_id", b, "namespace")),
    (
        "GET",
        "runs",
        lambda kfp, q, _b: kfp.list_of(kfp.runs, "runs", q, **{key: q[key] for key in ("experiment_id",) if key in q}),
    ),
    ("GET", f"runs/{ID}", lambda kfp, _q, _b, key: entry_of(kfp.runs, key)),
    ("POST", "runs", lambda kfp, _q, b: kfp.create_run(b)),
    ("GET", "recurringruns", lambda kfp, q, _b: kfp.list_of(kfp.schedules, "recurringRuns", q)),
    ("POST", "recurringruns", lambda kfp, _q, b: kfp.create_schedule(b)),
    ("DELETE", f"recurringruns/{ID}", lambda kfp, q, _b, key: kfp.delete_schedule(q, key)),
]


class Handler(JsonHandler):
    """Turns HTTP into calls of the server's FakeKfp."""

    server: "Server"

    def handle_any(self) -> None:
        kfp, what = self.server.kfp, f"{self.command} {urlsplit(self.path).path.removeprefix('/apis/v2beta1/')}"
        who = self.headers.get("authorization", "").removeprefix("Bearer ")
        kfp.calls.append(what)
        body = self.body()
        try:
            kfp.before(who, what)
            answer = kfp.answer(self.command, self.path, who, self.given(body))
            kfp.after(who, what)
            self.reply(200, answer)
        except Refused as refusal:
            if refusal.status is not None:
                self.reply(refusal.status, {"message": refusal.message, "code": 0})

    def given(self, body: bytes) -> Any:
        content_type = self.headers.get("content-type", "")
        if content_type.startswith("multipart/"):
            form = email.message_from_bytes(f"content-type: {content_type}\r\n\r\n".encode() + body)
            return form.get_payload()[0].get_payload(decode=True)  # type: ignore[index, union-attr]  # it's multipart
        return json.loads(body) if body else None

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815  # http.server's names


class Server(ThreadingHTTPServer):
    """Serves one FakeKfp."""

    daemon_threads = True

    def __init__(self, kfp: FakeKfp) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kfp = kfp


@contextlib.contextmanager
def serving(kfp: FakeKfp) -> Iterator[str]:
    """Its address, while the block lasts."""
    with running(Server(kfp)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
