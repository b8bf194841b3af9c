"""A service in a thread of the tests' own process, with a model that needn't be trained."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backdrop.config import find_recipe
from backdrop.config.postprocessing import FillHoles
from backdrop.inference.ensemble import EnsembleModel
from backdrop.inference.member import read_member
from backdrop.serving.champion import Champion, Served
from backdrop.serving.gate import Limits
from backdrop.serving.server import make_server
from tests.tracking.workspace import write_member

HEIGHT, WIDTH = 40, 60


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """A running service; its `champion` can be changed."""

    port: int
    champion: Champion

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 60, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, **headers)


@contextlib.contextmanager
def serving(champion: Champion, limits: Limits | None = None) -> Iterator[Service]:
    server = make_server(champion, limits or Limits())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Service(listener.getsockname()[1], champion)
        finally:
            server.should_exit = True
            thread.join()


def make_model(folder: Path, seed: int = 0) -> EnsembleModel:
    """Two members with random weights, whose masks are filled up."""
    recipe = find_recipe("tiny", ["input.size=32x32", "network.width=2", "network.depth=1", f"seed={seed}"])
    members = [read_member(write_member(folder / f"m{fold}", recipe, f"{seed}{fold}" * 32, fold)) for fold in (0, 1)]
    return EnsembleModel(tuple(members), {}, (FillHoles(kind="fill_holes", max_area=0.5),))


def champion_of(model: EnsembleModel | None) -> Champion:
    """A champion that is loaded already; its registry, which the tests turn off, is away."""
    champion = Champion("models:/cars@champion")
    champion.current = Served("models:/cars/3", "d" * 64, model) if model else None
    return champion


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> EnsembleModel:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")  # no longer: it looks at any registry that a later test turns on
def service(model: EnsembleModel) -> Iterator[Service]:
    with serving(champion_of(model)) as running:
        yield running


@pytest.fixture(scope="session")
def photo() -> np.ndarray[Any, Any]:
    """A photograph (H, W, 3) RGB of an ellipse, dark on light."""
    image = np.full((HEIGHT, WIDTH, 3), 220, np.uint8)
    cv2.ellipse(image, (30, 20), (18, 11), 15, 0, 360, (70, 40, 30), -1)
    return image


@pytest.fixture(scope="session")
def png(photo: np.ndarray[Any, Any]) -> bytes:
    return encode(photo, ".png")


def encode(image: np.ndarray[Any, Any], suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, image[..., ::-1])[1])
