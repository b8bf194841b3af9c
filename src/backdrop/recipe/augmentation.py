"""Random changes of a training sample, in the order in which a recipe names them; `p` is each one's probability."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config import Record
from backdrop.recipe.network import Count, Share

# Factors: the lowest and the highest.
Range = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class HFlip(Record):
    """Mirrors left and right."""

    kind: Literal["hflip"]
    p: Share = 0.5


class Affine(Record):
    """Shifts by up to a share of the size, scales by a factor, turns by up to so many degrees; borders are reflected.

    The mask is interpolated too and stays soft at its edge, unless `hard` cuts it at one half.
    """

    kind: Literal["affine"]
    p: Share = 0.5
    shift: Share = 0.0625
    scale: Range = (0.9, 1.1)
    rotate: Annotated[float, Field(ge=0, le=180)] = 5.0
    hard: bool = False


class Brightness(Record):
    """Multiplies all values by a factor."""

    kind: Literal["brightness"]
    p: Share = 0.5
    factor: Range = (0.9, 1.1)


class Contrast(Record):
    """Moves values away from the image's mean luma, or towards it, by a factor."""

    kind: Literal["contrast"]
    p: Share = 0.5
    factor: Range = (0.9, 1.1)


class Saturation(Record):
    """Moves values away from their own luma, or towards it, by a factor."""

    kind: Literal["saturation"]
    p: Share = 0.5
    factor: Range = (0.7, 1.3)


class Hsv(Record):
    """Adds to hue (of 180), saturation and value (of 255) up to so much either way."""

    kind: Literal["hsv"]
    p: Share = 0.5
    hue: Annotated[int, Field(ge=0, le=90)] = 10
    saturation: Annotated[int, Field(ge=0, le=255)] = 25
    value: Annotated[int, Field(ge=0, le=255)] = 25


class Gray(Record):
    """Takes the colour away: everywhere, or only from the `object`, on its own coloured background."""

    kind: Literal["gray"]
    p: Share = 0.25
    where: Literal["everywhere", "object"] = "everywhere"


class Erase(Record):
    """Covers up to `most` rectangles with one colour each, the mask unchanged.

    So that what is strange in a studio isn't taken for the product (Cutout: DeVries and Taylor 2017, arXiv:1708.04552).
    """

    kind: Literal["erase"]
    p: Share = 0.5
    most: Count = 3


class OneOf(Record):
    """With probability `p`, one of several changes, each as likely as the others; their own `p` isn't looked at."""

    kind: Literal["one_of"]
    p: Share = 0.5
    of: Annotated[
        tuple[
            Annotated[
                HFlip | Affine | Brightness | Contrast | Saturation | Hsv | Gray | Erase, Field(discriminator="kind")
            ],
            ...,
        ],
        Field(min_length=2),
    ]


Change = Annotated[
    HFlip | Affine | Brightness | Contrast | Saturation | Hsv | Gray | Erase | OneOf, Field(discriminator="kind")
]
