"""As much of Kubernetes' API as the preflight asks for: nodes by label, and the resources of a group."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml


@dataclass
class FakeKubernetes:
    """What it holds; `refuses` is a status that it answers everything with."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    kinds: list[str] | None = None
    refuses: int = 0

    def add_node(self, name: str, taints: list[dict[str, str]] | None = None, **amounts: str) -> dict[str, Any]:
        allocatable = {
            "cpu": "15890m",
            "memory": "60Gi",
            **{f"nvidia.com/{key}": value for key, value in amounts.items()},
        }
        node = {
            "metadata": {"name": name, "labels": {"nvidia.com/gpu.present": "true"}},
            "spec": {"taints": taints or []},
            "status": {"allocatable": allocatable},
        }
        self.nodes.append(node)
        return node

    def answer(self, path: str) -> tuple[int, Any]:
        parts = urlsplit(path)
        if self.refuses:
            return self.refuses, {"kind": "Status", "message": "no", "code": self.refuses}
        if parts.path == "/api/v1/nodes":
            wanted = parse_qs(parts.query).get("labelSelector", [""])[0]
            pairs = [pair.split("=", 1) for pair in wanted.split(",") if pair]
            found = [n for n in self.nodes if all(n["metadata"]["labels"].get(key) == value for key, value in pairs)]
            return 200, {"kind": "NodeList", "items": found}
        if parts.path == "/apis/ray.io/v1" and self.kinds is not None:
            entries = [
                {"name": kind.lower(), "kind": kind, "namespaced": True, "singularName": "", "verbs": ["get"]}
                for kind in self.kinds
            ]
            return 200, {"kind": "APIResourceList", "groupVersion": "ray.io/v1", "resources": entries}
        return 404, {"kind": "Status", "message": "the server could not find the requested resource", "code": 404}


@contextlib.contextmanager
def serving(kubernetes: FakeKubernetes, kubeconfig: Path) -> Iterator[str]:
    """Its address, which `kubeconfig` names, while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            status, answer = kubernetes.answer(self.path)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "clusters": [{"name": "here", "cluster": {"server": address}}],
                "users": [{"name": "me", "user": {}}],
            }
        )
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
