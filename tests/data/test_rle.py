import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from backdrop.data import rle

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
    text = rle.encode_rle(mask)
    assert text == runs_by_hand(mask)
    assert np.array_equal(rle.decode_rle(text, *mask.shape), mask)


def test_runs_that_touch_are_one() -> None:
    """Other programs may write them so."""
    assert np.array_equal(rle.decode_rle("2 2 4 3", 2, 4), rle.decode_rle("2 5", 2, 4))


@pytest.mark.parametrize(
    "text", ["1", "0 2", "1 0", "3 4 1 2", "1 3 3 2", "8 2", "5 9", "a b", "1 1.5", f"1 {2**63 - 1}", f"{2**70} 1"]
)
def test_rle_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run-length"):
        rle.decode_rle(text, 2, 4)
