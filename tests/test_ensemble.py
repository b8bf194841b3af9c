from pathlib import Path

import numpy as np
import pytest

from backdrop import ensemble
from backdrop.config import dump_yaml, parse
from backdrop.dataset import open_dataset, read_pair
from backdrop.errors import MemberError
from backdrop.folds import read_plan, verify
from backdrop.masks import dice
from backdrop.recipe import Ensemble, find_ensemble
from backdrop.steps.evaluate import evaluate
from backdrop.steps.members import open_member
from backdrop.steps.split import split
from backdrop.steps.train import train
from tests.conftest import SMALL

SET = dict(item.split("=") for item in SMALL)


@pytest.fixture
def members(data: Path, plan: Path, tmp_path: Path) -> list[str]:
    """A member of each fold."""
    return [train(str(data), str(plan), "tiny", fold, str(tmp_path / f"m{fold}"), SMALL).address for fold in (0, 1)]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The ensemble that they are of, as a file."""
    parts = [{"recipe": "tiny", "set": {key: value if "x" in value else int(value) for key, value in SET.items()}}]
    values = {"name": "small", "folds": {"count": 2}, "members": parts}
    path = tmp_path / "small.yaml"
    path.write_text(dump_yaml(parse(Ensemble, values, "small")))
    return str(path)


def test_a_fold_is_judged_only_by_the_member_that_did_not_see_it(data: Path, plan: Path, members: list[str]) -> None:
    dataset, folds = open_dataset(data), read_plan(plan)
    digests = verify(folds, dataset)
    opened = [open_member(address) for address in members]
    scored = ensemble.score(dataset, folds, digests, ensemble.gather(opened, None))
    assert {score.image for score in scored.scores} == set(dataset.photos)
    for score in scored.scores:
        image, truth = read_pair(dataset.photos[score.image], digests)
        alone = [ensemble.gather([member], None).probability(image) for member in opened]
        expected = np.mean(alone, axis=0) if score.fold is None else alone[score.fold]
        assert score.dice == pytest.approx(dice(expected > 0.5, truth), abs=1e-9)
    assert set(scored.members["tiny-0"]) == {row.image for row in folds.holdout}


def test_members_of_another_plan_are_refused(data: Path, members: list[str], tmp_path: Path) -> None:
    other = str(tmp_path / "other.csv")
    split(str(data), other, folds=2, holdout=0.15, by="random", seed=5)
    with pytest.raises(MemberError, match=r"tiny-0 was not trained by this plan on these data"):
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
