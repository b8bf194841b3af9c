"""Random changes of training samples, by albumentations, the same for the same (seed, epoch, sample)."""

import os

import numpy as np
from numpy.typing import NDArray

from backdrop.recipe import Augmentation

# Read by albumentations when it's imported: it would ask the network for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2


class Augmenter:
    """A recipe's augmentation.

    Args:
        recipe: probabilities and limits.
        seed: the member's seed.
    """

    def __init__(self, recipe: Augmentation, seed: int) -> None:
        self.seed = seed
        self.transform = albumentations.Compose(_transforms(recipe))

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], epoch: int, sample: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) RGB and soft mask (H, W), 0..255, changed as this epoch changes this sample."""
        entropy = np.random.SeedSequence([self.seed, epoch, sample])
        self.transform.set_random_seed(int(entropy.generate_state(1)[0]))
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]


def _transforms(recipe: Augmentation) -> list[albumentations.BasicTransform]:
    # Reflected borders and bilinear masks, as the winners had them; their targets stay soft at the edge.
    affine = albumentations.Affine(
        translate_percent=(-recipe.shift, recipe.shift),
        scale=(1 - recipe.scale, 1 + recipe.scale),
        rotate=(-recipe.rotate, recipe.rotate),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REFLECT_101,
        p=recipe.affine,
    )
    limit, (hue, saturation, value) = recipe.brightness_limit, recipe.hsv_limits
    return [
        albumentations.HorizontalFlip(p=recipe.hflip),
        affine,
        albumentations.RandomBrightnessContrast((-limit, limit), (0, 0), p=recipe.brightness),
        albumentations.HueSaturationValue(hue, saturation, value, p=recipe.hsv),
        albumentations.CoarseDropout((1, 3), (0.04, 0.2), (0.1, 1.0), fill="random_uniform", p=recipe.erase),
    ]
