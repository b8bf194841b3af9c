import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backdrop.data import masks

ANY_MASK = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(ANY_MASK, st.randoms())
def test_dice_counts_pixels(mask: np.ndarray, random: object) -> None:
    other = np.roll(mask, 1)
    both = sum(bool(a and b) for a, b in zip(mask.ravel(), other.ravel(), strict=True))
    total = int(mask.sum()) + int(other.sum())
    assert masks.dice(mask, other) == (2 * both / total if total else 1.0)
    assert masks.dice(mask, mask) == 1.0


def test_resizing_keeps_pixel_centers() -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
    down = masks.resize(ramp, 4, 32)
    assert np.allclose(down[0], (ramp[0, ::2].astype(int) + ramp[0, 1::2]) / 2, atol=1)
    assert np.allclose(masks.resize(down, 8, 64)[0, 2:-2], ramp[0, 2:-2], atol=2)


def test_a_shrunk_image_has_the_means_of_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 24, 3)).astype(np.uint8)
    means = image.reshape(4, 3, 6, 4, 3).mean(axis=(1, 3))
    assert np.abs(masks.resize(image, 4, 6) - means).max() <= 0.5 + 1e-6
    mixed = masks.resize(image, 24, 6)  # it grows in one direction
    assert np.array_equal(mixed, cv2.resize(image, (6, 24), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(masks.resize(image, 12, 24), image)


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=6)),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_a_reflected_image_lies_in_the_middle_of_its_mirror(image: np.ndarray, rows: int, columns: int) -> None:
    height, width = image.shape
    framed = masks.reflect(image, height + 2 * rows + 1, width + 2 * columns)
    inner = framed[rows : rows + height, columns : columns + width]
    assert np.array_equal(inner, image)
    assert np.array_equal(framed[:rows], framed[rows + 1 : 2 * rows + 1][::-1])
    assert np.array_equal(framed[:, width + columns :], framed[:, width - 1 : width + columns - 1][:, ::-1])


@given(arrays(np.float32, (2, 3), elements=st.floats(0, 1, width=32)))
def test_a_soft_png_rounds_to_the_nearest_level(probability: np.ndarray) -> None:
    read = cv2.imdecode(np.frombuffer(masks.encode_soft_png(probability), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.abs(read / 255 - probability).max() <= 0.5 / 255 + 1e-6


def test_padding_adds_right_and_below_and_refuses_what_is_larger() -> None:
    padded = masks.pad(np.ones((2, 3, 3), np.uint8), 4, 5)
    assert padded.shape == (4, 5, 3)
    assert padded[:2, :3].all()
    assert padded.sum() == 18
    with pytest.raises(ValueError, match="3x2 doesn't fit into 2x2"):
        masks.pad(np.ones((2, 3), np.uint8), 2, 2)


@given(ANY_MASK)
def test_a_png_holds_the_mask_in_one_bit_per_pixel(mask: np.ndarray) -> None:
    data = masks.encode_png(mask)
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) == np.where(mask, 255, 0)).all()
    assert data[24] == 1  # IHDR's bit depth
    assert masks.encode_png(mask) == data


def test_exactly_one_half_is_outside() -> None:
    probability = np.array([[0.0, 0.5], [np.nextafter(np.float32(0.5), np.float32(1)), 1.0]], np.float32)
    for each in (probability, torch.from_numpy(probability)):
        mask = masks.binarize(each)
        assert mask.dtype == bool
        assert mask.tolist() == [[False, False], [True, True]]


@given(ANY_MASK)
def test_a_packed_mask_unpacks_to_itself(mask: np.ndarray) -> None:
    packed = masks.PackedMask.of(mask)
    assert packed.bits.nbytes <= mask.size // 8 + 1
    assert packed.unpack().dtype == bool
    assert np.array_equal(packed.unpack(), mask)
