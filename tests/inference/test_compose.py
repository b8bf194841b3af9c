"""Pictures from mattes."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backdrop.common.errors import ConfigError, DataError
from backdrop.inference.alpha import Matte
from backdrop.inference.compose import MAX_SIDE, PictureOptions, Pictures, compose, crop, encode, parse_color

mattes = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda size: st.builds(Matte, arrays(np.uint8, (*size, 3)), arrays(np.uint8, size))
)


def read(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@given(mattes, st.tuples(*[st.integers(0, 255)] * 3))
def test_a_picture_lies_between_product_and_background(matte: Matte, color: tuple[int, int, int]) -> None:
    picture = compose(matte, PictureOptions(background=color)).astype(int)
    low, high = np.minimum(matte.colors, color), np.maximum(matte.colors, np.array(color))
    assert ((low <= picture) & (picture <= high)).all()
    assert (picture[matte.alpha == 0] == color).all()
    assert np.array_equal(picture[matte.alpha == 255], matte.colors[matte.alpha == 255])
    more = compose(Matte(matte.colors, np.maximum(matte.alpha, 100)), PictureOptions(background=color))
    assert (np.abs(more - matte.colors.astype(int)) <= np.abs(picture - matte.colors)).all()


@given(mattes, st.floats(0, 50))
def test_a_crop_keeps_all_that_is_visible(matte: Matte, margin: float) -> None:
    cropped = crop(matte, margin)
    assert cropped.alpha.sum(dtype=int) == matte.alpha.sum(dtype=int)
    seen, kept = matte.alpha > 0, cropped.alpha > 0
    assert np.array_equal(cropped.colors[kept], matte.colors[seen])
    if seen.any():
        rows, columns = np.nonzero(kept)
        sides = [rows.min(), columns.min(), kept.shape[0] - 1 - rows.max(), kept.shape[1] - 1 - columns.max()]
        assert sides == [round(max(np.ptp(rows) + 1, np.ptp(columns) + 1) * margin / 100)] * 4
    else:
        assert cropped is matte


def test_a_picture_behind_covers_the_cut_out() -> None:
    matte = Matte(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8))
    left, right = np.full((40, 40, 3), 10, np.uint8), np.full((40, 40, 3), 200, np.uint8)
    wide = np.hstack([left, right])  # 2:1 behind 3:2: 60 of its 80 columns are seen
    picture = compose(matte, PictureOptions(background=wide))
    assert picture.shape == (20, 30, 3)
    assert (picture[:, :14] == 10).all()
    assert (picture[:, 16:] == 200).all()
    assert (compose(matte, PictureOptions(background=wide[:1, :1])) == 10).all()
    exact = compose(matte, PictureOptions(background=wide[:20, 25:55]))
    assert np.array_equal(exact, wide[:20, 25:55])
    assert set(np.unique(wide)) == {10, 200}


@pytest.mark.parametrize("file_type", ["png", "webp", "jpeg"])
def test_pictures_are_read_back(file_type: str) -> None:
    rows = np.linspace(0, 255, 40).astype(np.uint8)
    colors = np.dstack([np.tile(rows, (40, 1)), np.tile(rows[:, None], (1, 40)), np.full((40, 40), 90, np.uint8)])
    matte = Matte(colors, np.tile(rows, (40, 1)))
    options = PictureOptions(file_type, (255, 0, 0) if file_type == "jpeg" else None)  # type: ignore[arg-type]
    picture = compose(matte, options)
    data = encode(picture, options.type)
    assert data == encode(picture, options.type)
    back = read(data)
    assert back.shape == picture.shape
    if file_type != "jpeg":
        assert np.array_equal(back[..., 3], matte.alpha)
    visible = picture[..., -1] > 20 if file_type != "jpeg" else np.ones((40, 40), bool)
    assert np.abs(back.astype(int) - picture)[visible].mean() < (0.01 if file_type == "png" else 4)
    assert file_type != "png" or np.array_equal(read(encode(matte.alpha, "png")), matte.alpha)


def test_colors() -> None:
    assert parse_color("#ff8000") == (255, 128, 0)
    assert parse_color("white") == (255, 255, 255)
    for text in ("whitish", "", "#ff80001", "#ff800080", "rgb(300,0,0)", "rgb(0%,200%,0%)", "hsv(0,500%,900%)"):
        with pytest.raises(ConfigError, match="is not a color"):
            parse_color(text)


def test_a_jpeg_without_a_background_is_white_behind() -> None:
    assert PictureOptions("jpeg") == PictureOptions("jpeg", (255, 255, 255))
    assert Pictures(options=PictureOptions("jpeg")).digest() != Pictures(options=PictureOptions("png")).digest()
    nothing = Matte(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    assert np.array_equal(read(encode(compose(nothing, PictureOptions("jpeg")), "jpeg")), np.full((8, 8, 3), 255))


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="There are no gif pictures"):
        PictureOptions("gif")  # type: ignore[arg-type]  # wrong on purpose
    for margin in (-1, 51, float("nan")):
        with pytest.raises(ConfigError, match="The margin must be 0 to 50 percent"):
            PictureOptions(crop=margin)
    with pytest.raises(DataError, match="webp pictures have at most 16383 pixels a side"):
        encode(np.zeros((1, MAX_SIDE["webp"] + 1, 3), np.uint8), "webp")
