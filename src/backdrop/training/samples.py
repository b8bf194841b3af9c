"""Training samples in an order and with changes that depend on nothing but (seed, epoch, sample)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
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
from backdrop.training.loader import Item, collate, load, raised
from backdrop.training.lr_schedules import begun
from backdrop.training.prefetch import ahead
from backdrop.training.step import Batch

Key = tuple[int, int]  # epoch and sample
Step = list[list[int]]  # the samples of each of a step's batches


class Samples(Dataset[Item | BackdropError]):
    """Photographs and masks at the network's input size: RGB (H, W, 3) and soft masks (H, W), uint8, and a weight.

    Args:
        photos: what to train on, each with a mask.
        digests: sha256 of image and mask by stem; a file that changed is refused as it is read.
        recipe: says size, augmentation and seed.
        pseudo: photographs whose masks were predicted; they weigh as the recipe says.
        distributed: the processes that share each batch.

    Raises:
        ConfigError: if there are more processes than a batch has images, or samples are to be changed on the host but
            held on the device.
        DataError: if a photograph can't be decoded.
        StorageError: if `loading.cache` is disk, and there is no room.
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
            raise ConfigError("Samples held on the device can't be changed on the host", "Set compute.augment=device")
        if min(recipe.batch_size, len(self)) < distributed.size:
            raise ConfigError(f"{distributed.size} processes can't share a batch of {recipe.batch_size}", "Start fewer")
        with distributed.main_process_first():  # the first decodes, the others find it done
            self.decoded = open_cache(self.photos, digests, recipe.input, recipe.loading.cache)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> Item | BackdropError:
        epoch, index = key
        try:
            pair = self.decoded(self.photos[index])
        except BackdropError as error:  # raised where it's wanted: torch would make another error of it on the way
            return error
        if not self.on_device:
            pair = _host_augmenter(_augmentation(self.recipe, epoch), self.recipe.seed, self.recipe.legacy.hard_masks)(
                *pair, epoch, index
            )
        image, mask = (np.array(part) for part in pair)  # what nothing has changed is the cache's own
        return image, mask, np.float32(self.weights[index])

    def steps(self, epoch: int) -> list[Step]:
        """The epoch's optimizer steps, all processes together; the last one may have fewer batches."""
        order = epoch_order(len(self), self.recipe.seed, epoch, self.recipe.batch_size)
        size = self.recipe.accumulate
        return [order[start : start + size] for start in range(0, len(order), size)]

    def stream(self, epoch: int, done: int, device: torch.device) -> Iterator[list[Batch]]:
        """The batches of each step on the device, from one step to the end of training.

        Args:
            epoch: the first epoch.
            done: how many of its steps to leave out.
            device: where the batches are wanted.
        """
        keys = _Keys(self, epoch, done)
        loading = self.recipe.loading
        made = self._held(keys, device) if loading.cache == "device" else load(self, keys, loading.workers, device)
        steps = ([self._to(device, next(made), epoch, batch) for batch in step] for epoch, step in keys.steps())
        return ahead(steps, device)

    def batches(self, epoch: int, step: Step, device: torch.device) -> list[Batch]:
        """A step's batches once more."""
        parts = [[(epoch, index) for index in self.distributed.shard(batch)] for batch in step]
        made = raised(collate([self[key] for key in part]) for part in parts)
        return [self._to(device, one, epoch, batch) for one, batch in zip(made, step, strict=True)]

    def names(self, step: Step) -> list[str]:
        """The files of a step's photographs."""
        return [str(self.photos[index].image) for batch in step for index in batch]

    def _held(self, keys: "_Keys", device: torch.device) -> Iterator[Sequence[torch.Tensor]]:
        """Batches of samples that the device holds, all of them from the first batch on.

        Raises:
            TrainingError: if they don't fit its memory.
        """
        height, width = self.recipe.input.height, self.recipe.input.width
        try:
            images = torch.empty(len(self), height, width, 3, dtype=torch.uint8, device=device)
            masks = torch.empty(len(self), height, width, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            size = f"{count(len(self), 'photograph')} at {self.recipe.input.size}"
            raise TrainingError(f"{size} don't fit the device's memory", "--set loading.cache=auto") from error
        for index, photo in enumerate(self.photos):
            image, mask = self.decoded(photo)
            images[index], masks[index] = torch.tensor(image), torch.tensor(mask)
        weights = torch.tensor(self.weights, device=device)
        for part in keys:
            yield [torch.stack([kept[index] for _, index in part]) for kept in (images, masks, weights)]

    def _to(self, device: torch.device, made: Sequence[torch.Tensor], epoch: int, batch: Sequence[int]) -> Batch:
        images, targets, weights = (part.to(device, non_blocking=True) for part in made)
        if self.on_device:
            augment = device_changes.Augmenter(
                _augmentation(self.recipe, epoch), self.recipe.seed, self.recipe.legacy.hard_masks
            )
            mine = zip(images, targets, self.distributed.shard(batch), strict=True)
            changed = [augment(image, mask, epoch, index) for image, mask, index in mine]
            images, targets = (torch.stack(parts) for parts in zip(*changed, strict=True))
        whole = float(sum(np.float32(self.weights[index]) for index in batch)) if self.distributed.size > 1 else None
        masks = targets[:, None].float() / 255
        inputs = normalize(images, self.recipe.input)
        return Batch(inputs, masks, weights if self.weighted else None, whole, self.distributed.size)


@lru_cache
def _host_augmenter(changes: Sequence[Change], seed: int, hard_masks: bool) -> host_changes.Augmenter:
    return host_changes.Augmenter(changes, seed, hard_masks)


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


@dataclass(frozen=True)
class _Keys:
    """The samples of each batch from one step to the end of training, as a loader wants them."""

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
