"""What `backdrop serve` is given: tokens, an address to listen at, a model; and its connections."""

import contextlib
import http.client
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from backdrop.common.errors import ConfigError, TrackingError
from backdrop.inference.ensemble import EnsembleModel
from backdrop.serving.gate import Limits
from backdrop.serving.server import _listen, make_server, read_tokens, serve
from tests.serving.conftest import Service, champion_of, serving

LONG = "a-token-that-is-long-enough"


def test_tokens_come_from_the_environment_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_tokens(None) == []
    (tmp_path / "tokens").write_text(f"{LONG}-2\n\n{LONG}-3\n")
    monkeypatch.setenv("BACKDROP_SERVE_TOKEN", f"{LONG}-0 {LONG}-1")
    assert read_tokens(None) == [f"{LONG}-0", f"{LONG}-1"]
    assert read_tokens(str(tmp_path / "tokens")) == [f"{LONG}-{number}" for number in range(4)]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "has no token"),
        (b"short\n", "A token of .* has fewer than 16 or more than 1,000 characters"),
        (f"{LONG}-ü".encode(), "has a space, a line break or a special character"),
        (b"\xff\xfe\xfd", "tokens .*tokens can't be read"),
        (b"[" * 2000, "or more than 1,000 characters"),
        (None, "tokens .*tokens "),
    ],
)
def test_a_file_without_good_tokens_is_refused(tmp_path: Path, content: bytes | None, error: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=error) as raised:
        read_tokens(str(path))
    assert "short\n" not in str(raised.value)


def test_it_listens_to_both_families_of_addresses(model: EnsembleModel) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    server = make_server(champion_of(model), Limits())
    with _listen("::", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            for host in ("127.0.0.1", "::1"):
                connection = http.client.HTTPConnection(host, listener.getsockname()[1])
                connection.request("GET", "/healthz")
                assert connection.getresponse().read() == b"alive\n"
                connection.close()
        finally:
            server.should_exit = True
            thread.join()


def test_an_address_in_brackets_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "64000000")
    with _listen("::1", 0) as taken, pytest.raises(ConfigError, match="Address already in use"):
        serve("models:/cars@champion", host="[::1]", port=taken.getsockname()[1])


def test_what_cannot_be_served_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "64000000")
    with pytest.raises(TrackingError, match="cars isn't a model's address"):
        serve("cars")
    with pytest.raises(ConfigError, match=r"256\.0\.0\.1:0 can't be listened at"):
        serve("models:/cars@champion", host="256.0.0.1", port=0)
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="BACKDROP_MAX_PIXELS is many"):
        serve("models:/cars@champion")


def test_what_is_not_http_is_answered_in_json(service: Service) -> None:
    for sent in (b"\x16\x03\x01\r\n\r\n", b"POST /v1/mask HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(sent)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 400
            assert set(json.loads(answer.read())) == {"error", "remedy"}
            assert not connection.recv(1)  # closed
    assert service.get("/healthz").status == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/mask HTTP/1.1\r\nHost: a\r\n"])
def test_a_connection_without_a_request_is_closed(model: EnsembleModel, sent: bytes) -> None:
    with (
        serving(champion_of(model), Limits(seconds=0.3)) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection,
    ):
        connection.sendall(sent)
        assert not connection.recv(1)


def test_a_connection_in_use_is_kept(model: EnsembleModel) -> None:
    with serving(champion_of(model), Limits(seconds=0.5)) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        with contextlib.closing(connection):
            connection.connect()
            first = connection.sock
            for _ in range(4):
                connection.request("GET", "/healthz")
                assert connection.getresponse().read() == b"alive\n"
                time.sleep(0.2)
            assert connection.sock is first  # not opened again
