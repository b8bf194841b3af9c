"""A search space's YAML: families of schedules, and the ranges of their parameters.

It has no absolute numbers of epochs, so one space works for recipes of 30 epochs and of 250.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from backdrop.common.errors import ConfigError
from backdrop.common.words import count
from backdrop.config.catalog import find_text, shipped
from backdrop.config.network import Count, Positive, Share
from backdrop.config.optimizer import Optimizer
from backdrop.config.patterns import NAME
from backdrop.config.recipe import Recipe
from backdrop.config.records import Record, parse
from backdrop.config.schedule import Factor

DIGITS = 3  # significant digits of drawn values, for readable schedules
WARMUP_START = 0.1  # a warm-up starts at this share of the learning rate
MIN_EPOCHS = 4  # a schedule needs at least this many

N = TypeVar("N", int, float, str)


class Chance(Protocol):
    """The source of random values: Optuna's trial, or our own generator."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number in a range; with `log`, uniform on a logarithmic scale."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer in a range, both ends included."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""


def _pair(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value, value)


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range {list(ends)} is empty; write the lower value first")
    return ends


Phases = list[dict[str, Any]]

# A range `[low, high]`, or one fixed number.
PositiveRange = Annotated[tuple[Positive, Positive], BeforeValidator(_pair), AfterValidator(_rising)]
FactorRange = Annotated[tuple[Factor, Factor], BeforeValidator(_pair), AfterValidator(_rising)]
ShareRange = Annotated[tuple[Share, Share], BeforeValidator(_pair), AfterValidator(_rising)]
CountRange = Annotated[tuple[Count, Count], BeforeValidator(_pair), AfterValidator(_rising)]


@dataclass
class Draws:
    """Draws values of one family and records them; fixed numbers aren't recorded."""

    chance: Chance
    family: str
    values: dict[str, int | float | str] = field(default_factory=dict)

    def real(self, name: str, ends: tuple[float, float], log: bool = True) -> float:
        """A number in a range, rounded to three significant digits as long as it stays there."""
        low, high = ends
        if low == high:
            return low
        drawn = self.chance.suggest_float(self._name(name), low, high, log=log)
        return self._kept(name, min(high, max(low, _short(drawn))))

    def whole(self, name: str, ends: tuple[int, int]) -> int:
        """An integer."""
        return ends[0] if ends[0] == ends[1] else self._kept(name, self.chance.suggest_int(self._name(name), *ends))

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""
        if len(choices) == 1:
            return choices[0]
        return self._kept(name, self.chance.suggest_categorical(self._name(name), choices))

    def _kept(self, name: str, value: N) -> N:
        self.values[name] = value
        return value

    def _name(self, name: str) -> str:
        return f"{self.family}.{name}"


class _Family(Record):
    """Schedules of one shape.

    `name` defaults to the kind. `lr` is the maximum learning rate, and `warmup` the share of epochs in which it rises
    tenfold to that maximum.
    """

    name: str = ""
    lr: PositiveRange
    warmup: ShareRange = (0.0, 0.0)


class Plateau(_Family):
    """Multiplies the learning rate by `factor` if Dice hasn't risen for `patience`, a share of all epochs."""

    kind: Literal["plateau"]
    factor: FactorRange
    patience: ShareRange

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        factor, share = draws.real("factor", self.factor), draws.real("patience", self.patience, log=False)
        return [_phase("plateau", epochs, lr=lr, factor=factor, patience=max(1, round(share * epochs)))]


class Step(_Family):
    """Multiplies the learning rate by `factor` `drops` times, at equal intervals."""

    kind: Literal["step"]
    factor: FactorRange
    drops: CountRange

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        factor, drops = draws.real("factor", self.factor), draws.whole("drops", self.drops)
        return [_phase("step", epochs, lr=lr, factor=factor, every=max(1, -(-epochs // (drops + 1))))]


class Cycle(_Family):
    """Rounds of learning rates, each `factor` times the one before; `lengths` are their proportions."""

    kind: Literal["cycle"]
    factor: FactorRange
    rounds: CountRange
    lengths: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 1, 1)

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        lrs = _falling(lr, draws.real("factor", self.factor), len(self.lengths))
        lengths = _spread(self.lengths, epochs // draws.whole("rounds", self.rounds))
        return [_phase("cycle", epochs, lrs=lrs, lengths=lengths)]


class Tail(_Family):
    """A constant learning rate for a `share` of the epochs, then rounds of it and of two lower ones (by `factor`)."""

    kind: Literal["tail"]
    factor: FactorRange
    share: ShareRange
    rounds: CountRange

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        first, second, third = _falling(lr, draws.real("factor", self.factor), 3)
        constant = round(draws.real("share", self.share, log=False) * epochs)
        constant = min(max(1, constant), epochs - 1)
        lengths = _spread((2, 2, 1), (epochs - constant) // draws.whole("rounds", self.rounds))
        tail = _phase("cycle", epochs - constant, lrs=[first, second, third], lengths=lengths)
        return [_phase("constant", constant, lr=lr), tail]


class Restarts(_Family):
    """Half a cosine down to `floor` times the learning rate per round; rounds grow by the factor `growth`."""

    kind: Literal["restarts"]
    floor: FactorRange
    rounds: CountRange
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        final = _short(lr * draws.real("floor", self.floor))
        first = sum(self.growth**i for i in range(draws.whole("rounds", self.rounds)))
        cycle = max(1, round(epochs / first))
        return [_phase("restarts", epochs, lr=lr, final=final, cycle=cycle, growth=self.growth)]


class Cosine(_Family):
    """Half a cosine down to `floor` times the learning rate."""

    kind: Literal["cosine"]
    floor: FactorRange

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        return [_phase("cosine", epochs, lr=lr, final=_short(lr * draws.real("floor", self.floor)))]


class OneCycle(_Family):
    """From `start` times the learning rate up to it during `warmup`, then down to `floor` times it, by cosines."""

    kind: Literal["one_cycle"]
    warmup: ShareRange = (0.2, 0.4)
    start: FactorRange = (0.04, 0.04)
    floor: FactorRange

    def phases(self, lr: float, epochs: int, draws: Draws) -> Phases:
        """The schedule's phases."""
        start, final = (_short(lr * draws.real(name, getattr(self, name))) for name in ("start", "floor"))
        share = draws.real("warmup", self.warmup, log=False)
        return [_phase("one_cycle", epochs, lr=lr, start=start, final=final, warmup=share)]


Family = Annotated[Plateau | Step | Cycle | Tail | Restarts | Cosine | OneCycle, Field(discriminator="kind")]


class Optimizers(Record):
    """The optimizers to choose from, and their weight decay; the recipe's other settings don't change."""

    kind: Annotated[tuple[Literal["adam", "adamw", "sgd", "rmsprop"], ...], Field(min_length=1)]
    weight_decay: PositiveRange | None = None


class Space(Record):
    """The schedules and optimizers that a search may try.

    `set` changes the recipe during the search, such as a smaller size (a proxy). `presets` are recipes whose schedule
    and optimizer are tried unchanged, after the recipe's own.
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    presets: tuple[str, ...] = ()
    optimizer: Optimizers | None = None
    families: Annotated[tuple[Family, ...], Field(min_length=1)]


class Budget(Record):
    """The size and method of a search.

    `trials` is the number of schedules, presets included. Each trains at most `epochs`, scaled to fit, on each of the
    validation `folds`. `tpe` samples near good results, `random` uniformly; `asha` stops bad trials early. The best
    trial and the best preset are trained again with `repeats` new seeds; 0 skips this comparison.
    """

    trials: Count = 16
    epochs: Annotated[int, Field(ge=2, le=100_000)] = 6
    folds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    searcher: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    repeats: Annotated[int, Field(ge=0, le=1000)] = 3
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("folds")
    @classmethod
    def _folds_differ(cls, folds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(folds)) < len(folds):
            raise ValueError(f"{', '.join(map(str, folds))} has a fold twice; name each once")
        return folds

    @model_validator(mode="after")
    def _noise_is_seen(self) -> "Budget":
        if self.repeats == 1:
            raise ValueError("repeats of 1 can't measure noise; write at least 2, or 0 for no comparison")
        return self


# Budgets of a search that a pipeline runs before training.
BUDGETS = {"fast": Budget(trials=12), "full": Budget(trials=48, epochs=20, folds=(0, 1))}


@dataclass(frozen=True)
class Candidate:
    """A schedule to try: its family, the drawn values, and the recipe keys that it sets."""

    family: str
    values: dict[str, int | float | str]
    override: dict[str, Any]


def find_space(name: str | None, recipe: Recipe) -> Space:
    """Reads a shipped space by name, or a YAML file by path; without a name, the default for the recipe.

    The default is the space whose name starts the recipe's name, else the one for the kind of optimizer.

    Raises:
        ConfigError: if it doesn't exist, or isn't valid.
    """
    default = "sgd" if recipe.optimizer.kind == "sgd" else "adam"
    own = next((space for space in shipped("spaces") if recipe.name.startswith(space)), default)
    source = find_text("spaces", name or own)
    return parse(Space, source.values(), source.name)


def draw(space: Space, recipe: Recipe, chance: Chance) -> Candidate:
    """Draws one schedule of the space, for the recipe's number of epochs.

    Raises:
        ConfigError: if the recipe has too few epochs.
    """
    if recipe.epochs < MIN_EPOCHS:
        what = f"Recipe {recipe.name} trains for {count(recipe.epochs, 'epoch')}, too few for a search"
        raise ConfigError(what, f"Set epochs to at least {MIN_EPOCHS}")
    names = [family.name or family.kind for family in space.families]
    name = chance.suggest_categorical("family", names) if len(names) > 1 else names[0]
    family, draws = space.families[names.index(name)], Draws(chance, name)
    lr = draws.real("lr", family.lr)
    warmup = 0
    if not isinstance(family, OneCycle):
        warmup = min(round(draws.real("warmup", family.warmup, log=False) * recipe.epochs), recipe.epochs - 2)
    phases = family.phases(lr, recipe.epochs - warmup, draws)
    if warmup:
        phases.insert(0, _phase("exponential", warmup, lr=_short(lr * WARMUP_START), final=lr))
    return Candidate(name, draws.values, {"schedule": phases, **_optimizer(space, recipe, draws)})


def preset(recipe: Recipe, own: bool = False) -> Candidate:
    """A recipe's schedule and optimizer, without `legacy`.

    Args:
        recipe: the recipe.
        own: whether it is the one that is searched. The phases of others come without their augmentation.
    """
    excluded = set() if own else {"augmentation"}
    phases = [phase.model_dump(mode="json", exclude=excluded, exclude_none=True) for phase in recipe.schedule]
    return Candidate("preset", {}, {"schedule": phases, "optimizer": recipe.optimizer.model_dump(mode="json")})


def within(override: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The keys that a candidate sets, for `epochs` epochs; drops a warm-up that would be less than half an epoch."""
    first, *rest = override["schedule"]
    whole = sum(phase["epochs"] for phase in override["schedule"])
    if first["kind"] == "exponential" and rest and round(first["epochs"] * epochs / whole) == 0:
        return {**override, "schedule": rest}
    return override


def _optimizer(space: Space, recipe: Recipe, draws: Draws) -> dict[str, Any]:
    optimizer: Optimizer = recipe.optimizer
    if space.optimizer:
        update: dict[str, Any] = {"kind": draws.one_of("optimizer", space.optimizer.kind)}
        if space.optimizer.weight_decay:
            update["weight_decay"] = draws.real("weight_decay", space.optimizer.weight_decay)
        optimizer = optimizer.model_copy(update=update)
    return {"optimizer": optimizer.model_dump(mode="json")}


def _phase(kind: str, epochs: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "epochs": epochs, **values}


def _falling(lr: float, factor: float, count: int) -> list[float]:
    return [_short(lr * factor**i) for i in range(count)]


def _spread(weights: Sequence[int], size: int) -> list[int]:
    """Lengths in proportion to weights that add up to `size`, each at least 1."""
    total = sum(weights)
    stops = [0, *(round(size * end / total) for end in accumulate(weights))]
    return [max(1, stop - start) for start, stop in pairwise(stops)]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
