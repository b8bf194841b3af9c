"""From a mask to a matte: how opaque each pixel at the outline is, and the product's own color there.

A network learns from masks of one bit, so its probability says where the outline is, but not how much of a pixel the
product covers; and a pixel on the outline shows the studio, too. Both follow from the photograph: near the outline it
mixes two colors that are seen unmixed a few pixels away, C = alpha * F + (1 - alpha) * B.

- F and B are means of the pixels around, weighted by how surely they belong to the product or to the background.
- alpha is the mean of two estimates, weighted by their precision: C projected on the line from B to F, which is the
  worse the less F and B differ and the farther C is from that line; and the mask's outline, which is the worse the more
  the networks doubt. Where the product is as bright as the studio, the outline decides.
- F is then corrected by what the estimate doesn't explain of the photograph (Forte, "Approximate Fast Foreground Colour
  Estimation", ICIP 2021), so that the product's texture stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask

STRIP = 2**19  # pixels that are refined at a time
MIN_BAND = 4  # pixels on both sides of the outline, at least
BAND_SHARE = 400  # the band is this part of the photograph's longer side, because networks see photographs scaled down
NOISE = 6.0  # standard deviation of a photograph's levels, 0..255
MIN_DOUBT = 0.1  # of the colors and of the outline, as a standard deviation of alpha
SHARPER = 5.0  # times the logit of the networks' probability

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Matte:
    """A product without its background.

    Attributes:
        colors: the product's own colors (H, W, 3) RGB; black where alpha is 0.
        alpha: its opacity (H, W), 0..255.
    """

    colors: Image
    alpha: Image


def band_width(height: int, width: int) -> int:
    """How many pixels on both sides of a mask's outline may be partly transparent."""
    return max(MIN_BAND, -(-max(height, width) // BAND_SHARE))


def make_matte(image: Image, probability: Floats, mask: Mask) -> Matte:
    """The matte of a photograph.

    Farther from the mask's outline than `band_width`, alpha is 255 in the mask and 0 outside, whatever the probability
    is: post-processing has the last word.

    Args:
        image: the photograph (H, W, 3) RGB.
        probability: the networks' mean (H, W), 0..1.
        mask: the mask (H, W) after post-processing.
    """
    height, width = mask.shape
    band = band_width(height, width)
    alpha = mask.astype(np.uint8) * 255
    colors = np.where(mask[..., None], image, np.uint8(0))
    for inner, outer in _strips(mask, band):
        places, opacity, own = _refine(image[outer], probability[outer], mask[outer], band)
        rows, columns = places[0] + outer[0].start, places[1] + outer[1].start
        kept = (rows >= inner.start) & (rows < inner.stop)
        alpha[rows[kept], columns[kept]] = opacity[kept]
        colors[rows[kept], columns[kept]] = own[kept]
    return Matte(colors, alpha)


def _strips(mask: Mask, band: int) -> Iterator[tuple[slice, tuple[slice, slice]]]:
    """The rows to refine at a time, and the box of what they depend on: what is near the outline there."""
    height, width = mask.shape
    reach = 6 * band
    step = max(4 * reach, STRIP // width)
    for top in range(0, height, step):
        inner = slice(top, min(top + step, height))
        rows = slice(max(0, top - reach), min(inner.stop + reach, height))
        part = mask[rows]
        mixed = np.flatnonzero(part.any(axis=0))
        if len(mixed) and not part.all():
            yield inner, (rows, slice(max(0, int(mixed[0]) - reach), min(int(mixed[-1]) + reach + 1, width)))


def _refine(image: Image, probability: Floats, mask: Mask, band: int) -> tuple[Any, Image, Image]:
    """Rows and columns of the pixels near the outline, and the alpha (N,) and the product's colors (N, 3) there."""
    distance = _distance(mask)
    near = np.nonzero(np.abs(distance) < band)
    levels, sure = image.astype(np.float32), 2 * probability - 1
    inside = _mean_color(levels, np.where(mask, np.maximum(sure, 0) ** 2, np.float32(0)), near, band)
    outside = _mean_color(levels, np.where(mask, np.float32(0), np.minimum(sure, 0) ** 2), near, band)
    seen, contrast = levels[near], inside - outside
    length = np.maximum((contrast**2).sum(axis=1), 1)
    share = np.clip(((seen - outside) * contrast).sum(axis=1) / length, 0, 1)
    rest = seen - outside - share[:, None] * contrast
    color_variance = (NOISE**2 + (rest**2).sum(axis=1)) / length + MIN_DOUBT**2
    outline = np.clip(_subpixel(probability, mask, distance, near) + 0.5, 0, 1)
    doubt = np.maximum(_doubt(probability[near]), MIN_DOUBT**2)
    alpha = (outline * color_variance + share * doubt) / (color_variance + doubt)
    rest = seen - alpha[:, None] * inside - (1 - alpha[:, None]) * outside
    own = np.where(alpha[:, None] > 0.998, seen, np.clip(inside + alpha[:, None] * rest, 0, 255))
    return near, np.rint(alpha * 255).astype(np.uint8), np.rint(own).astype(np.uint8)


def _doubt(probability: Floats) -> Floats:
    """The variance of alpha that the networks leave; they are surer of the outline than their probability says."""
    odds = np.clip(probability, 1e-6, 1 - 1e-6)
    true = 1 / (1 + ((1 - odds) / odds) ** SHARPER)
    return np.asarray(true * (1 - true), np.float32)


def _distance(mask: Mask) -> Floats:
    """The distance (H, W) in pixels from the mask's outline, positive inside."""
    inside = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def _subpixel(probability: Floats, mask: Mask, distance: Floats, near: Any) -> Floats:
    """The distance (N,) from the line where the probability is one half, as far as the mask agrees with it."""
    slope = np.hypot(*(cv2.Sobel(probability, cv2.CV_32F, dx, 1 - dx, scale=1 / 8)[near] for dx in (1, 0)))
    whole, half = distance[near], probability[near] - 0.5
    fine = np.clip(half / np.maximum(slope, 1e-3), whole - 0.7, whole + 0.7)
    return np.asarray(np.where((half > 0) == mask[near], fine, whole), np.float32)


def _mean_color(levels: Floats, weight: Floats, near: Any, band: int) -> Floats:
    """The weighted mean color (N, 3) around each pixel; of a wider neighborhood where the near one has no weight."""
    weighted = levels * weight[..., None]
    total, color = np.full(len(near[0]), 1e-6, np.float32), np.zeros((len(near[0]), 3), np.float32)
    for radius, trust in ((band - 1, 1.0), (4 * band, 1e-3)):
        size = (2 * radius + 1, 2 * radius + 1)
        color += trust * cv2.blur(weighted, size)[near]
        total += trust * cv2.blur(weight, size)[near]
    return color / total[:, None]
