"""The losses of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.records import Record


class BceDice(Record):
    """BCE + 1 - soft Dice, averaged over images."""

    kind: Literal["bce_dice"] = "bce_dice"


class BceLog(Record):
    """BCE - ln(soft Dice or Jaccard), summed over each image or over the batch."""

    kind: Literal["bce_log"]
    of: Literal["dice", "jaccard"] = "dice"
    over: Literal["image", "batch"] = "image"


class Boundary(Record):
    """BCE + 1 - soft Dice, with pixels near the boundary weighted up to `weight`.

    `band` is the total width of the band as a share of the image's height, at least 3 pixels. With profile `distance`
    the weight falls with the distance from the boundary; with `box` (as the winners had it) it has two levels.
    `squared` squares it in the Dice term (also theirs).
    """

    kind: Literal["boundary"]
    band: Annotated[float, Field(gt=0, le=1)] = 0.04
    weight: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    profile: Literal["distance", "box"] = "distance"
    squared: bool = False


Loss = Annotated[BceDice | BceLog | Boundary, Field(discriminator="kind")]
