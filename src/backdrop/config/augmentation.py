"""Random changes of a training sample, in the order in which a recipe names them; `p` is each one's probability."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from backdrop.config.network import Count, Positive, Share
from backdrop.config.records import Record


def _rising(factors: tuple[float, float]) -> tuple[float, float]:
    if factors[0] > factors[1]:
        raise ValueError(f"{factors[0]} is above {factors[1]}; give the lowest factor first")
    return factors


# Factors: the lowest and the highest.
Range = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_rising)]
Scale = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]


class HFlip(Record):
    """Mirrors left and right."""

    kind: Literal["hflip"]
    p: Share = 0.5


class Affine(Record):
    """Scales by a factor, turns by up to `rotate` degrees and shifts by up to a share of each side, about the center.

    Borders are reflected. The mask is interpolated too and stays soft at its edge.
    """

    kind: Literal["affine"]
    p: Share = 0.5
    shift: Share = 0.0625
    scale: Scale = (0.9, 1.1)
    rotate: Annotated[float, Field(ge=0, le=180)] = 5.0


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
    """Adds to hue (of 180, a circle), saturation and value (of 255) up to so much either way; what is gray stays so."""

    kind: Literal["hsv"]
    p: Share = 0.5
    hue: Annotated[int, Field(ge=0, le=90)] = 10
    saturation: Annotated[int, Field(ge=0, le=255)] = 25
    value: Annotated[int, Field(ge=0, le=255)] = 25


class Gray(Record):
    """Puts luma in place of color: everywhere, or the `object` alone, which is where the mask is on."""

    kind: Literal["gray"]
    p: Share = 0.25
    region: Literal["everywhere", "object"] = "everywhere"


class Erase(Record):
    """Covers up to `max_count` rectangles with one color each, the mask unchanged.

    So that what is strange in a studio isn't taken for the product (Cutout: DeVries and Taylor 2017, arXiv:1708.04552).
    """

    kind: Literal["erase"]
    p: Share = 0.5
    max_count: Count = 3


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
