"""What is doubtful about a label, of faults that were planted in it."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from backdrop.data.masks import Mask
from backdrop.evaluation.pictures import PANE, STRIP, doubt_panel
from backdrop.evaluation.review import find_regions, severity

SIZE = (200, 300)


def disk(row: float, column: float, radius: float, size: tuple[int, int] = SIZE) -> Mask:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def product(hole: bool = False) -> Mask:
    """A product with two bumps, and with a hole or not."""
    mask = disk(100, 130, 60) | disk(80, 190, 35)
    return mask & ~disk(100, 110, 12) if hole else mask


def predict(mask: Mask) -> NDArray[np.float32]:
    """A probability that is sure but near the outline."""
    blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    return np.asarray(blurred, np.float32)


@pytest.mark.parametrize(
    ("label", "truth", "kind", "center"),
    [
        (product(), product(hole=True), "filled hole", (110, 100)),
        (product(hole=True), product(), "hole in the mask", (110, 100)),
        (product() & ~disk(40, 130, 25), product(), "missing part", (130, 50)),
        (product() | disk(170, 200, 18), product(), "extra part", (200, 170)),
        (np.roll(product(), (-3, 4), (0, 1)), product(), "shifted", (152, 97)),
        (disk(60, 250, 40), product(), "whole mask", (180, 90)),
        (np.zeros(SIZE, bool), product(), "whole mask", (147, 100)),
        (product(), np.zeros(SIZE, bool), "whole mask", (147, 100)),
    ],
)
def test_each_fault_is_found_where_it_is(label: Mask, truth: Mask, kind: str, center: tuple[int, int]) -> None:
    first, *others = find_regions(predict(truth), label)
    left, top, width, height = first.box
    assert first.kind == kind
    assert abs(left + width / 2 - center[0]) < 12
    assert abs(top + height / 2 - center[1]) < 12
    assert sum(one.severity for one in others) < first.severity / 2
    assert first.severity == pytest.approx(first.pixels / (label | truth).sum(), rel=0.01)
    assert severity([first, *others]) == first.severity


@pytest.mark.parametrize("hole", [False, True])
def test_a_good_label_is_not_in_doubt(hole: bool) -> None:
    truth = product(hole)
    assert find_regions(predict(truth), truth) == []
    wider = cv2.dilate(truth.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert find_regions(predict(truth), wider) == []  # no outline is certain to a pixel
    assert severity([]) == 0


def test_a_missing_part_at_the_photographs_edge_is_no_hole() -> None:
    truth = disk(100, 0, 60)
    label = truth & ~disk(100, 0, 15)
    assert [one.kind for one in find_regions(predict(truth), label)] == ["missing part"]


def test_a_shifted_label_can_lack_a_part_as_well() -> None:
    label = np.roll(product(), 5, 1) & ~disk(100, 60, 25)
    assert {one.kind for one in find_regions(predict(product()), label)} == {"shifted", "missing part"}


def test_doubt_does_not_depend_on_the_photographs_size() -> None:
    small, large = (
        find_regions(predict(np.repeat(np.repeat(truth, n, 0), n, 1)), np.repeat(np.repeat(label, n, 0), n, 1))
        for n in (1, 4)
        for truth, label in [(product(), product() & ~disk(40, 130, 25))]
    )
    assert [one.kind for one in small] == [one.kind for one in large]
    assert large[0].severity == pytest.approx(small[0].severity, rel=0.2)


@settings(max_examples=80)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
        lambda shape: st.tuples(arrays(np.float32, shape, elements=st.floats(0, 1, width=32)), arrays(bool, shape))
    )
)
def test_any_masks_can_be_compared(pair: tuple[NDArray[np.float32], Mask]) -> None:
    probability, label = pair
    height, width = label.shape
    for region in find_regions(probability, label):
        left, top, across, down = region.box
        assert 0 < region.severity <= 1
        assert 0 <= left < left + across <= width
        assert 0 <= top < top + down <= height
        assert doubt_panel(np.zeros((height, width, 3), np.uint8), label, label, region.box).shape[1] > PANE


def test_the_panel_shows_both_outlines_around_the_region() -> None:
    image = np.full((*SIZE, 3), 90, np.uint8)
    picture = doubt_panel(image, product(), product() & ~disk(40, 130, 25), (105, 38, 50, 27))
    height = round(PANE * SIZE[0] / SIZE[1])
    assert picture.shape == (height + STRIP, 2 * PANE + 2, 3)
    near = picture[:height, PANE + 2 :].astype(int)
    for color in ((226, 84, 12), (24, 142, 255)):
        assert 100 < (np.abs(near - color).sum(2) == 0).sum() < 4000
    assert math.isclose(float(near[0, 0].mean()), 90)
