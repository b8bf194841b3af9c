"""No body makes the service fail, hang or grow."""

import time
from itertools import islice
from pathlib import Path

import pytest

from tests.data.test_formats import HEIC
from tests.serving import hostile
from tests.serving.conftest import Service

MAX_S = 10.0
MAX_GROWTH = 700_000_000  # bytes: of one batch of photographs of the largest size


def peak() -> int:
    """The most memory of this process, in bytes; the service is a thread of it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.fixture(autouse=True)
def _as_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "64000000")


def send(service: Service, name: str, body: bytes, certain: bool = True) -> None:
    began = time.monotonic()
    reply = service.post("/v1/mask", body, Content_Type="image/jpeg")
    assert time.monotonic() - began < MAX_S, name
    assert 400 <= reply.status < 500 or (not certain and reply.status == 200), f"{name}: {reply.status} {reply.body!r}"
    assert reply.status == 200 or set(reply.json) == {"error", "remedy"}, name


@pytest.mark.parametrize("kind", ["other kinds", "damaged", "odd"])
def test_some_bodies_of_each_kind(service: Service, kind: str) -> None:
    cases = list(hostile.KINDS[kind]()) if kind != "odd" else list(islice(hostile.odd(), 5, None))
    for name, body in cases[:: max(1, len(cases) // 10)]:
        send(service, name, body, kind != "odd")


def test_huge_sizes(service: Service) -> None:
    before = peak()
    for name, body in islice(hostile.too_large(), 15):
        send(service, name, body)
    assert peak() - before < 100_000_000


def test_too_many_scans(service: Service) -> None:
    assert service.post("/v1/mask", hostile.scans(1)).status == 200
    reply = service.post("/v1/mask", hostile.scans(5000))
    assert (reply.status, reply.json["error"]) == (400, "The photograph has 101 scans or more, and each takes time")


@pytest.mark.thorough
def test_two_hundred_bodies_in_bounded_time_and_memory(service: Service) -> None:
    assert HEIC.is_file()
    before, count = peak(), 0
    for kind, cases in hostile.KINDS.items():
        for name, body in cases():
            send(service, name, body, kind != "odd")
            count += 1
    assert count >= 200
    assert peak() - before < MAX_GROWTH
    assert service.get("/readyz").status == 200
