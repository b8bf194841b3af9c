"""Training samples in an order and with changes that depend on nothing but (seed, epoch, sample)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from backdrop.augmentation import Augmenter
from backdrop.dataset import Digests, Photo, read_pair
from backdrop.prediction import to_input
from backdrop.recipe import Recipe

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
GPU_WORKERS = 4


class Samples(Dataset[Pair]):
    """Photographs and masks at the network's input size: RGB (H, W, 3) and soft masks (H, W), uint8.

    Args:
        photos: what to train on, each with a mask.
        digests: sha256 of image and mask by stem; a file that changed is refused as it is read.
        recipe: says size, augmentation and seed.
    """

    def __init__(self, photos: Sequence[Photo], digests: Digests, recipe: Recipe) -> None:
        self.photos = photos
        self.digests = digests
        self.recipe = recipe
        self.augmenter = Augmenter(recipe.augmentation, recipe.seed)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Pair:
        image, mask = read_pair(self.photos[index], self.digests)
        soft = to_input(mask.astype(np.uint8) * 255, self.recipe.input)
        return self.augmenter(to_input(image, self.recipe.input), soft, self.epoch, index)

    def batches(self, epoch: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The epoch's batches: images (B, H, W, 3) uint8 and soft masks (B, 1, H, W) in 0..1, on the device."""
        self.epoch = epoch
        workers = GPU_WORKERS if device.type == "cuda" else 0
        order = epoch_order(len(self), self.recipe.seed, epoch, self.recipe.batch_size)
        for images, targets in DataLoader(self, batch_sampler=order, num_workers=workers, pin_memory=workers > 0):
            yield images.to(device, non_blocking=True), targets.to(device, non_blocking=True)[:, None].float() / 255


def epoch_order(count: int, seed: int, epoch: int, batch_size: int) -> list[list[int]]:
    """The epoch's shuffled batches of indices; the samples that don't fill the last one wait for another epoch.

    A set smaller than one batch is a batch.
    """
    shuffled = np.random.Generator(np.random.Philox([seed, epoch])).permutation(count).tolist()
    ends = range(batch_size, count + 1, batch_size) if count >= batch_size else [count]
    return [shuffled[max(0, end - batch_size) : end] for end in ends]
