"""A recipe's YAML: everything needed to train a member."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from backdrop.common import storage
from backdrop.config.augmentation import Change, HFlip
from backdrop.config.legacy import Legacy
from backdrop.config.loss import BceDice, Loss
from backdrop.config.network import Count, Input, Network, Positive, Pretrained, TimmUNet, Tta, UNet
from backdrop.config.optimizer import Optimizer
from backdrop.config.patterns import NAME
from backdrop.config.records import Record, dump_yaml
from backdrop.config.schedule import Phase

# Keys that don't affect the trained weights, so they are not part of the digest.
RUNTIME_KEYS = ("checkpoint", "loading", "on_nan")


class Compute(Record):
    """How a step is computed; every key affects the last bits of the weights.

    `precision: auto` is bf16 on a GPU or CPU that multiplies bfloat16, else fp32 (without TF32); the member predicts in
    it, too. `deterministic` restricts a GPU to deterministic algorithms, which are slower; a CPU always uses them.
    `augment` runs augmentation on the `host` while loading, or on the training `device`; auto is device on a GPU, else
    host. Their random changes differ.
    """

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    augment: Literal["auto", "host", "device"] = "auto"
    compile: bool = False
    deterministic: bool = False
    sync_batch_norm: bool = False


class Checkpoints(Record):
    """When a checkpoint is due: `every_s` seconds or `every_steps` steps after the last one, whichever comes first."""

    every_s: Positive = 60.0
    every_steps: Annotated[int, Field(ge=1)] | None = None


class Loading(Record):
    """Where decoded photographs are cached at the network's input size, and how many processes load them.

    `cache: disk` uses the cache folder; auto does so if that takes at most half of its free space; device does the
    same as auto and also holds all photographs in the training device's memory. `workers` defaults to a number that
    suits the device.
    """

    cache: Literal["auto", "disk", "device", "none"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1000)] | None = None


class Recipe(Record):
    """Everything needed to train a member.

    `epochs` is the length of training; the schedule's phases are scaled to fill it. `accumulate` is the number of
    batches per step, whose gradients are averaged. Every `replay_every` steps, the batch with the highest loss since
    the last replay is trained on again. `ema` is the decay of a running mean of the weights, which is then validated
    and saved instead of the weights. `snapshots` keeps the best epoch of each of this many last phases and cycles; the
    member predicts their mean. `pseudo_weight` is the weight of a pseudo-labeled photograph in the loss.

    `on_nan` stops training at a loss of NaN, or skips the step. `legacy` has switches for faithful copies of the
    networks of 2017.
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    network: Network
    pretrained: Pretrained | None = None
    input: Input
    loss: Loss = BceDice()
    optimizer: Optimizer = Optimizer()
    epochs: Count
    batch_size: Count
    accumulate: Count = 1
    schedule: Annotated[tuple[Phase, ...], Field(min_length=1)]
    augmentation: tuple[Change, ...] = (HFlip(kind="hflip"),)
    replay_every: Count | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    snapshots: Annotated[int, Field(ge=1, le=1000)] | None = None
    pseudo_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    tta: Tta = Tta()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    compute: Compute = Compute()
    checkpoint: Checkpoints = Checkpoints()
    loading: Loading = Loading()
    on_nan: Literal["stop", "skip"] = "stop"
    legacy: Legacy = Legacy()

    @model_validator(mode="after")
    def _whole_strides(self) -> "Recipe":
        stride = self.network.stride
        if self.input.width % stride or self.input.height % stride:
            raise ValueError(
                f"input.size {self.input.size} must be a multiple of {stride} for this network; {self._nearest(stride)}"
            )
        return self

    @model_validator(mode="after")
    def _whole_strides_in_each_phase(self) -> "Recipe":
        stride = self.network.stride
        for index, phase in enumerate(self.schedule):
            width, height = self.input.scaled(phase.scale)
            if not width or not height or width % stride or height % stride:
                what = f"schedule.{index}.scale {phase.scale:g} makes the input {width}x{height}, which must be"
                remedy = self._nearest_scales(phase.scale)
                raise ValueError(f"{what} a multiple of {stride} for this network; {remedy}")
        return self

    @model_validator(mode="after")
    def _legacy_has_a_place(self) -> "Recipe":
        if self.legacy.clamp_dice and not isinstance(self.loss, BceDice):
            raise ValueError("legacy.clamp_dice works only with the loss bce_dice; remove it")
        if self.legacy.upsample_align_corners and not isinstance(self.network, UNet):
            raise ValueError("legacy.upsample_align_corners works only with the network unet; remove it")
        return self

    @model_validator(mode="after")
    def _batch_norms_can_be_synchronized(self) -> "Recipe":
        if self.compute.sync_batch_norm and isinstance(self.network, TimmUNet):
            raise ValueError("compute.sync_batch_norm doesn't work with the network timm_unet; remove it")
        return self

    def network_options(self) -> dict[str, Any]:
        """The arguments of `models.build`."""
        legacy = {"align_corners": True} if self.legacy.upsample_align_corners else {}
        return {**self.network.model_dump(), **legacy}

    def loss_options(self) -> dict[str, Any]:
        """The arguments of `losses.make_loss`."""
        return {**self.loss.model_dump(), **({"clamped": True} if self.legacy.clamp_dice else {})}

    def _nearest(self, stride: int) -> str:
        width, height = (max(1, round(side / stride)) * stride for side in (self.input.width, self.input.height))
        return f"write {width}x{height}"

    def _nearest_scales(self, scale: float) -> str:
        steps = math.gcd(self.input.width, self.input.height) // self.network.stride  # each step is a scale that fits
        below = math.floor(scale * steps)
        fitting = [f"{step / steps:.4g}" for step in (below, below + 1) if step]
        sizes = ["{}x{}".format(*self.input.scaled(float(text))) for text in fitting]
        return "write " + " or ".join(f"{text} ({size})" for text, size in zip(fitting, sizes, strict=True))


def digest(recipe: Recipe) -> str:
    """sha256 of the keys that affect the weights; the address of pretrained weights is not among them."""
    if recipe.pretrained:  # identified by their sha256, not by their address
        recipe = recipe.model_copy(update={"pretrained": recipe.pretrained.model_copy(update={"address": ""})})
    return storage.sha256(dump_yaml(recipe, without=RUNTIME_KEYS).encode())
