"""The losses that a recipe may name."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.records import Record


class BceDice(Record):
    """BCE + 1 - soft Dice, the mean over images."""

    kind: Literal["bce_dice"] = "bce_dice"


class BceLog(Record):
    """BCE - ln(soft Dice or Jaccard), its sums taken over each image or over the whole batch."""

    kind: Literal["bce_log"]
    of: Literal["dice", "jaccard"] = "dice"
    over: Literal["image", "batch"] = "image"


class Boundary(Record):
    """BCE + 1 - soft Dice with pixels near the boundary weighing up to `weight` times as much as others.

    `band` is the band's width as a share of the image's height, both sides together, at least 3 pixels. The weight
    falls with the distance from the boundary, or is two-level in a box (the winners'), and in the Dice term it may be
    `squared` (theirs too).
    """

    kind: Literal["boundary"]
    band: Annotated[float, Field(gt=0, le=1)] = 0.04
    weight: Annotated[float, Field(ge=1)] = 3.0
    profile: Literal["distance", "box"] = "distance"
    squared: bool = False


Loss = Annotated[BceDice | BceLog | Boundary, Field(discriminator="kind")]
