"""Which network, and how a photograph becomes its input."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.common.errors import ConfigError
from backdrop.config.patterns import SHA256, SIZE
from backdrop.config.records import Record

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class UNet(Record):
    """A U-Net with batch norm: `depth` halvings, `width` channels at full size, doubled at each up to `max_channels`.

    `up_convolutions` follow each upsampling. Convolutions with a `bias` are as in the winners' code.
    """

    kind: Literal["unet"]
    width: Count = 32
    depth: Count = 5
    max_channels: Count | None = None
    up_convolutions: Count = 2
    bias: bool = False

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of it."""
        return int(2**self.depth)


class LinkNet(Record):
    """LinkNet: a ResNet encoder (stages of `width`, 2, 4, 8 times it) and a light decoder.

    `skip` says how a decoder's features meet the encoder's: added, or concatenated and then convolved 1x1.
    """

    kind: Literal["linknet"]
    encoder: Literal["resnet18", "resnet34"] = "resnet34"
    width: Annotated[int, Field(ge=4)] = 64
    skip: Literal["add", "concat"] = "add"

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of it."""
        return 32


class VggUNet(Record):
    """A U-Net on VGG-11 without batch norm; the decoder ends in `width` channels (32: TernausNet-11; 64: the wide one).

    `encoder_width` is VGG's first stage, 64 as torchvision has it; less makes a small network for tests.
    """

    kind: Literal["vgg_unet"]
    width: Count = 32
    encoder_width: Count = 64

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of it."""
        return 32


Network = Annotated[UNet | LinkNet | VggUNet, Field(discriminator="kind")]


class Pretrained(Record):
    """Encoder weights: a file, URL or `s3://` address of a safetensors or weights-only torch file, and its sha256.

    The first eight digits are enough: torchvision puts that many into its files' names. A path in a YAML file is seen
    from that file's folder.
    """

    address: str
    sha256: str = Field(pattern=SHA256)


class Input(Record):
    """How a photograph becomes a network's input.

    `size` is WxH; `fit` stretches the photograph to it, pads it with zeros at the right and at the bottom, or pads it
    in the middle by reflection. `clahe` evens the luma's contrast first, at training and at prediction alike.
    `channels` is their order; values are divided by 255, then `normalize` may take ImageNet's mean and deviation.
    """

    size: str = Field(pattern=SIZE)
    fit: Literal["stretch", "pad", "reflect"] = "stretch"
    clahe: bool = False
    channels: Literal["rgb", "bgr"] = "rgb"
    normalize: Literal["none", "imagenet"] = "none"

    @property
    def width(self) -> int:
        """Pixels."""
        return parse_size(self.size)[0]

    @property
    def height(self) -> int:
        """Pixels."""
        return parse_size(self.size)[1]


class Tta(Record):
    """Test-time augmentation: a photograph is predicted mirrored as well, and at other `scales` of the input's size.

    The answers are averaged at the photograph's own size, as logits (the winners' way) or as probabilities.
    """

    hflip: bool = False
    vflip: bool = False
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    average: Literal["logits", "probabilities"] = "logits"


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a size in text, `WxH`.

    Raises:
        ConfigError: if it isn't one.
    """
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"{size} is not a size", "Write it as WxH, such as 768x512")
    return int(width), int(height)
