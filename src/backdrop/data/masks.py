"""Masks as pixels: Dice, run-length encoding, and the geometry between a photograph and a network's input.

Shapes are (height, width); sizes in text are WxH.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Mask = NDArray[np.bool_]

HALF = 0.5


def binarize(probability: "NDArray[np.floating[Any]] | Mask | Tensor") -> Mask:
    """The mask of a probability 0..1 of any shape: true where it exceeds one half.

    A tensor is compared on its device, and only the mask is copied from there.
    """
    mask = probability > HALF
    return mask if isinstance(mask, np.ndarray) else mask.cpu().numpy()


def encode_png(mask: Mask) -> bytes:
    """A mask (H, W) as the bytes of a PNG file of one bit per pixel, black and white."""
    _, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return data.tobytes()


def encode_soft_png(probability: NDArray[np.floating[Any]]) -> bytes:
    """A probability (H, W), 0..1, as the bytes of a PNG file of 8 bits per pixel, rounded to the nearest 1/255."""
    _, data = cv2.imencode(".png", np.rint(probability * 255).astype(np.uint8))
    return data.tobytes()


class Overlap:
    """Counts the pixels of two masks, which may come part by part, for their Dice coefficient."""

    def __init__(self) -> None:
        self.common = self.total = 0

    def add(self, prediction: Mask, truth: Mask) -> None:
        """Counts a part of both masks, of the same shape."""
        self.common += int(np.count_nonzero(prediction & truth))
        self.total += int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))

    def dice(self) -> float:
        """The Dice coefficient, 0..1; two empty masks agree (1.0).

        Source: Kaggle's Carvana challenge, "Evaluation".
        """
        return 2.0 * self.common / self.total if self.total else 1.0


def dice(prediction: Mask, truth: Mask) -> float:
    """The Dice coefficient of two masks (H, W), 0..1."""
    overlap = Overlap()
    overlap.add(prediction, truth)
    return overlap.dice()


@dataclass(frozen=True)
class PackedMask:
    """A mask in an eighth of its memory."""

    bits: NDArray[np.uint8]
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Mask) -> "PackedMask":
        """Packs a mask (H, W)."""
        height, width = mask.shape
        return cls(np.packbits(mask), (height, width))

    def unpack(self) -> Mask:
        """The mask (H, W)."""
        height, width = self.shape
        return np.unpackbits(self.bits, count=height * width).view(bool).reshape(self.shape)


def mask_digest(mask: Mask) -> str:
    """sha256 of a mask's size and pixels: equal for files with the same mask, however they were saved."""
    height, width = mask.shape
    return hashlib.sha256(f"{width}x{height}\n".encode() + np.packbits(mask).tobytes()).hexdigest()


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes an image (H, W) or (H, W, 3): by area means if it shrinks, bilinearly if it grows."""
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def pad(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image (H, W) or (H, W, 3) with zeros added at the right and at the bottom.

    Raises:
        ValueError: if the image is larger than the frame.
    """
    rows, columns = _missing(image, height, width)
    return np.pad(image, ((0, rows), (0, columns), (0, 0))[: image.ndim])


def reflect(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image (H, W) or (H, W, 3) in the middle of a frame that mirrors it at its edge pixels (reflect-101).

    Of an odd number of rows or columns the extra one is below or at the right.

    Raises:
        ValueError: if the image is larger than the frame.
    """
    margins = [(missing // 2, missing - missing // 2) for missing in _missing(image, height, width)]
    return np.pad(image, [*margins, (0, 0)][: image.ndim], mode="reflect")


def _missing(image: NDArray[np.uint8], height: int, width: int) -> tuple[int, int]:
    """Rows and columns to add to an image to fill a frame."""
    rows, columns = height - image.shape[0], width - image.shape[1]
    if rows < 0 or columns < 0:
        raise ValueError(f"{image.shape[1]}x{image.shape[0]} doesn't fit into {width}x{height}")
    return rows, columns
