"""Training samples whose order and augmentation depend only on (seed, epoch, sample)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from backdrop.augmentation import device as device_changes
from backdrop.augmentation import host as host_changes
from backdrop.common.devices import device as training_device
from backdrop.common.errors import BackdropError, ConfigError, TrainingError
from backdrop.common.words import count
from backdrop.config import Recipe
from backdrop.config.augmentation import Change
from backdrop.data.cache import open_cache
from backdrop.data.dataset import Digests, Photo
from backdrop.data.preprocessing import normalize
from backdrop.training.compute import augments_on
from backdrop.training.distributed import ALONE, Distributed
from backdrop.training.loader import Item, collate, load, raise_errors
from backdrop.training.lr_schedules import scale_at, started
from backdrop.training.prefetch import prefetch
from backdrop.training.step import Batch

Key = tuple[int, int]  # epoch and sample
Step = list[list[int]]  # the samples of each of a step's batches


class Samples(Dataset[Item | BackdropError]):
    """Photographs, masks and weights at the network's input size: RGB (H, W, 3) and soft masks (H, W), uint8.

    Args:
        photos: what to train on, each with a mask.
        digests: sha256 of image and mask by stem; reading a file that has changed is an error.
        recipe: its input size, augmentation and seed are used.
        pseudo: photographs with predicted masks, weighted by `pseudo_weight`.
        distributed: the processes that share each batch.

    Raises:
        ConfigError: if there are more processes than images in a batch, or if samples are augmented on the host but
            cached on the device.
        DataError: if a photograph can't be decoded.
        StorageError: if `loading.cache` is `disk` and the disk is full.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        digests: Digests,
        recipe: Recipe,
        pseudo: Sequence[Photo] = (),
        distributed: Distributed = ALONE,
    ) -> None:
        self.photos = [*photos, *pseudo]
        self.weights = [1.0] * len(photos) + [recipe.pseudo_weight] * len(pseudo)
        self.weighted = bool(pseudo)
        self.recipe = recipe
        self.distributed = distributed
        self.on_device = augments_on(recipe.compute.augment, training_device()) == "device"
        if recipe.loading.cache == "device" and not self.on_device:
            raise ConfigError(
                "loading.cache=device can't be used with augmentation on the host", "Set compute.augment=device"
            )
        if min(recipe.batch_size, len(self)) < distributed.size:
            what = f"{distributed.size} processes can't share a batch of {min(recipe.batch_size, len(self))}"
            raise ConfigError(what, "Start fewer processes, or set a larger batch_size")
        with distributed.main_process_first():  # it decodes; the others reuse its cache
            self.decoded = open_cache(self.photos, digests, recipe.input, recipe.loading.cache)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> Item | BackdropError:
        epoch, index = key
        try:
            pair = self.decoded(self.photos[index])
        except BackdropError as error:  # returned, because a torch worker would change its type
            return error
        if not self.on_device:
            pair = _host_augmenter(_augmentation(self.recipe, epoch), self.recipe.seed, self.recipe.legacy.hard_masks)(
                *pair, epoch, index
            )
        image, mask = (np.array(part) for part in pair)  # a copy: without augmentation these are the cache's arrays
        return image, mask, np.float32(self.weights[index])

    def steps(self, epoch: int) -> list[Step]:
        """The epoch's optimizer steps, over all processes; the last one may have fewer batches."""
        order = epoch_order(len(self), self.recipe.seed, epoch, self.recipe.batch_size)
        size = self.recipe.accumulate
        return [order[start : start + size] for start in range(0, len(order), size)]

    def stream(self, epoch: int, done: int, device: torch.device) -> Iterator[list[Batch]]:
        """The batches of each step on the device, up to the end of training.

        Args:
            epoch: the first epoch.
            done: how many of its steps to skip.
            device: where the batches go.
        """
        keys = _Keys(self, epoch, done)
        loading = self.recipe.loading
        loaded = self._cached(keys, device) if loading.cache == "device" else load(self, keys, loading.workers, device)
        steps = ([self._to(device, next(loaded), epoch, batch) for batch in step] for epoch, step in keys.steps())
        return prefetch(steps, device)

    def batches(self, epoch: int, step: Step, device: torch.device) -> list[Batch]:
        """A step's batches, loaded again."""
        parts = [[(epoch, index) for index in self.distributed.shard(batch)] for batch in step]
        loaded = raise_errors(collate([self[key] for key in part]) for part in parts)
        return [self._to(device, tensors, epoch, batch) for tensors, batch in zip(loaded, step, strict=True)]

    def names(self, step: Step) -> list[str]:
        """The files of a step's photographs."""
        return [str(self.photos[index].image) for batch in step for index in batch]

    def _cached(self, keys: "_Keys", device: torch.device) -> Iterator[Sequence[torch.Tensor]]:
        """Batches of samples cached on the device; the first batch loads all samples.

        Raises:
            TrainingError: if they don't fit in the device's memory.
        """
        height, width = self.recipe.input.height, self.recipe.input.width
        try:
            images = torch.empty(len(self), height, width, 3, dtype=torch.uint8, device=device)
            masks = torch.empty(len(self), height, width, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            size = f"{count(len(self), 'photograph')} at {self.recipe.input.size}"
            what = f"The device's memory is too small for {size}"
            raise TrainingError(what, "Set loading.cache=auto") from error
        for index, photo in enumerate(self.photos):
            image, mask = self.decoded(photo)
            images[index], masks[index] = torch.tensor(image), torch.tensor(mask)
        weights = torch.tensor(self.weights, device=device)
        for part in keys:
            yield [torch.stack([tensor[index] for _, index in part]) for tensor in (images, masks, weights)]

    def _to(self, device: torch.device, loaded: Sequence[torch.Tensor], epoch: int, batch: Sequence[int]) -> Batch:
        images, targets, weights = (part.to(device, non_blocking=True) for part in loaded)
        if self.on_device:
            augment = device_changes.Augmenter(
                _augmentation(self.recipe, epoch), self.recipe.seed, self.recipe.legacy.hard_masks
            )
            shard = zip(images, targets, self.distributed.shard(batch), strict=True)
            changed = [augment(image, mask, epoch, index) for image, mask, index in shard]
            images, targets = (torch.stack(parts) for parts in zip(*changed, strict=True))
        total = float(sum(np.float32(self.weights[index]) for index in batch)) if self.distributed.size > 1 else None
        pair = normalize(images, self.recipe.input), targets[:, None].float() / 255
        inputs, masks = self._shrink(pair, scale_at(self.recipe.schedule, self.recipe.epochs, epoch))
        return Batch(inputs, masks, weights if self.weighted else None, total, self.distributed.size)

    def _shrink(self, pair: tuple[torch.Tensor, torch.Tensor], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, 3, H, W) and masks (B, 1, H, W) at a phase's scale, by the mean of the area of each pixel."""
        if scale == 1:
            return pair
        width, height = self.recipe.input.scaled(scale)
        inputs, masks = (functional.interpolate(part, (height, width), mode="area") for part in pair)
        return inputs, masks


@lru_cache
def _host_augmenter(changes: Sequence[Change], seed: int, hard_masks: bool) -> host_changes.Augmenter:
    return host_changes.Augmenter(changes, seed, hard_masks)


def _augmentation(recipe: Recipe, epoch: int) -> Sequence[Change]:
    """The augmentation of the latest phase that sets one, else the recipe's."""
    phases = started(recipe.schedule, recipe.epochs, epoch)
    return next((phase.augmentation for phase in phases if phase.augmentation is not None), recipe.augmentation)


def epoch_order(count: int, seed: int, epoch: int, batch_size: int) -> list[list[int]]:
    """The epoch's shuffled batches of indices; a last batch that isn't full is dropped.

    If there are fewer samples than `batch_size`, all of them are one batch.
    """
    shuffled = np.random.Generator(np.random.Philox([seed, epoch])).permutation(count).tolist()
    ends = range(batch_size, count + 1, batch_size) if count >= batch_size else [count]
    return [shuffled[max(0, end - batch_size) : end] for end in ends]


@dataclass(frozen=True)
class _Keys:
    """The keys of each batch up to the end of training: a batch sampler for `DataLoader`."""

    samples: Samples
    epoch: int
    done: int

    def steps(self) -> Iterator[tuple[int, Step]]:
        """Epoch and samples of each optimizer step."""
        for epoch in range(self.epoch, self.samples.recipe.epochs):
            for step in self.samples.steps(epoch)[self.done if epoch == self.epoch else 0 :]:
                yield epoch, step

    def __iter__(self) -> Iterator[list[Key]]:
        """This process's part of each batch."""
        for epoch, step in self.steps():
            for batch in step:
                yield [(epoch, index) for index in self.samples.distributed.shard(batch)]
