"""The figures of photographs against slow references in float64, at any size, and their table."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from backdrop.common.errors import StorageError
from backdrop.data.masks import Mask
from backdrop.evaluation.statistics import (
    BORDER,
    IMAGE_NAMES,
    MASK_NAMES,
    NAMES,
    SAME,
    SIDE,
    Statistics,
    dump_statistics,
    find_renamed,
    measure_image,
    measure_prediction,
    read_statistics,
)

Image = NDArray[np.uint8]
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def picture(seed: int, shape: tuple[int, int]) -> Image:
    """Smooth patches of color with a little noise."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (7, 9, 3)).astype(np.float32)
    smooth = cv2.resize(patches, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + random.normal(0, 6, (*shape, 3)), 0, 255).astype(np.uint8)


def reference(image: Image) -> dict[str, float]:
    """By the definitions, in float64, of a photograph that is SIDE x SIDE already."""
    colors = image.astype(np.float64) / 255
    gray = (colors[..., 0] + colors[..., 1] + colors[..., 2]) / 3
    rows, columns = np.indices(gray.shape)
    near = np.minimum(np.minimum(rows, SIDE - 1 - rows), np.minimum(columns, SIDE - 1 - columns)) < BORDER
    contrast = math.sqrt(((gray - gray.mean()) ** 2).mean())
    down, across = np.abs(gray[1:] - gray[:-1]).mean(), np.abs(gray[:, 1:] - gray[:, :-1]).mean()
    return {
        "brightness": gray.mean(),
        "contrast": contrast,
        "sharpness": (down + across) / 2 / contrast,
        **{f"border_{name}": colors[near][:, i].mean() for i, name in enumerate(("red", "green", "blue"))},
        "border_spread": gray[near].std(),
    }


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_figures_of_a_photograph_are_those_of_a_slow_reference(seed: int) -> None:
    image = picture(seed, (SIDE, SIDE))
    found = measure_image(image)
    assert tuple(found) == IMAGE_NAMES
    assert found == pytest.approx(reference(image), abs=1e-5)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(SIDE, SIDE), (600, 777), (1024, 513)]), st.integers(2, 3))
def test_a_larger_photograph_of_the_same_has_the_same_figures(seed: int, shape: tuple[int, int], times: int) -> None:
    image = picture(seed, shape)
    larger = image.repeat(times, 0).repeat(times, 1)
    assert measure_image(larger) == pytest.approx(measure_image(image), abs=1e-3)


def test_sharpness_says_nothing_of_the_light() -> None:
    """Half the light on the same scene; the levels of a picture are whole numbers, so it is right to a percent."""
    image = picture(1, (SIDE, SIDE))
    bright, dark = measure_image(image), measure_image(image // 2)
    assert dark["brightness"] == pytest.approx(bright["brightness"] / 2, abs=0.01)
    assert dark["sharpness"] == pytest.approx(bright["sharpness"], rel=0.02)
    assert measure_image(cv2.GaussianBlur(image, (9, 9), 3).astype(np.uint8))["sharpness"] < bright["sharpness"] / 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (SIDE, SIDE)])
def test_a_picture_of_one_color_has_neither_contrast_nor_sharpness(shape: tuple[int, int]) -> None:
    found = measure_image(np.full((*shape, 3), (51, 102, 204), np.uint8))
    assert found["contrast"] == pytest.approx(0, abs=1e-6)
    assert [found["sharpness"], found["border_spread"]] == pytest.approx([0, 0], abs=1e-6)
    assert [found[f"border_{name}"] for name in ("red", "green", "blue")] == pytest.approx([0.2, 0.4, 0.8])


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.float32], Mask]:
    shape = draw(SHAPES)
    elements = st.floats(0, 1, width=32)
    return draw(arrays(np.float32, shape, elements=elements)), draw(arrays(bool, shape))


@given(predictions(), st.integers(1, 3))
def test_figures_of_a_mask_are_those_of_its_pixels_at_any_size(
    pair: tuple[NDArray[np.float32], Mask], times: int
) -> None:
    probability, mask = pair
    larger: tuple[Any, Any] = (probability.repeat(times, 0).repeat(times, 1), mask.repeat(times, 0).repeat(times, 1))
    found = measure_prediction(*larger)
    assert tuple(found) == MASK_NAMES
    height, width = mask.shape
    pixels = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
    top, bottom = (min(y for y, _ in pixels), max(y for y, _ in pixels) + 1) if pixels else (height / 2, height / 2)
    left, right = (min(x for _, x in pixels), max(x for _, x in pixels) + 1) if pixels else (width / 2, width / 2)
    total = math.fsum(map(float, probability.ravel())) + len(pixels)
    inside = math.fsum(float(probability[pixel]) for pixel in pixels)
    assert found == pytest.approx(
        {
            "expected_dice": 2 * inside / total if total else 1.0,
            "unconfidence": found["unconfidence"],  # tests/inference/test_uncertainty.py
            "area": len(pixels) / mask.size,
            "center_x": (left + right) / 2 / width,
            "center_y": (top + bottom) / 2 / height,
            "width": (right - left) / width,
            "height": (bottom - top) / height,
        }
    )


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        Statistics(f"a,{i}_{i}", f"a,{i}", str(i), fold, dict(zip(NAMES, random.normal(size=len(NAMES)), strict=True)))
        for i, fold in enumerate(["holdout", "1", ""])
    ]
    rows = [Statistics(r.image, r.object, r.view, r.fold, {k: float(v) for k, v in r.values.items()}) for r in rows]
    path = tmp_path / "statistics.csv"
    path.write_bytes(dump_statistics(rows[::-1]))
    assert read_statistics(path) == rows
    for damage in (b"nan", b"x"):
        cells = path.read_bytes().split(b",")
        path.write_bytes(b",".join([*cells[:-1], damage]))
        with pytest.raises(StorageError, match="is damaged"):
            read_statistics(path)


@st.composite
def rows(draw: st.DrawFn, names: str) -> list[Statistics]:
    """Photographs of few looks, each up to a rounding."""
    found = []
    for index in range(draw(st.integers(0, 8))):
        look, rounding = draw(st.integers(0, 3)), draw(st.sampled_from([0.0, 0.9, -0.9, 2.5]))
        values = dict.fromkeys(NAMES, 0.5) | {draw(st.sampled_from(IMAGE_NAMES)): 0.5 + look * 0.1 + rounding * SAME}
        values |= {name: draw(st.floats(0, 1)) for name in MASK_NAMES}  # a model's, which says nothing here
        found.append(Statistics(str(index), draw(st.sampled_from(names)), "1", "", values))
    return found


@given(rows("abc"), rows("bcd"))
def test_an_object_is_known_by_its_photographs_under_any_name(held: list[Statistics], known: list[Statistics]) -> None:
    def same(one: Statistics, other: Statistics) -> bool:
        return all(abs(one.values[name] - other.values[name]) <= SAME for name in IMAGE_NAMES)

    renamed = find_renamed(held, known)
    expected = {(a.object, b.object) for a in held for b in known if a.object != b.object and same(a, b)}
    assert set(renamed.items()) <= expected
    assert set(renamed) == {name for name, _ in expected}
    assert find_renamed(held, known[::-1]) == renamed
