"""What an evaluation finds, and the files that hold it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat

from backdrop.common import storage, text
from backdrop.common.errors import StorageError, shorten
from backdrop.config import ExitRule, PredictedDice
from backdrop.config.records import Record, parse, parse_yaml, read_text
from backdrop.data.folds import HOLDOUT

# The files of a report.
PAGE = "index.html"
METRICS = "metrics.json"
IMAGES = "images.csv"
MEASURES = "measures.csv"
STATISTICS = "statistics.csv"
WORST = "worst.jpg"
CHAMPION = "champion.csv"
SPEED = "speed.json"  # the only file of which two evaluations differ
WORST_SHOWN = 3  # photographs in it
COLUMNS = ["image", "object", "view", "area", "fold"]
DICE = "dice"


@dataclass(frozen=True)
class Score:
    """One image's Dice, 0..1, at original resolution: a row of `images.csv`.

    `fold` is None in the holdout. `dice` is the Dice of all members on the holdout, and elsewhere of the members that
    did not train on the image; `recipes` has the same for the members of each recipe alone. `traits` has what else
    slices group images by, as written: see `measure_traits`, and columns of the dataset's `metadata.csv`.
    """

    image: str
    object: str
    view: str
    area: int
    fold: int | None
    dice: float
    recipes: dict[str, float]
    traits: dict[str, str] = field(default_factory=dict)


class Estimate(Record):
    """A Dice over `objects` objects; `low` and `high` are its 95 % interval, None if not computed."""

    dice: FiniteFloat
    objects: int = Field(ge=1)
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class Holdout(Record):
    """Dice on the holdout: of the ensemble (None without a holdout) and of each member alone."""

    ensemble: Estimate | None
    members: dict[str, Estimate]
    objects: int


class Effect(Record):
    """The effect of one operation out of fold, compared with p > 0.5; or of all together (`operation` is "all").

    `difference` is the change of Dice, mean over objects, with its 95 % interval (None for a single object). With fewer
    than 12 objects the verdict is always "no evidence".
    """

    operation: str
    difference: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    objects: int = Field(ge=1)
    images: int = Field(ge=1)
    changed: int = Field(ge=0)
    verdict: Literal["helps", "hurts", "no evidence"]


class Spread(Record):
    """A mean over objects; `low` and `high` are its 95 % interval, None for a single object."""

    mean: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


class Saving(Record):
    """What an early exit does to photographs: the first members were enough for `stopped` of `images`.

    `saved` is the share of all members' multiply-accumulates, and `lost` the Dice, below zero if it rises.
    """

    objects: int = Field(ge=1)
    images: int = Field(ge=1)
    stopped: int = Field(ge=0)
    saved: Spread
    lost: Spread


class Exit(Record):
    """The early exit that was learned out of fold to lose at most `max_loss`; without a `rule` if none keeps to that.

    `oof` is measured on photographs of each fold by a rule of the other folds, with one member of each recipe and
    scheme; `holdout` by the rule itself, with the whole ensemble (None without a holdout).
    """

    max_loss: float
    rule: ExitRule | None
    oof: Saving
    holdout: Saving | None


class Promise(Record):
    """How the predicted Dice does on labeled photographs: for `right` of `objects`, every photograph's interval holds.

    `right` is None if the interval's width was learned from these very objects. `width` is the intervals' mean width,
    `error` the mean absolute difference of predicted and real Dice. `auroc` is the chance that one of the worst 5 % of
    photographs is predicted to be worse than another; None if all are alike.
    `roc` is the curve that it is the area under: the corners from (0, 0) to (1, 1), each with the share of the other
    photographs and of the worst ones whose predicted Dice is at most the third number. `risks` is the risk-coverage
    curve of accepting the photographs with the highest predicted Dice: their share, the mean of 1 - Dice over them, and
    the lowest predicted Dice among them. Geifman and El-Yaniv (2017), arXiv:1705.08500.
    """

    objects: int = Field(ge=1)
    images: int = Field(ge=1)
    right: int | None = Field(ge=0)
    width: FiniteFloat
    error: FiniteFloat
    auroc: FiniteFloat | None
    roc: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...] = ()
    risks: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...] = ()


class DicePrediction(Record):
    """What was learned about the Dice of unlabeled photographs, and how that does on the holdout.

    None instead of a `rule` with fewer than nine objects held out and 18 out of fold, and instead of `holdout` without
    one.
    """

    rule: PredictedDice | None
    holdout: Promise | None


class Summary(Record):
    """One measure of many masks.

    `mean` is over objects, `low` and `high` its 95 % interval, None for a single object. `spread` is the standard
    deviation over photographs, and `worst_tenth` the mean of the worst tenth of them, rounded up. The worst boundary
    errors are those furthest from 0, and their mean is that of their distances from 0.
    """

    objects: int = Field(ge=1)
    images: int = Field(ge=1)
    mean: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    spread: FiniteFloat
    worst_tenth: FiniteFloat


class Bin(Record):
    """Pixels of about one probability: their number, their mean probability, and the share that is product."""

    pixels: int = Field(ge=1)
    probability: FiniteFloat
    product: FiniteFloat


class Calibration(Record):
    """How far the mean probability is from the share of product among pixels that have it.

    `error` is the expected calibration error over all pixels. `unsure` is the share of pixels with p from 1/16 to
    15/16, and `unsure_error` the error over these alone (None without any). Bins without pixels are left out.
    """

    error: FiniteFloat
    unsure: FiniteFloat
    unsure_error: FiniteFloat | None
    bins: tuple[Bin, ...]


class Quality(Record):
    """The masks of the holdout, or of all folds: a summary of each measure, and the probability's calibration."""

    measures: dict[str, Summary]
    calibration: Calibration


class Comparison(Record):
    """Other masks of the holdout (of all folds, if there is none): a champion's, the best member's, a baseline's.

    `gain` is how much higher the ensemble's Dice is, mean over objects. Of baselines there are other `measures`, too.
    """

    kind: Literal["champion", "member", "baseline"]
    name: str
    dice: Estimate
    gain: Spread
    measures: dict[str, Summary] = Field(default_factory=dict)


class Contribution(Record):
    """What one part of an ensemble adds: a member on the holdout, a recipe out of fold.

    `cost` is the number of multiply-accumulates for a photograph, of the member or of one of the recipe. `without` is
    the Dice of all others, and `added` how much higher that of all is, paired by object.
    """

    part: Literal["holdout", "oof"]
    name: str
    cost: int = Field(ge=0)
    without: Estimate
    added: Spread


class RecipeSet(Record):
    """Some recipes: the cost of one member of each, and their Dice out of fold.

    It is the `best` for its cost if no other set that costs as much or less has as high a Dice.
    """

    recipes: tuple[str, ...]
    cost: int = Field(ge=0)
    dice: Estimate
    best: bool


class Opponent(Record):
    """A champion that was judged beside the ensemble: its digest, and the sha256 of its scores, `champion.csv`."""

    digest: str
    scores: str


class Evaluation(Record):
    """`metrics.json`: out-of-fold Dice of each recipe and of all together, and Dice on the holdout.

    `model` is the digest of the ensemble that was evaluated: members, weights and operations. `plans` is the sha256 of
    its plans, and `scores` that of `images.csv`. `cost` is the number of multiply-accumulates of its networks for one
    photograph, with an early exit the mean; None if it isn't known. `quality` says more of the
    ensemble's masks than Dice: `oof`, and `holdout` if there is one; `comparisons` has others' masks. `contributions`
    says what each member and each recipe adds, and `sets` what some recipes do for their cost, cheapest first: the best
    for their cost, each alone, all but one, and all.
    `repair` has the effect of each operation out of fold. `champion` is a champion whose networks were run on the
    holdout, too, because no scores of it were recorded.
    """

    model: str
    plans: str
    scores: str
    cost: int | None = None
    oof: dict[str, Estimate]
    oof_ensemble: Estimate | None
    holdout: Holdout
    quality: dict[str, Quality] = Field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    sets: tuple[RecipeSet, ...] = ()
    repair: tuple[Effect, ...] = ()
    early_exit: Exit | None = None
    predicted_dice: DicePrediction | None = None
    champion: Opponent | None = None


class Speed(Record):
    """`speed.json`: the seconds that one member of each recipe takes for a photograph, as measured.

    That is from the decoded photograph to its mask: input, forward passes, mean. `device` has `threads` CPU threads;
    `photographs` are seen at a time, the first of them with `size`, WxH.
    """

    device: str
    threads: int
    photographs: int
    size: str
    seconds: dict[str, float]


def dump_evaluation(evaluation: Evaluation) -> bytes:
    """`metrics.json` as bytes; equal evaluations give equal bytes."""
    return f"{evaluation.model_dump_json(indent=2)}\n".encode()


def read_speed(report: str) -> Speed:
    """The `speed.json` of a report.

    Raises:
        ConfigError: if it can't be read, or is damaged.
    """
    path = storage.within(report, SPEED)
    return parse(Speed, parse_yaml(read_text(path, "speed"), path), path)


def dump_scores(scores: Iterable[Score]) -> bytes:
    """`images.csv` as bytes, a row per image sorted by name; equal scores give equal bytes."""
    rows = sorted(scores, key=lambda score: score.image)
    recipes = sorted({recipe for score in rows for recipe in score.recipes})
    traits = sorted({trait for score in rows for trait in score.traits})

    def cells(row: Score) -> list[object]:
        fold = HOLDOUT if row.fold is None else row.fold
        parts = [repr(float(row.recipes[recipe])) if recipe in row.recipes else "" for recipe in recipes]
        known = [row.traits.get(trait, "") for trait in traits]
        return [row.image, row.object, row.view, row.area, fold, *known, repr(float(row.dice)), *parts]

    return text.dump_table([*COLUMNS, *traits, DICE, *recipes], map(cells, rows))


def require_scores(images: Path, digest: str) -> None:
    """Makes sure that a file of scores is the one that was written with its `metrics.json`.

    Args:
        images: `images.csv`, or `champion.csv`.
        digest: its sha256 by `metrics.json`.

    Raises:
        StorageError: if it isn't, or can't be read.
    """
    if storage.sha256(storage.read_bytes(images)) != digest:
        raise StorageError(f"{images} has changed since it was written with {METRICS}", "Run `backdrop evaluate` again")


def read_scores(path: str | Path) -> list[Score]:
    """Reads `images.csv`. A Dice of NaN is kept; the gate rejects it.

    Raises:
        StorageError: if the file can't be read, or isn't what `dump_scores` writes.
    """
    try:
        header, rows = text.read_table(text.decode(storage.read_bytes(path)), COLUMNS, more=True)
        if DICE not in header:
            raise ValueError(f"its columns have no {DICE}")
        scores = [_score(row, header) for _, row in rows]
        twice = duplicate(score.image for score in scores)
        if twice is not None:
            raise ValueError(f"it lists {twice} twice")
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({shorten(error)})", "Run `backdrop evaluate` again") from error
    return scores


def duplicate(names: Iterable[str]) -> str | None:
    """The first name that occurs twice; None if there is none."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _score(row: list[str], header: list[str]) -> Score:
    image, name, view, area, fold = row[:5]
    dice = header.index(DICE)
    recipes = {recipe: _dice(text) for recipe, text in zip(header[dice + 1 :], row[dice + 1 :], strict=True) if text}
    traits = {trait: text for trait, text in zip(header[5:dice], row[5:dice], strict=True) if text}
    place = None if fold == HOLDOUT else int(fold)
    return Score(image, name, view, int(area), place, _dice(row[dice]), recipes, traits)


def _dice(text: str) -> float:
    value = float(text)
    if not (0 <= value <= 1 or math.isnan(value)):
        raise ValueError(f"{text} is not a Dice")
    return value
