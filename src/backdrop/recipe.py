"""Recipes: one YAML says everything needed to train a member. Ensembles: one YAML says which members are averaged."""

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from backdrop import storage
from backdrop.config import Record, dump_yaml, meant, override, parse, parse_yaml, read_text
from backdrop.errors import ConfigError
from backdrop.folds import By

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class UNet(Record):
    """A U-Net: `depth` halvings, `width` channels at full size, doubled at each halving; batch norm throughout."""

    name: Literal["unet"]
    width: Count = 32
    depth: Count = 5

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of it."""
        return int(2**self.depth)


class LinkNet(Record):
    """LinkNet: a ResNet encoder (stages of `width`, 2, 4, 8 times it) and a light decoder, added skips."""

    name: Literal["linknet"]
    encoder: Literal["resnet18", "resnet34"] = "resnet34"
    width: Annotated[int, Field(ge=4)] = 64

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of it."""
        return 32


class Input(Record):
    """How a photograph becomes a network's input.

    `size` is WxH; `fit` stretches the photograph to it or pads it with zeros at the right and at the bottom.
    `channels` is their order; values are divided by 255, then `normalize` may take ImageNet's mean and deviation.
    """

    size: str = Field(pattern=r"^[1-9]\d*x[1-9]\d*$")
    fit: Literal["stretch", "pad"] = "stretch"
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
    scales: tuple[Rate, ...] = (1.0,)
    average: Literal["logits", "probabilities"] = "logits"


class Loss(Record):
    """`bce_dice` is the winners' BCE + 1 - Dice."""

    name: Literal["bce_dice"] = "bce_dice"


class Optimiser(Record):
    """The optimiser; its rate comes from the schedule. `clip_norm` bounds the gradient's L2 norm."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.9
    clip_norm: Rate | None = None


class Constant(Record):
    """One rate."""

    kind: Literal["constant"]
    epochs: Count
    rate: Rate


class Cosine(Record):
    """Half a cosine from `rate` down to `final`."""

    kind: Literal["cosine"]
    epochs: Count
    rate: Rate
    final: Rate


class Cycle(Record):
    """The `rates` in turn, an epoch each, again and again."""

    kind: Literal["cycle"]
    epochs: Count
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]


Phase = Annotated[Constant | Cosine | Cycle, Field(discriminator="kind")]


class Augmentation(Record):
    """Random changes of a training sample; shares are of the image's size, angles in degrees.

    `affine` is the probability of a shift, scale and rotation together; `brightness` and `hsv` are those of theirs.
    `erase` is that of up to three rectangles of one colour each, the mask unchanged, so that what is strange in a
    studio isn't taken for the product (Cutout: DeVries and Taylor 2017, arXiv:1708.04552).
    """

    hflip: Share = 0.5
    affine: Share = 0.0
    shift: Share = 0.0625
    scale: Share = 0.1
    rotate: Annotated[float, Field(ge=0, le=180)] = 5.0
    brightness: Share = 0.0
    brightness_limit: Share = 0.1
    hsv: Share = 0.0
    hsv_limits: tuple[int, int, int] = (10, 25, 25)
    erase: Share = 0.0


class Pretrained(Record):
    """Encoder weights: a file, URL or `s3://` address of a safetensors or weights-only torch file, and its sha256."""

    address: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Recipe(Record):
    """Everything needed to train a member.

    `epochs` is the length of training; the lengths of the schedule's phases are stretched to fill it.
    With `ema`, what is judged and kept is a running mean of the weights that forgets at this rate a step.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str = ""
    network: Annotated[UNet | LinkNet, Field(discriminator="name")]
    pretrained: Pretrained | None = None
    input: Input
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    epochs: Count
    batch_size: Count
    schedule: Annotated[tuple[Phase, ...], Field(min_length=1)]
    augmentation: Augmentation = Augmentation()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    tta: Tta = Tta()
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _whole_strides(self) -> "Recipe":
        stride = self.network.stride
        if self.input.width % stride or self.input.height % stride:
            raise ValueError(f"input.size {self.input.size}: this network needs multiples of {stride}")
        return self


class Folds(Record):
    """How an ensemble's objects are split; the words are those of `backdrop split`."""

    count: Count = 5
    by: By = "area"
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    seed: int = 0


class Part(Record):
    """A recipe's place in an ensemble: its weight against the others, and what is set otherwise than in its YAML.

    `recipe` is a name, a file's path, or the recipe itself.
    """

    recipe: str | Recipe
    weight: Rate = 1.0
    set: dict[str, Any] = Field(default_factory=dict)

    def resolve(self) -> Recipe:
        """The recipe as this ensemble trains it.

        Raises:
            ConfigError: if there is no such recipe, or it isn't valid.
        """
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.set.items()]
        if isinstance(self.recipe, str):
            return find_recipe(self.recipe, overrides)
        return parse(Recipe, override(self.recipe.model_dump(mode="json"), overrides), self.recipe.name)


class Gate(Record):
    """What a challenger must show on the holdout.

    `minimum_dice` is asked of a first champion. Against a champion, a challenger is refused if it is worse by more
    than `slice_drop` on any guarded slice (a view) and that slice's interval lies wholly below zero.
    """

    minimum_dice: Share = 0.95
    slice_drop: Share = 0.002


class Ensemble(Record):
    """Which recipes are trained on which folds and averaged, and by what gate they are promoted."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str = ""
    folds: Folds = Folds()
    members: Annotated[tuple[Part, ...], Field(min_length=1)]
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _two_folds(self) -> "Ensemble":
        if self.folds.count < 2:
            raise ValueError("folds.count must be 2 or more: a member trains on the other folds")
        return self

    def resolve(self) -> "Ensemble":
        """The same with every recipe written out, so that it needs no other file.

        Raises:
            ConfigError: if there is no such recipe, it isn't valid, or two have one name.
        """
        parts = tuple(Part(recipe=part.resolve(), weight=part.weight) for part in self.members)
        names = [recipe.name for recipe in map(Part.resolve, parts)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"Ensemble {self.name} has recipe {name} twice", "Copy it under another name")
        return self.model_copy(update={"members": parts})

    def weights(self) -> dict[str, float]:
        """The weight of each recipe, by name."""
        return {part.resolve().name: part.weight for part in self.members}


Kind = Literal["recipes", "ensembles"]
R = TypeVar("R", Recipe, Ensemble)


def find_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file's by path, with `a.b=c` overrides.

    Raises:
        ConfigError: if there is none, or it isn't valid.
    """
    return _find(Recipe, "recipes", name, overrides)


def find_ensemble(name: str) -> Ensemble:
    """A shipped ensemble by name, or a YAML file's by path, its recipes written out.

    Raises:
        ConfigError: if there is none, or it or one of its recipes isn't valid.
    """
    return _find(Ensemble, "ensembles", name, ()).resolve()


def shipped(kind: Kind) -> dict[str, str]:
    """The YAML text of what the package ships, by name."""
    files = (resources.files("backdrop") / kind).iterdir()
    texts = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
    return {name: texts[name].read_text(encoding="utf-8") for name in sorted(texts)}


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a size in text, `WxH`.

    Raises:
        ConfigError: if it isn't one.
    """
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"{size} is not a size", "Write it as WxH, such as 768x512")
    return int(width), int(height)


def digest(record: Record) -> str:
    """sha256 of a record, the same for the same content."""
    return storage.sha256(dump_yaml(record).encode())


def recipe_text(name: str) -> str:
    """A recipe's YAML as it was written; raises as `find_recipe` does."""
    return _text("recipes", name)[0]


def _find(record: type[R], kind: Kind, name: str, overrides: Iterable[str]) -> R:
    text, source = _text(kind, name)
    return parse(record, override(parse_yaml(text, source), overrides), source)


def _text(kind: Kind, name: str) -> tuple[str, str]:
    """The YAML text, and what to call it in an error."""
    texts, noun = shipped(kind), kind.removesuffix("s")
    if name in texts:
        return texts[name], f"{kind}/{name}.yaml"
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_text(Path(name), noun), name
    raise ConfigError(f"There is no {noun} {name}", meant(name, texts))
