"""What the package ships: every recipe trains and predicts, and the winners' are what the winners had."""

from pathlib import Path

import numpy as np
import pytest

from backdrop.config import Part, Recipe, find_ensemble, find_recipe, shipped
from backdrop.config.records import dump_yaml, override, parse
from backdrop.data.dataset import open_dataset, read_image
from backdrop.inference.ensemble import gather
from backdrop.inference.member import read_member
from backdrop.steps.describe import describe
from backdrop.steps.train import train
from tests.conftest import shipped_recipes

# Networks of the same kind and depth with few channels, so that two steps take no time.
NARROW = {
    "unet": ("network.width=2", "input.size=128x128"),
    "linknet": ("network.width=8", "input.size=64x64"),
    "vgg_unet": ("network.width=4", "network.encoder_width=4", "input.size=64x64"),
    "timm_unet": ("network.encoder=convnext_atto", "network.width=2", "input.size=64x64"),
}
QUICK = ("pretrained=null", "epochs=1", "batch_size=2")


def narrow(name: str) -> tuple[str, ...]:
    return (*NARROW[find_recipe(name).network.kind], *QUICK)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_trains_two_steps_and_predicts(name: str, data: Path, plan: Path, tmp_path: Path) -> None:
    record = train(str(data), str(plan), name, 0, str(tmp_path / "m"), narrow(name))
    member = read_member(Path(record.address))
    (row,) = member.history()
    assert np.isfinite(row["loss"])
    image = read_image(next(iter(open_dataset(data).photos.values())).image)
    probability = gather([member], None).probability(image)
    assert probability.shape == image.shape[:2]
    assert 0 <= probability.min() <= probability.max() <= 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if name.startswith("best-overfitting") else ())
        for name in shipped("ensembles")
    ],
)
def test_every_ensemble_trains_its_parts_and_answers_by_their_shares(
    name: str, data: Path, plan: Path, tmp_path: Path
) -> None:
    ensemble = find_ensemble(name)
    assert sum(ensemble.weights().values()) == pytest.approx(1)
    parts = []
    for part in ensemble.parts():
        recipe = part.resolve()
        values = override(recipe.model_dump(mode="json"), (*NARROW[recipe.network.kind], *QUICK))
        parts.append(Part(recipe=parse(Recipe, values, recipe.name), weight=part.weight, folds=part.folds))
    small = ensemble.model_copy(update={"members": tuple(parts)})
    members = []
    for part in parts:
        path = tmp_path / "recipe.yaml"
        path.write_text(dump_yaml(part.resolve()))
        out = tmp_path / part.resolve().name
        members.append(read_member(Path(train(str(data), str(plan), str(path), 0, str(out)).address)))
    image = read_image(next(iter(open_dataset(data).photos.values())).image)
    alone = [
        part.weight * gather([member], None).probability(image) for part, member in zip(parts, members, strict=True)
    ]
    assert np.allclose(gather(members, small).probability(image), sum(alone), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "gigamacs"),
    [
        ("linknet34", 21_642_401, 217.3),
        ("unet11", 22_927_393, 964.1),
        ("unet-scratch-faithful", 91_238_817, 368.2),
        ("unet-vgg11", 33_554_753, 562.4),
    ],
)
def test_the_winners_networks_cost_what_theirs_did(name: str, parameters: int, gigamacs: float) -> None:
    description = describe(name)
    assert description.parameters == parameters
    assert description.macs / 1e9 == pytest.approx(gigamacs, rel=0.005)


def test_the_faithful_recipes_have_the_winners_rates() -> None:
    cycle = [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    assert list(describe("linknet34-faithful").learning_rates) == [1e-4] * 12 + [1e-5] * 11 + cycle * 3 + [1e-4] * 2
    by_number = {0: 1e-4, 1: 1e-4, 2: 5e-5, 3: 5e-5, 4: 2.5e-5}
    assert list(describe("unet11-faithful").learning_rates) == [by_number[epoch % 5] for epoch in range(1, 53)]
    halved = [0.005] * 100 + [0.0025] * 100 + [0.00125] * 50
    assert list(describe("unet-scratch-faithful").learning_rates) == halved
    loop = [1e-4] * 10 + [1e-5] * 5 + [1e-6] * 5
    assert list(describe("unet-vgg11-faithful").learning_rates) == loop * 3


def test_the_winners_ensemble_is_49_networks_at_a_quarter_for_each_family() -> None:
    ensemble = find_ensemble("best-overfitting")
    members = [(part.resolve(), ensemble.rule(part), part.weight) for part in ensemble.parts()]
    assert sum(rule.folds for _, rule, _ in members) == 49
    shares = {
        "linknet": [weight for recipe, _, weight in members if recipe.network.kind == "linknet"],
        **{recipe.name: [weight] for recipe, _, weight in members if recipe.network.kind != "linknet"},
    }
    assert [len(weights) for weights in shares.values()] == [6, 1, 1, 1]
    assert [sum(weights) for weights in shares.values()] == pytest.approx([0.25] * 4)
    rules = [(rule.folds, rule.by, rule.view) for _, rule, _ in members]
    assert rules == [
        *[(5, "area_rank", None)] * 3,
        *[(5, "area_rank", "05")] * 4,
        (7, "random", None),
        (7, "stratified", None),
    ]


def test_the_interviews_ensemble_gives_each_other_model_what_all_linknets_have_together() -> None:
    weights = find_ensemble("best-overfitting-interview").weights()
    linknets = sum(weight for name, weight in weights.items() if name.startswith("linknet34"))
    assert linknets == pytest.approx(1 / 20)
    assert [weights[name] for name in ("unet11", "unet-scratch", "unet-vgg11")] == pytest.approx(
        [5 / 20, 7 / 20, 7 / 20]
    )


def test_the_compact_ensemble_costs_a_tenth() -> None:
    ensemble = find_ensemble("compact")
    total = 0
    for part in ensemble.parts():
        recipe = part.resolve()
        settings = [f"input.size={recipe.input.size}"]
        base = recipe.name
        total += describe(base, settings).macs * ensemble.rule(part).folds * (1 + recipe.tta.hflip)
    assert total / 24.4e12 == pytest.approx(0.1, abs=0.02)
