"""Converts photographs to a network's input."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backdrop.common.errors import DataError
from backdrop.config import Input
from backdrop.data import masks

# The winners' CLAHE: clip limit, and tiles across and down.
CLAHE = (2.0, (8, 8))
# ImageNet's mean and standard deviation of R, G, B in 0..1, from torchvision.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def to_input(image: NDArray[np.uint8], spec: Input) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) or a mask (H, W), 0..255, at the size of a network's input.

    CLAHE is for photographs only, and comes first.

    Raises:
        DataError: if it is to be padded and is larger than that.
    """
    if spec.clahe and image.ndim == 3:
        image = _even(image)
    if spec.fit == "stretch":
        return masks.resize(image, spec.height, spec.width)
    try:
        return (masks.pad if spec.fit == "pad" else masks.reflect)(image, spec.height, spec.width)
    except ValueError as error:
        raise DataError(f"A photograph doesn't fit the recipe ({error})", "Set a larger input.size") from error


def _even(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Equalizes the luma's contrast of an RGB photograph (H, W, 3) by CLAHE (Zuiderveld 1994, Graphics Gems IV)."""
    yuv = cv2.cvtColor(image, cv2.COLOR_RGB2YUV)
    yuv[..., 0] = cv2.createCLAHE(*CLAHE).apply(yuv[..., 0])
    return np.asarray(cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB), np.uint8)


def normalize(images: Tensor, spec: Input) -> Tensor:
    """A batch of RGB inputs (B, H, W, 3) uint8, normalized for the network: (B, 3, H, W) float32, channels last."""
    batch = images.permute(0, 3, 1, 2).float().div_(255)
    if spec.normalize == "imagenet":
        mean, deviation = (torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in IMAGENET)
        batch = batch.sub_(mean).div_(deviation)
    return batch.flip(1) if spec.channels == "bgr" else batch
