"""A recipe: one YAML says everything needed to train a member."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from backdrop.common import storage
from backdrop.config.augmentation import Change, HFlip
from backdrop.config.legacy import Legacy
from backdrop.config.loss import BceDice, Loss
from backdrop.config.network import Count, Input, Network, Positive, Pretrained, Tta, UNet
from backdrop.config.optimizer import Optimizer
from backdrop.config.patterns import NAME
from backdrop.config.records import Record, dump_yaml
from backdrop.config.schedule import Phase

# What changes nothing about a member: they are no part of what it is known by.
HOW_IT_RUNS = ("checkpoint", "loading", "on_nan")


class Compute(Record):
    """How a step is computed; all of it changes the last bits of what comes out.

    `precision` auto is bf16 on a GPU that has it, else fp32 (on a GPU without TF32). `deterministic` lets a GPU too
    use only algorithms that give the same bits again, which costs time; a CPU always does. `augment` says where samples
    are changed: on the `host` as they are loaded, or on the `device` that trains; auto is device on a GPU, else host.
    The two draw differently.
    """

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    augment: Literal["auto", "host", "device"] = "auto"
    compile: bool = False
    deterministic: bool = False
    sync_batch_norm: bool = False


class Checkpoints(Record):
    """When a checkpoint is due: `every_s` seconds or `every_steps` steps after the last one, whichever comes first."""

    every_s: Positive = 60.0
    every_steps: Count | None = None


class Loading(Record):
    """Where decoded photographs are kept at the network's input size, and how many processes prepare them.

    `cache` disk keeps them in the cache folder; auto does so if that takes no more than half of what is free there;
    device does as auto, and holds them all in the memory of the device that trains.
    `workers` are as many as suit if not said.
    """

    cache: Literal["auto", "disk", "device", "none"] = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None


class Recipe(Record):
    """Everything needed to train a member.

    `epochs` is the length of training; the lengths of the schedule's phases are stretched to fill it. `accumulate` is
    the number of batches whose mean gradient makes a step. Each `replay_every` steps the hardest batch since the last
    time is trained on once more. With `ema`, what is judged and kept is a running mean of the weights, of which that
    share stays at each step. With `snapshots`, the best epochs of the last phases and cycles, that many, are kept, and
    the member's answer is the mean of theirs. `pseudo_weight` is what a pseudo-labeled photograph weighs in the loss.

    `on_nan` says what happens at a loss that is NaN: training stops, or the step is skipped. `legacy` holds what only
    faithful copies of the networks of 2017 need.
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
    snapshots: Count | None = None
    pseudo_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    tta: Tta = Tta()
    seed: Annotated[int, Field(ge=0)] = 0
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
                f"input.size {self.input.size}: this network needs multiples of {stride}; {self._nearest(stride)}"
            )
        return self

    @model_validator(mode="after")
    def _legacy_has_a_place(self) -> "Recipe":
        if self.legacy.clamp_dice and not isinstance(self.loss, BceDice):
            raise ValueError("legacy.clamp_dice is for loss bce_dice alone; remove it")
        if self.legacy.upsample_align_corners and not isinstance(self.network, UNet):
            raise ValueError("legacy.upsample_align_corners is for network unet alone; remove it")
        return self

    def network_options(self) -> dict[str, Any]:
        """What `models.build` takes."""
        legacy = {"align_corners": True} if self.legacy.upsample_align_corners else {}
        return {**self.network.model_dump(), **legacy}

    def loss_options(self) -> dict[str, Any]:
        """What `losses.make_loss` takes."""
        return {**self.loss.model_dump(), **({"clamped": True} if self.legacy.clamp_dice else {})}

    def _nearest(self, stride: int) -> str:
        width, height = (max(1, round(side / stride)) * stride for side in (self.input.width, self.input.height))
        return f"write {width}x{height}"


def digest(recipe: Recipe) -> str:
    """sha256 of all that a recipe says about the result; neither checkpoints nor the weights' address are in it."""
    if recipe.pretrained:  # known by their sha256, wherever they are
        recipe = recipe.model_copy(update={"pretrained": recipe.pretrained.model_copy(update={"address": ""})})
    return storage.sha256(dump_yaml(recipe, without=HOW_IT_RUNS).encode())
