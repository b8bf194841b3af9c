import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backdrop.data import masks

ANY_MASK = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def runs_by_hand(mask: np.ndarray) -> str:
    """Pixel after pixel, as the challenge's page describes it."""
    pairs: list[list[int]] = []
    previous = False
    for position, value in enumerate(mask.ravel().tolist(), start=1):
        if value and not previous:
            pairs.append([position, 0])
        if value:
            pairs[-1][1] += 1
        previous = value
    return " ".join(f"{start} {length}" for start, length in pairs)


@given(ANY_MASK)
def test_rle_agrees_with_its_definition_and_round_trips(mask: np.ndarray) -> None:
    text = masks.encode_rle(mask)
    assert text == runs_by_hand(mask)
    assert np.array_equal(masks.decode_rle(text, *mask.shape), mask)


@pytest.mark.parametrize(
    "text", ["1", "0 2", "1 0", "3 4 1 2", "1 3 3 2", "8 2", "5 9", "a b", "1 1.5", f"1 {2**63 - 1}", f"{2**70} 1"]
)
def test_rle_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run-length"):
        masks.decode_rle(text, 2, 4)


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


def test_padding_adds_right_and_below_and_refuses_what_is_larger() -> None:
    padded = masks.pad(np.ones((2, 3, 3), np.uint8), 4, 5)
    assert padded.shape == (4, 5, 3)
    assert padded[:2, :3].all()
    assert padded.sum() == 18
    with pytest.raises(ValueError, match="3x2 doesn't fit into 2x2"):
        masks.pad(np.ones((2, 3), np.uint8), 2, 2)
