"""An early exit from its YAML to the model in use: learned, registered, judged, and what predicts."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common.errors import MemberError
from backdrop.config import find_ensemble
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset, read_image
from backdrop.data.folds import dump_plan, make_plan, read_plan, verify
from backdrop.data.masks import encode_png
from backdrop.evaluation.records import Evaluation, read_scores
from backdrop.inference.ensemble import gather, load_ensemble
from backdrop.inference.member import content_key, read_member
from backdrop.steps.champion import predict_scores
from backdrop.steps.evaluate import evaluate
from backdrop.steps.predict import predict
from backdrop.steps.promote import promote
from backdrop.steps.register import find_registration, register
from backdrop.tracking import registry
from backdrop.tracking.version_files import fetch
from tests.tracking.workspace import write_member

HELD, FOLDED = 12, 24
ENSEMBLE = """
name: small
folds: {count: 2, holdout: 0.3333}
members:
  - {recipe: tiny, set: {input.size: 16x16, network.width: 2, network.depth: 1}}
  - {recipe: tiny-linknet, set: {input.size: 32x32, network.width: 8}}
gate: {minimum_dice: 0}
"""
EXIT = "early_exit: {max_loss: 1}\n"


class Site:
    """A dataset with its plan, and two members of each of two recipes."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data, self.plan = root, data, root / "plan.csv"
        plan = make_plan(open_dataset(data), Rule(2, HELD / (HELD + FOLDED), "area", 0))
        self.plan.write_bytes(dump_plan(plan))
        self.ensemble = self.write(EXIT, "early")
        digests = verify(plan, open_dataset(data))
        made = [(part.resolve(), fold) for part in find_ensemble(self.ensemble).parts() for fold in (0, 1)]
        self.members = [
            str(write_member(root / f"{recipe.name}-{fold}", recipe, content_key(recipe, plan, digests, fold), fold))
            for recipe, fold in made
        ]

    def write(self, more: str, name: str) -> str:
        path = self.root / f"{name}.yaml"
        path.write_text(ENSEMBLE + more)
        return str(path)

    def evaluate(self, ensemble: str, report: str = "report") -> Evaluation:
        return evaluate(str(self.data), str(self.plan), self.members, str(self.root / report), ensemble)

    def register(self, ensemble: str, report: str = "report") -> registry.Version:
        report = str(self.root / report)
        made = register(str(self.data), str(self.plan), self.members, report, ensemble, self.root.name)
        return registry.find_number(self.root.name, made.version)


@pytest.fixture
def site(make_dataset: Callable[..., Path], tmp_path: Path) -> Site:
    return Site(tmp_path, make_dataset(objects=HELD + FOLDED, views=1))


@pytest.mark.parametrize("tracked", ["embedded"], indirect=True)
def test_what_was_learned_is_registered_judged_and_used(site: Site, tracked: str) -> None:
    report = site.root / "report"
    options = ("--plan", site.plan, "--out", report, "--ensemble", site.ensemble, "--members", *site.members)
    result = CliRunner().invoke(app.app, ["evaluate", str(site.data), *map(str, options)])
    assert "holdout      early exit           saves " in result.stdout
    assert f"{HELD} of {HELD} photographs stopped\n" in result.stdout
    evaluation = Evaluation.model_validate_json((report / "metrics.json").read_bytes())
    learned = evaluation.early_exit
    assert learned is not None
    assert learned.rule is not None
    assert learned.rule.first == ("tiny",)
    assert learned.oof.images == FOLDED
    assert learned.holdout is not None
    assert learned.holdout.images == learned.holdout.stopped == HELD
    opened = [read_member(Path(path)) for path in site.members]
    cost = gather(opened, None).cost()
    assert evaluation.cost == gather(opened[:2], None).cost() < cost
    assert learned.holdout.saved.mean == pytest.approx(1 - evaluation.cost / cost)
    page, rule = (report / "index.html").read_text(), "Members of tiny see each photograph first"
    assert "<h2>Early exit</h2>" in page
    assert rule in page
    assert rule in result.stdout

    version = site.register(site.ensemble)
    config = fetch(version) / "ensemble.yaml"
    assert find_ensemble(str(config)).early_exit.rule == learned.rule
    model = load_ensemble(config.parent)
    assert model.digest() == evaluation.model
    card = MlflowClient().get_model_version(site.root.name, str(version.version)).description
    assert f"| Early exit | {rule}" in card

    assert site.register(site.ensemble) == version
    found = find_registration(str(site.data), [str(site.plan)], opened, find_ensemble(site.ensemble), site.root.name)
    assert found is not None
    assert (found.version, found.run_id) == (version.version, version.evaluation_run)
    plain = find_ensemble(site.write("", "plain"))
    assert find_registration(str(site.data), [str(site.plan)], opened, plain, site.root.name) is None

    assert promote(str(site.data), site.root.name).outcome == "promoted"
    scores = {one.image: one.dice for one in read_scores(report / "images.csv") if one.fold is None}
    again = predict_scores(str(site.data), read_plan(site.plan), version)
    assert {one.image: one.dice for one in again} == scores
    champion = f"models:/{site.root.name}@champion"
    record = predict(str(site.data / "train"), str(site.root / "masks"), model=champion, format="mask")
    assert record.model == evaluation.model
    photo = site.data / "train" / "car00_01.jpg"
    mask = encode_png(gather(opened[:2], None).mask(read_image(photo)))
    assert (site.root / "masks" / "car00_01.png").read_bytes() == mask
    served = mlflow.pyfunc.load_model(champion).predict(pd.DataFrame({"image": [photo.read_bytes()]}))
    assert served["mask"][0] == mask


@pytest.mark.parametrize("tracked", ["embedded"], indirect=True)
def test_a_report_of_another_early_exit_is_refused(site: Site, tracked: str) -> None:
    plain, other = site.write("", "plain"), site.write("early_exit: {max_loss: 0.5}\n", "other")
    site.evaluate(plain)
    with pytest.raises(MemberError, match="is a report of an ensemble with another early_exit"):
        site.register(site.ensemble)
    site.evaluate(site.ensemble)
    for ensemble in (plain, other):
        with pytest.raises(MemberError, match="is a report of"):
            site.register(ensemble)


def test_members_of_one_recipe_teach_nothing(site: Site) -> None:
    site.members = site.members[:2]
    with pytest.raises(MemberError, match="can't be learned: it needs two recipes or more"):
        site.evaluate(site.ensemble)
