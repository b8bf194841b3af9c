"""A model's history in a real registry: who decides, what a hold keeps, and what a kill leaves."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from backdrop.common.errors import GateError, TrackingError
from backdrop.steps.history import history, verify_history
from backdrop.steps.hold import hold
from backdrop.steps.models import models
from backdrop.steps.promote import override, promote
from backdrop.steps.release import release
from backdrop.steps.rollback import rollback
from backdrop.tracking import history as records
from backdrop.tracking.client import connect
from backdrop.tracking.ledger import Entry, State
from backdrop.tracking.registry import find_alias
from tests.tracking.workspace import Workspace, server_is_thorough


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"model-{tmp_path.name}"


def champion(name: str) -> int | None:
    return records.read(name).state.champion


def shown(name: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in connect().get_registered_model(name).aliases.items()}


@server_is_thorough
def test_a_champion_that_was_rolled_back_to_is_held(tracked: str, workspace: Workspace, name: str) -> None:
    data = str(workspace.data)
    for seed, dice in ((1, 0.95), (2, 0.97)):
        workspace.register(name, seed, dice)
        assert promote(data, name).outcome == "promoted"
    assert shown(name) == {"champion": 2, "previous": 1}

    assert rollback(name, reason="halos").version == 1
    assert shown(name) == {"champion": 1, "previous": 2, "challenger": 2}
    for seed, dice in ((2, 0.97), (2, 0.97), (2, 0.97), (3, 0.99)):  # three runs change nothing, the fourth is new
        workspace.register(name, seed, dice)
        verdict = promote(data, name)
        assert (verdict.outcome, verdict.summary, champion(name)) == ("unchanged", "the champion is held", 1)
        assert "halos" in verdict.reasons[0]
    assert next(model.held for model in models() if model.name == name) == "halos"

    assert release(name)
    assert not release(name)
    verdict = promote(data, name)
    assert (verdict.outcome, champion(name)) == ("promoted", 3)
    assert [(entry.event, entry.version) for entry in history(name)] == [
        ("registered", 1),
        ("promoted", 1),
        ("registered", 2),
        ("promoted", 2),
        ("rolled back", 1),
        ("registered", 3),
        ("released", 1),
        ("promoted", 3),
    ]
    assert not verify_history(name)


@server_is_thorough
def test_people_decide_too(tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(workspace.data)
    workspace.register(name, 1, 0.95)
    with pytest.raises(TrackingError, match="has no champion"):
        hold(name)
    promote(data, name)
    workspace.register(name, 2, 0.93)
    assert promote(data, name).outcome == "rejected"
    with pytest.raises(GateError, match="needs a reason"):
        override(name, 2, " ")
    with pytest.raises(TrackingError, match=f"no models:/{name}/7"):
        override(name, 7, "better on glass")
    assert override(name, 2, "better on glass").version == champion(name) == 2
    with pytest.raises(TrackingError, match="Version 7 was never champion"):
        rollback(name, to="7")
    with pytest.raises(TrackingError, match="At 2020-01-01 there was no champion"):
        rollback(name, to="2020-01-01")
    with pytest.raises(TrackingError, match="neither a version nor a date"):
        rollback(name, to="yesterday")
    with monkeypatch.context() as west:
        west.setenv("TZ", "America/New_York")
        time.tzset()
        with pytest.raises(TrackingError, match="neither a version nor a date"):  # UTC has no such time
            rollback(name, to="9999-12-31")
    time.tzset()
    with pytest.raises(TrackingError, match="is the champion already"):
        rollback(name, to="2")
    assert rollback(name, to="1").version == 1
    assert hold(name).event == "rolled back"  # it is held already
    override(name, 2, "once more")
    workspace.register(name, 1, 0.95)
    assert "has held the champion since" in promote(data, name).reasons[0], "now that is version 2"
    reasons = [entry.reason for entry in history(name)]
    assert "override: better on glass" in reasons
    assert all(entry.actor and entry.time for entry in history(name))


@server_is_thorough
def test_an_unchanged_run_is_no_look(tracked: str, workspace: Workspace, name: str) -> None:
    data = str(workspace.data)
    workspace.register(name, 1, 0.95)
    promote(data, name)
    workspace.register(name, 2, 0.93)
    first = promote(data, name)
    workspace.register(name, 2, 0.93)
    assert promote(data, name) == first
    state = records.read(name).state
    (holdout,) = {entry.holdout for entry in state.judged}
    assert state.looks(holdout) == 1
    workspace.register(name, 3, 0.92)
    promote(data, name)
    assert records.read(name).state.looks(holdout) == 2


@server_is_thorough
def test_the_report_says_that_the_champion_is_held_until_the_gate_judges(
    tracked: str, workspace: Workspace, name: str
) -> None:
    data = str(workspace.data)
    workspace.register(name, 1, 0.93)
    promote(data, name)
    hold(name)
    run_id = workspace.register(name, 2, 0.95).run_id

    def page() -> str:
        return Path(connect().download_artifacts(run_id, "report/index.html")).read_text(encoding="utf-8")

    promote(data, name)
    assert f"models:/{name}/1 has been held since" in page()
    release(name)
    promote(data, name)
    assert f"models:/{name}/2 became the champion instead of models:/{name}/1" in page()
    assert "has been held" not in page()


@server_is_thorough
def test_a_kill_before_the_aliases_are_set_is_put_right(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.register(name, 1, 0.95)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("backdrop.tracking.history._mirror", die)
        with pytest.raises(KeyboardInterrupt):
            override(name, 1, "killed")
    assert champion(name) == 1
    assert "champion" not in shown(name)
    assert promote(str(workspace.data), name).outcome == "unchanged"
    assert shown(name) == {"champion": 1}
    connect().set_registered_model_alias(name, "challenger", "1")  # by hand
    records.mirror(name)
    assert shown(name) == {"champion": 1}


@server_is_thorough
def test_a_rollback_that_is_cut_short_is_finished_and_not_undone(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, dice in ((1, 0.95), (2, 0.97)):
        workspace.register(name, seed, dice)
        promote(str(workspace.data), name)

    def fail(*_: object) -> None:
        raise MlflowException("no", error_code=BAD_REQUEST)

    with monkeypatch.context() as patch:
        patch.setattr("backdrop.tracking.history._mirror", fail)
        with pytest.raises(TrackingError, match=rf"Then run `backdrop rollback {name} --to 1`"):
            rollback(name)
    assert shown(name) == {"champion": 2, "previous": 1}
    assert rollback(name, to="1").version == 1
    assert shown(name) == {"champion": 1, "previous": 2, "challenger": 2}
    assert [entry.event for entry in history(name)].count("rolled back") == 1
    release(name)
    with pytest.raises(TrackingError, match="is the champion already"):
        rollback(name, to="1")


@server_is_thorough
def test_whoever_comes_second_is_told_who_won(tracked: str, workspace: Workspace, name: str) -> None:
    for seed, dice in ((1, 0.95), (2, 0.97)):
        workspace.register(name, seed, dice)

    def late(state: State) -> Entry:
        if state.champion is None:
            override(name, 2, "first")  # between reading and writing
        return Entry(event="promoted", version=1, champion=state.champion)

    with pytest.raises(GateError, match=rf"has made models:/{name}/2 the champion meanwhile \(promoted at "):
        records.decide(name, late)
    assert champion(name) == 2


@server_is_thorough
def test_each_reports_what_it_did_whatever_comes_next(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, others = records.mirror, list[Callable[[], object]]()

    def mirror_late(model: str) -> State:
        if others:
            others.pop(0)()
        return mirror(model)

    monkeypatch.setattr(records, "mirror", mirror_late)
    data = str(workspace.data)
    workspace.register(name, 1, 0.95)
    promote(data, name)
    workspace.register(name, 2, 0.97)
    others += [lambda: None, lambda: hold(name)]  # promote mirrors at its beginning, too
    assert promote(data, name).outcome == "promoted"
    release(name)
    others.append(lambda: release(name))
    assert hold(name).event == "held"
    others.append(lambda: override(name, 2, "first"))
    assert rollback(name).version == 1
    assert champion(name) == 2


@server_is_thorough
def test_a_long_history_is_read_whole_while_it_grows(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.register(name, 1, 0.95)
    override(name, 1, "first")
    hold(name)
    monkeypatch.setattr(records, "PAGE", 2)
    search, meanwhile = MlflowClient.search_model_versions, [lambda: release(name)]

    def search_slowly(client: MlflowClient, *what: Any, **options: Any) -> Any:
        page = search(client, *what, **options)
        if meanwhile:
            meanwhile.pop()()
        return page

    monkeypatch.setattr(MlflowClient, "search_model_versions", search_slowly)
    known = records.read(name)
    assert [link.entry.event for link in known.links] == ["registered", "promoted", "held", "released"]


@server_is_thorough
def test_a_model_that_was_deleted_begins_anew(tracked: str, workspace: Workspace, name: str) -> None:
    """MLflow numbers its versions from 1 again: a number stands for another ensemble then."""
    data = str(workspace.data)
    for seed, dice in ((1, 0.95), (2, 0.97)):
        workspace.register(name, seed, dice)
        assert promote(data, name).outcome == "promoted"
    hold(name)
    connect().delete_registered_model(name)
    assert find_alias(name, "champion") is None
    assert workspace.register(name, 3, 0.5).version == 1
    assert (champion(name), shown(name)) == (None, {"challenger": 1})
    assert "verdict" not in connect().get_model_version(name, "1").description
    assert promote(data, name).outcome == "rejected"
    assert workspace.register(name, 4, 0.93).version == 2
    assert promote(data, name).outcome == "promoted"
    with pytest.raises(TrackingError, match="is the only champion"):
        rollback(name)
    with pytest.raises(TrackingError, match="Version 1 was never champion"):
        rollback(name, to="1")
    workspace.register(name, 5, 0.95)
    assert promote(data, name).look == 2, "the holdout was asked before"
    assert not verify_history(name)


@server_is_thorough
def test_an_altered_history_stops_every_decision(tracked: str, workspace: Workspace, name: str) -> None:
    workspace.register(name, 1, 0.95)
    promote(str(workspace.data), name)
    client, book = connect(), f"{name}.history"
    text = client.get_model_version(book, "2").tags["backdrop.entry"]
    client.set_model_version_tag(book, "2", "backdrop.entry", text.replace('"version":1', '"version":2'))
    assert verify_history(name) == ("entry 2 was changed", "the last entries were deleted or changed")
    for act in (lambda: hold(name), lambda: promote(str(workspace.data), name), lambda: history(name)):
        with pytest.raises(TrackingError, match="entry 2 was changed"):
            act()
    assert next(model.fault for model in models() if model.name == name) == "entry 2 was changed"
    client.set_model_version_tag(book, "2", "backdrop.entry", text)
    assert not verify_history(name)
    client.delete_model_version(book, "2")
    assert verify_history(name) == ("the last entries were deleted or changed",)
