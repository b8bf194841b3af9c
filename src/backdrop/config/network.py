"""The network, and how a photograph becomes its input."""

import os
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from backdrop.common.errors import ConfigError
from backdrop.common.redact import without_credentials
from backdrop.common.storage import is_url
from backdrop.config.patterns import ARCHITECTURE, SHA256, SIZE
from backdrop.config.records import Record

MIRROR = "BACKDROP_PRETRAINED_MIRROR"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]  # far beyond any use: a typo must not take all memory
Width = Annotated[int, Field(ge=1, le=4096)]


class UNet(Record):
    """A U-Net with batch norm: `depth` halvings, `width` channels at full size, doubled at each up to `max_channels`.

    Each upsampling is followed by `up_convolutions` convolutions. The winners' convolutions had a `bias`.
    """

    kind: Literal["unet"]
    width: Width = 32
    depth: Annotated[int, Field(ge=1, le=12)] = 5
    max_channels: Count | None = None
    up_convolutions: Annotated[int, Field(ge=1, le=16)] = 2
    bias: bool = False

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of the stride."""
        return int(2**self.depth)


class LinkNet(Record):
    """LinkNet: a ResNet encoder (stages of 1, 2, 4 and 8 times `width` channels) and a light decoder.

    `skip` joins decoder and encoder features: added, or concatenated and convolved 1x1.
    """

    stride: ClassVar[int] = 32  # as UNet.stride
    kind: Literal["linknet"]
    encoder: Literal["resnet18", "resnet34"] = "resnet34"
    # With fewer, torch 2.13 writes beyond its memory on CPUs with AVX2, in the backward pass of a 1x1 with a stride.
    width: Annotated[int, Field(ge=8, le=4096)] = 64
    skip: Literal["add", "concat"] = "add"


class VggUNet(Record):
    """A U-Net on VGG-11 without batch norm; the decoder ends in `width` channels (32: TernausNet-11; 64: the wide one).

    `encoder_width` is the width of VGG's first stage, 64 in torchvision.
    """

    stride: ClassVar[int] = 32  # as UNet.stride
    kind: Literal["vgg_unet"]
    width: Width = 32
    encoder_width: Width = 64


class TimmUNet(Record):
    """A U-Net on a convolutional `encoder` of timm, by its architecture's name without a tag.

    The decoder has `width` channels at full size, doubled at each halving.
    """

    stride: ClassVar[int] = 32  # as UNet.stride
    kind: Literal["timm_unet"]
    encoder: str = Field(pattern=ARCHITECTURE)
    width: Width = 16


Network = Annotated[UNet | LinkNet | VggUNet | TimmUNet, Field(discriminator="kind")]


class Pretrained(Record):
    """Encoder weights: a file, URL or `s3://` address of a safetensors or weights-only torch file, and its sha256.

    The first eight digits of the sha256 are enough; torchvision has them in its file names. A path in a YAML file is
    relative to that file's folder. Credentials in it are refused: recipes are stored beside members and in MLflow.
    """

    address: str
    sha256: str = Field(pattern=SHA256)

    @field_validator("address")
    @classmethod
    def _without_credentials(cls, address: str) -> str:
        if "://" in address and without_credentials(address) != address:
            raise ValueError("it contains credentials; use an address without any, or download the file")
        return address

    @property
    def source(self) -> str:
        """Where to read the file: its address, or its name in BACKDROP_PRETRAINED_MIRROR if the address is a URL."""
        mirror = os.environ.get(MIRROR, "").rstrip("/")
        return f"{mirror}/{self.address.rpartition('/')[2]}" if mirror and is_url(self.address) else self.address


class Input(Record):
    """How a photograph becomes a network's input.

    `size` is WxH. `fit` stretches the photograph to it, pads it with zeros at the right and bottom, or centers it
    and pads by reflection. `clahe` first equalizes the luma's contrast, in training and prediction. `channels` is the
    channel order. Values are divided by 255; `normalize: imagenet` then uses ImageNet's mean and standard deviation.
    """

    size: str = Field(pattern=SIZE)
    fit: Literal["stretch", "pad", "reflect"] = "stretch"
    clahe: bool = False
    channels: Literal["rgb", "bgr"] = "rgb"
    normalize: Literal["none", "imagenet"] = "none"

    @property
    def width(self) -> int:
        """Width in pixels."""
        return parse_size(self.size)[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return parse_size(self.size)[1]

    def scaled(self, scale: float) -> tuple[int, int]:
        """Width and height at a share of the size, rounded to whole pixels."""
        return round(self.width * scale), round(self.height * scale)


class Tta(Record):
    """Test-time augmentation: predicts a photograph flipped as well, and at several `scales` of the input size.

    Predictions are averaged at the photograph's own size, as logits (as the winners did) or as probabilities.
    """

    hflip: bool = False
    vflip: bool = False
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=16)], ...], Field(min_length=1, max_length=100)] = (1.0,)
    average: Literal["logits", "probabilities"] = "logits"


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a size `WxH`.

    Raises:
        ConfigError: if it isn't a size.
    """
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"{size} is not a size", "Write it as WxH, such as 768x512")
    return int(width), int(height)
