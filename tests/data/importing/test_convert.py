"""What an image is that has no mask beside it, and which levels of a mask are the product."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import DataError
from backdrop.data.importing.convert import GRID, convert
from backdrop.data.importing.sources import Source, find_sources
from backdrop.data.mask_files import FEW_COLORS

SIDES = st.integers(8, 200)


def source_of(folder: Path, image: np.ndarray, mask: np.ndarray | None = None, suffix: str = ".png") -> Source:
    """The only photograph of a folder, and its mask."""
    for old in folder.iterdir():
        old.unlink()
    cv2.imwrite(str(folder / f"a_1{suffix}"), image)
    if mask is not None:
        cv2.imwrite(str(folder / "a_1_mask.png"), mask)
    (source,) = find_sources(folder, None, ()).photos
    return source


@given(SIDES, SIDES, st.integers(1, 2 * FEW_COLORS), st.integers(0, 99))
def test_an_image_of_few_colors_is_no_photograph(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, colors: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    palette = random.permutation(256).astype(np.uint8)[:colors, None] ^ np.array([[0, 1, 2]], np.uint8)
    image = palette[random.integers(0, colors, (height, width))]
    image.reshape(-1, 3)[:colors] = palette
    source = source_of(tmp_path_factory.mktemp("in"), image)
    if colors > FEW_COLORS:
        assert convert(source, None).mask is None
    else:
        with pytest.raises(
            DataError, match=rf"a_1\.png (has {colors} colors?|is black and white), as a mask .* with --masks"
        ):
            convert(source, None)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("sigma", [0.5, 2])
def test_a_mask_with_soft_edges_is_no_photograph_and_a_silhouette_is(tmp_path: Path, suffix: str, sigma: float) -> None:
    mask = np.zeros((900, 1200, 3), np.uint8)
    cv2.ellipse(mask, (600, 450), (300, 200), 20, 0, 360, (255, 255, 255), -1)
    soft = cv2.GaussianBlur(mask, (0, 0), sigma)
    for image in (soft, 255 - soft):
        with pytest.raises(DataError, match=rf"a_1\{suffix} is black and white, as a mask is, .* with --masks"):
            convert(source_of(tmp_path, image, suffix=suffix), None)
    noise = np.random.default_rng(0).integers(0, 40, mask.shape, dtype=np.uint8)
    silhouette = np.where(mask > 0, noise, 255).astype(np.uint8)  # a dark product on white
    assert convert(source_of(tmp_path, silhouette, suffix=suffix), None).mask is None
    assert convert(source_of(tmp_path, np.full_like(mask, 255), suffix=".jpg"), None).mask is None


def test_colors_that_a_coarse_look_misses_count(tmp_path: Path) -> None:
    image = np.zeros((4 * GRID, 4 * GRID, 3), np.uint8)
    image[1, 1 : FEW_COLORS + 1] = np.arange(1, FEW_COLORS + 1)[:, None]
    assert convert(source_of(tmp_path, image), None).mask is None
    assert convert(source_of(tmp_path, image[: 2 * GRID] * 0, suffix=".jpg"), None).mask is None  # plain, but no mask


@given(st.integers(2, 255), st.integers(1, 255), st.sampled_from([np.uint8, np.uint16]))
def test_a_threshold_chooses_levels_or_says_which_there_are(
    tmp_path_factory: pytest.TempPathFactory, brightest: int, threshold: int, kind: type[np.uint8] | type[np.uint16]
) -> None:
    random = np.random.default_rng(0)
    levels = random.integers(0, brightest + 1, (20, 30)).astype(kind)
    levels[0, :3] = 0, 1, brightest
    scale = 257 if kind is np.uint16 else 1
    image = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    source = source_of(tmp_path_factory.mktemp("in"), image, levels * kind(scale))
    if threshold <= brightest:
        assert np.array_equal(convert(source, threshold).mask, levels >= threshold)
    else:
        what = rf"a_1_mask\.png has no level of {threshold} or more\. Set --threshold to at most {brightest}\.$"
        with pytest.raises(DataError, match=what):
            convert(source, threshold)
    if len(np.unique(levels)) > 2:
        what = rf"levels, not two\. Set --threshold, such as {(brightest + 1) // 2}\.$"
        with pytest.raises(DataError, match=what):
            convert(source, None)


def test_the_classes_of_a_colored_mask_and_of_16_bits_are_told(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    classes = np.zeros((20, 30, 3), np.uint8)
    classes[5:9, 5:20], classes[9:15, 5:20] = (0, 0, 128), (0, 128, 0)  # as Pascal VOC has them
    with pytest.raises(DataError, match=r"a_1_mask\.png has 3 colors, not two\. Save the product white and all else"):
        convert(source_of(tmp_path, image, classes), None)
    assert convert(source_of(tmp_path, image, classes), 60).mask is not None
    numbers = (classes[..., 1] // 128 + classes[..., 2] // 64).astype(np.uint16)
    with pytest.raises(DataError, match=r"a_1_mask\.png has 3 levels, not two\. Save it with 8 bits\.$"):
        convert(source_of(tmp_path, image, numbers), None)
