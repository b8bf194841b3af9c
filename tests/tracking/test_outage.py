"""The server goes away and comes back, or a training goes and never does."""

import functools
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from backdrop.common.errors import ConfigError
from backdrop.common.retry import RetryPolicy
from backdrop.inference.member import read_member
from backdrop.steps.reap import reap
from backdrop.steps.train import train
from backdrop.tracking import metrics_uploader
from backdrop.tracking.client import connect, experiment_id
from backdrop.tracking.members import run_of
from backdrop.tracking.runs import MemberRun
from backdrop.training import trainer
from tests.conftest import SMALL
from tests.fakes.http import free_port
from tests.fakes.mlflow import local_server
from tests.fakes.proxy import wire_to

HOUR_MS = 3_600_000


class Steps:
    """Watches training from within: what each step took with all that follows it, in which phase, and calls made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pause_s: float) -> None:
        self.phase = "before"
        self.took: list[tuple[str, float]] = []
        self.calls: list[tuple[int, float]] = []  # thread and time
        self.first = self.last = 0.0
        begun, slept, train_step, send = 0.0, 0.0, trainer.train_step, requests.adapters.HTTPAdapter.send

        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal begun, slept
            now = time.perf_counter()
            if begun:
                self.took.append((self.phase, now - begun - slept))
            begun, self.last = now, time.monotonic()
            self.first = self.first or self.last
            loss = train_step(*arguments, **named)
            before = time.perf_counter()
            time.sleep(pause_s)  # so that it lasts
            slept = time.perf_counter() - before
            return loss

        def watched(*arguments: Any, **named: Any) -> Any:
            self.calls.append((threading.get_ident(), time.monotonic()))
            return send(*arguments, **named)

        monkeypatch.setattr(trainer, "train_step", step)
        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", watched)

    def of(self, phase: str) -> list[float]:
        return [took for name, took in self.took if name == phase]


def train_through_an_outage(
    serve: Callable[[int], AbstractContextManager[object]],
    steps: Steps,
    data: Path,
    plan: Path,
    folder: Path,
    epochs: int,
    before_s: float,
    away_s: float,
) -> None:
    """Trains, while what serves at a port stops after a while and comes back; every point must be there, once."""
    port = free_port()
    with pytest.MonkeyPatch.context() as environment, ExitStack() as server:
        environment.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        server.enter_context(serve(port))

        def outage() -> None:
            while not steps.took and steps.phase == "before":
                time.sleep(0.01)
            time.sleep(before_s)
            server.close()
            steps.phase = "away"
            time.sleep(away_s)
            steps.phase = "starting"
            server.enter_context(serve(port))

        thread = threading.Thread(target=outage)
        thread.start()
        overrides = [*SMALL[1:], f"epochs={epochs}", "checkpoint.every_s=1"]
        try:
            record = train(str(data), str(plan), "tiny", 0, str(folder / "member"), overrides)
        finally:
            steps.phase = "over"
            thread.join()
        run = connect().get_run(run_of(record.address))
        assert run.info.status == "FINISHED"
        rows = read_member(folder / "member").history()
        assert len(rows) == epochs
        for key in ("lr", "loss", "dice"):
            history = connect().get_metric_history(run.info.run_id, key)
            assert [(m.step, m.value) for m in history] == [(row["epoch"], row[key]) for row in rows]


def test_a_server_that_is_away_for_a_while_loses_nothing(
    mlflow_server: str, clean: None, data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away for this training only: what leads to it is cut, and restored later."""
    serve = functools.partial(wire_to, int(mlflow_server.rpartition(":")[2]))
    monkeypatch.setattr(metrics_uploader, "POLICY", RetryPolicy(0.05, 0.5))
    steps = Steps(monkeypatch, pause_s=0.02)
    train_through_an_outage(serve, steps, data, plan, tmp_path, epochs=40, before_s=1, away_s=2)
    assert steps.of("away")
    during = [thread for thread, at in steps.calls if steps.first <= at <= steps.last]
    assert during  # other threads than training did speak to the server meanwhile
    assert threading.get_ident() not in during


@pytest.mark.slow
def test_an_outage_of_a_minute_slows_no_step(
    clean: None, data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch, pause_s=0.05)
    serve = functools.partial(local_server, tmp_path / "mlflow")
    train_through_an_outage(serve, steps, data, plan, tmp_path, epochs=1400, before_s=60, away_s=60)
    before, away = (np.percentile(steps.of(phase), 95) for phase in ("before", "away"))
    print(f"p95 step time away/before: {away / before:.2f} of {len(steps.of('away'))} and {len(steps.of('before'))}")
    assert away / before <= 1.2


def test_a_run_whose_process_is_gone_is_reaped(tracked: str, member: Path) -> None:
    recipe = read_member(member).recipe
    lost, alive = (MemberRun(key * 64, recipe, 1).__enter__() for key in "ab")
    server = connect()
    silent = int(time.time() * 1000) - HOUR_MS
    server.set_tag(lost.run_id, metrics_uploader.HEARTBEAT, str(silent))
    others = server.create_run(experiment_id(server), start_time=silent)
    ensemble = server.create_run(experiment_id(server), start_time=silent, tags={"backdrop.kind": "ensemble"})
    with pytest.raises(ConfigError, match="would close live trainings"):
        reap(1)
    assert reap(120) == []
    assert {(run.run_id, run.last_ms) for run in reap(15)} == {(lost.run_id, silent), (ensemble.info.run_id, silent)}
    assert reap(15) == []
    closed = server.get_run(lost.run_id).info
    assert (closed.status, closed.end_time) == ("KILLED", silent)
    for run_id in (alive.run_id, others.info.run_id):
        assert server.get_run(run_id).info.status == "RUNNING"


def test_a_training_that_was_thought_dead_reopens_its_run(
    tracked: str, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_uploader, "POLICY", RetryPolicy(0.05, 60.0))
    monkeypatch.setattr(metrics_uploader, "BEAT_S", 0.2)
    with MemberRun("a" * 64, read_member(member).recipe, 1) as run:
        run.follow(member / "metrics.jsonl")
        server = connect()
        server.set_terminated(run.run_id, "KILLED")
        deadline = time.monotonic() + 60
        while server.get_run(run.run_id).info.status != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.get_run(run.run_id).info.status == "RUNNING"
        assert run.finish(member)
    assert server.get_run(run.run_id).info.status == "FINISHED"
