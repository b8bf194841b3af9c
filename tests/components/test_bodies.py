"""Component bodies: they call their step with what they were given, and put into their artifacts what it returns."""

import inspect
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from kfp import dsl

from backdrop.common.errors import BackdropError, ConfigError, TuningError
from backdrop.components.check import check
from backdrop.components.evaluate import evaluate
from backdrop.components.merge import merge
from backdrop.components.places import place_outputs
from backdrop.components.plan import plan
from backdrop.components.predict import predict
from backdrop.components.promote import promote
from backdrop.components.register import register
from backdrop.components.shard import shard
from backdrop.components.train import train
from backdrop.components.tune import tune
from backdrop.config import BUDGETS, PredictedDice, find_recipe
from backdrop.config.cluster import Cluster
from backdrop.config.records import dump_yaml, parse
from backdrop.data.validation import Fault
from backdrop.evaluation.predicted_dice import Known, measure
from backdrop.evaluation.records import DicePrediction, Estimate, Evaluation, Holdout
from backdrop.inference.member import MemberRecord
from backdrop.report.verdict import Standing, verdict_section
from backdrop.steps.check import CheckReport
from backdrop.steps.plan import FoundMember, PlanRecord, Run
from backdrop.steps.promote import Decision
from backdrop.steps.register import Registration
from backdrop.steps.shard import ShardPlan
from backdrop.steps.train import TrainRecord
from backdrop.steps.tune import Resources, TuneRecord
from backdrop.tuning.results import Comparison, Search, Trial
from tests.fakes.http import Hook, running
from tests.tracking.workspace import write_member


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps run in this process, so that the tests see how they were called."""
    monkeypatch.setattr("backdrop.common.watch.watched", lambda _task, work: work())


class Step:
    """Stands in for a step: notes how it was called, reads the YAML that it was given, returns what it shall."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.given: tuple[Any, ...] = ()
        self.texts: list[str] = []

    def __call__(self, *given: Any) -> Any:
        self.given = given
        paths = [Path(value) for value in given if isinstance(value, str) and value.endswith(".yaml")]
        self.texts = [path.read_text() for path in paths]
        return self.result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Step]:
    def replace(name: str, result: Any) -> Step:
        step = result if isinstance(result, Step) else Step(result)
        module = ModuleType(name)
        setattr(module, name, step)
        monkeypatch.setitem(sys.modules, f"backdrop.steps.{name}", module)
        return step

    return replace


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str], dsl.Artifact]:
    kinds = {"doubts": dsl.ClassificationMetrics}
    return lambda name: kinds.get(name, dsl.Artifact)(name=name, uri=str(tmp_path / name), metadata={})


@pytest.fixture
def config(artifact: Any) -> Callable[[str], dsl.Artifact]:
    """An ensemble's YAML as `check` hands it on."""

    def write(text: str) -> dsl.Artifact:
        made: dsl.Artifact = artifact("config.yaml")
        Path(made.path).write_text(text)
        return made

    return write


def report(*faults: Fault) -> CheckReport:
    return CheckReport(
        data="d", objects=2, images=4, views=("01", "02"), sizes=("64x48",), digest="sha256:0", faults=faults
    )


def fault(level: Any, file: str = "a|b.jpg") -> Fault:
    return Fault(level=level, file=file, what="is empty", remedy="Draw it")


def test_check_passes_the_data_on(stand_in: Any, artifact: Any) -> None:
    page, handed = artifact("faults"), artifact("config")
    stand_in("check", report(fault("warning")))
    assert check.python_func("d", "name: ours\n", 0, page, handed) == "d"
    assert Path(handed.path).read_text() == "name: ours\n"
    assert "| warning | a\\|b.jpg | is empty | Draw it |" in Path(page.path).read_text()


def test_check_takes_the_ensemble_as_text(monkeypatch: pytest.MonkeyPatch, artifact: Any) -> None:
    given: list[object] = []

    def step(data: str, ensembles: list[str], objects: int | None) -> CheckReport:
        given.extend([*(Path(path).read_text() for path in ensembles), objects])
        return report()

    monkeypatch.setattr("backdrop.steps.check.check", step)
    for objects in (3, 0):
        check.python_func("d", "name: ours\n", objects, artifact("faults"), artifact("config"))
    assert given == ["name: ours\n", 3, "name: ours\n", None]


def test_check_stops_at_an_error(stand_in: Any, artifact: Any) -> None:
    page = artifact("faults")
    stand_in("check", report(fault("error"), fault("error")))
    expected = r"a\|b.jpg is empty. Draw it. \(the first of 2 errors: see `backdrop check d`\)"
    with pytest.raises(SystemExit, match=expected):
        check.python_func("d", "name: ours\n", 0, page, artifact("config"))
    assert "| error |" in Path(page.path).read_text()


@pytest.fixture
def plans(tmp_path: Path) -> dsl.Artifact:
    """Two plans as `plan` hands them on."""
    folder = tmp_path / "handed"
    folder.mkdir()
    for name in ("001.csv", "000.csv"):
        (folder / name).write_text(name)
    return dsl.Artifact(name="plans", uri=str(folder), metadata={})


FOUND = {"tiny-0": FoundMember(address="runs:/1/member", epochs=8, dice=0.9)}
GROUPS = [["train-tiny-0", "train-tiny-1"], ["train-other-0"]]
POOL = ("2", "8", "32Gi", {"gpu": "yes"}, [{"key": "gpu"}], {"gpu": "no"}, [{"key": "cpu"}])


def planned_run(*missing: str) -> PlanRecord:
    registration = None if missing else Registration(name="cars", version=3, created=False, run_id="r")
    return PlanRecord(data="sha256:1", members=FOUND, registration=registration, champion=3, missing=missing)


@pytest.mark.parametrize(("objects", "taken"), [(0, None), (7, 7)])
@pytest.mark.parametrize(("tuned", "budget"), [("off", None), ("fast", BUDGETS["fast"])])
def test_plan(
    objects: int,
    taken: Any,
    tuned: str,
    budget: Any,
    artifact: Any,
    config: Any,
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    step = Step(planned_run("train-tiny-1", "evaluation", "verdict"))
    monkeypatch.setattr("backdrop.steps.plan.plan", step)
    plans, page, ensemble = artifact("plans"), artifact("summary"), config("name: one")
    given = ("d", ensemble, "cars", "w/{recipe}", objects, [1.0], tuned, True, GROUPS, *POOL)
    assert plan.python_func(*given, plans, page, str(tmp_path / "missing")) is True
    assert step.given == (Run("d", ensemble.path, "cars", taken, [1], budget, "w/{recipe}", True), plans.path)
    assert plans.metadata == {"data": "sha256:1"}
    assert (tmp_path / "missing").read_text() == "train-tiny-1, evaluation, verdict"
    text = Path(page.path).read_text()
    assert text.startswith("# 3 parts to make\n\n- train-tiny-1\n- evaluation\n- verdict\n")
    assert "- tiny-0: Dice 0.90000" in text


def test_only_tasks_with_work_get_a_gpu(artifact: Any, config: Any, monkeypatch: Any, tmp_path: Path) -> None:
    def places(*missing: str) -> dict[str, str]:
        monkeypatch.setattr("backdrop.steps.plan.plan", Step(planned_run(*missing)))
        given = ("d", config("name: one"), "cars", "w", 0, [], "off", True, GROUPS, *POOL)
        works = plan.python_func(*given, artifact("plans"), artifact("summary"), str(tmp_path / "missing"))
        assert works is bool(missing)
        return {name: (tmp_path / name).read_text() for name in place_outputs(GROUPS)}

    assert places("train-tiny-1", "evaluation") == {
        "gpus_0": "0", "gpus_1": "2", "gpus_2": "0",
        "cpu_0": "8", "memory_0": "32Gi", "node_selector_0": '{"gpu": "yes"}', "tolerations_0": '[{"key": "gpu"}]',
        "cpu_1": "500m", "memory_1": "2Gi", "node_selector_1": '{"gpu": "no"}', "tolerations_1": '[{"key": "cpu"}]',
    }  # fmt: skip
    unchanged = places()
    assert {unchanged[f"gpus_{task}"] for task in range(3)} == {"0"}
    assert {unchanged[f"node_selector_{group}"] for group in range(2)} == {'{"gpu": "no"}'}
    assert "models:/cars/3 and its verdict" in Path(artifact("summary").path).read_text()


BODIES = [check, plan, tune, train, evaluate, register, promote, shard, predict, merge]
BY_KIND: dict[Any, Any] = {str: "", int: 1, float: 0.2, bool: False, dict: {}, list: [], list[str]: []}
CHOICES = {
    "data": "missing",
    "images": "missing",
    "by": "area",
    "budget": "fast",
    "gpus": "1",
    "cpu": "4",
    "format": "mask",
    "type": "png",
}


@pytest.mark.parametrize("component", BODIES, ids=lambda one: one.python_func.__name__)
def test_a_failed_task_is_sent_to_the_webhook(
    component: Any, artifact: Any, plans: dsl.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(component.python_func).parameters.items():
        annotation = parameter.annotation if isinstance(parameter.annotation, Hashable) else None
        given[name] = CHOICES.get(name, BY_KIND[annotation]) if annotation in BY_KIND else artifact(name)
    given |= {name: plans for name in given if name == "plans"}
    if component in (predict, merge):
        shares = ShardPlan(images="missing", model="m", folder="missing", count=1, versions={"a": "1"}, missing=(1,))
        Path(given["plan"].path).write_text(shares.model_dump_json())
    with running(Hook()) as hook:
        monkeypatch.setenv("BACKDROP_WEBHOOK_URL", f"http://127.0.0.1:{hook.server_port}/")
        with pytest.raises(BackdropError) as raised:
            component.python_func(**given)
    (message,) = hook.messages
    assert (message["event"], message["task"]) == ("failed", component.python_func.__name__)
    assert message["reason"] == str(raised.value)


@pytest.mark.parametrize("searched", ["", "name: searched"])
@pytest.mark.parametrize("missing", ["train-tiny-1", "train-tiny-linknet-1, train-tiny-0, evaluation"])
def test_train(
    searched: str,
    missing: str,
    stand_in: Any,
    plans: Any,
    artifact: Any,
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = MemberRecord(
        key="k", recipe="tiny", fold=1, seed=0, epochs=3, selected_epoch=2, dice=0.9, seconds=5.0, parameters=7,
        resumed_at=(), weights="w", settings="s", version="0", threads=1, processes=1, device="cpu", precision="fp32",
    )  # fmt: skip
    folder = write_member(tmp_path / "member", find_recipe("tiny", ["network.width=2", "network.depth=1"]), "k", 1)
    panel = np.full((40, 60, 3), (200, 40, 10), np.uint8)
    cv2.imwrite(str(folder / "samples" / "worst-1-car-7_01-0.8123.png"), panel)
    cv2.imwrite(str(folder / "samples" / "worst-2-a-b_01-<b>&.png"), panel)
    record = TrainRecord(address=str(folder), member=member, reused=True)
    step, reused = stand_in("train", record), Step(record)
    monkeypatch.setattr(sys.modules["backdrop.steps.train"], "reuse", reused, raising=False)
    metrics = artifact("metrics")
    parts = "[{recipe: tiny-linknet}, {recipe: tiny, set: {epochs: 7}, folds: {count: 4}}]"
    ensemble = config(f"name: two\nmembers: {parts}\n")
    given = ("d", ensemble, plans, "tiny", searched, 1, "m/{key}", missing, metrics, artifact("page"))
    assert train.python_func(*given) == str(folder)
    page = Path(artifact("page").path).read_text()
    assert page.count("<polyline") == 3
    assert page.count("<img") == 2  # the third one is no picture
    assert "<b>car-7_01</b> Dice 0.8123" in page
    assert "<b>a-b_01</b> Dice &lt;b&gt;&amp;" in page  # whatever its name, it is text
    due = missing == "train-tiny-1"  # what `plan` has found is never trained: its task has no GPU
    asked, other = (step, reused) if due else (reused, step)
    assert not other.given
    step = asked
    assert step.given[:2] == ("d", f"{plans.path}/001.csv")
    assert step.given[3:] == ((1, "m/{key}") if due else (1,))
    assert step.texts == [searched or dump_yaml(find_recipe("tiny", ["epochs=7"]))]
    assert not Path(step.given[2]).exists()
    assert metrics.metadata == {"dice": 0.9, "epochs": 3, "selected_epoch": 2, "seconds": 5.0, "reused": 1}


@pytest.mark.parametrize("workers", [0, 3])
def test_tune(workers: int, plans: Any, artifact: Any, config: Any, tmp_path: Path, monkeypatch: Any) -> None:
    out, compared = tmp_path / "search", Comparison(
        best="001-cosine", preset="000-own", seeds=(1, 2), best_dices=(0.9, 0.9), preset_dices=(0.8, 0.8),
        difference=0.1, low=0.05, high=0.15,
    )  # fmt: skip
    search = Search(
        recipe="tiny", space="tiny", data="d", folds=(0,), budget_epochs=6, epochs=32, comparison=compared,
        trials=(Trial(name="001-cosine", family="cosine", dice=0.91, dices=(0.9, 0.91), status="finished"),),
        chosen="001-cosine",
    )  # fmt: skip
    seen: dict[str, Any] = {}

    def step(*given: Any, resources: Resources) -> TuneRecord:
        cluster = resources.cluster
        seen.update(given=given, recipe=Path(given[2]).read_text(), cluster=cluster and Path(cluster).read_text())
        (out / "report").mkdir(parents=True)
        (out / "report" / "index.html").write_text("<p>hello")
        (out / "schedule.yaml").write_text("schedule: [{kind: constant, epochs: 1, lr: 0.5}]")
        return TuneRecord(out=str(out), search=search, reused=False)

    monkeypatch.setattr("backdrop.steps.tune.tune", step)
    outputs = {name: artifact(name) for name in ("metrics", "summary", "page")}
    ensemble = config("name: one\nmembers: [{recipe: tiny}]\n")
    pool = ("image", "nvidia.com/gpu", "1", "4", "16Gi", {"a": "b"}, [], {"c": "d"}, [{"key": "e"}], {"head_cpu": "1"})
    where = ("d", ensemble, plans, "tiny", str(out), "fast")
    tuned = tune.python_func(*where, "tune-tiny, verdict", workers, *pool, **outputs)
    assert seen["given"] == ("d", f"{plans.path}/000.csv", seen["given"][2], str(out), BUDGETS["fast"])
    assert seen["recipe"] == dump_yaml(find_recipe("tiny"))
    assert yaml.safe_load(tuned)["schedule"][0]["lr"] == 0.5
    assert outputs["metrics"].metadata == {"dice": 0.91, "trials": 1.0, "gain": 0.1, "low": 0.05, "high": 0.15}
    assert "001-cosine beats 000-own" in Path(outputs["summary"].path).read_text()
    assert Path(outputs["page"].path).read_text() == "<p>hello"
    if workers:
        made = parse(Cluster, yaml.safe_load(seen["cluster"]), "cluster")
        assert (made.workers, made.gpus, made.node_selector, made.head_cpu) == (3, 1, {"a": "b"}, "1")
    else:
        assert seen["cluster"] is None
    monkeypatch.setattr("backdrop.steps.tune.find_search", lambda *_: None)
    with pytest.raises(TuningError, match="was finished when this run was planned, and isn't there any more"):
        tune.python_func(*where, "train-tiny-0", workers, *pool, **outputs)


def test_a_tuned_ensemble_has_its_members_schedules(
    stand_in: Any, artifact: Any, config: Any, plans: Any, tmp_path: Path
) -> None:
    outputs = {name: artifact(name) for name in ("report", "metrics", "summary", "page", "doubts")}
    Path(outputs["report"].path).mkdir()
    Path(outputs["report"].path, "index.html").write_text("<p>hello")
    step = stand_in("evaluate", evaluation())
    settings = ["network.width=2", "network.depth=1", "input.size=16x16", "epochs=3"]
    recipe_of_trial = find_recipe("tiny", [*settings, "schedule.1.lr=5e-3", "optimizer.kind=adam"])
    members = [str(write_member(tmp_path / str(fold), recipe_of_trial, "k", fold)) for fold in (0, 1)]
    own = yaml.safe_dump(find_recipe("tiny", settings).model_dump(mode="json"))
    part = {"recipe": yaml.safe_load(own), "weight": 3}
    given = config(yaml.safe_dump({"name": "two", "members": [part, {"recipe": "tiny-linknet"}]}))
    evaluate.python_func("d", given, plans, members, True, "cars", **outputs)
    parts = yaml.safe_load(step.texts[0])["members"]
    assert [(one["recipe"]["name"], one["weight"]) for one in parts] == [("tiny", 0.75), ("tiny-linknet", 0.25)]
    assert parts[0]["recipe"] == recipe_of_trial.model_dump(mode="json")
    for more in ("epochs=2", "name=other"):
        other = find_recipe("tiny", [*settings, more])
        stranger = str(write_member(tmp_path / more, other, "k", 0))
        with pytest.raises(ConfigError, match="differs from ensemble two's in more than its schedule"):
            evaluate.python_func("d", given, plans, [*members, stranger], True, "cars", **outputs)


def evaluation() -> Evaluation:
    held = Estimate(dice=0.99, objects=3, low=0.98, high=0.995)
    return Evaluation(
        model="0" * 64,
        plans="1" * 64,
        scores="2" * 64,
        oof={"tiny": Estimate(dice=0.97, objects=11)},
        oof_ensemble=Estimate(dice=0.975, objects=11),
        holdout=Holdout(ensemble=held, members={"tiny-0": Estimate(dice=0.96, objects=3)}, objects=3),
    )


def test_evaluate(stand_in: Any, artifact: Any, config: Any, plans: Any) -> None:
    outputs = {name: artifact(name) for name in ("report", "metrics", "summary", "page", "doubts")}
    Path(outputs["report"].path).mkdir()
    Path(outputs["report"].path, "index.html").write_text("<p>hello")
    step = stand_in("evaluate", evaluation())
    assert evaluate.python_func("d", config("name: demo"), plans, ["m"], False, "cars", **outputs) == ["m"]
    assert step.given[1] == [f"{plans.path}/000.csv", f"{plans.path}/001.csv"]
    assert step.given[2:4] == (["m"], outputs["report"].path)
    assert step.given[-1] == "cars"  # whose champion is judged, too
    assert step.texts == ["name: demo"]
    assert outputs["metrics"].metadata == {
        "oof_tiny": 0.97, "holdout": 0.99, "holdout_low": 0.98, "holdout_high": 0.995, "objects": 3
    }  # fmt: skip
    text = Path(outputs["summary"].path).read_text()
    assert "| **ensemble, holdout** | 0.99000 | 0.98000 to 0.99500 | 3 |" in text
    assert "| tiny-0, holdout | 0.96000 |  | 3 |" in text
    assert Path(outputs["page"].path).read_text() == "<p>hello"
    assert outputs["doubts"].metadata == {}


def test_evaluate_shows_how_well_the_predicted_dice_finds_the_worst_masks(
    stand_in: Any, artifact: Any, config: Any, plans: Any
) -> None:
    outputs = {name: artifact(name) for name in ("report", "metrics", "summary", "page", "doubts")}
    Path(outputs["report"].path).mkdir()
    Path(outputs["report"].path, "index.html").write_text("<p>hello")
    rule = PredictedDice(intercept=0, slope=1, spread=1)
    photos = [Known(f"car{number}", 1 - number / 50, 1 - number / 40) for number in range(21)]
    learned = DicePrediction(rule=rule, holdout=measure(rule, photos))
    stand_in("evaluate", evaluation().model_copy(update={"predicted_dice": learned}))
    evaluate.python_func("d", config("name: demo"), plans, ["m"], False, "cars", **outputs)
    curve = outputs["doubts"].metadata["confidenceMetrics"]
    assert [(point["falsePositiveRate"], point["recall"]) for point in curve] == [(0, 0), (0, 1), (1, 1)]
    assert [point["confidenceThreshold"] for point in curve] == sorted(
        (point["confidenceThreshold"] for point in curve), reverse=True
    )
    assert outputs["metrics"].metadata["auroc_of_predicted_dice"] == 1
    assert "AUROC 1.00 for the worst 5 % of photographs" in Path(outputs["summary"].path).read_text()


def test_register(stand_in: Any, artifact: Any, config: Any, plans: Any) -> None:
    from backdrop.config.records import Record

    class Registration(Record):
        name: str = "cars"
        version: int = 4
        created: bool = True
        run_id: str = "r"

    step = stand_in("register", Registration())
    model = artifact("model")
    given = ("d", config("name: demo"), plans, ["m"], artifact("report"), False, "cars", model)
    registered = register.python_func(*given)
    assert registered == "cars"
    assert step.given[1] == [f"{plans.path}/000.csv", f"{plans.path}/001.csv"]
    assert step.given[-1] == "cars"
    assert step.texts == ["name: demo"]
    assert model.metadata == {"name": "cars", "version": 4, "created": True, "run_id": "r"}


def test_promote(artifact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, outputs = artifact("report"), {name: artifact(name) for name in ("metrics", "summary", "page")}
    Path(reports.path).mkdir()
    Path(reports.path, "index.html").write_text(f"<p>{verdict_section(None)}")
    verdict = Decision(
        outcome="rejected",
        summary="too few",
        reasons=("too few objects",),
        objects=3,
        difference=0.0,
        low=-0.1,
        high=0.1,
        standing=Standing(
            version="models:/cars/3", champion=None, rival=None, time="2026-01-31T12:00Z", page="http://m"
        ),
    )
    asked: dict[str, Any] = {}

    def step(data: str, name: str, predict: bool) -> Decision:
        asked.update(data=data, name=name, predict=predict)
        return verdict

    monkeypatch.setattr("backdrop.steps.promote.promote", step)
    assert promote.python_func("d", "cars", reports, **outputs) == "rejected"
    assert asked == {"data": "d", "name": "cars", "predict": False}  # it has no GPU
    assert outputs["metrics"].metadata == {"promoted": 0.0, "objects": 3.0, "difference": 0.0, "low": -0.1, "high": 0.1}
    assert outputs["summary"].metadata == {
        "outcome": "rejected",
        "summary": "too few",
        "reasons": ["too few objects"],
    }
    text = Path(outputs["summary"].path).read_text()
    assert text.startswith("# Rejected: too few\n\nmodels:/cars/3 was rejected on 2026-01-31 12:00 UTC.")
    assert text.endswith("compare it with. [In MLflow](http://m)\n\n- too few objects\n")
    assert "too few objects" in Path(outputs["page"].path).read_text()
