"""Training samples in an order and with changes that depend on nothing but (seed, epoch, sample)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from backdrop.augmentation import Augmenter
from backdrop.dataset import Digests, Photo, read_pair
from backdrop.prediction import normalise, to_input
from backdrop.recipe import Recipe
from backdrop.recipe.augmentation import Change
from backdrop.schedules import begun
from backdrop.training.step import Batch

Item = tuple[NDArray[np.uint8], NDArray[np.uint8], np.float32]
GPU_WORKERS = 4


class Samples(Dataset[Item]):
    """Photographs and masks at the network's input size: RGB (H, W, 3) and soft masks (H, W), uint8, and a weight.

    Args:
        photos: what to train on, each with a mask.
        digests: sha256 of image and mask by stem; a file that changed is refused as it is read.
        recipe: says size, augmentation and seed.
        pseudo: photographs whose masks were predicted; they weigh as the recipe says.
    """

    def __init__(self, photos: Sequence[Photo], digests: Digests, recipe: Recipe, pseudo: Sequence[Photo] = ()) -> None:
        self.photos = [*photos, *pseudo]
        self.weights = [1.0] * len(photos) + [recipe.pseudo_weight] * len(pseudo)
        self.weighted = bool(pseudo)
        self.digests = digests
        self.recipe = recipe
        self.augmenter = Augmenter(recipe.augmentation, recipe.seed)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Item:
        image, mask = read_pair(self.photos[index], self.digests)
        soft = to_input(mask.astype(np.uint8) * 255, self.recipe.input)
        changed = self.augmenter(to_input(image, self.recipe.input), soft, self.epoch, index)
        return *changed, np.float32(self.weights[index])

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The epoch's batches on the device, changed as the epoch's phase says."""
        self.epoch = epoch
        self.augmenter = Augmenter(_augmentation(self.recipe, epoch), self.recipe.seed)
        workers = GPU_WORKERS if device.type == "cuda" else 0
        order = epoch_order(len(self), self.recipe.seed, epoch, self.recipe.batch_size)
        loader = DataLoader(self, batch_sampler=order, num_workers=workers, pin_memory=workers > 0)
        for images, targets, weights in loader:
            inputs = normalise(images.to(device, non_blocking=True), self.recipe.input)
            masks = targets.to(device, non_blocking=True)[:, None].float() / 255
            yield Batch(inputs, masks, weights.to(device) if self.weighted else None)


def _augmentation(recipe: Recipe, epoch: int) -> Sequence[Change]:
    """That of the latest phase that names one, else the recipe's own."""
    phases = begun(recipe.schedule, recipe.epochs, epoch)
    return next((phase.augmentation for phase in phases if phase.augmentation is not None), recipe.augmentation)


def epoch_order(count: int, seed: int, epoch: int, batch_size: int) -> list[list[int]]:
    """The epoch's shuffled batches of indices; the samples that don't fill the last one wait for another epoch.

    A set smaller than one batch is a batch.
    """
    shuffled = np.random.Generator(np.random.Philox([seed, epoch])).permutation(count).tolist()
    ends = range(batch_size, count + 1, batch_size) if count >= batch_size else [count]
    return [shuffled[max(0, end - batch_size) : end] for end in ends]
