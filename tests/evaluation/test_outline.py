"""What a mask is like along its outline, against slow references that look at every pixel."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backdrop.data.masks import Mask
from backdrop.evaluation.outline import BAND, Measures, dump_measures, measure_mask

SIDES = st.tuples(st.integers(1, 14), st.integers(1, 14))
Pixel = tuple[int, int]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """Two masks of one size: scattered pixels, or blocks with some pixels changed."""
    shape = draw(SIDES)
    if draw(st.booleans()):
        return draw(arrays(bool, shape)), draw(arrays(bool, shape))
    masks = []
    for _ in range(2):
        mask = np.zeros(shape, bool)
        top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        mask[top : draw(st.integers(top, shape[0])), left : draw(st.integers(left, shape[1]))] = True
        masks.append(mask ^ draw(arrays(bool, shape, elements=st.integers(0, 9).map(lambda n: n == 0))))
    return masks[0], masks[1]


def pixels(mask: Mask) -> set[Pixel]:
    return {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}


def outline(mask: set[Pixel]) -> set[Pixel]:
    return {(y, x) for y, x in mask if not {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} <= mask}


def band(mask: set[Pixel], width: int) -> set[Pixel]:
    """Pixels from which a step of at most `width` rows and columns leads outside."""
    steps = range(-width, width + 1)
    return {(y, x) for y, x in mask if any((y + dy, x + dx) not in mask for dy in steps for dx in steps)}


def distance(pixel: Pixel, others: set[Pixel]) -> float:
    return min(math.hypot(pixel[0] - y, pixel[1] - x) for y, x in others)


def reference(prediction: Mask, truth: Mask) -> Measures:
    """All measures by their definitions, in float64."""
    found, true = pixels(prediction), pixels(truth)
    if not found or not true:
        same = float(found == true)
        return Measures(same, same, same, same, same, None)
    width = max(1, round(BAND * math.hypot(*truth.shape)))
    bands = band(found, width), band(true, width)
    outlines = outline(found), outline(true)
    away = [[distance(pixel, outlines[1 - i]) for pixel in sorted(outlines[i])] for i in (0, 1)]
    near = [sum(d <= limit for part in away for d in part) / sum(map(len, away)) for limit in (1, 2, 4)]
    signs = [-1 if pixel in true else 1 for pixel in sorted(outlines[0])]
    signed = [sign * min(d, width) for sign, d in zip(signs, away[0], strict=True)]
    return Measures(
        len(found & true) / len(found | true),
        len(bands[0] & bands[1]) / len(bands[0] | bands[1]),
        *near,
        sum(signed) / len(signed),
    )


@settings(max_examples=150)
@given(pairs())
def test_every_measure_is_that_of_a_slow_reference(pair: tuple[Mask, Mask]) -> None:
    (*found, error), (*expected, expected_error) = astuple(measure_mask(*pair)), astuple(reference(*pair))
    assert found == pytest.approx(expected, abs=1e-12)
    # Distances are right to 2 %, and a pixel counts at most one pixel here.
    assert error == pytest.approx(expected_error, abs=0.02)


@given(pairs())
def test_equal_masks_agree_wherever_they_are(pair: tuple[Mask, Mask]) -> None:
    mask = pair[0]
    assert measure_mask(mask, mask) == Measures(1.0, 1.0, 1.0, 1.0, 1.0, 0.0 if mask.any() else None)


def disk(radius: int) -> Mask:
    steps = np.arange(-300, 300) ** 2
    return np.asarray(steps[:, None] + steps <= radius**2)


@pytest.mark.parametrize("error", [-3, -1, 0, 1, 3])
def test_the_boundary_error_says_by_how_much_a_mask_is_too_wide(error: int) -> None:
    found = measure_mask(disk(200 + error), disk(200))
    assert found.boundary_error == pytest.approx(error, abs=0.2)  # of a disk of pixels
    assert found.nsd_4 == 1.0
    assert (found.nsd_2 > 0.99) == (abs(error) <= 2)


@settings(max_examples=20)
@given(st.tuples(*[st.integers(-12, 12)] * 2), st.integers(40, 90))
def test_the_boundary_error_is_right_to_two_percent(step: tuple[int, int], radius: int) -> None:
    true = disk(70)[150:450, 150:450]
    found = np.roll(disk(radius)[150:450, 150:450], step, (0, 1))
    points, others = (np.array(sorted(outline(pixels(mask)))) for mask in (found, true))
    squares = ((points[:, None] - others) ** 2).sum(2).min(1)
    distances = np.minimum(np.sqrt(squares.astype(np.float64)), round(BAND * math.hypot(300, 300)))
    expected = np.where(true[tuple(points.T)], -distances, distances)
    error = measure_mask(found, true).boundary_error
    assert error == pytest.approx(expected.mean(), abs=0.02 * np.abs(expected).mean())


def test_masks_are_wide_in_their_own_pixels_not_in_a_share_of_the_photograph() -> None:
    large = np.zeros((1200, 1600), bool)
    large[300:900, 400:1000] = disk(200)
    moved = np.roll(large, 3, 1)
    whole, cut = measure_mask(moved, large), measure_mask(moved[250:950, 350:1050], large[250:950, 350:1050])
    assert (whole.iou, whole.nsd_1, whole.nsd_4) == (cut.iou, cut.nsd_1, cut.nsd_4)
    assert whole.boundary_iou > cut.boundary_iou  # its band is a share of the diagonal


def test_a_row_per_image_is_written_sorted() -> None:
    rows = {"b": Measures(1.0, 1.0, 1.0, 1.0, 1.0, None), "a": Measures(0.5, 0.25, 0.1, 0.2, 0.4, -0.5)}
    head = b"image,iou,boundary_iou,nsd_1,nsd_2,nsd_4,boundary_error\n"
    assert dump_measures(rows) == head + b"a,0.5,0.25,0.1,0.2,0.4,-0.5\nb,1.0,1.0,1.0,1.0,1.0,\n"
    assert dump_measures(rows) == dump_measures(dict(reversed(rows.items())))
