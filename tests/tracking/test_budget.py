"""An ensemble for a time budget: chosen, written, evaluated, registered, and what predicts."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common.errors import ConfigError, MemberError, StorageError
from backdrop.config import find_ensemble
from backdrop.data.dataset import read_image
from backdrop.data.masks import encode_png
from backdrop.evaluation.budget import Budget
from backdrop.evaluation.records import Evaluation, read_speed
from backdrop.inference.ensemble import gather
from backdrop.inference.member import read_member
from backdrop.steps.evaluate import evaluate
from backdrop.steps.predict import predict
from backdrop.steps.promote import promote
from tests.tracking.test_early_exit import FOLDED, HELD, Site


@pytest.fixture
def site(make_dataset: Callable[..., Path], tmp_path: Path) -> Site:
    return Site(tmp_path, make_dataset(objects=HELD + FOLDED, views=1))


@pytest.mark.parametrize("tracked", ["embedded"], indirect=True)
def test_what_was_chosen_is_evaluated_registered_and_used(site: Site, tracked: str) -> None:
    plain, report, chosen = site.write("", "plain"), site.root / "report", site.root / "budget.yaml"
    options = ("--plan", site.plan, "--out", report, "--ensemble", plain, "--members", *site.members)
    budget = ("--budget-ms", "60000", "--out-ensemble", chosen)
    result = CliRunner().invoke(app.app, ["evaluate", str(site.data), *map(str, (*options, *budget))])
    assert result.exit_code == 0, result.output
    evaluation = Evaluation.model_validate_json((report / "metrics.json").read_bytes())
    best = max(one.dice.dice for one in evaluation.sets if one.best)
    speed = read_speed(str(report))
    assert speed.seconds.keys() == {"tiny", "tiny-linknet"}
    assert all(0 < seconds < 60 for seconds in speed.seconds.values())
    assert (speed.photographs, speed.size) == (4, "64x48")
    (site.root / "speed.json").write_text(speed.model_dump_json().replace("threads", "wires"))
    with pytest.raises(ConfigError, match=r"speed\.json: unknown key wires"):
        read_speed(str(site.root))
    for one in evaluation.contributions:
        assert one.part == "holdout" or f"adds         {one.name:20} Dice {one.added.mean:+.5f} (" in result.stdout
    for line in chosen.read_text().splitlines():
        assert not line.startswith("# ") or f"{line[2:]}\n" in result.stdout
    page = (report / "index.html").read_text()
    assert "<h2>What members add</h2>" in page
    assert all(f"<td>{read_member(Path(member)).name}</td>" in page for member in site.members)

    # A best set of recipes, the quickest of several, with all of their members: there is time for all.
    recipes = tuple(find_ensemble(str(chosen)).weights())
    assert [one.dice.dice for one in evaluation.sets if one.recipes == recipes] == [best]
    site.members = [member for member in site.members if read_member(Path(member)).record.recipe in recipes]
    again = site.evaluate(str(chosen))
    version = site.register(str(chosen))
    assert promote(str(site.data), site.root.name).outcome == "promoted"
    champion = f"models:/{site.root.name}@champion"
    record = predict(str(site.data / "train"), str(site.root / "masks"), model=champion, format="mask")
    model = gather([read_member(Path(member)) for member in site.members], find_ensemble(str(chosen)))
    assert record.model == again.model == model.digest()
    mask = encode_png(model.mask(read_image(site.data / "train" / "car00_01.jpg")))
    assert (site.root / "masks" / "car00_01.png").read_bytes() == mask
    assert site.register(str(chosen)) == version


def test_a_budget_that_cannot_be_kept_is_refused_before_any_work(site: Site) -> None:
    plain, out, own = site.write("", "plain"), str(site.root / "report"), site.root / "own.yaml"
    chosen = str(site.root / "budget.yaml")

    def refused(ensemble: str | None, budget_ms: float, to: str) -> None:
        evaluate(str(site.data), str(site.plan), site.members, out, ensemble, budget=Budget(budget_ms, to))

    own.write_text("name: own\n")
    with pytest.raises(ConfigError, match="--budget-ms needs --ensemble"):
        refused(None, 5, chosen)
    for inside in (out, f"{out}/budget.yaml", f"{out}/below/budget.yaml"):
        with pytest.raises(ConfigError, match="lies in the report, which is replaced as a whole"):
            refused(str(plain), 5, inside)
    with pytest.raises(StorageError, match=r"own\.yaml exists, and it isn't an ensemble for a budget"):
        refused(plain, 5, str(own))
    for budget in (1e-9, 0, -5, math.nan):
        with pytest.raises(ConfigError, match=r"is too little: a member of tiny.* takes .* on .*Allow .* or more"):
            refused(plain, budget, chosen)
    site.members = [site.members[0], site.members[3]]  # each on another fold
    with pytest.raises(MemberError, match="no photograph is judged out of fold by members of all"):
        refused(plain, 60000, chosen)
    assert not Path(out).exists()
    assert not Path(chosen).exists()
    assert own.read_text() == "name: own\n"
