"""What `plan` finds missing, against real MLflow; and that `promote` then decides without running a network."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backdrop.common import storage
from backdrop.common.places import INVENTORY
from backdrop.config import BUDGETS
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import dump_plan, make_plan, read_plan
from backdrop.evaluation.records import METRICS, PAGE
from backdrop.steps.evaluate import evaluate
from backdrop.steps.hold import hold
from backdrop.steps.plan import PlanRecord, Run, plan
from backdrop.steps.promote import override, promote
from backdrop.steps.register import register
from backdrop.steps.release import release
from backdrop.steps.rollback import rollback
from backdrop.tracking.client import connect
from backdrop.tracking.members import run_of
from backdrop.tracking.registry import find_alias, find_number
from backdrop.tracking.runs import MemberRun
from tests.tracking.workspace import ENSEMBLE, HELD, Workspace, server_is_thorough

ALL = ("train-tiny-0", "train-tiny-1", "evaluation", "verdict")


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"model-{tmp_path.name}"


def ensemble_of(workspace: Workspace, seed: int) -> str:
    """The workspace's ensemble with the share of its holdout, so that `plan` makes the workspace's own plan."""
    path = workspace.ensemble(seed)
    path.write_text(ENSEMBLE.replace("SEED", str(seed)).replace("count: 2", f"count: 2, holdout: {HELD / (HELD + 4)}"))
    return str(path)


def upload(workspace: Workspace, seed: int, fold: int) -> str:
    folder = workspace.members(seed)[fold]
    key = json.loads((folder / "member.json").read_text())["key"]
    with MemberRun(key, workspace.recipe(seed), fold) as run:
        return run.finish(folder)


def asked(workspace: Workspace, name: str, seed: int, **more: Any) -> PlanRecord:
    out = workspace.root / "plans"
    shutil.rmtree(out, ignore_errors=True)
    return plan(Run(str(workspace.data), ensemble_of(workspace, seed), name, **more), str(out))


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def enroll(workspace: Workspace, name: str, seed: int, dice: float, members: list[str]) -> int:
    report, ensemble = str(workspace.report(dice, seed)), ensemble_of(workspace, seed)
    return register(str(workspace.data), str(workspace.plan), members, report, ensemble, name).version


@server_is_thorough
def test_what_is_missing_shrinks_until_nothing_is(tracked: str, workspace: Workspace, name: str) -> None:
    data = str(workspace.data)
    assert asked(workspace, name, 1).missing == ALL
    assert read_plan(workspace.root / "plans" / "000.csv") == read_plan(workspace.plan)
    first = upload(workspace, 1, 0)
    begun = asked(workspace, name, 1)
    assert begun.missing == ALL[1:]
    assert {name: member.address for name, member in begun.members.items()} == {"tiny-0": first}
    assert asked(workspace, name, 1, folds=[1]).missing == ALL[1:]
    second = upload(workspace, 1, 1)
    assert asked(workspace, name, 1).missing == ("evaluation", "verdict")
    # A run that was killed before its gate decided: the next one has only that to do.
    enroll(workspace, name, 1, 0.95, [first, second])
    assert asked(workspace, name, 1).missing == ("verdict",)
    assert asked(workspace, name, 1, promotion=False).missing == ()
    assert promote(data, name, predict=False).outcome == "promoted"
    done = asked(workspace, name, 1)
    assert (done.missing, done.champion) == ((), 1)
    assert done.registration is not None
    assert (done.registration.version, set(done.members)) == (1, {"tiny-0", "tiny-1"})
    assert asked(workspace, name, 1, objects=14).missing == ALL, "other data"


@server_is_thorough
def test_a_verdict_is_one_against_the_present_champion(tracked: str, workspace: Workspace, name: str) -> None:
    data = str(workspace.data)
    for seed, dice in ((1, 0.95), (2, 0.93)):
        enroll(workspace, name, seed, dice, [upload(workspace, seed, fold) for fold in (0, 1)])
        promote(data, name)
    assert asked(workspace, name, 1).missing == asked(workspace, name, 2).missing == ()
    override(name, 2, "by hand")
    assert asked(workspace, name, 1).missing == ("verdict",)
    assert asked(workspace, name, 2).missing == ()
    hold(name)
    assert asked(workspace, name, 1).missing == (), "a held champion isn't judged"
    release(name)
    rollback(name)  # which holds it, too
    assert asked(workspace, name, 2).missing == ()
    release(name)
    assert asked(workspace, name, 2).missing == (), "rejected against this champion before"


@server_is_thorough
def test_what_was_lost_is_missing(
    tracked: str, workspace: Workspace, name: str, artifacts: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    members = [upload(workspace, 1, fold) for fold in (0, 1)]
    enroll(workspace, name, 1, 0.95, members)
    promote(str(workspace.data), name)
    version = find_alias(name, "champion")
    assert version is not None
    weights = artifacts(version.model) / "artifacts/ensemble/members/tiny-0/weights.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1])
    assert asked(workspace, name, 1).missing == ("evaluation", "verdict")
    weights.write_bytes(kept)
    assert asked(workspace, name, 1).missing == ()
    shutil.rmtree(storage.cache_folder() / "members")
    (artifacts(run_of(members[1])) / "member" / "weights.safetensors").unlink()
    assert asked(workspace, name, 1).missing == ("train-tiny-1", "evaluation", "verdict")
    assert "isn't reused" in capfd.readouterr().err


def test_a_search_comes_before_its_members(
    clean: None, store: Path, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    searches = str(workspace.root / "tune-{recipe}-{key}")
    for fold in (0, 1):
        upload(workspace, 1, fold)  # with the recipe's own schedule, which the run isn't to use
    missing = asked(workspace, name, 1, budget=BUDGETS["fast"], searches=searches).missing
    assert missing == ("tune-tiny", *ALL)


def test_a_champion_judged_by_evaluate_needs_no_network_in_promote(
    clean: None,
    store: Path,
    workspace: Workspace,
    name: str,
    make_dataset: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(store)
    enroll(workspace, name, 1, 0.95, [upload(workspace, 1, fold) for fold in (0, 1)])
    promote(str(workspace.data), name)
    data, path = make_dataset(objects=20), workspace.root / "larger.csv"
    made = make_plan(open_dataset(data), Rule(2, 0.7, "area", 0), old=read_plan(workspace.plan))
    path.write_bytes(dump_plan(made))
    wide = workspace.with_plan(path)

    def judge(model: str | None) -> str:
        report, members = str(workspace.root / f"report-{model}"), [str(folder) for folder in wide.members(2)]
        evaluate(str(data), str(path), members, report, str(wide.ensemble(2)), model)
        register(str(data), str(path), members, report, str(wide.ensemble(2)), name)
        return report

    first = judge(None)
    later = promote(str(data), name, predict=False)
    assert (later.outcome, later.summary) == ("unchanged", "another champion reigns since the evaluation")
    assert f"models:/{name}/1 has become the champion" in later.reasons[0]
    report = judge(name)
    evaluation = json.loads(Path(report, METRICS).read_text())
    assert evaluation["champion"]["scores"] == storage.sha256(Path(report, "champion.csv").read_bytes())
    decided = promote(str(data), name, predict=False)
    assert decided.outcome in ("promoted", "rejected")
    assert decided.objects == 14
    assert decided.difference is not None
    champion = evaluation["comparisons"][0]
    assert (champion["kind"], champion["name"]) == ("champion", name)
    assert champion["gain"]["mean"] == pytest.approx(decided.difference)  # promote judges by the same scores
    run_id = find_number(name, 2).evaluation_run
    logged, written = (contents(path) for path in (connect().download_artifacts(run_id, "report"), first))
    assert logged.keys() == written.keys() - {INVENTORY}
    assert [one for one in logged if logged[one] != written[one]] == [PAGE], "it has the verdict, too"
    metrics = connect().get_run(run_id).data.metrics
    for part, quality in evaluation["quality"].items():
        assert metrics[f"{part}_boundary_iou"] == pytest.approx(quality["measures"]["boundary_iou"]["mean"])
        assert metrics[f"{part}_calibration_error"] == pytest.approx(quality["calibration"]["error"])
    own = workspace.root / "own"
    members = [str(folder) for folder in workspace.members(2)]
    evaluate(str(workspace.data), str(workspace.plan), members, str(own), str(workspace.ensemble(2)), name)
    assert not (own / "champion.csv").exists(), "on its own holdout its scores are recorded"
    assert json.loads((own / METRICS).read_text())["comparisons"][0]["kind"] == "champion"
