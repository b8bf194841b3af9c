"""`review`: planted faults come first, nobody judges a mask that it trained on, and what corrected masks cost."""

import csv
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.common.errors import BackdropError, ConfigError
from backdrop.config import find_recipe
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset, read_mask
from backdrop.data.folds import FoldPlan, read_plan, verify
from backdrop.data.masks import Mask
from backdrop.inference.member import content_key, read_member, verify_member
from backdrop.steps.review import TABLE, review
from backdrop.steps.split import split
from tests.conftest import SMALL

# Long enough to see the ellipses.
LONGER = (*SMALL, "epochs=12")


@pytest.fixture
def members(trained_pair: Callable[[tuple[str, ...]], list[str]]) -> list[str]:
    """One member for each of the two folds of `plan`."""
    return trained_pair(LONGER)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / TABLE).open() as file:
        return list(csv.DictReader(file))


def correct(data: Path, stem: str, change: Callable[[Mask], Mask]) -> None:
    """Replaces a mask."""
    path = data / "train_masks" / f"{stem}_mask.png"
    cv2.imwrite(str(path), change(read_mask(path)).astype(np.uint8) * 255)


def test_masks_are_ranked_and_shown(data: Path, plan: Path, members: list[str], tmp_path: Path) -> None:
    out = tmp_path / "review"
    record = review(str(data), str(plan), members, str(out), share=0.2)
    found = rows(out)
    assert record.photographs == 12
    assert record.doubtful == len({row["image"] for row in found}) == sum(record.kinds.values())
    assert record.shown == min(record.doubtful, 3)
    assert (out / "index.html").read_text().count('class="card"') == record.shown
    worst = [max(float(row["severity"]) for row in group) for _, group in itertools.groupby(found, lambda r: r["rank"])]
    assert worst == sorted(worst, reverse=True)
    places = {row.image: "holdout" if row.fold is None else str(row.fold) for row in read_plan(plan).rows}
    assert all(row["fold"] == places[row["image"]] for row in found)
    again = review(str(data), str(plan), members[::-1], str(tmp_path / "again"), share=0.2)
    assert again == record
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
    }


def test_a_mask_is_judged_only_by_members_that_did_not_train_on_it(
    data: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    record = review(str(data), str(plan), members[:1], str(tmp_path / "review"), share=1)
    folds = [row.fold for row in read_plan(plan).rows]
    assert record.photographs == folds.count(0) + folds.count(None)
    assert {row["fold"] for row in rows(tmp_path / "review")} <= {"0", "holdout"}


def test_a_swapped_mask_comes_first(data: Path, plan: Path, members: list[str], tmp_path: Path) -> None:
    """In the holdout, where a mask may be changed without another training."""
    held = next(row for row in read_plan(plan).rows if row.fold is None)
    correct(data, held.image, lambda mask: ~mask)
    split(str(data), str(tmp_path / "new.csv"), Rule(2, 0.15, "area", 0), extend=str(plan))
    review(str(data), str(tmp_path / "new.csv"), members, str(tmp_path / "review"))
    first = rows(tmp_path / "review")[0]
    assert (first["image"], first["kind"], first["fold"]) == (held.image, "whole mask", "holdout")
    assert float(first["severity"]) > 0.9


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float, data: Path, plan: Path) -> None:
    with pytest.raises(ConfigError, match="--share must be"):
        review(str(data), str(plan), [], "out", share=share)


def keys(data: Path, plan: Path, other: Path) -> dict[tuple[str, int], str]:
    """The content keys of all members: two folds, and three by another scheme."""
    recipe = find_recipe("tiny", SMALL)
    plans = {"two": read_plan(plan), "three": read_plan(other)}

    def of(folds: FoldPlan, fold: int) -> str:
        return content_key(recipe, folds, verify(folds, open_dataset(data)), fold)

    return {(name, fold): of(folds, fold) for name, folds in plans.items() for fold in folds.folds}


def test_corrected_masks_train_exactly_the_members_that_saw_them(data: Path, plan: Path, tmp_path: Path) -> None:
    """What docs/reference/review.md says, by the keys that `train` looks for."""
    other, rule = tmp_path / "three.csv", Rule(2, 0.15, "area", 0)
    split(str(data), str(other), Rule(3), holdout_from=str(plan))
    before = keys(data, plan, other)

    def after(stem: str, name: str) -> set[tuple[str, int]]:
        """The members that another mask of a photograph changes."""
        copy = Path(shutil.copytree(data, tmp_path / name))
        correct(copy, stem, lambda mask: np.roll(mask, 4, 1))
        new, third = tmp_path / f"{name}.csv", tmp_path / f"{name}-3.csv"
        split(str(copy), str(new), rule, extend=str(plan))
        split(str(copy), str(third), Rule(3), extend=str(other), holdout_from=str(new))
        assert read_plan(new).assignment() == read_plan(plan).assignment()
        assert read_plan(third).assignment() == read_plan(other).assignment()
        found = keys(copy, new, third)
        return {member for member, key in found.items() if key != before[member]}

    placed = read_plan(plan).rows
    held = next(row for row in placed if row.fold is None)
    folded = next(row for row in placed if row.fold == 0)
    assert after(held.image, "held") == set()
    assert after(folded.image, "folded") == set(before)  # each trains on it, or chooses its epoch by it


def test_a_member_of_the_old_masks_is_refused_with_the_new_plan(
    data: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    folded = next(row for row in read_plan(plan).rows if row.fold == 0)
    correct(data, folded.image, lambda mask: np.roll(mask, 4, 1))
    new = tmp_path / "new.csv"
    split(str(data), str(new), Rule(2, 0.15, "area", 0), extend=str(plan))
    with pytest.raises(BackdropError, match="was not trained"):
        review(str(data), str(new), members, str(tmp_path / "review"))
    folds = read_plan(new)
    with pytest.raises(BackdropError):
        verify_member(read_member(Path(members[0])), folds, verify(folds, open_dataset(data)))
