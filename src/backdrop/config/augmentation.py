"""Random changes of a training sample, applied in the recipe's order, each with probability `p`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from backdrop.config.network import Count, NonNegative, Positive, Share
from backdrop.config.records import Record


def _rising(factors: tuple[float, float]) -> tuple[float, float]:
    if factors[0] > factors[1]:
        raise ValueError(f"{factors[0]} is above {factors[1]}; write the lower factor first")
    return factors


# Two factors: lower and upper limit.
Range = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_rising)]
Scale = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]


class HFlip(Record):
    """Flips left and right."""

    kind: Literal["hflip"]
    p: Share = 0.5


class Affine(Record):
    """Scales by a factor, rotates by up to `rotate` degrees and shifts by up to a share of each side.

    Borders are reflected. The mask is interpolated too, so its edge stays soft.
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
    """Scales the distance of values from the image's mean luma by a factor."""

    kind: Literal["contrast"]
    p: Share = 0.5
    factor: Range = (0.9, 1.1)


class Saturation(Record):
    """Scales the distance of values from the pixel's luma by a factor."""

    kind: Literal["saturation"]
    p: Share = 0.5
    factor: Range = (0.7, 1.3)


class Hsv(Record):
    """Shifts hue (0..180, a circle), saturation and value (0..255) by at most these limits; gray pixels stay gray."""

    kind: Literal["hsv"]
    p: Share = 0.5
    hue: Annotated[int, Field(ge=0, le=90)] = 10
    saturation: Annotated[int, Field(ge=0, le=255)] = 25
    value: Annotated[int, Field(ge=0, le=255)] = 25


class Gray(Record):
    """Replaces color by luma: everywhere, or only in the `object` (inside the mask)."""

    kind: Literal["gray"]
    p: Share = 0.25
    region: Literal["everywhere", "object"] = "everywhere"


class Erase(Record):
    """Fills up to `max_count` rectangles with a random color each; the mask is unchanged.

    The network learns to ignore foreign objects (Cutout: DeVries and Taylor 2017, arXiv:1708.04552).
    """

    kind: Literal["erase"]
    p: Share = 0.5
    max_count: Count = 3


class OneOf(Record):
    """With probability `p`, applies one of several changes, all equally likely; their own `p` is ignored."""

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
