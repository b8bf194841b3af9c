import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from backdrop.cli.output import models_text
from backdrop.common import storage
from backdrop.common.errors import MemberError, PlanError, StorageError, TrackingError
from backdrop.config import find_ensemble
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import dump_plan, make_plan, read_plan
from backdrop.evaluation.metrics import estimate
from backdrop.evaluation.records import read_scores
from backdrop.evaluation.scoring import score_holdout
from backdrop.inference.ensemble import load_ensemble
from backdrop.inference.member import content_key, read_member
from backdrop.steps.evaluate import evaluate
from backdrop.steps.history import history, verify_history
from backdrop.steps.hold import hold
from backdrop.steps.models import models
from backdrop.steps.promote import override, promote
from backdrop.steps.register import Registration, find_registration, register
from backdrop.steps.release import release
from backdrop.steps.rollback import rollback
from backdrop.steps.split import split
from backdrop.tracking import cache, registry
from backdrop.tracking.client import connect, experiment_id
from backdrop.tracking.evaluations import fetch_evaluation
from backdrop.tracking.members import run_of
from backdrop.tracking.model_list import ListedModel
from backdrop.tracking.registry import champion_plan, find_alias, require_version
from backdrop.tracking.runs import MemberRun
from backdrop.tracking.version_files import ensemble_digest, fetch
from tests.conftest import small_disk
from tests.tracking.workspace import HELD, Workspace, server_is_thorough, write_member


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"model-{tmp_path.name}"


def put(workspace: Workspace, name: str, seed: int, dice: float, members: list[str] | None = None) -> Registration:
    return workspace.register(name, seed, dice, members)


def track(workspace: Workspace, seed: int) -> list[str]:
    """The members' addresses in MLflow."""
    plan, _ = workspace.read()
    addresses = []
    for fold, folder in zip(plan.folds, workspace.members(seed), strict=True):
        key = json.loads((folder / "member.json").read_text())["key"]
        with MemberRun(key, workspace.recipe(seed), fold) as run:
            addresses.append(run.finish(folder))
    return addresses


def evaluation_runs() -> list[Run]:
    client = connect()
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    assert experiment
    return list(client.search_runs([experiment.experiment_id], "tags.`backdrop.kind` = 'ensemble'"))


def champion(name: str) -> int | None:
    version = find_alias(name, "champion")
    return version.version if version else None


def larger(workspace: Workspace, make_dataset: Callable[..., Path], extend: bool) -> Workspace:
    """The workspace with four more objects: with every old one in its place, or all placed anew."""
    data, plan = make_dataset(objects=20), workspace.root / f"larger-{extend}.csv"
    rule = Rule(2, 0.7, "area", 0 if extend else 7)
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), rule, old=read_plan(workspace.plan) if extend else None)))
    return workspace.with_plan(plan)


@server_is_thorough
def test_from_registering_to_rolling_back(
    tracked: str, workspace: Workspace, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(workspace.data)
    split(data, str(workspace.root / "first.csv"), Rule(folds=2), extend=f"models:/{name}@champion")
    assert f"models:/{name}@champion has no plan.csv yet, so that there is nothing to" in capsys.readouterr().err
    for decide in (partial(promote, data), rollback):
        with pytest.raises(TrackingError, match=f"There is no model {name} in "):
            decide(name)

    first = put(workspace, name, seed=1, dice=0.95)
    assert (first.version, first.created) == (1, True)
    assert champion_plan(f"models:/{name}@champion") is None
    with pytest.raises(TrackingError, match=f"{name} has no champion"):
        rollback(name)
    assert promote(data, name).outcome == "promoted"
    assert champion(name) == 1
    assert find_alias(name, "challenger") is None
    with pytest.raises(TrackingError, match="the only champion"):
        rollback(name)

    same = put(workspace, name, seed=1, dice=0.95)
    assert same == first.model_copy(update={"created": False})
    assert len(evaluation_runs()) == 1
    verdict = promote(data, name)
    assert verdict.outcome == "unchanged"
    assert "the same model is not better than itself" in verdict.reasons[0]
    version = connect().get_model_version(name, "1")
    assert json.loads(version.tags["backdrop.verdict"])["outcome"] == "promoted"

    assert put(workspace, name, seed=2, dice=0.93).version == 2
    verdict = promote(data, name)
    assert (verdict.outcome, champion(name)) == ("rejected", 1)
    assert verdict.difference == pytest.approx(-0.02)

    assert put(workspace, name, seed=3, dice=0.97).version == 3
    verdict = promote(data, name)
    assert (verdict.outcome, verdict.objects, champion(name)) == ("promoted", 12, 3)
    plan = champion_plan(f"models:/{name}@champion")
    assert plan is not None
    assert plan.read_bytes() == workspace.plan.read_bytes()

    split(data, str(workspace.root / "next.csv"), Rule(folds=2, holdout=0.7), extend=f"models:/{name}@champion")
    assert read_plan(workspace.root / "next.csv").assignment() == read_plan(workspace.plan).assignment()

    assert rollback(name).version == 1
    assert champion(name) == 1
    assert rollback(name).version == champion(name) == 3


@server_is_thorough
def test_models_are_listed_with_their_champions(tracked: str, workspace: Workspace, name: str) -> None:
    def listed() -> ListedModel | None:
        return {model.name: model for model in models()}.get(name)

    assert listed() is None
    connect().create_registered_model(f"{name}-of-somebody-else")
    put(workspace, name, seed=1, dice=0.95)
    assert listed() == ListedModel(name=name, versions=1, challenger=1)
    promote(str(workspace.data), name)
    put(workspace, name, seed=2, dice=0.93)
    model = listed()
    assert model
    metrics = connect().get_run(registry.find_address(f"models:/{name}/1").evaluation_run).data.metrics
    assert (model.versions, model.champion, model.challenger, model.objects) == (2, 1, 2, HELD)
    assert model.dice == metrics["holdout_dice"]
    assert (model.low, model.high) == (metrics["holdout_dice_low"], metrics["holdout_dice_high"])
    assert abs(datetime.fromisoformat(model.registered) - datetime.now(UTC)) < timedelta(hours=1)
    assert f"{name}-of-somebody-else" not in {model.name for model in models()}
    line = next(line for line in models_text(models()).splitlines() if line.startswith(f"{name} "))
    assert line.split()[1:4] == ["1", "2", model.registered[:10]]
    assert line.endswith(f"{model.dice:.5f} ({model.low:.5f} to {model.high:.5f}, {HELD} objects)")


@server_is_thorough
def test_the_evaluation_run_holds_what_was_found(tracked: str, workspace: Workspace, name: str, tmp_path: Path) -> None:
    members = track(workspace, seed=1)
    made = put(workspace, name, seed=1, dice=0.95, members=members)
    promote(str(workspace.data), name)
    client = connect()
    run = client.get_run(made.run_id)
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")
    assert run.data.metrics["holdout_dice"] == pytest.approx(0.948, abs=0.001)
    assert {"oof_dice", "oof_dice.tiny", "holdout_dice.tiny-0", "holdout_dice_low"} <= run.data.metrics.keys()
    assert run.data.params["members.0.recipe.name"] == "tiny"
    (dataset,) = run.inputs.dataset_inputs
    assert read_plan(workspace.plan).data.removeprefix("sha256:").startswith(dataset.dataset.digest)
    for address in members:
        assert client.get_run(run_of(address)).data.tags["mlflow.parentRunId"] == made.run_id
    folder = Path(client.download_artifacts(made.run_id, "", str(tmp_path)))
    assert json.loads((folder / "members.json").read_text()) == {"tiny-0": members[0], "tiny-1": members[1]}
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["reasons"][0] in (folder / "report" / "index.html").read_text()
    assert json.loads(client.get_model_version(name, "1").tags["backdrop.verdict"])["reasons"] == verdict["reasons"]


@server_is_thorough
def test_two_models_that_share_an_evaluation_both_bear_the_verdict(
    tracked: str, workspace: Workspace, name: str
) -> None:
    for model in (name, f"{name}-too"):
        put(workspace, model, seed=1, dice=0.95)
        promote(str(workspace.data), model)
        tags = connect().get_model_version(model, "1").tags
        assert json.loads(tags["backdrop.verdict"])["outcome"] == "promoted"


@server_is_thorough
def test_members_that_are_given_as_folders_are_children_too(tracked: str, workspace: Workspace, name: str) -> None:
    runs = [run_of(address) for address in track(workspace, seed=1)]
    made = put(workspace, name, seed=1, dice=0.95)
    assert {connect().get_run(run).data.tags["mlflow.parentRunId"] for run in runs} == {made.run_id}


@server_is_thorough
def test_members_keep_the_parent_that_they_have(tracked: str, workspace: Workspace, name: str) -> None:
    members = track(workspace, seed=1)
    connect().set_tag(run_of(members[0]), "mlflow.parentRunId", "pipeline")
    put(workspace, name, seed=1, dice=0.95, members=members)
    assert connect().get_run(run_of(members[0])).data.tags["mlflow.parentRunId"] == "pipeline"


@server_is_thorough
def test_a_pipelines_run_is_the_evaluations_parent(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    given = client.create_run(experiment_id(client), run_name="register-task").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    run_id = put(workspace, name, seed=1, dice=0.95).run_id
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == given
    monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run(experiment_id(client)).info.run_id)
    assert put(workspace, name, seed=1, dice=0.95).run_id == run_id  # the next one finds it


@server_is_thorough
def test_a_killed_registration_is_resumed(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("backdrop.tracking.evaluations._log_files", die)
        with pytest.raises(KeyboardInterrupt):
            put(workspace, name, seed=1, dice=0.95)
    with monkeypatch.context() as patch:
        patch.setattr("backdrop.tracking.registry._create_version", die)
        with pytest.raises(KeyboardInterrupt):
            put(workspace, name, seed=1, dice=0.95)
    made = put(workspace, name, seed=1, dice=0.95)
    (run,) = evaluation_runs()
    assert (made.created, made.run_id) == (True, run.info.run_id)
    assert [metric.step for metric in connect().get_metric_history(made.run_id, "holdout_dice")] == [0]


@server_is_thorough
def test_what_a_registration_at_the_same_time_left_is_deleted(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(workspace, name, seed=1, dice=0.95)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    search, hidden = registry.find_versions, list[bool]()

    def search_late(*which: str) -> list[registry.Version]:
        """At first as before the first one had made its version."""
        return [] if hidden and hidden.pop() else search(*which)

    for number in (2, 3):
        hidden[:] = [True]
        with monkeypatch.context() as patch:
            patch.setattr(registry, "find_versions", search_late)
            patch.setattr(registry, "_delete_unless_decided", die)
            with pytest.raises(KeyboardInterrupt):
                put(workspace, name, seed=1, dice=0.95)
        assert len(connect().search_model_versions(f"name = '{name}'")) == number
    override(name, 2, "by hand")
    again = put(workspace, name, seed=1, dice=0.95)
    assert (again.version, again.created) == (first.version, False)
    assert {int(one.version) for one in connect().search_model_versions(f"name = '{name}'")} == {1, 2}


@server_is_thorough
def test_another_plan_is_another_evaluation_and_the_champion_is_run_on_it(
    tracked: str, workspace: Workspace, name: str, make_dataset: Callable[..., Path]
) -> None:
    put(workspace, name, seed=1, dice=0.95)
    promote(str(workspace.data), name)
    wide = larger(workspace, make_dataset, extend=True)
    second = put(wide, name, seed=1, dice=0.96)
    assert second.version == 2  # its members saw more photographs
    verdict = promote(str(wide.data), name)
    assert verdict.outcome == "promoted"
    assert verdict.objects == 14
    plan, digests = wide.read()
    model = load_ensemble(fetch(require_version(f"models:/{name}/1")))
    old = estimate(score_holdout(open_dataset(wide.data), plan, digests, model)).dice
    run = connect().get_run(second.run_id)
    assert verdict.difference == pytest.approx(run.data.metrics["holdout_dice"] - old)


@server_is_thorough
def test_other_metadata_that_the_gate_groups_by_is_another_evaluation(
    tracked: str, workspace: Workspace, name: str
) -> None:
    grouped = replace(workspace, column="maker")
    plan, table = read_plan(workspace.plan), workspace.data / "metadata.csv"
    ensemble = find_ensemble(str(grouped.ensemble(1)))
    members = [read_member(folder) for folder in grouped.members(1)]

    def write(makers: dict[str, str]) -> None:
        table.write_text("id,maker\n" + "".join(f"{one},{maker}\n" for one, maker in makers.items()))

    def find() -> Registration | None:
        return find_registration(str(workspace.data), [str(workspace.plan)], members, ensemble, name)

    makers = {row.object: "ford" for row in plan.rows}
    write(makers)
    first = put(grouped, name, seed=1, dice=0.95)
    assert find() == first.model_copy(update={"created": False})
    write({**makers, "of no plan": "fiat"})
    assert find() is not None
    report = grouped.report(0.95)
    write({**makers, plan.holdout[0].object: "fiat"})
    assert find() is None
    with pytest.raises(MemberError, match=f"groups {plan.holdout[0].object} otherwise than metadata.csv does now"):
        register(
            *(str(workspace.data), str(workspace.plan), [str(member.folder) for member in members]),
            *(str(report), str(grouped.ensemble(1)), name),
        )
    second = put(grouped, name, seed=1, dice=0.95)
    assert (second.version, find()) == (first.version, second)
    recorded = read_scores(fetch_evaluation(second.run_id) / "images.csv")
    assert {score.object for score in recorded if score.traits["maker"] == "fiat"} == {plan.holdout[0].object}


@server_is_thorough
def test_a_holdout_that_the_champion_trained_on_is_not_used_to_judge(
    tracked: str, workspace: Workspace, name: str, make_dataset: Callable[..., Path]
) -> None:
    put(workspace, name, seed=1, dice=0.95)
    promote(str(workspace.data), name)
    other = larger(workspace, make_dataset, extend=False)
    put(other, name, seed=2, dice=0.99)
    verdict = promote(str(other.data), name)
    assert (verdict.outcome, champion(name)) == ("rejected", 1)
    assert "--extend" in verdict.reasons[0]


@server_is_thorough
def test_an_object_that_the_champion_knows_by_another_name_does_not_judge_it(
    tracked: str, workspace: Workspace, name: str
) -> None:
    put(workspace, name, seed=1, dice=0.95)
    promote(str(workspace.data), name)
    plan = read_plan(workspace.plan)
    old = next(row.object for row in plan.rows if row.fold is not None)
    for path in [*workspace.data.glob(f"*/{old}_*")]:
        path.rename(path.with_name(path.name.replace(old, "zebra")))
    rows = (replace(row, object="zebra", fold=None) if row.object == old else row for row in plan.rows)
    moved = workspace.root / "renamed.csv"
    moved.write_bytes(
        dump_plan(make_plan(open_dataset(workspace.data), Rule(2, 0.7, "area", 0), old=replace(plan, rows=tuple(rows))))
    )
    other = workspace.with_plan(moved)
    assert "zebra" in {row.object for row in read_plan(moved).holdout}
    put(other, name, seed=2, dice=0.99)
    verdict = promote(str(other.data), name)
    assert (verdict.outcome, champion(name)) == ("rejected", 1)
    assert f"hold 1 object of the challenger's holdout, such as zebra, which was {old}, so" in verdict.reasons[0]
    assert "rename it back, and split with --extend" in verdict.reasons[0]


def test_the_version_loads_without_pickle_and_cuts_out(
    tracked: str, workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace, name, seed=1, dice=0.95)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    listening, unpickled = True, []
    sys.addaudithook(
        lambda event, arguments: unpickled.append(arguments) if listening and event == "pickle.find_class" else None
    )
    model = mlflow.pyfunc.load_model(f"models:/{name}@challenger")
    photo = next(iter(open_dataset(workspace.data).photos.values()))
    predictions = model.predict(pd.DataFrame({"image": [photo.image.read_bytes()]}))
    listening = False
    assert unpickled == []
    mask = cv2.imdecode(np.frombuffer(predictions["mask"][0], np.uint8), cv2.IMREAD_GRAYSCALE)
    folder = fetch(require_version(f"models:/{name}@challenger"))
    image = cv2.cvtColor(cv2.imread(str(photo.image)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(mask > 0, load_ensemble(folder).mask(image))
    assert ensemble_digest(folder) == folder.name
    with pytest.raises(MlflowException, match="not a readable image"):
        model.predict(pd.DataFrame({"image": [b"nothing"]}))


def test_no_pickle_lies_in_the_registry(tracked: str, workspace: Workspace, name: str, tmp_path: Path) -> None:
    put(workspace, name, seed=1, dice=0.95)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path / "all")))
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".yaml", ".txt", ".py", ""}
    assert "backdrop-ml==" in (folder / "requirements.txt").read_text()


def test_altered_weights_in_the_registry_are_found(tracked: str, workspace: Workspace, name: str) -> None:
    put(workspace, name, seed=1, dice=0.95)
    connect().set_model_version_tag(name, "1", "backdrop.digest", "0" * 64)
    with pytest.raises(TrackingError, match="were changed after it was registered"):
        fetch(require_version(f"models:/{name}@challenger"))
    assert not list(storage.cache_folder().rglob("ensembles/*"))


@server_is_thorough
def test_a_version_that_the_cache_has_no_room_for_is_an_error_of_one_file(
    tracked: str, workspace: Workspace, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace, name, seed=1, dice=0.95)
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "full"))
    with small_disk(tmp_path / "full", "16k"):
        says = r"can't be written \(No space left on device\)\. Free some space, or set BACKDROP_CACHE to"
        with pytest.raises(StorageError, match=says):
            fetch(require_version(f"models:/{name}@challenger"))
        assert not list(storage.cache_folder().rglob("ensembles/*"))


def test_a_report_of_other_members_is_refused(
    tracked: str, workspace: Workspace, name: str, make_dataset: Callable[..., Path]
) -> None:
    wide = larger(workspace, make_dataset, extend=True)
    report = wide.report(0.95)
    members = [str(folder) for folder in wide.members(1)]
    with pytest.raises(MemberError, match="not trained with this plan"):
        put(wide, name, seed=1, dice=0.95, members=[str(folder) for folder in workspace.members(1)])
    with pytest.raises(MemberError, match="report of other members"):
        register(str(wide.data), str(wide.plan), members[:1], str(report), str(wide.ensemble(1)), name)
    with pytest.raises(MemberError, match="is named twice"):
        put(wide, name, seed=1, dice=0.95, members=members[:1] * 2)
    first, *_, last = sorted((wide.data / "train_masks").iterdir())
    first.write_bytes(last.read_bytes())
    with pytest.raises(PlanError, match="made for data"):
        put(wide, name, seed=1, dice=0.95)
    assert registry.find_alias(name, "challenger") is None


SCHEMES = """
name: schemes
folds: {count: 2, holdout: 0.75}
members:
  - {recipe: tiny, set: {input.size: 16x16, network.width: 2, network.depth: 1}}
  - recipe: tiny
    folds: {count: 3, by: random, seed: 1}
    set: {name: shuffled, input.size: 16x16, network.width: 2, network.depth: 1, seed: 5}
gate: {minimum_dice: 0.0}
"""
FURTHER = "plan-random-3-seed1.csv"


def further(workspace: Workspace, out: str, **more: str) -> Path:
    """The second scheme's plan."""
    path = workspace.root / out
    split(str(workspace.data), str(path), Rule(folds=3, by="random", seed=1), holdout_from=str(workspace.plan), **more)
    return path


@server_is_thorough
def test_an_ensemble_of_several_fold_schemes(
    tracked: str, workspace: Workspace, name: str, make_dataset: Callable[..., Path]
) -> None:
    config = workspace.root / "schemes.yaml"
    config.write_text(SCHEMES)
    plans = [str(workspace.plan), str(further(workspace, "further.csv"))]
    digests, members = workspace.read()[1], []
    for part, path in zip(find_ensemble(str(config)).parts(), plans, strict=True):
        recipe, plan = part.resolve(), read_plan(path)
        for fold in plan.folds:
            folder = workspace.root / "schemes" / f"{recipe.name}-{fold}"
            members.append(str(write_member(folder, recipe, content_key(recipe, plan, digests, fold), fold)))
    data, report = str(workspace.data), str(workspace.root / "report")
    evaluate(data, plans, members, report, str(config))

    held, drawn = str(workspace.root / "held.csv"), str(workspace.root / "drawn.csv")
    split(data, held, Rule(folds=3, holdout=0.75, by="random", seed=8))
    split(data, drawn, Rule(folds=3, by="random", seed=8), holdout_from=plans[0])
    for given, error, message in (
        (plans[0], PlanError, rf"as many plans as .* schemes, 2, not 1\. .*: plan\.csv, {FURTHER}"),
        ([plans[0], held], PlanError, "holds out other objects"),
        ([plans[0], drawn], MemberError, "shuffled-0 was not trained with this plan"),
    ):
        with pytest.raises(error, match=message):
            register(data, given, members, report, str(config), name)

    made = register(data, plans, members, report, str(config), name)
    assert register(data, plans, members[::-1], report, str(config), name) == made.model_copy(update={"created": False})
    assert promote(data, name).outcome == "promoted"
    address = f"models:/{name}@champion"
    kept = [champion_plan(address), champion_plan(address, FURTHER)]
    assert [path.read_bytes() for path in kept if path] == [Path(path).read_bytes() for path in plans]
    assert champion_plan(address, "plan-random-4-seed1.csv") is None

    make_dataset(objects=20)
    wide = workspace.with_plan(workspace.root / "wide.csv")
    split(data, str(wide.plan), Rule(folds=2, holdout=0.75), extend=address)
    for plan, old in ((wide.plan, plans[0]), (further(wide, "wide-further.csv", extend=address), plans[1])):
        before, after = read_plan(old).assignment(), read_plan(plan).assignment()
        assert before.items() <= after.items()
        assert len(after) == 20
        assert list(after.values()).count(None) == 15


def test_wrong_names_are_reported(tracked: str, name: str) -> None:
    with pytest.raises(TrackingError, match="isn't a valid model name"):
        registry.find_versions("it's", "0")
    with pytest.raises(TrackingError, match="isn't a model's address"):
        fetch(require_version("models:/a b@champion"))
    with pytest.raises(TrackingError, match="There is no"):
        fetch(require_version(f"models:/{name}/3"))
    for act in (rollback, history, verify_history):
        with pytest.raises(TrackingError, match="There is no model"):
            act(name)


@pytest.mark.parametrize(
    "act",
    [
        history,
        hold,
        release,
        rollback,
        lambda model: promote("photos", model),
        lambda model: override(model, 1, "it's mine"),
        lambda model: registry.find_versions(model, "0"),
    ],
)
def test_a_models_address_is_no_name(act: Callable[[str], object], tracked: str) -> None:
    """MLflow's answer to it sounds as if the server were at fault."""
    with pytest.raises(TrackingError) as refused:
        act("models:/products@champion")
    assert str(refused.value) == (
        "models:/products@champion is an address, not a model's name. Write only the name, such as products."
    )


def test_a_version_that_backdrop_did_not_make_is_reported(tracked: str, name: str) -> None:
    client = connect()
    client.create_registered_model(name)
    client.create_model_version(name, "s3://bucket/model")
    client.set_registered_model_alias(name, "champion", "1")
    with pytest.raises(TrackingError, match="isn't Backdrop's"):
        champion_plan(f"models:/{name}@champion")


def test_a_report_whose_scores_were_changed_is_refused(tracked: str, workspace: Workspace, name: str) -> None:
    images = workspace.report(0.95) / "images.csv"
    images.write_text(images.read_text().replace(",holdout,0.9", ",holdout,0.8"))
    members = [str(folder) for folder in workspace.members(1)]
    arguments = (
        str(workspace.data),
        str(workspace.plan),
        members,
        str(images.parent),
        str(workspace.ensemble(1)),
        name,
    )
    with pytest.raises(
        StorageError, match=r"images\.csv has changed since it was written with metrics\.json\. Run `back"
    ):
        register(*arguments)
    run_id = put(workspace, name, seed=1, dice=0.95).run_id  # written again
    changed = (workspace.report(0.95) / "images.csv").read_text().replace(",holdout,0.9", ",holdout,0.8")
    connect().log_text(run_id, changed, "report/images.csv")
    with pytest.raises(
        TrackingError, match=rf"report/images\.csv of evaluation run {run_id} doesn't belong to its metric"
    ):
        promote(str(workspace.data), name)


def test_a_copy_in_the_cache_that_was_changed_is_fetched_again(
    tracked: str, workspace: Workspace, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(workspace, name, seed=1, dice=0.95)
    folder = fetch(require_version(f"models:/{name}@challenger"))
    recipe = next(folder.rglob("recipe.yaml"))
    whole = recipe.read_bytes()
    recipe.write_bytes(whole.replace(b"epochs", b"epoch$"))
    cache._verified.clear()  # as in another process
    capsys.readouterr()
    assert fetch(require_version(f"models:/{name}@challenger")) == folder
    assert recipe.read_bytes() == whole
    assert capsys.readouterr().err == f"{folder} has changed since it was fetched; fetching it again\n"
