"""The synthetic studio: what is in a mask, what is not, and that both come out the same every time."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from backdrop.data.synthetic import STYLES, Car, draw_car, object_name, render

Mask = NDArray[np.bool_]
SIZE = (192, 128)


def _mask(car: Car, view: int, width: int = SIZE[0], height: int = SIZE[1]) -> Mask:
    return render(car, view, 16, width, height, 7)[1]


def _dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_same_seed_same_bytes() -> None:
    first, second = (render(draw_car(7, 2), 3, 16, *SIZE, 7) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[0].shape == (128, 192, 3)
    assert first[0].dtype == np.uint8
    assert first[1].shape == (128, 192)
    assert first[1].dtype == np.bool_


def test_noise_differs_between_views_and_seeds() -> None:
    car = draw_car(7, 2)
    corners = [render(car, view, 16, *SIZE, seed)[0][:10, :10] for view, seed in ((1, 7), (2, 7), (1, 8))]
    assert not np.array_equal(corners[0], corners[1])
    assert not np.array_equal(corners[0], corners[2])


def test_names_are_distinct_hexadecimal_and_stable() -> None:
    names = [object_name(7, index) for index in range(2000)]
    assert len(set(names)) == 2000
    assert all(len(name) == 12 and set(name) <= set("0123456789abcdef") for name in names)
    assert names[:50] == [object_name(7, index) for index in range(50)]
    assert not set(names) & {object_name(8, index) for index in range(2000)}


@pytest.mark.parametrize("seed", [0, 7, 123])
def test_every_data_set_has_the_two_hard_cars(seed: int) -> None:
    cars = [draw_car(seed, index) for index in range(4)]
    assert any(car.style == "van" and min(car.color) > 190 for car in cars)
    assert any(car.style == "coupe" and max(car.color) < 40 for car in cars)


def test_cars_vary() -> None:
    cars = [draw_car(7, index) for index in range(24)]
    assert len(set(cars)) == 24
    assert {car.style for car in cars} == set(STYLES)
    assert len({round(sum(car.color)) for car in cars}) > 15
    assert {car.antenna > 0 for car in cars} == {True, False}


def test_share_of_the_picture_is_like_carvana() -> None:
    shares = [_mask(draw_car(7, index), view).mean() for index in range(8) for view in (1, 3, 5, 8)]
    assert 0.18 < np.mean(shares) < 0.24
    assert min(shares) > 0.10
    assert max(shares) < 0.34


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 128), (256, 128)])
def test_longest_and_tallest_cars_fit(width: int, height: int) -> None:
    for style in ("pickup", "van"):
        car = replace(STYLES[style], length=STYLES[style].length * 1.035, height=STYLES[style].height * 1.035)
        for view in (1, 4, 5, 6):
            mask = _mask(car, view, width, height)
            border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            assert not border.any()


def test_mask_is_one_piece_without_holes() -> None:
    for index in range(8):
        mask = _mask(draw_car(7, index), index + 1).astype(np.uint8)
        sizes = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
        assert sizes.max() > 0.995 * mask.sum()
        holes = cv2.connectedComponentsWithStats(1 - mask)[2][2:, cv2.CC_STAT_AREA]
        assert holes.sum() < 0.01 * mask.sum()


@pytest.mark.parametrize("view", [1, 4, 8])
def test_same_geometry_at_every_size(view: int) -> None:
    car = draw_car(7, 2)
    large = _mask(car, view, 384, 256).reshape(128, 2, 192, 2).mean(axis=(1, 3)) >= 0.5
    assert _dice(_mask(car, view), large) > 0.97


def test_turntable_shows_the_nose_then_the_side_then_mirrors() -> None:
    car = STYLES["sedan"]
    front, side, other = (_mask(car, view) for view in (1, 5, 13))
    assert side.any(axis=0).sum() > 1.8 * front.any(axis=0).sum()
    assert _dice(side[:, ::-1], other) > 0.97
    assert _dice(front, front[:, ::-1]) > 0.97


@pytest.mark.parametrize("index", [1, 3])
def test_shadow_is_dark_and_outside_the_mask(index: int) -> None:
    photo, mask = render(draw_car(7, index), 5, 16, 384, 256, 7)
    gray = photo.mean(axis=2)
    columns = np.arange(120, 260)
    below = mask.shape[0] - 1 - mask[::-1, columns].argmax(axis=0) + 4  # some pixels under the car
    assert not mask[below, columns].any()
    assert np.median(gray[below, columns]) < np.median(gray[below, :12]) - 25


def test_paint_is_inside_the_mask() -> None:
    photo, mask = render(replace(STYLES["wagon"], color=(170.0, 10.0, 10.0)), 4, 16, 384, 256, 7)
    red = photo[..., 0].astype(int) - photo[..., 1] > 60
    assert red.sum() > 0.3 * mask.sum()
    assert (red & mask).sum() > 0.995 * red.sum()


@pytest.mark.parametrize("length", [0.35, 0.8])
@pytest.mark.parametrize(("width", "height"), [(192, 128), (384, 256), (768, 512)])
def test_antenna_is_in_the_mask(length: float, width: int, height: int) -> None:
    bare = replace(STYLES["sedan"], antenna=0.0)
    photo, mask = render(replace(bare, antenna=length), 5, 16, width, height, 7)
    plain, without = render(bare, 5, 16, width, height, 7)
    added = mask & ~without
    rows = np.flatnonzero(added.any(axis=1))
    assert len(rows) == np.ptp(rows) + 1 > 0.04 * height  # unbroken, and as tall as an antenna
    assert added.sum() < 4 * len(rows)  # and thin
    assert (photo[added].mean(axis=1) < plain[added].mean(axis=1) - 20).mean() > 0.5  # and it is in the photograph
