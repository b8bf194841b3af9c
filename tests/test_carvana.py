"""Real photographs, where BACKDROP_CARVANA names their folder."""

import os
from pathlib import Path
from statistics import mean

import pytest

from backdrop.dataset import Dataset, open_dataset, read_mask
from backdrop.folds import Rule, make_plan
from backdrop.masks import decode_rle, encode_rle
from backdrop.steps.check import check

FOLDER = os.environ.get("BACKDROP_CARVANA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="BACKDROP_CARVANA names no folder of real photographs")


@pytest.fixture(scope="module")
def squashed() -> Dataset:
    return open_dataset(Path(str(FOLDER)) / "squashed-512")


def test_the_originals_have_no_errors() -> None:
    report = check(f"{FOLDER}/full")
    assert (report.objects, report.images, report.sizes) == (20, 224, ("1918x1280",))
    assert report.errors == []
    assert {fault.what for fault in report.faults} == {"is of an object with 4 views, most have 16"}


@pytest.mark.parametrize(("holdout", "spread"), [(0.15, 0.015), (0.0, 0.005)])
def test_folds_are_balanced_by_area(squashed: Dataset, holdout: float, spread: float) -> None:
    plan = make_plan(squashed, Rule(5, holdout, "area", 0))
    means = [mean(row.area for row in plan.validation(fold)) for fold in plan.folds]
    assert (max(means) - min(means)) / mean(means) < spread
    places: dict[str, set[int | None]] = {}
    for row in plan.rows:
        places.setdefault(row.object, set()).add(row.fold)
    assert all(len(folds) == 1 for folds in places.values())


def test_original_masks_survive_run_length_encoding() -> None:
    for photo in list(open_dataset(Path(str(FOLDER)) / "full").photos.values())[::16]:
        assert photo.mask is not None
        mask = read_mask(photo.mask)
        assert 0.05 < mask.mean() < 0.5
        assert (decode_rle(encode_rle(mask), *mask.shape) == mask).all()
