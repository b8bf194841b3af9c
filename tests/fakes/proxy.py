"""What stands before a server: a path and a login, a proxy that spoils calls, a line that is cut or goes dead."""

import base64
import http.client
import itertools
import random
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.fakes.http import running

GATE_PATH, GATE_LOGIN = "/mlflow", "ada:pass:word ü"
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultyProxy(ThreadingHTTPServer):
    """Forwards each call to `port`, or, for a share of them, drawn from a seed, does one of the `faults` in turn."""

    daemon_threads = True
    faults = ("cut", "busy", "silent", "closed")

    def __init__(self, port: int, share: float, seed: int, silence_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.share, self.silence_s = port, share, silence_s
        self.seen: Counter[str] = Counter()  # faults by name, and calls by method
        self._chance, self._lock = random.Random(seed), threading.Lock()
        self._cut, self._uncut = itertools.cycle(self.faults), itertools.cycle(self.faults[1:])
        self.stopping = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, method: str) -> str:
        """What happens to this call: nothing, or one of the faults; only a body that is read can be cut."""
        with self._lock:
            self.seen[method] += 1
            if self._chance.random() >= self.share:
                return ""
            turns = self._cut if method == "GET" else self._uncut
            name = next(turns)
            self.seen[name] += 1
            return name


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(self.command)
        if fault in ("closed", "silent"):
            self.server.stopping.wait(self.server.silence_s if fault == "silent" else 0)
            self.close_connection = True
            return
        if fault == "busy":
            self._answer(503, [("Content-Type", "application/xml")], BUSY, len(BUSY))
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        length = int(answer.headers.get("Content-Length") or len(data))
        if fault == "cut" and data:
            data, self.close_connection = data[: len(data) // 2], True
        self._answer(answer.status, answer.getheaders(), data, length)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _forward  # noqa: N815  # http.server's names

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def faulty(port: int, share: float, seed: int = 0, silence_s: float = 2.0) -> Iterator[FaultyProxy]:
    """Runs the proxy while the block lasts."""
    with running(FaultyProxy(port, share, seed, silence_s)) as proxy:
        try:
            yield proxy
        finally:
            proxy.stopping.set()


class _Gate(_Handler):
    """Lets through what comes with the login, below the path, which the server behind doesn't know."""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        login = "Basic " + base64.b64encode(GATE_LOGIN.encode()).decode()
        if self.headers["Authorization"] == login and self.path.startswith(f"{GATE_PATH}/"):
            self.path = self.path.removeprefix(GATE_PATH)
            self.headers.replace_header("Host", f"127.0.0.1:{self.server.target}")
            return True
        self.close_connection = True  # its body isn't read
        self._answer(404 if self.headers["Authorization"] == login else 401, [], b"<html>", 6)
        return False


@contextmanager
def gated(port: int) -> Iterator[str]:
    """The address of a server behind a gate, while the block lasts."""
    with faulty(port, share=0.0) as proxy:
        proxy.RequestHandlerClass = _Gate
        yield proxy.address


class _Expired(_Handler):
    """Answers with a login page, as a success, in the place of files of one name."""

    name = ""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.command == "GET" and self.path.endswith(f"/{self.name}"):
            self._answer(200, [("Content-Type", "text/html")], b"<html>Sign in</html>", 20)
            return False
        self.headers.replace_header("Host", f"127.0.0.1:{self.server.target}")
        return True


@contextmanager
def expired(port: int, name: str) -> Iterator[str]:
    """The address of a server behind a login that has expired for files of one name, while the block lasts."""
    with faulty(port, share=0.0) as proxy:
        proxy.RequestHandlerClass = type("_ExpiredFor", (_Expired,), {"name": name})
        yield proxy.address


class Wire(socketserver.ThreadingTCPServer):
    """Forwards each connection from port `at` of this machine (0: a free one) to `port`, which it names as the host."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, port: int, at: int = 0) -> None:
        super().__init__(("127.0.0.1", at), _Line)
        self.target = port
        self.hosts = tuple(f"\r\nHost: 127.0.0.1:{end}\r\n".encode() for end in (self.server_address[1], port))
        self.lines: set[_Line] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def cut(self) -> None:
        """Closes what is open."""
        for line in list(self.lines):
            line.close()

    def deaden(self) -> None:
        """Lets nothing more come through what is open, and doesn't close it."""
        for line in self.lines:
            line.dead = True


class _Line(socketserver.BaseRequestHandler):
    server: Wire
    dead = False

    def handle(self) -> None:
        self.far = socket.create_connection(("127.0.0.1", self.server.target))
        self.server.lines.add(self)
        back = threading.Thread(target=self._pump, args=(self.far, self.request), daemon=True)
        back.start()
        self._pump(self.request, self.far)
        back.join()
        self.server.lines.discard(self)
        self.far.close()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.dead:
                    target.sendall(data.replace(*self.server.hosts))
        self.close()

    def close(self) -> None:
        for end in (self.request, self.far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire_to(port: int, at: int = 0) -> Iterator[Wire]:
    """Runs the wire while the block lasts."""
    with running(Wire(port, at)) as wire:
        try:
            yield wire
        finally:
            wire.cut()
