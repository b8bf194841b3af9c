"""Run-length encoding of masks for Kaggle's Carvana challenge."""

import numpy as np

from backdrop.data.masks import Mask


def encode_rle(mask: Mask) -> str:
    """Encodes a mask for Kaggle's Carvana challenge: row by row, 1-based `start length` pairs.

    Args:
        mask: (H, W) bool.

    Returns:
        Pairs joined by spaces; the empty string for an empty mask.
    """
    flat = np.concatenate([[False], np.asarray(mask, bool).ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges.tolist()))


def decode_rle(text: str, height: int, width: int) -> Mask:
    """The mask (height, width) that `encode_rle` wrote.

    Raises:
        ValueError: if the text isn't pairs of numbers, or runs leave the image or overlap.
    """
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"run-length encoding contains something that isn't a number ({error})") from error
    if numbers.size % 2:
        raise ValueError("run-length encoding has an odd count of numbers")
    starts, ends = numbers[::2] - 1, numbers[::2] - 1 + numbers[1::2]
    if (ends <= starts).any() or (starts[1:] < ends[:-1]).any() or (starts < 0).any() or (ends > height * width).any():
        raise ValueError(f"run-length encoding doesn't fit an image of {width}x{height}")
    edges = np.stack([starts, ends], axis=1).ravel()
    lengths = np.diff(edges, prepend=0, append=height * width)
    return np.repeat(np.arange(lengths.size) % 2 > 0, lengths).reshape(height, width)
