"""Small servers of this machine: free ports, a server that runs while a block lasts, answers in JSON, a webhook."""

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Server = TypeVar("Server", bound=socketserver.BaseServer)


def free_port() -> int:
    """A port on which nobody listens now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Serves while the block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class JsonHandler(BaseHTTPRequestHandler):
    """Reads whole bodies, answers in JSON, and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def reply(self, status: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Hook(ThreadingHTTPServer):
    """A webhook: keeps the path, headers and body of each POST, and answers with `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.status = 200
        self.received: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.received]


class HookHandler(JsonHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.received.append((self.path, dict(self.headers), self.body()))
        if self.server.status == 302:
            self.send_response(302)
            self.send_header("location", "/elsewhere")
            self.end_headers()
        else:
            self.reply(self.server.status, b"ok")
