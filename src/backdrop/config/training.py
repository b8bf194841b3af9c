"""How a network is trained: loss, optimiser, tricks."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.network import Count, Rate, Share
from backdrop.config.records import Record


class BceDice(Record):
    """BCE + 1 - soft Dice, the mean over images; `clamped` is the winners' form, which exceeds 1 and is cut there."""

    name: Literal["bce_dice"] = "bce_dice"
    clamped: bool = False


class BceLog(Record):
    """BCE - ln(soft Dice or Jaccard), its sums taken over each image or over the whole batch."""

    name: Literal["bce_log"]
    of: Literal["dice", "jaccard"] = "dice"
    over: Literal["image", "batch"] = "image"


class Boundary(Record):
    """BCE + 1 - soft Dice with pixels near the boundary weighing up to `weight` times as much as others.

    `band` is the band's width as a share of the image's height, both sides together, at least 3 pixels. The weight
    falls with the distance from the boundary, or is two-level in a box (the winners'), and in the Dice term it may be
    `squared` (theirs too).
    """

    name: Literal["boundary"]
    band: Annotated[float, Field(gt=0, le=1)] = 0.04
    weight: Annotated[float, Field(ge=1)] = 3.0
    profile: Literal["distance", "box"] = "distance"
    squared: bool = False


Loss = Annotated[BceDice | BceLog | Boundary, Field(discriminator="name")]


class Optimiser(Record):
    """The optimiser; its rate comes from the schedule. `clip_norm` bounds the gradient's L2 norm.

    `forgetful` makes it anew at each epoch, as one of the winners did.
    """

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.9
    clip_norm: Rate | None = None
    forgetful: bool = False


class Accumulation(Record):
    """A step's gradient from several batches: their mean over images, or the sum of their means (the winners')."""

    batches: Count = 1
    reduce: Literal["mean", "sum"] = "mean"


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
    """When a checkpoint is due: so many seconds or optimiser steps after the last one, whichever comes first."""

    every_s: Rate = 60.0
    every_steps: Count | None = None


class Loading(Record):
    """Where decoded photographs are kept at the network's input size, and how many processes prepare them.

    `cache` disk keeps them in the cache folder; auto does so if that takes no more than half of what is free there;
    device does as auto, and holds them all in the memory of the device that trains.
    `workers` are as many as suit if not said.
    """

    cache: Literal["auto", "disk", "device", "none"] = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None
