"""Augmentation by albumentations on the host. Deterministic by (seed, epoch, sample)."""

import os
import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backdrop.config import augmentation as config

# Keeps albumentations from checking for updates over the network at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2

Transform: TypeAlias = albumentations.BasicTransform | albumentations.BaseCompose
HALF = 127  # Mask values above it are inside.


class Augmenter:
    """A recipe's augmentation.

    Args:
        changes: the changes, applied in this order.
        seed: the member's seed.
        hard_masks: whether to binarize masks at one half after each affine change.
    """

    def __init__(self, changes: Sequence[config.Change], seed: int, hard_masks: bool = False) -> None:
        self.seed = seed
        self.transform = albumentations.Compose([_transform(change, hard_masks) for change in changes])

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], epoch: int, sample: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) RGB and soft mask (H, W), 0..255, augmented for this epoch and sample."""
        generator = np.random.default_rng([self.seed, epoch, sample])
        # All changes share two generators: with a seed, each change would draw the same numbers.
        self.transform.set_random_state(generator, random.Random(generator.bytes(16)))  # noqa: S311  # not for security
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]


class GrayObject(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # albumentations is untyped
    """Removes the color inside the mask."""

    @property
    def targets_as_params(self) -> list[str]:
        """The targets that the change depends on."""
        return ["mask"]

    def get_params_dependent_on_data(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The mask (H, W), 0..255."""
        return {"on": data["mask"] > HALF}

    def apply(self, img: NDArray[np.uint8], on: NDArray[np.bool_], **_: Any) -> NDArray[np.uint8]:
        """An image (H, W, 3) RGB with color replaced by luma where `on` (H, W) is true."""
        luma = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
        return np.where(on[..., None], luma[..., None], img)


class HardMask(albumentations.DualTransform):  # type: ignore[misc]  # albumentations is untyped
    """Binarizes a soft mask at one half."""

    def apply(self, img: NDArray[np.uint8], **_: Any) -> NDArray[np.uint8]:
        """The unchanged image."""
        return img

    def apply_to_mask(self, mask: NDArray[np.uint8], **_: Any) -> NDArray[np.uint8]:
        """The mask (H, W), 0..255, as 0 or 255."""
        return np.where(mask > HALF, np.uint8(255), np.uint8(0))


def _transform(change: config.Change, hard_masks: bool) -> Transform:
    match change:
        case config.HFlip():
            return albumentations.HorizontalFlip(p=change.p)
        case config.Affine():
            return _affine(change, hard_masks)
        case config.Brightness():
            return _jitter(change.p, brightness=change.factor)
        case config.Contrast():
            return _jitter(change.p, contrast=change.factor)
        case config.Saturation():
            return _jitter(change.p, saturation=change.factor)
        case config.Hsv():
            return albumentations.HueSaturationValue(change.hue, change.saturation, change.value, p=change.p)
        case config.Gray():
            return GrayObject(p=change.p) if change.region == "object" else albumentations.ToGray(p=change.p)
        case config.Erase():
            sizes = (0.04, 0.2), (0.1, 1.0)  # heights and widths, as shares of the image
            return albumentations.CoarseDropout((1, change.max_count), *sizes, fill="random_uniform", p=change.p)
        case config.OneOf():
            # With p = 1, all are equally likely, and the chosen one is always applied.
            return albumentations.OneOf(
                [_transform(choice.model_copy(update={"p": 1}), hard_masks) for choice in change.of], p=change.p
            )


def _affine(change: config.Affine, hard_masks: bool) -> Transform:
    moved = albumentations.Affine(
        translate_percent=(-change.shift, change.shift),
        scale=change.scale,
        rotate=(-change.rotate, change.rotate),
        keep_ratio=True,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REFLECT_101,
        p=change.p,
    )
    return albumentations.Sequential([moved, HardMask(p=1)], p=1) if hard_masks else moved


def _jitter(p: float, **factor: tuple[float, float]) -> Transform:
    same = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    return albumentations.ColorJitter(**{**same, **factor}, p=p)
