"""A search's runs in MLflow, where they are cut short; those of a whole one: tests/tuning/test_search.py."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from backdrop.common.retry import RetryPolicy
from backdrop.config import find_recipe
from backdrop.tracking import searches
from backdrop.tracking.client import connect, experiment_id
from backdrop.tracking.searches import SearchRuns
from backdrop.tuning.results import Search
from backdrop.tuning.trial_store import Entry, Row
from tests.fakes.http import free_port
from tests.fakes.mlflow import local_server
from tests.tracking.workspace import server_is_thorough


def runs(kind: str) -> list:
    client = connect()
    return client.search_runs([experiment_id(client)], f"tags.`backdrop.kind` = '{kind}'")


def entry(rows: int, status: str = "running") -> Entry:
    made = [Row(fold=0, epoch=i, lr=0.1, loss=1.0, dice=0.5, seconds=1.0, time_ms=1000 + i) for i in range(rows)]
    return Entry(name="000-own", family="preset", override={}, rows=made, status=status)


@server_is_thorough
def test_a_killed_searchs_runs_are_joined_and_no_point_is_there_twice(tracked: str) -> None:
    recipe = find_recipe("tiny")
    first = SearchRuns("k" * 64, recipe, "small")
    first.__enter__()
    first.notify("000-own", entry(2), recipe)
    first._stop()
    first._send()  # and then its process was killed
    second = SearchRuns("k" * 64, recipe, "small").__enter__()
    assert second.run_id == first.run_id
    second.notify("000-own", entry(3, "finished"), recipe)
    second._stop()
    second._send()
    second.__exit__(KeyboardInterrupt, None, None)
    (run,) = runs("trial")
    history = connect().get_metric_history(run.info.run_id, "dice")
    assert [point.step for point in history] == [0, 1, 2]
    assert run.info.status == "FINISHED"
    assert runs("search")[0].info.status == "KILLED"


@pytest.mark.thorough
def test_a_server_may_go_and_come(clean: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe, port, search = (
        find_recipe("tiny"),
        free_port(),
        Search(
            recipe="tiny",
            space="small",
            data="",
            folds=(0,),
            budget_epochs=3,
            epochs=3,
            trials=(),
            comparison=None,
            chosen="",
        ),
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(searches, "POLICY", RetryPolicy(1.0, 1.0))
    with ExitStack() as down:
        down.enter_context(local_server(tmp_path / "mlflow", port))
        with SearchRuns("b" * 64, recipe, "small") as tracked:
            down.close()
            start = time.monotonic()
            for rows in range(1, 4):
                tracked.notify("000-own", entry(rows), recipe)
            assert time.monotonic() - start < 1, "a trial doesn't wait"
            tracked.notify("000-own", entry(3, "finished"), recipe)
            with local_server(tmp_path / "mlflow", port):
                tracked.finish(search, {"a.txt": b"a"})
                (run,) = runs("trial")
                history = connect().get_metric_history(run.info.run_id, "dice")
                assert [point.step for point in history] == [0, 1, 2]
                assert [one.info.status for one in (*runs("search"), run)] == ["FINISHED", "FINISHED"]
