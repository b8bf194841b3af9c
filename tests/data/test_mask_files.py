"""What a mask file means, however it was saved."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from backdrop.common.errors import DataError
from backdrop.data.dataset import read_mask, read_mask_file
from backdrop.data.formats import decode_levels
from backdrop.data.mask_files import MaskFile, interpret
from backdrop.data.masks import mask_digest

TRUTH = np.zeros((24, 40), bool)
TRUTH[6:18, 9:30] = True
TRUTH[10:12, 12:14] = False
BYTE = st.integers(0, 255)
COLOR = st.tuples(BYTE, BYTE, BYTE)


def png(pixels: np.ndarray) -> bytes:
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    stored = cv2.cvtColor(pixels, codes[pixels.shape[2]]) if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(".png", stored)[1])


def palette(background: tuple[int, ...], product: tuple[int, ...]) -> Image.Image:
    image = Image.new("P", TRUTH.shape[::-1])
    image.putdata(TRUTH.astype(int).ravel().tolist())
    image.putpalette([*background, *product])
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data: bytes) -> MaskFile:
    return interpret(decode_levels(data, "m"))


def luma(color: tuple[int, ...]) -> int:
    return int(cv2.cvtColor(np.array([[color]], np.uint8), cv2.COLOR_RGB2GRAY)[0, 0])


def notes(file: MaskFile) -> list[str]:
    return [what for what, _ in file.notes]


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.booleans())
def test_of_two_levels_the_brighter_is_the_product(one: int, other: int, deep: bool) -> None:
    assume(one != other)
    low, high = sorted((one, other))
    if not deep:
        low, high = low % 255, max(low % 255 + 1, high % 256)
    levels = np.where(TRUTH, high, low).astype(np.uint16 if deep else np.uint8)
    file = read(png(levels))
    assert np.array_equal(file.mask, TRUTH)
    assert bool(file.notes) == (low * 4 > high)
    if file.notes:
        assert notes(file) == [f"has levels {low} and {high}, of which the brighter was taken for the product"]


@given(COLOR, COLOR, st.sampled_from(["PNG", "GIF", "RGB", "RGBA"]))
def test_of_two_colors_the_brighter_is_the_product(one: tuple[int, ...], other: tuple[int, ...], kind: str) -> None:
    assume(luma(one) != luma(other))
    dark, bright = sorted((one, other), key=luma)
    if kind in ("PNG", "GIF"):
        data = saved(palette(dark, bright), kind)
    else:
        pixels = np.where(TRUTH[..., None], bright, dark).astype(np.uint8)
        data = png(pixels if kind == "RGB" else np.dstack([pixels, np.full(TRUTH.shape, 255, np.uint8)]))
    assert np.array_equal(read(data).mask, TRUTH)


def test_colors_of_one_brightness_say_nothing() -> None:
    file = read(saved(palette((255, 0, 0), (0, 130, 0)), "PNG"))
    assert file.mask is None
    assert file.trouble == "has two colors of the same brightness, and doesn't say which is the product"


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
@pytest.mark.parametrize("deep", [False, True])
def test_content_in_the_alpha_channel_is_used_and_reported(color: tuple[int, ...], deep: bool) -> None:
    alpha = np.where(TRUTH, 255, 0)
    pixels = np.dstack([np.full(TRUTH.shape, level) for level in color] + [alpha])
    file = read(png((pixels * 257).astype(np.uint16) if deep else pixels.astype(np.uint8)))
    assert np.array_equal(file.mask, TRUTH)
    assert notes(file) == ["holds its mask in the alpha channel, which was used"]


@pytest.mark.parametrize("color", [(255, 255, 255), (90, 20, 200)])
def test_a_bright_product_on_nothing_needs_no_word(color: tuple[int, ...]) -> None:
    pixels = np.where(TRUTH[..., None], (*color, 255), (0, 0, 0, 0)).astype(np.uint8)
    file = read(png(pixels))
    assert np.array_equal(file.mask, TRUTH)
    assert file.notes == ()


def test_a_colored_product_on_transparent_white_is_the_product() -> None:
    pixels = np.where(TRUTH[..., None], (200, 30, 30, 255), (255, 255, 255, 0)).astype(np.uint8)
    file = read(png(pixels))
    assert np.array_equal(file.mask, TRUTH)
    assert notes(file) == ["holds its mask in the alpha channel, which was used"]


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_a_palette_whose_white_is_transparent_is_read_by_its_colors(kind: str) -> None:
    file = read(saved(palette((0, 0, 0), (255, 255, 255)), kind, transparency=1))
    assert np.array_equal(file.mask, TRUTH)
    assert notes(file) == ["has a transparent product on an opaque background"]
    black = read(saved(palette((0, 0, 0), (255, 255, 255)), kind, transparency=0))
    assert np.array_equal(black.mask, TRUTH)
    assert black.notes == ()


@given(st.integers(3, 40))
def test_few_colors_stand_for_classes_and_a_threshold_is_no_remedy(colors: int) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels.reshape(-1, 3)[:colors, 0] = np.arange(colors)
    file = interpret(pixels)
    assert (file.mask, file.trouble) == (None, f"has {colors} colors, not two")
    assert ("--threshold" in file.remedy) == (colors > 16)


@pytest.mark.parametrize("channel", ["gray", "alpha", "color"])
def test_soft_edges_are_no_mask_and_name_the_remedy(channel: str) -> None:
    soft = cv2.GaussianBlur(TRUTH.astype(np.uint8) * 255, (0, 0), 1)
    tinted = np.dstack([soft, soft // 2, soft // 3])
    pixels = {"gray": soft, "alpha": np.dstack([soft * 0, soft * 0, soft * 0, soft]), "color": tinted}[channel]
    file = read(png(pixels))
    assert file.mask is None
    assert file.trouble.endswith("colors, not two" if channel == "color" else "gray levels, not two")
    assert "backdrop import PHOTOS OUT --masks MASKS --threshold" in file.remedy
    assert file.content.shape == TRUTH.shape


def test_a_cut_out_photograph_is_no_mask() -> None:
    photo = np.random.default_rng(0).integers(60, 255, (*TRUTH.shape, 3), dtype=np.uint8)
    for color in (photo, photo * TRUTH[..., None]):
        file = read(png(np.dstack([color, TRUTH.astype(np.uint8) * 255])))
        assert file.mask is None
        assert file.trouble == "is a photograph cut out by its alpha channel, not a mask"
        assert np.array_equal(file.content > 0, TRUTH)


def test_a_product_around_the_border_may_be_the_background() -> None:
    file = read(png((~TRUTH).astype(np.uint8) * 255))
    assert np.array_equal(file.mask, ~TRUTH)
    assert notes(file) == ["has a product that touches 100% of the border"]
    touching = TRUTH.copy()
    touching[6:, 9:30] = True  # stands on the lower edge, as products do
    assert read(png(touching.astype(np.uint8))).notes == ()


@pytest.mark.parametrize("level", [0, 1, 255])
def test_one_level_is_empty_or_full(level: int) -> None:
    mask = read(png(np.full((4, 6), level, np.uint8))).mask
    assert mask is not None
    assert mask.all() if level else not mask.any()


@given(st.integers(0, 2**32 - 1))
def test_a_mask_saved_again_has_the_same_digest(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((int(random.integers(2, 30)), int(random.integers(2, 30)))) < 0.5
    assume(mask.any() and not mask.all())
    ways = [
        png(mask.astype(np.uint8)),
        png(mask.astype(np.uint8) * 255),
        png(mask.astype(np.uint16) * 65535),
        png(np.dstack([mask.astype(np.uint8) * 200] * 3)),
        saved(Image.fromarray(mask), "PNG"),
        saved(Image.fromarray(mask.astype(np.uint8) * 255), "GIF"),
    ]
    digests = {mask_digest(each) for each in (read(data).mask for data in ways) if each is not None}
    assert digests == {mask_digest(mask)}
    other = mask.copy()
    other[tuple(random.integers(0, side) for side in mask.shape)] ^= True
    assert mask_digest(other) not in digests
    assert mask_digest(mask.reshape(1, -1)) not in digests


def test_training_refuses_what_check_calls_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a_mask.png"
    path.write_bytes(png(np.tile(np.arange(40, dtype=np.uint8), (24, 1))))
    assert read_mask_file(path).mask is None
    with pytest.raises(DataError, match=r"a_mask\.png has 40 gray levels, not two\. Export it without smoothing"):
        read_mask(path)
