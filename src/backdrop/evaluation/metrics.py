"""Mean Dice over many images, with confidence intervals.

The Dice of a set of images is the mean over objects of the mean over each object's images. Views of one object are not
independent, so objects, never images, are counted and resampled.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from backdrop.common import storage, text
from backdrop.common.errors import MemberError, StorageError, shorten
from backdrop.config import ExitRule, PredictedDice
from backdrop.config.records import Record
from backdrop.data.folds import HOLDOUT
from backdrop.data.masks import Mask

# The files of a report.
PAGE = "index.html"
METRICS = "metrics.json"
IMAGES = "images.csv"
WORST = "worst.jpg"
CHAMPION = "champion.csv"
WORST_SHOWN = 3  # photographs in it
COLUMNS = ["image", "object", "view", "area", "fold"]
DICE = "dice"
CONFIDENCE = 0.95
FEW_OBJECTS = 12  # an interval over fewer objects is too uncertain to show an effect
RESAMPLES = 10_000
SEED = 20170727  # fixed, so that equal scores give equal intervals
CHUNK = 1 << 20  # draws per chunk, which bounds the memory
# The thirds that photographs are grouped into by a slice of numbers.
THIRDS = {"area": ("small", "medium", "large"), "brightness": ("dark", "medium", "bright")}
LEVELS = ("low", "medium", "high")
UNKNOWN = "unknown"


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


@dataclass(frozen=True)
class Interval:
    """A mean over objects with its 95 % interval."""

    mean: float
    low: float
    high: float


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

    `width` is the intervals' mean width, `error` the mean absolute difference of predicted and real Dice. `auroc` is
    the chance that one of the worst 5 % of photographs is predicted to be worse than another; None if all are alike.
    """

    objects: int = Field(ge=1)
    images: int = Field(ge=1)
    right: int = Field(ge=0)
    width: FiniteFloat
    error: FiniteFloat
    auroc: FiniteFloat | None


class DicePrediction(Record):
    """What was learned out of fold about the Dice of unlabeled photographs, and how that does on the holdout.

    None instead of a `rule` with fewer than 18 objects out of fold, and instead of `holdout` without one.
    """

    rule: PredictedDice | None
    holdout: Promise | None


class Opponent(Record):
    """A champion that was judged beside the ensemble: its digest, and the sha256 of its scores, `champion.csv`."""

    digest: str
    scores: str


class Evaluation(Record):
    """`metrics.json`: out-of-fold Dice of each recipe and of all together, and Dice on the holdout.

    `model` is the digest of the ensemble that was evaluated: members, weights and operations. `plans` is the sha256 of
    its plans, and `scores` that of `images.csv`. `cost` is the number of multiply-accumulates of its networks for one
    photograph, with an early exit the mean; None if it isn't known. `repair` has the effect of each operation out of
    fold. `champion` is a champion whose networks were run on the holdout, too, because no scores of it were recorded.
    """

    model: str
    plans: str
    scores: str
    cost: int | None = None
    oof: dict[str, Estimate]
    oof_ensemble: Estimate | None
    holdout: Holdout
    repair: tuple[Effect, ...] = ()
    early_exit: Exit | None = None
    predicted_dice: DicePrediction | None = None
    champion: Opponent | None = None


def object_means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean value of each object, sorted by name.

    Args:
        values: (object, value) of each image, in any order, because the sums are exact.
    """
    groups: dict[str, list[float]] = {}
    for name, value in values:
        groups.setdefault(name, []).append(value)
    return {name: math.fsum(groups[name]) / len(groups[name]) for name in sorted(groups)}


def mean_dice(scores: Iterable[Score]) -> float:
    """Mean over objects of the mean over each object's images.

    Raises:
        ValueError: if there are no scores, or one is not a number.
    """
    return _mean(object_means((score.object, score.dice) for score in scores))


def bootstrap(values: Mapping[str, float]) -> Interval:
    """Mean of the objects' values and its 95 % interval, by resampling the objects with replacement.

    Percentiles are taken at a level somewhat outside 2.5 % and 97.5 %, because plain ones are too narrow for few
    objects: Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), section 5.3, "expanded percentile".
    Both ends are mirror images among the sorted resamples, and rounding is symmetric, so that negating every value
    negates the interval, bit for bit. The order of `values` doesn't matter.

    Args:
        values: one value per object, such as a Dice or a difference of two.

    Raises:
        ValueError: if there are no objects, or a value is not a number.
    """
    sample = np.array([values[name] for name in sorted(values)], np.float64)
    mean = _mean(values)
    means = np.sort(_resampled_means(sample))
    rank = math.floor(_tail(len(sample)) * RESAMPLES)
    # Adding zero turns -0.0 into 0.0.
    return Interval(mean, float(means[rank]) + 0.0, float(means[-1 - rank]) + 0.0)


def estimate(scores: Iterable[Score]) -> Estimate:
    """Mean Dice of scores with its interval (None for a single object); raises the errors of `mean_dice`."""
    means = object_means((score.object, score.dice) for score in scores)
    interval = bootstrap(means)
    if len(means) == 1:
        return Estimate(dice=interval.mean, objects=1)
    return Estimate(dice=interval.mean, objects=len(means), low=interval.low, high=interval.high)


def summarize(
    scores: Sequence[Score], members: Mapping[str, Mapping[str, float]], model: str, plans: str
) -> Evaluation:
    """The evaluation of an ensemble.

    Args:
        scores: a score for every image.
        members: each member's own Dice on every holdout image, by member and image.
        model: digest of the ensemble.
        plans: digest of its plans.

    Raises:
        MemberError: if an image's Dice is not a number, or a member lacks a holdout image.
    """
    _refuse_nan(scores)
    held = [score for score in scores if score.fold is None]
    folded = [score for score in scores if score.fold is not None]
    recipes = sorted({recipe for score in folded for recipe in score.recipes})
    return Evaluation(
        model=model,
        plans=plans,
        scores=storage.sha256(dump_scores(scores)),
        oof={recipe: _oof(folded, recipe) for recipe in recipes},
        oof_ensemble=estimate(folded) if folded else None,
        holdout=Holdout(
            ensemble=estimate(held) if held else None,
            members={name: _alone(name, held, members[name]) for name in sorted(members)} if held else {},
            objects=len({score.object for score in held}),
        ),
    )


def measure_traits(image: NDArray[np.uint8], truth: Mask) -> dict[str, str]:
    """What a photograph shows, as columns of `images.csv`; without a product or a backdrop, what needs it is left out.

    `brightness` is the mean of the product's pixels over all colors, 0..1. `contrast` is how far the product's mean
    color is from the backdrop's, 0..1: the root mean square over the three colors.

    Args:
        image: (H, W, 3) RGB.
        truth: its mask (H, W).
    """
    traits = {}
    product = np.array(cv2.mean(image, truth.view(np.uint8))[:3]) / 255
    if truth.any():
        traits["brightness"] = f"{product.mean():.4f}"
    if truth.any() and not truth.all():
        backdrop = np.array(cv2.mean(image, (~truth).view(np.uint8))[:3]) / 255
        traits["contrast"] = f"{math.sqrt(((product - backdrop) ** 2).mean()):.4f}"
    return traits


def slice_groups(scores: Sequence[Score], name: str) -> list[str]:
    """Each image's group in a slice.

    Numbers with more than three values are split into thirds of the images; otherwise each value is a group.

    Args:
        scores: the images.
        name: `view`, `area`, or a trait; an image without the trait belongs to the group `unknown`.
    """
    values = [score.view if name == "view" else _trait(score, name) for score in scores]
    numbers = {value: _number(value) for value in values if value != UNKNOWN}
    known = [numbers[value] for value in values if value in numbers]
    if name == "view" or len(set(known)) <= len(LEVELS) or not np.isfinite(known).all():
        return values
    names, limits = THIRDS.get(name, LEVELS), np.quantile(known, [1 / 3, 2 / 3])
    return [names[int(np.searchsorted(limits, numbers[v]))] if v in numbers else v for v in values]


def dump_evaluation(evaluation: Evaluation) -> bytes:
    """`metrics.json` as bytes; equal evaluations give equal bytes."""
    return f"{evaluation.model_dump_json(indent=2)}\n".encode()


def dump_scores(scores: Iterable[Score]) -> bytes:
    """`images.csv` as bytes, a row per image sorted by name; equal scores give equal bytes."""
    rows = sorted(scores, key=lambda score: score.image)
    recipes = sorted({recipe for score in rows for recipe in score.recipes})
    traits = sorted({trait for score in rows for trait in score.traits})
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*COLUMNS, *traits, DICE, *recipes])
    for row in rows:
        fold = HOLDOUT if row.fold is None else row.fold
        parts = [repr(float(row.recipes[recipe])) if recipe in row.recipes else "" for recipe in recipes]
        known = [row.traits.get(trait, "") for trait in traits]
        writer.writerow([row.image, row.object, row.view, row.area, fold, *known, repr(float(row.dice)), *parts])
    return table.getvalue().encode()


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


def _mean(values: Mapping[str, float]) -> float:
    if not values:
        raise ValueError("no objects to take a mean of")
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError("a value is not a number")
    return math.fsum(values.values()) / len(values)


def _resampled_means(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of RESAMPLES resamples of the same size."""
    generator = np.random.default_rng(SEED)
    rows = max(1, CHUNK // len(sample))
    counts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([sample[generator.integers(len(sample), size=(n, len(sample)))].mean(1) for n in counts])


def _tail(count: int) -> float:
    """Share of resampled means to cut off at each end for `count` objects: 2.5 % for many, less for few."""
    if count < 2:
        return 0.0
    normal = NormalDist()
    z, freedom = normal.inv_cdf((1 + CONFIDENCE) / 2), count - 1
    # Student's t from the normal quantile: Abramowitz and Stegun, 26.7.5.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return normal.cdf(-t * math.sqrt(count / freedom))


def _oof(scores: Sequence[Score], recipe: str) -> Estimate:
    means = object_means((score.object, score.recipes[recipe]) for score in scores if recipe in score.recipes)
    return Estimate(dice=_mean(means), objects=len(means))


def _alone(member: str, held: Sequence[Score], dice: Mapping[str, float]) -> Estimate:
    for score in held:
        if not math.isfinite(dice.get(score.image, math.nan)):
            raise MemberError(f"Member {member} has no Dice on holdout image {score.image}", "Train that member again")
    means = object_means((score.object, dice[score.image]) for score in held)
    return Estimate(dice=_mean(means), objects=len(means))


def _refuse_nan(scores: Iterable[Score]) -> None:
    for score in scores:
        if not all(math.isfinite(dice) for dice in (score.dice, *score.recipes.values())):
            raise MemberError(f"The Dice of {score.image} is not a number", "Train the ensemble's members again")


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


def _trait(score: Score, name: str) -> str:
    return str(score.area) if name == "area" else score.traits.get(name, UNKNOWN)


def _number(text: str) -> float:
    """NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan
