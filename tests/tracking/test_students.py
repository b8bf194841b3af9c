"""A student of a registered ensemble: what teaches it, and that nothing leaks."""

import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import pyfunc
from mlflow.artifacts import download_artifacts

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, MemberError
from backdrop.config import find_ensemble, find_recipe
from backdrop.data.dataset import open_dataset, read_image, read_levels
from backdrop.data.folds import plans_digest
from backdrop.data.masks import encode_png
from backdrop.data.pseudo_labels import PseudoLabels, Teacher
from backdrop.evaluation.metrics import summarize
from backdrop.evaluation.records import Score, dump_evaluation, read_scores
from backdrop.evaluation.scoring import judges
from backdrop.inference.ensemble import gather
from backdrop.inference.member import ONNX, Member, MemberSpec, read_member, verify_member
from backdrop.report import Gallery, Report, render
from backdrop.serving.champion import Champion
from backdrop.steps import distill as step
from backdrop.steps.distill import distill
from backdrop.steps.evaluate import evaluate
from backdrop.steps.promote import promote
from backdrop.steps.register import Registration, register
from backdrop.steps.train import make_member
from backdrop.tracking import history
from backdrop.tracking.client import connect
from backdrop.tracking.students import student_address
from tests.cli.test_app import RUN, app, run
from tests.conftest import draw_pair
from tests.steps.command_process import start
from tests.tracking.workspace import HELD, Workspace, write_tables

TINY = ("input.size=16x16", "network.width=2", "network.depth=1", "epochs=2", "augmentation=[]")
SET = "{input.size: 16x16, network.width: 2, network.depth: 1, epochs: 2, augmentation: []}"
ENSEMBLE = f"name: student\nmembers: [{{recipe: student, set: {SET}}}]\ngate: {{mode: cheaper, margin: 0.002}}\n"


@pytest.fixture
def taught(workspace: Workspace, clean: None, store: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose ensemble of random networks is the champion of a model with the workspace's name."""
    monkeypatch.chdir(store)
    workspace.register(workspace.root.name, 1, 0.99)
    assert promote(str(workspace.data), workspace.root.name).outcome == "promoted"
    return workspace


def soften(workspace: Workspace) -> PseudoLabels:
    plan, digests = workspace.read()
    model = gather([read_member(folder) for folder in workspace.members(1)], None)
    return step.soften(step._divide(open_dataset(workspace.data), [plan], digests, model))


def test_each_photograph_is_taught_by_members_that_did_not_train_on_it(workspace: Workspace) -> None:
    plan, digests = workspace.read()
    extra = workspace.data / "test" / "new_01.jpg"
    draw_pair(workspace.root / "extra", "new_01", 99_999)
    shutil.copytree(workspace.root / "extra" / "train", extra.parent)
    labels = soften(workspace)
    assert {photo.stem for photo in labels.photos} == {row.image for row in plan.training(None)} | {"new_01"}
    both = gather([read_member(folder) for folder in workspace.members(1)], None)
    by_image = {row.image: one for row, one in judges([plan], digests, both).items()}
    for photo in labels.photos:
        image = read_image(photo.image)
        own = by_image.get(photo.stem, both)
        assert len(own.members) == (2 if photo.stem == "new_01" else 1)
        levels = read_levels(photo, labels.digests[photo.stem][1])
        assert np.array_equal(levels, np.rint(own.probability(image) * 255))
        others = [gather([member], None).probability(image) for member in both.members if member not in own.members]
        assert not any(np.array_equal(levels, np.rint(other * 255)) for other in others), "both members answer alike"


def test_soft_masks_are_predicted_once_and_damaged_ones_again(workspace: Workspace) -> None:
    first = soften(workspace)
    files = {photo.mask: photo.mask.stat().st_mtime_ns for photo in first.photos if photo.mask}
    damaged, deleted, *_ = files
    damaged.write_bytes(damaged.read_bytes()[:-1])
    deleted.unlink()
    assert soften(workspace) == first
    again = {path for path, changed in files.items() if path.stat().st_mtime_ns != changed}
    assert again == {damaged, deleted}


def test_a_photograph_that_cannot_be_read_is_named_and_teaches_nothing(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    without = soften(workspace)
    broken, closed = (workspace.data / "test" / name for name in ("new_01.jpg", "new_02.jpg"))
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    closed.mkdir()  # can't even be opened
    capfd.readouterr()
    assert soften(workspace) == without
    said = capfd.readouterr().err
    assert [said.count(str(photo)) for photo in (broken, closed)] == [1, 1]


def test_a_student_is_a_member_of_all_folds_and_is_reused(taught: Workspace, tmp_path: Path) -> None:
    data, plan, out = str(taught.data), str(taught.plan), str(tmp_path / "student")
    model = f"models:/{tmp_path.name}@champion"
    record = distill(data, plan, model, out, overrides=TINY)
    assert not record.reused
    assert record.member.fold is None
    assert record.member.teacher is not None
    assert record.member.teacher.address == f"models:/{tmp_path.name}/1"
    member = read_member(tmp_path / "student")
    assert member.name == "student"
    verify_member(member, *taught.read())
    assert distill(data, plan, model, out, overrides=TINY).reused
    evaluation = evaluate(data, plan, [out], str(tmp_path / "report"))
    assert (evaluation.oof, evaluation.oof_ensemble) == ({}, None)
    assert evaluation.holdout.ensemble is not None
    assert evaluation.holdout.ensemble.objects == HELD
    (tmp_path / "student" / ONNX).write_bytes(b"changed")
    with pytest.raises(MemberError, match=r"network\.onnx has changed since training"):
        read_member(tmp_path / "student")


def test_a_student_is_refused_scales_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"tta\.scales names others\. Leave tta\.scales out"):
        distill("none", "none", "models:/none@champion", "out", overrides=["tta.scales=[1, 2]"])


def test_the_holdout_teaches_nothing(workspace: Workspace) -> None:
    held = {row.image for row in workspace.read()[0].holdout}
    assert held
    assert not held & {photo.stem for photo in soften(workspace).photos}
    masks = list((storage.cache_folder() / "soft").rglob("*.png"))
    assert len(masks) == len(workspace.read()[0].training(None))
    held_out = workspace.data / "train" / f"{min(held)}.jpg"
    (workspace.data / "test").mkdir()
    shutil.copy(held_out, workspace.data / "test" / "new_01.jpg")
    with pytest.raises(DataError, match=f"is the same photograph as {held_out}, which the plan places"):
        soften(workspace)


@dataclass(frozen=True)
class Student:
    """A distilled student of a workspace's model."""

    workspace: Workspace
    member: Member

    @property
    def teacher(self) -> str:
        return self.workspace.root.name

    @property
    def name(self) -> str:
        return f"{self.teacher}-student"

    def register(self, loss: float, name: str = "") -> Registration:
        """Registers it as if it had lost this Dice against its teacher on each object, some more and some less."""
        ensemble, report = self.workspace.root / "student.yaml", self.workspace.root / f"report-{loss}"
        ensemble.write_text(ENSEMBLE)
        plan = self.workspace.read()[0]
        model = gather([self.member], find_ensemble(str(ensemble)))
        teacher = {score.image: score.dice for score in read_scores(self.workspace.report(0.99, 1) / "images.csv")}
        dice = {row.image: teacher[row.image] - loss - 1e-4 * (i % 3) for i, row in enumerate(plan.holdout)}
        scores = [Score(r.image, r.object, r.view, r.area, None, dice[r.image], {"student": 0.9}) for r in plan.holdout]
        evaluation = summarize(scores, {"student": dice}, model.digest(), plans_digest([plan]))
        evaluation = evaluation.model_copy(update={"cost": model.cost()})
        report.mkdir(exist_ok=True)
        (report / "metrics.json").write_bytes(dump_evaluation(evaluation))
        write_tables(report, scores, self.workspace.data)
        (report / "index.html").write_text(render(Report("student", plan.data, evaluation, scores, {}, [], Gallery())))
        data, plans, members = str(self.workspace.data), str(self.workspace.plan), [str(self.member.folder)]
        return register(data, plans, members, str(report), str(ensemble), name or self.name)


@pytest.fixture
def student(taught: Workspace) -> Student:
    out, model = str(taught.root / "student"), f"models:/{taught.root.name}@champion"
    distill(str(taught.data), str(taught.plan), model, out, overrides=TINY)
    return Student(taught, read_member(Path(out)))


def test_a_student_that_loses_little_is_in_use_until_its_teacher_is_replaced(
    student: Student, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, teacher = student.workspace.data, student.teacher
    assert student.register(0.001).version == 1
    verdict = promote(str(data), student.name)
    assert verdict.outcome == "promoted", verdict
    assert verdict.reasons[0] == f"Its teacher, models:/{teacher}/1, was judged as the champion"
    (entry,) = history.read(student.name).state.changes
    assert entry.champion is None
    assert promote(str(data), student.name).outcome == "unchanged"
    tags = connect().get_model_version(student.name, "1").tags
    assert (tags["teacher"], tags["teacher_digest"]) == (f"models:/{teacher}/1", student.member.record.teacher.digest)
    requirements = Path(download_artifacts(f"models:/{student.name}/1/requirements.txt"))
    assert "backdrop-ml[student]==" in requirements.read_text()
    predict = ("predict", str(data / "train"), "--model", f"models:/{teacher}@champion", "--student")
    first = RUN.invoke(app.app, [*predict, "--format", "mask", "--out", str(tmp_path / "masks")])
    assert "out of date" not in first.stderr
    alone = gather([student.member], None)
    for photo in open_dataset(data).photos.values():
        written = (tmp_path / "masks" / f"{photo.stem}.png").read_bytes()
        assert written == encode_png(alone.mask(read_image(photo.image)))
    image = next((data / "train").iterdir())
    served = pyfunc.load_model(f"models:/{student.name}/1").predict(pd.DataFrame({"image": [image.read_bytes()]}))
    assert served["mask"][0] == encode_png(alone.mask(read_image(image)))
    student.workspace.register(teacher, 2, 0.999)
    assert promote(str(data), teacher).outcome == "promoted"
    line = f"models:/{student.name}/1 is out of date: models:/{teacher}/2 didn't teach it; distill again"
    again = RUN.invoke(app.app, [*predict, "--format", "mask", "--out", str(tmp_path / "again")])
    assert line in again.stderr.splitlines()
    for command in (("models",), ("history", student.name)):
        assert line in run(*command).splitlines()
    assert line not in run("history", teacher)
    champion = Champion(student_address(f"models:/{teacher}@champion"))
    capfd.readouterr()
    champion.look()
    champion.look()
    assert capfd.readouterr().err.count(line) == 1
    assert champion.current is not None
    assert champion.current.address == f"models:/{student.name}/1"


def test_a_student_that_loses_more_is_rejected(student: Student) -> None:
    student.register(0.0025)
    verdict = promote(str(student.workspace.data), student.name)
    assert (verdict.outcome, verdict.look) == ("rejected", 1)
    assert verdict.summary == "not shown to lose less than gate.margin; the champion stays"
    assert history.read(student.name).state.champion is None
    assert history.read(student.teacher).state.champion == 1


def test_a_student_is_registered_beside_its_teacher_and_alone(student: Student) -> None:
    with pytest.raises(ConfigError, match=f"its model is {student.name}. Use --name {student.name}"):
        student.register(0.001, name=student.teacher)
    assert history.read(student.teacher).state.challenger is None
    student.register(0.001)
    promote(str(student.workspace.data), student.name)
    model = f"models:/{student.name}@champion"
    with pytest.raises(MemberError, match="is a student itself"):
        distill(str(student.workspace.data), str(student.workspace.plan), model, "other", overrides=TINY)


@pytest.mark.parametrize("model", ["models:/cars@challenger", "models:/cars/3"])
def test_only_a_champion_has_a_student_in_use(model: str) -> None:
    with pytest.raises(ConfigError, match=f"{model} can't be used with --student. Name models:/cars@champion"):
        student_address(model)


@pytest.mark.slow
def test_a_killed_distillation_ends_with_the_same_bits(taught: Workspace, tmp_path: Path) -> None:
    """It is killed among the soft masks, and again after the first checkpoint."""
    out, model = tmp_path / "student", f"models:/{taught.root.name}@champion"
    settings = (*TINY, "epochs=40", "checkpoint.every_steps=1")
    words = ["distill", str(taught.data), "--plan", str(taught.plan), "--model", model, "--out", str(out)]
    words += [word for setting in settings for word in ("--set", setting)]
    soft = storage.cache_folder() / "soft"
    for signs in (lambda: list(soft.rglob("*.png")), (out / "checkpoints" / "index.json").exists):
        process = start(words, tmp_path / "log")
        while process.is_alive() and not signs():
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    killed = distill(str(taught.data), str(taught.plan), model, str(out), overrides=settings).member
    assert killed.resumed_at
    again = distill(str(taught.data), str(taught.plan), model, str(tmp_path / "again"), overrides=settings, fresh=True)
    assert (killed.weights, killed.onnx, killed.key) == (again.member.weights, again.member.onnx, again.member.key)


def test_a_student_in_s3_is_reused_whole_and_without_its_graph_made_again(
    workspace: Workspace, s3_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    plan, digests = workspace.read()
    soft = replace(soften(workspace), teacher=Teacher(address="models:/cars/1", digest="0" * 64))
    recipe = find_recipe("student", TINY)
    spec = MemberSpec(open_dataset(workspace.data), plan, digests, recipe, None, soft)
    out, graph = "s3://photos/student", f"s3://photos/student/{ONNX}"
    made = make_member(spec, out, fresh=False)
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "another"))
    again = make_member(spec, out, fresh=False)
    assert again.reused
    assert again.member == made.member
    storage.write_bytes(graph, b"changed")
    repaired = make_member(spec, out, fresh=False)
    assert repaired.member.onnx == made.member.onnx == storage.sha256(storage.read_bytes(graph))
