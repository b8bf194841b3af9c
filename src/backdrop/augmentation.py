"""Random changes of training samples, by albumentations, the same for the same (seed, epoch, sample)."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backdrop.recipe import augmentation as words

# Read by albumentations when it's imported: it would ask the network for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2


class Augmenter:
    """A recipe's augmentation.

    Args:
        changes: what may be done to a sample, in this order.
        seed: the member's seed.
    """

    def __init__(self, changes: Sequence[words.Change], seed: int) -> None:
        self.seed = seed
        self.transform = albumentations.Compose([_transform(change) for change in changes])

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], epoch: int, sample: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) RGB and soft mask (H, W), 0..255, changed as this epoch changes this sample."""
        entropy = np.random.SeedSequence([self.seed, epoch, sample])
        self.transform.set_random_seed(int(entropy.generate_state(1)[0]))
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]


def _transform(change: words.Change) -> albumentations.BasicTransform | albumentations.OneOf:
    if isinstance(change, words.HFlip):
        return albumentations.HorizontalFlip(p=change.p)
    if isinstance(change, words.Affine):
        return _affine(change)
    if isinstance(change, words.Hsv):
        return albumentations.HueSaturationValue(change.hue, change.saturation, change.value, p=change.p)
    if isinstance(change, words.Gray):
        return albumentations.ToGray(p=change.p)
    if isinstance(change, words.Erase):
        return albumentations.CoarseDropout(
            (1, change.most), (0.04, 0.2), (0.1, 1.0), fill="random_uniform", p=change.p
        )
    if isinstance(change, words.OneOf):
        return albumentations.OneOf([_transform(one) for one in change.of], p=change.p)
    same = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    return albumentations.ColorJitter(**{**same, change.kind: change.factor}, p=change.p)


def _affine(change: words.Affine) -> albumentations.Affine:
    return albumentations.Affine(
        translate_percent=(-change.shift, change.shift),
        scale=change.scale,
        rotate=(-change.rotate, change.rotate),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REFLECT_101,
        p=change.p,
    )
