import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import ConfigError
from backdrop.config import Ensemble, Gate, Recipe, find_ensemble, find_recipe, find_text, parse_size, records, shipped
from backdrop.config.folds import Rule
from backdrop.config.legacy import Legacy
from backdrop.config.recipe import digest
from backdrop.config.records import parse
from backdrop.config.renamed import RENAMED


@pytest.mark.parametrize(
    ("assignment", "value"),
    [("epochs=2", 2), ("a.b=1e-3", "1e-3"), ("a.c=[1, 2]", [1, 2]), ("a.d=true", True), ("a.e=x=y", "x=y")],
)
def test_overrides_are_yaml(assignment: str, value: Any) -> None:
    result: Any = records.override({"a": {"b": 1}}, [assignment])
    for key in assignment.split("=")[0].split("."):
        result = result[key]
    assert result == value


def test_overrides_leave_the_original_alone() -> None:
    values = {"a": {"b": 1}}
    records.override(values, ["a.b=2"])
    assert values == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epoch=2"], r"unknown key epoch\. Did you mean epochs\?"),
        (["network.widht=3"], r"network\.widht\. Did you mean width\?"),
        (["optimizer.clipnorm=1"], r"optimizer\.clipnorm\. Did you mean clip_norm\?"),
        (
            ["schedule=[{kind: cosine, epochs: 3, lrs: 1, final: 1}]"],
            r"unknown key schedule\.0\.lrs\. Did you mean lr\?",
        ),
        (["epochs=0"], r"^--set epochs=0: epochs can't be 0\. Write at least 1\.$"),
        (["epochs=9223372036854775808"], r"epochs can't be 9223372036854775808\. Write at most 100000\.$"),
        (["network.depth=9223372036854775808"], r"network\.depth can't be 9.*\. Write at most 12\.$"),
        (["network.width=9223372036854775808"], r"network\.width can't be 9.*\. Write at most 4096\.$"),
        (["seed=9223372036854775808"], r"seed can't be 9223372036854775808\. Write less than 9223372036854775808\.$"),
        (["network={kind: linknet, width: 7}"], r"network\.width can't be 7\. Write at least 8\.$"),
        (["snapshots=9223372036854775808"], r"snapshots can't be 9.*\. Write at most 1000\.$"),
        (["input.size=4096000x4096000"], r"input\.size can't be 4096000x4096000\. Write it as WxH"),
        (["input.size=12x"], r"^--set input\.size=12x: input\.size can't be .*Write it as WxH, such as 768x512"),
        (
            ["input.size=100x96"],
            r"^recipes/tiny\.yaml: input\.size 100x96 must be a multiple of 16 for this network\. Write 96x96\.",
        ),
        (["epochs"], "has no key or no value"),
        (["epochs.x=1"], "epochs is not a mapping"),
        (["epochs=[1"], "not valid YAML"),
        (["epochs=abc"], r"^--set epochs=abc: epochs can't be abc\. Write a whole number\.$"),
        (
            ["seed=1", "tta={hflip: x}"],
            r"^--set tta={hflip: x}: tta\.hflip can't be x\. Write true or false\.",
        ),
        (["network.kind=unet3"], r"^--set network\.kind=unet3: network\.kind can't be unet3\. Did you mean unet\?$"),
        (["input.fit=strech"], r"^--set input\.fit=strech: input\.fit can't be strech\. Did you mean stretch\?$"),
        (["network={width: 8}"], r"key network\.kind is missing\. Add kind to network"),
        (["name=Mine"], r"name can't be Mine\. Use at most 119 lowercase letters, digits and hyphens"),
        (
            ["legacy.clamp_dice=true", "loss={kind: boundary}"],
            r"^recipes/tiny\.yaml: legacy\.clamp_dice works only with the loss bce_dice\. Remove it\.$",
        ),
    ],
)
def test_a_wrong_key_says_which_was_meant(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_recipe("tiny", overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b: 1\na: {c: 1\nd: 2", r"is not valid YAML \(line 3: expected ',' or '}', but got ':'\)\. Fix the file\.$"),
        ("a: \0", "is not valid YAML"),
        ("- a", "is not a mapping"),
        ("name: x", "key network is missing"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        find_recipe(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_says_which_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"There is no recipe tiyn\. Did you mean tiny\?"):
        find_recipe("tiyn")
    with pytest.raises(ConfigError, match=r"There is no ensemble xyz\. Use one of "):
        find_ensemble("xyz")
    with pytest.raises(ConfigError, match=r"recipe nowhere/a\.yaml can't be read"):
        find_recipe("nowhere/a.yaml")


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert find_text("recipes", name)[0].startswith("# ")
    again = records.parse(Recipe, records.parse_yaml(records.dump_yaml(recipe), "x"), "x")
    assert again == recipe


def test_a_scale_of_one_is_no_part_of_a_recipe() -> None:
    recipe, full = find_recipe("tiny"), find_recipe("tiny", ["schedule.0.scale=1"])
    assert all("scale" not in phase for phase in records.parse_yaml(records.dump_yaml(full), "x")["schedule"])
    assert digest(full) == digest(recipe) != digest(find_recipe("tiny", ["schedule.0.scale=0.5"]))


@pytest.mark.parametrize(
    ("size", "scale", "said"),
    [
        ("256x256", 0.3, r"0\.3 makes the input 77x77, .* 16 .*\. Write 0\.25 \(64x64\) or 0\.3125 \(80x80\)"),
        ("1248x832", 0.5, r"624x416.*Write 0\.4615 \(576x384\) or 0\.5385 \(672x448\)"),
        ("256x256", 0.001, r"0x0, .*\. Write 0\.0625 \(16x16\)"),
        ("32x16", 0.5, r"16x8, .*\. Write 1 \(32x16\)"),
        ("256x256", 1.5, r"schedule\.1\.scale can't be 1\.5\. Write at most 1"),
    ],
)
def test_a_scale_that_does_not_fit_the_network_is_refused_with_those_that_do(
    size: str, scale: float, said: str
) -> None:
    stride = 32 if size == "1248x832" else 16
    settings = (f"input.size={size}", f"network.depth={stride.bit_length() - 1}", f"schedule.1.scale={scale}")
    with pytest.raises(ConfigError, match=said):
        find_recipe("tiny", settings)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1, exclude_min=True))
def test_the_scales_that_an_error_names_fit(width: int, height: int, scale: float) -> None:
    size = f"input.size={16 * width}x{16 * height}"
    try:
        find_recipe("tiny", [size, f"schedule.0.scale={scale}"])
    except ConfigError as error:
        for fitting, made in re.findall(r"([\d.]+) \((\d+x\d+)\)", error.remedy):
            found = find_recipe("tiny", [size, f"schedule.0.scale={fitting}"])
            assert "{}x{}".format(*found.input.scaled(found.schedule[0].scale)) == made


@pytest.mark.parametrize("name", shipped("recipes"))
def test_no_number_of_a_recipe_may_be_infinite(name: str) -> None:
    recipe = find_recipe(name)

    def floats(value: object, path: str) -> Iterator[str]:
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                yield from floats(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, float):
            yield path

    paths = list(floats(recipe.model_dump(mode="json"), ""))
    assert len(paths) > 5
    for path in paths:
        with pytest.raises(ConfigError, match=re.escape(path)):
            find_recipe(recipe, [f"{path}=.inf"])


@pytest.mark.parametrize("name", shipped("ensembles"))
def test_every_shipped_ensemble_loads_and_needs_no_other_file_once_resolved(name: str, tmp_path: Path) -> None:
    ensemble = find_ensemble(name)
    assert ensemble.name == name
    path = tmp_path / "resolved.yaml"
    path.write_text(records.dump_yaml(ensemble))
    assert find_ensemble(str(path)) == ensemble


def test_an_ensemble_sets_what_its_recipes_leave_open() -> None:
    parts = [{"recipe": "tiny", "weight": 2, "set": {"epochs": 3, "input.size": "64x32"}}]
    ensemble = records.parse(Ensemble, {"name": "x", "members": parts}, "x").resolve()
    recipe = ensemble.members[0].resolve()
    assert (recipe.epochs, recipe.input.width, recipe.input.height) == (3, 64, 32)
    assert ensemble.weights() == {"tiny": 1.0}


def test_ensembles_that_cannot_be_are_refused() -> None:
    twice = {"name": "x", "members": [{"recipe": "tiny"}, {"recipe": "tiny"}]}
    with pytest.raises(ConfigError, match="has recipe tiny twice"):
        records.parse(Ensemble, twice, "x").resolve()
    alone = {"name": "x", "members": [{"recipe": "tiny"}], "early_exit": {"max_loss": 0.001}}
    with pytest.raises(ConfigError, match="has early_exit, but only one recipe"):
        records.parse(Ensemble, alone, "x").resolve()
    exits = {"max_loss": 0.001, "rule": {"first": ["unet11"], "unconfidence_above": 0.1}}
    unknown = {"name": "x", "members": [{"recipe": "tiny"}, {"recipe": "tiny-linknet"}], "early_exit": exits}
    with pytest.raises(ConfigError, match=r"has no recipe unet11, which early_exit\.rule\.first names"):
        records.parse(Ensemble, unknown, "x").resolve()
    with pytest.raises(ConfigError, match=r"folds\.count can't be 9.*\. Write at most 1000\."):
        records.parse(Ensemble, {"name": "x", "folds": {"count": 2**63}, "members": [{"recipe": "tiny"}]}, "x")
    with pytest.raises(ConfigError, match=r"folds\.count can't be 1\. Write at least 2\."):
        records.parse(Ensemble, {"name": "x", "folds": {"count": 1}, "members": [{"recipe": "tiny"}]}, "x")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("weight: .inf", r"^e\.yaml: members\.0\.weight can't be inf\. Write at most 1000000000\.0\.$"),
        ("weight: 1.0e-320", r"^weight .*e-321 is nothing beside the others\. Use weights such as 1 and 2\.$"),
        ("folds: {by: area_rank, view: 05}", r"^e\.yaml: members\.0\.folds\.view can't be 5\. Put it in quotes\.$"),
        (
            "set: {description: 2026-01-01}",
            r"^set description=2026-01-01: .* can't be 2026-01-01\. Put it in quotes\.$",
        ),
        *(
            (f"set: {{input.size: {value}}}", r"input\.size can't be .*\. Write it as WxH, such as 768x512\.$")
            for value in ("512", "512.0", "0", "-5", "true", "null", "[512, 512]", "512x")
        ),
        ("set: {description: !!set {a}}", r"description can't be {'a'}\. Put it in quotes\.$"),
        ("set: {schedule.9.lr: 1}", r"^set schedule\.9\.lr: schedule has no item 9\. Use 0 to 1, or set schedule\.$"),
        ("set: {epochs.a.b: 1}", r"^set epochs\.a\.b: epochs is not a mapping\. Set epochs as a whole\.$"),
    ],
)
def test_a_member_that_cannot_be_is_named(member: str, message: str) -> None:
    text = f"name: x\nmembers: [{{recipe: tiny, {member}}}, {{recipe: quick, weight: 1.0e+9}}]"
    with pytest.raises(ConfigError, match=message):
        records.parse(Ensemble, records.parse_yaml(text, "e.yaml"), "e.yaml").resolve()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.dates()
TEXT = st.text(st.characters(codec="utf-8"))


@given(st.recursive(LEAVES | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8))
def test_any_value_of_a_yaml_can_be_set(value: Any) -> None:
    assert records.override({"a": None}, records.as_assignments({"a": value})) == {"a": value}


def test_groups_become_shares_and_each_recipe_keeps_its_folds() -> None:
    view = {"count": 3, "by": "area_rank", "view": "05"}
    named = [{"recipe": "tiny", "set": {"name": f"tiny-{i}"}} for i in range(5)]
    inner = {"group": "inner", "weight": 3, "folds": view, "members": [named[1], {**named[2], "folds": {"count": 4}}]}
    outer = {"group": "outer", "weight": 0.5, "members": [named[0], inner]}
    values = {"name": "x", "folds": {"count": 5, "holdout": 0.2}, "members": [outer, {**named[3], "weight": 1.5}]}
    ensemble = records.parse(Ensemble, values, "x").resolve()
    # The group has 0.5 of 2; inside it tiny-0 stands against a group that weighs three times as much.
    shares = {"tiny-0": 0.25 / 4, "tiny-1": 0.25 * 3 / 8, "tiny-2": 0.25 * 3 / 8, "tiny-3": 0.75}
    assert ensemble.weights() == pytest.approx(shares)
    rules = {part.resolve().name: ensemble.rule(part) for part in ensemble.parts()}
    own, ranked, four = Rule(5, 0.2, "area", 0), Rule(3, 0.2, "area_rank", 0, "05"), Rule(4, 0.2, "area", 0)
    assert rules == {"tiny-0": own, "tiny-1": ranked, "tiny-2": four, "tiny-3": own}
    assert ensemble.plans() == {
        own: "plan.csv",
        ranked: "plan-area-rank-3-seed0-view05.csv",
        four: "plan-area-4-seed0.csv",
    }


@pytest.mark.parametrize("name", [name for name in shipped("ensembles") if name.startswith("best-overfitting")])
def test_the_winners_ensemble_has_their_networks_folds_and_weights(name: str) -> None:
    ensemble = find_ensemble(name)
    counts = {part.resolve().name: ensemble.rule(part).folds for part in ensemble.parts()}
    assert len(counts) == 9
    assert sum(counts.values()) == 49
    assert [(rule.by, rule.folds, rule.view) for rule in ensemble.plans()] == [
        ("area_rank", 5, None),
        ("area_rank", 5, "05"),
        ("random", 7, None),
        ("stratified", 7, None),
    ]
    linknets = sum(share for recipe, share in ensemble.weights().items() if recipe.startswith("linknet34"))
    others = sorted(share for recipe, share in ensemble.weights().items() if not recipe.startswith("linknet34"))
    # Four maps at a quarter each by their code; by the interview one map of LinkNets against 5 + 7 + 7 networks.
    expected = (0.25, [0.25] * 3) if name == "best-overfitting" else (1 / 20, [5 / 20, 7 / 20, 7 / 20])
    assert linknets == pytest.approx(expected[0])
    assert others == pytest.approx(expected[1])


def test_a_view_is_for_ranks_only() -> None:
    part = {"recipe": "tiny", "folds": {"by": "random", "view": "05"}}
    with pytest.raises(ConfigError, match="a split by random doesn't use a view"):
        records.parse(Ensemble, {"name": "x", "members": [part]}, "x")
    with pytest.raises(ConfigError, match="holdout"):  # all schemes share the ensemble's
        records.parse(Ensemble, {"name": "x", "members": [{"recipe": "tiny", "folds": {"holdout": 0.1}}]}, "x")


@pytest.mark.parametrize("size", ["12", "x", "0x3", "3x-1", "axb"])
def test_sizes_are_width_x_height(size: str) -> None:
    assert parse_size("384x256") == (384, 256)
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(size)


# Keys of the old vocabulary, one place for each in which it stood.
OLD = {
    "rate": "schedule: [{kind: constant, epochs: 1, rate: 1e-3}]",
    "rates": "schedule: [{kind: cycle, epochs: 1, rates: [1e-3]}]",
    "optimiser": "optimiser: {kind: adam}",
    "normalise": "input: {size: 64x64, normalise: imagenet}",
    "network.name": "network: {name: unet, width: 2}",
    "loss.name": "loss: {name: bce_dice}",
    "optimizer.name": "optimizer: {name: adam}",
    "network.widest": "network: {kind: unet, widest: 8}",
    "erase.most": "augmentation: [{kind: erase, most: 2}]",
    "gray.where": "augmentation: [{kind: one_of, of: [{kind: hflip}, {kind: gray, where: object}]}]",
    "accumulate.batches": "accumulate: {batches: 4}",
    "accumulate.reduce": "accumulate: {reduce: sum}",
    "initialization": "initialization: '2017'",
    "initialisation": "initialisation: '2017'",
    "loss.clamped": "loss: {kind: bce_dice, clamped: true}",
    "optimizer.forgetful": "optimizer: {kind: adam, forgetful: true}",
    "affine.hard": "augmentation: [{kind: affine, hard: true}]",
    "network.align_corners": "network: {kind: unet, align_corners: true}",
    "input.align_corners": "input: {size: 64x64, align_corners: true}",
}
OLD_OPERATIONS = {
    "fill_holes.most": "{kind: fill_holes, most: 0.1}",
    "drop_small.least": "{kind: drop_small, least: 0.1}",
    "hull.least": "{kind: hull, least: 0.1}",
    "unreliable_top.least": "{kind: unreliable_top, least: 0.1}",
    "best_members.above": "{kind: best_members, above: 0.1, recipes: {'01': [tiny]}}",
}


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_of_the_old_vocabulary_is_refused_with_the_new_one(old: str, tmp_path: Path) -> None:
    path, key = tmp_path / "mine.yaml", old.split(".")[-1]
    if old in OLD:
        values = records.parse_yaml(find_text("recipes", "tiny").text, "tiny") | records.parse_yaml(OLD[old], old)
        path.write_text(yaml.safe_dump(values))
        read: Any = find_recipe
    else:
        path.write_text(f"name: mine\nmembers: [{{recipe: tiny}}]\npostprocessing: [{OLD_OPERATIONS[old]}]")
        read = find_ensemble
    with pytest.raises(ConfigError) as caught:
        read(str(path))
    assert re.fullmatch(
        rf"{re.escape(str(path))}: unknown key (\w+\.)*{key}\. Write {RENAMED[old]}\.", str(caught.value)
    )


def test_every_new_name_is_one() -> None:
    def fields(record: type[records.Record]) -> set[str]:
        return set(record.model_fields).union(*map(fields, record.__subclasses__()))

    for new in RENAMED.values():
        first, _, second = new.partition(":")[0].partition(".")
        assert (second or first) in fields(Legacy if second else records.Record)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schedule=[{kind: one-cycle, epochs: 1}]", "one_cycle"),
        ("network={kind: vgg-unet}", "vgg_unet"),
    ],
)
def test_values_of_the_old_vocabulary_are_near_the_new_ones(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"Did you mean {new}\?$"):
        find_recipe("tiny", [old])


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("network.encoder=hf-hub:timm/resnet18", r"network\.encoder can't be hf-hub.*Write one of timm\.list_models"),
        ("network.encoder=convnext_tiny.in12k", r"network\.encoder can't be convnext_tiny\.in12k"),
        ("compute.sync_batch_norm=true", r"sync_batch_norm doesn't work with the network timm_unet\. Remove it\.$"),
        ("input.size=240x256", r"must be a multiple of 32"),
    ],
)
def test_what_an_encoder_of_timm_cannot_be(setting: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_recipe("efficientnet-lite", [setting])


def test_a_key_may_be_there_but_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(find_text("recipes", "tiny").text + "\nepochs: 3\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(ConfigError, match=rf"mine\.yaml, line {line}: duplicate key epochs\. Remove one of the two\."):
        find_recipe(str(path))
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert records.parse_yaml(path.read_text(), "x")["b"] == {"x": 3, "y": 2}, "an anchor's keys may be set again"


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(
        b"\xef\xbb\xbf" + find_text("recipes", "tiny").text.split("\n", 2)[2].replace("\n", "\r\n").encode()
    )
    assert find_recipe(str(path)) == find_recipe("tiny")


def test_an_override_changes_one_place_although_an_anchor_shares_it() -> None:
    recipe = find_recipe("unet-vgg11", ["augmentation.0.p=0.25"])
    assert recipe.augmentation[0].p == 0.25
    assert recipe.schedule[2].augmentation is not None
    assert recipe.schedule[2].augmentation[0].p == 0.5


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (
            {"slices": ["dice"]},
            "slices can't be by dice. Write view, area, brightness, contrast, edge_contrast or a",
        ),
        ({"slices": ["view", "view"]}, "slices has view twice"),
        ({"minimum_objects": 1}, "minimum_objects can't be 1. Write at least 2"),
        ({"mode": "fast"}, "better"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(gate: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match="gate") as caught:
        parse(Ensemble, {"name": "small", "members": [{"recipe": "tiny"}], "gate": gate}, "small.yaml")
    assert words in str(caught.value)


def test_slices_that_are_not_measured_are_columns_of_the_metadata() -> None:
    assert Gate(slices=("view", "make", "contrast", "year")).metadata_columns == ("make", "year")
    assert Gate().metadata_columns == ()
