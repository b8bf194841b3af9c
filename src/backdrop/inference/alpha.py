"""From a mask to a matte: how opaque each pixel at the outline is, and the product's own color there.

A network learns from masks of one bit, and sees a photograph scaled down. So its probability says roughly where the
outline is, but not how much of a pixel the product covers; and a pixel on the outline shows the studio, too. The
photograph tells both: at the outline it mixes two colors that are seen unmixed a few pixels away,
C = alpha F + (1 - alpha) B.

1. F and B are means of the pixels around, weighted by how surely they belong to the product or to the background. C
   projected on the line from B to F gives an alpha by color. Its variance is the greater the less F and B differ, and
   the farther C is from that line.
2. The mask's outline is moved, by up to 3 pixels, to where it agrees best with the alphas by color around; the steeper
   the networks' probability, the more they object. The move is smooth along the outline, so that the outline is.
3. alpha is the mean of what the moved outline and the color say, weighted by their precision. Where the product is as
   bright as the studio, the outline decides.
4. F is corrected by what the estimate doesn't explain of the photograph (Forte, "Approximate Fast Foreground Colour
   Estimation", ICIP 2021), so that the product's texture stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import HALF, Mask

STRIP = 2**19  # pixels that are refined at a time
MIN_BAND = 4  # pixels on both sides of the outline, at least
BAND_SHARE = 400  # the band is this part of the photograph's longer side, because networks see photographs scaled down
NOISE = 8.0  # standard deviation of a photograph's levels around a mixture of F and B, 0..255
MIN_VARIANCE = 0.01  # of alpha by color, because F and B are estimates
OUTLIER = 9.0  # squared errors of alpha by color, in units of its variance, count no more than this
MAX_SHIFT = 3.0  # pixels
# By how much the radius in which colors are averaged is less than the band's width, and the moves to try, in pixels.
PASSES = (
    (1, np.linspace(-MAX_SHIFT, MAX_SHIFT, 13, dtype=np.float32)),
    (2, np.linspace(-1.5, 1.5, 7, dtype=np.float32)),
)
GAP = 0.5  # pixels on both sides of the moved outline whose colors are mixed
AROUND = 4  # pixels; the radius in which colors decide together where the outline moves
ALONGSIDE = 6  # pixels; the radius in which these moves are averaged
INDEPENDENT = 0.05  # share of the pixels around whose errors are independent
STEEPNESS = 0.2  # a logistic step's standard deviation times its mean slope is 0.30; scaling alone blurs a step, too
ALONG = 0.3  # of the outline's own variance that remains after it has moved
SHARPNESS = 4.0  # of the moved outline's doubt, per pixel

Places = tuple[NDArray[np.int64], ...]  # rows and columns
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
    colors = cv2.bitwise_and(image, image, mask=alpha).astype(np.uint8, copy=False)
    for inner, outer in _boxes(mask, band):
        places, opacity, own = _refine(image[outer], probability[outer], mask[outer], band)
        rows, columns = places[0] + outer[0].start, places[1] + outer[1].start
        kept = (rows >= inner.start) & (rows < inner.stop)
        alpha[rows[kept], columns[kept]] = opacity[kept]
        colors[rows[kept], columns[kept]] = own[kept]
    return Matte(colors, alpha)


def _boxes(mask: Mask, band: int) -> Iterator[tuple[slice, tuple[slice, slice]]]:
    """The rows to refine at a time, and the boxes of what they depend on: what is near the outline there."""
    height, width = mask.shape
    reach = 6 * band
    step = max(4 * reach, STRIP // width)
    for top in range(0, height, step):
        inner = slice(top, min(top + step, height))
        rows = slice(max(0, top - reach), min(inner.stop + reach, height))
        part = mask[rows]
        outline: Mask = np.asarray(part.any(axis=0) & ~part.all(axis=0))
        outline[1:] |= (part[:, 1:] != part[:, :-1]).any(axis=0)
        near = cv2.dilate(outline[None].view(np.uint8), np.ones((1, 2 * reach + 1), np.uint8))
        for left, right in np.flatnonzero(np.diff(near[0], prepend=0, append=0)).reshape(-1, 2):
            yield inner, (rows, slice(int(left), int(right)))


def _refine(image: Image, probability: Floats, mask: Mask, band: int) -> tuple[Places, Image, Image]:
    """Rows and columns of the pixels near the outline, and the alpha (N,) and the product's colors (N, 3) there."""
    distance = _distance(mask)
    near = np.nonzero(np.abs(distance) < band)
    outline = _subpixel(probability, mask, distance, near)
    trusted = (probability[near] > HALF) == mask[near]  # else post-processing moved the outline away from here
    tolerance = _tolerance(probability, near)
    levels, seen = image.astype(np.float32), image[near].astype(np.float32)
    product, studio = _sure(probability, mask)
    for less, shifts in PASSES:
        inside, outside = (_mean_color(levels, weight, near, band - less, band) for weight in (product, studio))
        share, variance = _by_color(seen, inside, outside)
        outline += _shift(outline, share, trusted / variance, tolerance, shifts, near, mask.shape)
        product[near], studio[near] = np.clip(outline - GAP, 0, 1), np.clip(-outline - GAP, 0, 1)
    doubt = 1 / (1 + np.exp(-SHARPNESS * np.clip(outline, -5, 5)))
    doubt = np.maximum(ALONG * doubt * (1 - doubt), 1e-4)
    alpha = (np.clip(outline + 0.5, 0, 1) * variance + share * doubt) / (variance + doubt)
    rest = seen - alpha[:, None] * inside - (1 - alpha[:, None]) * outside
    own = np.where(alpha[:, None] > 0.998, seen, np.clip(inside + alpha[:, None] * rest, 0, 255))
    return near, np.rint(alpha * 255).astype(np.uint8), np.rint(own).astype(np.uint8)


def _distance(mask: Mask) -> Floats:
    """The distance (H, W) in pixels from the mask's outline, positive inside."""
    inside = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def _subpixel(probability: Floats, mask: Mask, distance: Floats, near: Places) -> Floats:
    """The distance (N,) from the line where the probability is one half, as far as the mask agrees with it."""
    whole, half = distance[near], probability[near] - HALF
    fine = np.clip(half / np.maximum(_slope(probability, near), 1e-3), whole - 0.7, whole + 0.7)
    return np.asarray(np.where((half > 0) == mask[near], fine, whole), np.float32)


def _slope(probability: Floats, near: Places) -> Floats:
    """By how much the probability changes per pixel (N,)."""
    along = (cv2.Sobel(probability, cv2.CV_32F, dx, 1 - dx, scale=1 / 8)[near] for dx in (0, 1))
    return np.asarray(np.hypot(*along), np.float32)


def _tolerance(probability: Floats, near: Places) -> Floats:
    """The standard deviation (N,) of where the outline is, in pixels, by the networks' probability."""
    weight = (probability * (1 - probability))[near]
    slope = _around(weight * _slope(probability, near), near, probability.shape)
    slope /= _around(weight, near, probability.shape) + 1e-6
    return np.asarray(np.clip(STEEPNESS / np.maximum(slope, 1e-3), 0.2, MAX_SHIFT), np.float32)


def _sure(probability: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """How surely each pixel (H, W) belongs to the product and to the background."""
    above, below = (np.square(np.square(np.maximum(side, 0))) for side in (2 * probability - 1, 1 - 2 * probability))
    return above * mask, below * ~mask


def _mean_color(levels: Floats, weight: Floats, near: Places, radius: int, band: int) -> Floats:
    """The weighted mean color (N, 3) around each pixel; of a wider neighborhood where the near one has no weight."""
    weighted = levels * weight[..., None]
    total, color = np.full(len(near[0]), 1e-6, np.float32), np.zeros((len(near[0]), 3), np.float32)
    for reach, trust in ((radius, 1.0), (4 * band, 1e-2)):
        size = (2 * reach + 1, 2 * reach + 1)
        color += trust * cv2.blur(weighted, size)[near]
        total += trust * cv2.blur(weight, size)[near]
    return color / total[:, None]


def _by_color(seen: Floats, inside: Floats, outside: Floats) -> tuple[Floats, Floats]:
    """The alpha (N,) of colors (N, 3) between two others, and its variance."""
    contrast = inside - outside
    length = np.maximum((contrast**2).sum(axis=1), 1)
    share = ((seen - outside) * contrast).sum(axis=1) / length
    rest = seen - outside - share[:, None] * contrast
    return np.clip(share, 0, 1), (NOISE**2 + (rest**2).sum(axis=1)) / length + MIN_VARIANCE


def _shift(
    outline: Floats,
    share: Floats,
    precision: Floats,
    tolerance: Floats,
    shifts: Floats,
    near: Places,
    shape: tuple[int, ...],
) -> Floats:
    """How far to move the outline (N,), in pixels: the mean of all moves, weighted by their likelihood.

    Args:
        outline: the distance from it in pixels, positive inside.
        share: alpha by color.
        precision: the inverse of its variance.
        tolerance: the standard deviation of the outline in pixels.
        shifts: the moves (S,) to try, in pixels.
        near: the pixels' rows and columns.
        shape: of the picture.
    """
    count = INDEPENDENT * (2 * AROUND + 1) ** 2
    costs = np.empty((len(shifts), len(outline)), np.float32)
    for cost, shift in zip(costs, shifts, strict=True):
        error = np.minimum(precision * (np.clip(outline + shift + 0.5, 0, 1) - share) ** 2, OUTLIER)
        cost[:] = count * _around(error, near, shape) + 0.5 * (shift / tolerance) ** 2
    likelihood = np.exp(costs.min(axis=0) - costs)
    likelihood /= likelihood.sum(axis=0)
    best = shifts @ likelihood
    certainty = 1 / (shifts**2 @ likelihood - best**2 + 0.02)
    smooth = _around(best * certainty, near, shape, ALONGSIDE) / (_around(certainty, near, shape, ALONGSIDE) + 1e-6)
    return np.asarray(smooth, np.float32)


def _around(values: Floats, near: Places, shape: tuple[int, ...], radius: int = AROUND) -> Floats:
    """The sum of values (N,) in the square around each pixel, divided by the square's area."""
    picture = np.zeros(shape, np.float32)
    picture[near] = values
    return np.asarray(cv2.blur(picture, (2 * radius + 1, 2 * radius + 1))[near], np.float32)
