import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from backdrop.common.errors import ConfigError, DataError, MemberError, PlanError
from backdrop.config import Ensemble, Gate, find_ensemble, find_recipe
from backdrop.config.folds import Rule
from backdrop.config.records import dump_yaml, parse, parse_yaml
from backdrop.data.dataset import open_dataset, read_image, read_pair
from backdrop.data.folds import read_plan, read_plans, verify
from backdrop.data.masks import dice
from backdrop.evaluation import scoring
from backdrop.evaluation.records import read_scores
from backdrop.evaluation.slices import measure_traits
from backdrop.inference import batch, ensemble
from backdrop.inference.mean import Mean
from backdrop.inference.member import Member, content_key
from backdrop.models import build
from backdrop.models.cost import macs
from backdrop.steps.evaluate import evaluate
from backdrop.steps.members import open_member
from backdrop.steps.register import register
from backdrop.steps.split import split
from tests.conftest import SMALL
from tests.tracking.workspace import write_member

SET = dict(item.split("=") for item in SMALL)


@pytest.fixture
def members(trained_pair: Callable[[tuple[str, ...]], list[str]]) -> list[str]:
    """A member of each fold."""
    return trained_pair(SMALL)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The ensemble that they are of, as a file."""
    parts = [{"recipe": "tiny", "set": {key: yaml.safe_load(value) for key, value in SET.items()}}]
    values = {"name": "small", "folds": {"count": 2}, "members": parts}
    path = tmp_path / "small.yaml"
    path.write_text(dump_yaml(parse(Ensemble, values, "small")))
    return str(path)


def test_a_fold_is_judged_only_by_the_member_that_did_not_see_it(data: Path, plan: Path, members: list[str]) -> None:
    dataset, folds = open_dataset(data), read_plan(plan)
    digests = verify(folds, dataset)
    opened = [open_member(address) for address in members]
    who = scoring.judges([folds], digests, ensemble.gather(opened, None))
    scored = scoring.score(dataset, who, digests)
    assert {score.image for score in scored.scores} == set(dataset.photos)
    for score in scored.scores:
        image, truth = read_pair(dataset.photos[score.image], digests)
        alone = [ensemble.gather([member], None).probability(image) for member in opened]
        expected = np.mean(alone, axis=0) if score.fold is None else alone[score.fold]
        assert score.dice == pytest.approx(dice(expected > 0.5, truth), abs=1e-9)
    assert set(scored.members["tiny-0"]) == {row.image for row in folds.holdout}


def test_members_of_another_plan_are_refused(data: Path, members: list[str], tmp_path: Path) -> None:
    other = str(tmp_path / "other.csv")
    split(str(data), other, Rule(folds=2, holdout=0.15, by="random", seed=5))
    with pytest.raises(MemberError, match=r"tiny-0 was not trained with this plan on this data"):
        evaluate(str(data), other, members, str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_an_ensemble_takes_only_members_of_its_own(data: Path, plan: Path, members: list[str], config: str) -> None:
    opened = [open_member(address) for address in members]
    assert len(ensemble.gather(opened, find_ensemble(config)).members) == 2
    with pytest.raises(MemberError, match="was not trained by a recipe of ensemble tiny"):
        ensemble.gather(opened, find_ensemble("tiny"))
    with pytest.raises(MemberError, match="tiny-0 is named twice"):
        ensemble.gather([opened[0], opened[0]], None)
    with pytest.raises(MemberError, match="has no members"):
        ensemble.gather([], None)


def test_a_written_ensemble_reads_back_the_same(members: list[str], config: str, tmp_path: Path) -> None:
    opened, chosen = [open_member(address) for address in members], find_ensemble(config)
    ensemble.write_ensemble(tmp_path / "copy", chosen, opened)
    first, second = ensemble.gather(opened, chosen), ensemble.load_ensemble(tmp_path / "copy")
    assert first.digest() == second.digest()
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    assert np.array_equal(first.probability(image), second.probability(image))
    assert np.array_equal(first.mask(image), first.probability(image) > 0.5)


def test_the_order_of_members_does_not_matter(
    data: Path,
    plan: Path,
    members: list[str],
    tmp_path: Path,
) -> None:
    for name, order in (("there", members), ("back", members[::-1])):
        evaluate(str(data), str(plan), order, str(tmp_path / name))
    for name in ("images.csv", "metrics.json", "index.html"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


# Two schemes: the first recipe has two folds by area, the others three by chance, and all one holdout.
PARTS = {"first": (0, 0.5), "second": (1, 0.3), "third": (1, 0.2)}


@pytest.fixture
def plans(data: Path, plan: Path, tmp_path: Path) -> list[str]:
    other = str(tmp_path / "other.csv")
    split(str(data), other, Rule(folds=3, by="random", seed=1), holdout_from=str(plan))
    return [str(plan), other]


@pytest.fixture
def mixed(data: Path, plans: list[str], tmp_path: Path) -> dict[str, Member]:
    """Eight untrained members, two of the first scheme and twice three of the second."""
    read = read_plans(plans)
    digests = verify(read[0], open_dataset(data))
    for seed, (name, (number, _)) in enumerate(PARTS.items()):
        recipe = find_recipe("tiny", [*SMALL, f"name={name}", f"seed={seed}"])
        for fold in read[number].folds:
            key = content_key(recipe, read[number], digests, fold)
            write_member(tmp_path / "mixed" / f"{name}-{fold}", recipe, key, fold)
    return {path.name: open_member(str(path)) for path in sorted((tmp_path / "mixed").iterdir())}


def mixed_ensemble() -> Ensemble:
    parts = [
        {
            "recipe": find_recipe("tiny", [*SMALL, f"name={name}", f"seed={seed}"]).model_dump(mode="json"),
            "weight": weight,
            "folds": {"count": 3, "by": "random", "seed": 1} if number else None,
        }
        for seed, (name, (number, weight)) in enumerate(PARTS.items())
    ]
    return parse(Ensemble, {"name": "mixed", "folds": {"count": 2}, "members": parts}, "mixed").resolve()


def read_folds(path: str) -> dict[str, str]:
    """Fold by image, read without the project's code."""
    lines = Path(path).read_text().splitlines()[1:]
    return {row["image"]: row["fold"] for row in csv.DictReader(lines)}


@pytest.mark.parametrize(
    ("present", "judges"),
    [
        (None, {3, 8}),
        ({"first-0", "first-1", "second-1", "second-2", "third-0", "third-1"}, {2, 3, 6}),
        ({"first-1", "second-0"}, {0, 1, 2}),
    ],
)
def test_each_member_judges_what_its_own_plan_kept_from_it(
    data: Path, plans: list[str], mixed: dict[str, Member], present: set[str] | None, judges: set[int]
) -> None:
    dataset, places, read = open_dataset(data), [read_folds(path) for path in plans], read_plans(plans)
    digests = verify(read[0], dataset)
    there = [member for name, member in mixed.items() if present is None or name in present]
    who = scoring.judges(read, digests, ensemble.gather(there, mixed_ensemble()))
    scored = scoring.score(dataset, who, digests)
    assert set(scored.members) == {member.name for member in there}
    found, counts, changes = {score.image: score for score in scored.scores}, set(), []
    for stem in dataset.photos:
        # A member's name ends in its fold.
        told = [m for m in there if places[PARTS[m.record.recipe][0]][stem] in (m.name[-1], "holdout")]
        counts.add(len(told))
        if not told:
            assert stem not in found
            continue
        score, (image, truth) = found[stem], read_pair(dataset.photos[stem], digests)
        maps = {m.name: ensemble.gather([m], None).probability(image).astype(np.float64) for m in there}
        names = sorted({m.record.recipe for m in told})
        means = [np.mean([maps[m.name] for m in told if m.record.recipe == name], axis=0) for name in names]
        expected = np.average(means, axis=0, weights=[PARTS[name][1] for name in names])
        assert score.dice == pytest.approx(dice(expected > 0.5, truth), abs=2e-3)  # a pixel or two at one half
        assert sorted(score.recipes) == names
        assert places[0][stem] == ("holdout" if score.fold is None else str(score.fold))
        changes.append(abs(score.dice - dice(np.mean(list(maps.values()), axis=0) > 0.5, truth)))
    assert counts == judges
    assert max(changes) > 0.01 or 0 in judges  # a mean over other members would have been seen


def test_large_photographs_are_scored_part_by_part_with_the_same_result(
    data: Path, plans: list[str], mixed: dict[str, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, read = open_dataset(data), read_plans(plans)
    digests = verify(read[0], dataset)
    who = scoring.judges(read, digests, ensemble.gather(list(mixed.values()), mixed_ensemble()))
    whole = scoring.score(dataset, who, digests)
    monkeypatch.setattr(batch, "LARGE", 1)
    monkeypatch.setattr(ensemble, "BLOCK", 4 * 64 * 10)  # ten rows, each with four sums
    means = []
    monkeypatch.setattr(scoring, "Mean", lambda: means.append(Mean()) or means[-1])
    parts = scoring.score(dataset, who, digests)
    assert max(len(mean.total) for mean in means if mean.total is not None) < 48  # rows
    for one, other in zip(parts.scores, whole.scores, strict=True):
        assert one.dice == pytest.approx(other.dice, abs=1e-3)  # networks see other batches: a pixel at one half
        assert one.recipes == pytest.approx(other.recipes, abs=1e-3)
    assert parts.members.keys() == whole.members.keys()


def test_evaluate_takes_the_plans_of_all_schemes(
    data: Path, plans: list[str], mixed: dict[str, Member], tmp_path: Path
) -> None:
    config = tmp_path / "mixed.yaml"
    config.write_text(dump_yaml(mixed_ensemble()))
    addresses = [str(member.folder) for member in mixed.values()]
    evaluation = evaluate(str(data), plans, addresses, str(tmp_path / "report"), str(config))
    assert {name: found.objects for name, found in evaluation.oof.items()} == dict.fromkeys(PARTS, 5)
    assert evaluation.oof_ensemble is not None
    assert evaluation.oof_ensemble.objects == 5
    assert set(evaluation.holdout.members) == set(mixed)
    rows = list(csv.DictReader((tmp_path / "report" / "images.csv").read_text().splitlines()))
    assert {row["image"]: row["fold"] for row in rows} == read_folds(plans[0])
    assert all(row[recipe] for row in rows for recipe in PARTS)
    assert "Worst out-of-fold images" in (tmp_path / "report" / "index.html").read_text()
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["model"] == evaluation.model


def test_members_of_no_plan_given_are_refused(
    data: Path, plans: list[str], mixed: dict[str, Member], tmp_path: Path
) -> None:
    out, addresses = str(tmp_path / "report"), [str(member.folder) for member in mixed.values()]
    with pytest.raises(MemberError, match="second-0 was not trained with this plan on this data"):
        evaluate(str(data), plans[:1], addresses, out)
    third = str(tmp_path / "third.csv")
    split(str(data), third, Rule(folds=2, by="random", seed=9), holdout_from=plans[0])
    with pytest.raises(MemberError, match="second-0 was not trained with any of these plans on this data"):
        evaluate(str(data), [plans[0], third], addresses, out)
    other = str(tmp_path / "held.csv")
    split(str(data), other, Rule(folds=3, by="random", seed=4))
    with pytest.raises(PlanError, match="holds out other objects"):
        evaluate(str(data), [plans[0], other], addresses, out)
    assert not (tmp_path / "report").exists()


def test_operations_are_applied_measured_and_part_of_the_digest(
    data: Path, plan: Path, members: list[str], config: str, tmp_path: Path
) -> None:
    values = parse_yaml(Path(config).read_text(), config)
    level = {"kind": "threshold", "level": 0.2}
    best = {"kind": "best_members", "unconfidence_above": 0.0, "recipes": {"01": ["tiny"]}}
    repaired = tmp_path / "repaired.yaml"
    repaired.write_text(dump_yaml(parse(Ensemble, {**values, "postprocessing": [best, level]}, "repaired")))
    evaluations = {name: evaluate(str(data), str(plan), members, str(tmp_path / f"r-{Path(name).stem}"), name)
             for name in (config, str(repaired))}  # fmt: skip
    plain, other = evaluations.values()
    assert plain.model != other.model
    assert plain.repair == ()
    assert [effect.operation for effect in other.repair] == ["best_members", "threshold", "all"]
    assert other.repair[-1].images == 10
    assert {effect.verdict for effect in other.repair} == {"no evidence"}  # too few objects for any
    assert "Post-processing" in (tmp_path / "r-repaired" / "index.html").read_text()
    model = ensemble.gather([open_member(address) for address in members], find_ensemble(str(repaired)))
    photo = next(iter(open_dataset(data).photos.values()))
    image = read_image(photo.image)
    assert np.array_equal(model.mask(image, photo.view), model.probability(image) > 0.2)
    with pytest.raises(ConfigError, match=r"best_members isn't shown to help \(no evidence: .* Leave it out"):
        register(str(data), str(plan), members, str(tmp_path / "r-repaired"), str(repaired), "model")


def test_images_have_what_the_gates_slices_group_them_by(
    data: Path, plan: Path, mixed: dict[str, Member], tmp_path: Path
) -> None:
    sliced = mixed_ensemble().model_copy(update={"gate": Gate(slices=("brightness", "make"))})
    path, only = tmp_path / "sliced.yaml", mixed["first-0"]
    path.write_text(dump_yaml(sliced))
    address = [str(only.folder)]
    with pytest.raises(DataError, match=r"metadata\.csv is missing, but gate\.slices names make"):
        evaluate(str(data), str(plan), address, str(tmp_path / "report"), str(path))
    dataset = open_dataset(data)
    objects = sorted({photo.object for photo in dataset.photos.values()})
    (data / "metadata.csv").write_text("id,make\n" + "".join(f"{name},m{i}\n" for i, name in enumerate(objects[1:])))
    evaluation = evaluate(str(data), str(plan), address, str(tmp_path / "report"), str(path))
    digests = verify(read_plan(plan), dataset)
    scores = read_scores(tmp_path / "report" / "images.csv")
    assert scores
    for score in scores:
        make = {"make": f"m{objects.index(score.object) - 1}"} if score.object != objects[0] else {}
        assert score.traits == measure_traits(*read_pair(dataset.photos[score.image], digests)) | make
    assert evaluation.cost == ensemble.prediction_cost(only.recipe)


def test_the_cost_of_a_prediction_counts_every_forward_pass() -> None:
    settings = ("input.size=64x32", "network.width=4", "network.depth=2")
    plain = find_recipe("tiny", [*settings, "tta.hflip=false", "tta.vflip=false"])
    cost = macs(build(**plain.network_options()), 32, 64)
    assert ensemble.prediction_cost(plain) == cost
    both = plain.model_copy(update={"tta": plain.tta.model_copy(update={"hflip": True, "vflip": True})})
    assert ensemble.prediction_cost(both) == 4 * cost
    scaled = plain.model_copy(update={"tta": plain.tta.model_copy(update={"scales": (1.0, 0.5)})})
    assert ensemble.prediction_cost(scaled) == cost * 5 // 4
    assert ensemble.prediction_cost(plain.model_copy(update={"snapshots": 3})) == 3 * cost
