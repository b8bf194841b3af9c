"""Real photographs, where BACKDROP_CARVANA names their folder."""

import os
import re
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from backdrop.config.folds import Rule
from backdrop.data.dataset import Dataset, open_dataset, read_mask
from backdrop.data.folds import make_plan
from backdrop.data.rle import decode_rle, encode_rle
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


@pytest.mark.parametrize(
    ("folder", "count"), [("full", 224), pytest.param("squashed-512", 2720, marks=pytest.mark.thorough)]
)
def test_every_mask_survives_run_length_encoding(folder: str, count: int) -> None:
    photos = list(open_dataset(Path(str(FOLDER)) / folder).photos.values())
    assert len(photos) == count
    for photo in photos:
        assert photo.mask is not None
        mask = read_mask(photo.mask)
        assert 0.02 < mask.mean() < 0.6
        text = encode_rle(mask)
        # The definition by other means: the maximal runs of ones among the pixels, which are read row by row.
        runs = re.finditer(b"\x01+", mask.tobytes())
        assert text == " ".join(f"{run.start() + 1} {run.end() - run.start()}" for run in runs)
        assert np.array_equal(decode_rle(text, *mask.shape), mask)
