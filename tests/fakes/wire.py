"""A line to a server that can be cut, or go dead without a word."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class Wire(socketserver.ThreadingTCPServer):
    """Forwards each connection to `port` of this machine."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Line)
        self.target = port
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
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.dead:
                    target.sendall(data)
        self.close()

    def close(self) -> None:
        for end in (self.request, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        threading.Thread(target=wire.serve_forever, daemon=True).start()
        try:
            yield wire
        finally:
            wire.shutdown()
            wire.cut()
