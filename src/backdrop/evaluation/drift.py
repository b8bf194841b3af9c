"""Whether photographs still look like those that a model was judged on: one test over all that is compared.

Each statistic is compared in each view, and over all views together, by ranks. Objects are exchangeable if nothing has
changed, so the largest of all standardized differences is compared with what it is when the objects' origins are
shuffled (Westfall and Young 1993, max-T). The chance of a false alarm is at most alpha, however many comparisons there
are and however they hang together.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat
from scipy.stats import rankdata

from backdrop.common.storage import sha256
from backdrop.config.records import Record
from backdrop.data.listing import normalized
from backdrop.evaluation.statistics import NAMES, Statistics

SHUFFLES, SEED = 9_999, 20170727
CHUNK = 2_000_000  # origins that are shuffled at a time
EQUAL = 1e-9  # differences that are this close are ties, whatever order they were summed in
ALL = "all_views"  # together; a view has no underscore
ANY = ""  # the view of photographs whose names don't tell it
TINY = 1e-6  # no statistic's standard deviation is taken to be less

Verdict = Literal["no drift", "drift", "unclear"]
Floats = NDArray[np.float64]


class Comparison(Record):
    """One statistic in one view (or `all_views`): its mean over the reference's photographs and over the current ones.

    `difference` is that of the objects' mean ranks, in standard deviations when origins are shuffled; positive if
    current values are higher. `p` is the chance that the largest of all comparisons is as large without any drift.
    """

    statistic: str
    view: str
    reference: FiniteFloat
    current: FiniteFloat
    difference: FiniteFloat
    p: FiniteFloat


class Drift(Record):
    """What the comparison of two sets of photographs says.

    `p` is that of the largest difference, and `limit` is what a difference must exceed to be an alarm. `unclear` means
    that there are too few objects: not even a statistic that is higher for all current objects would be an alarm.
    """

    verdict: Verdict
    p: FiniteFloat
    alpha: FiniteFloat
    limit: FiniteFloat
    reference_objects: int
    current_objects: int
    views: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def moved(self) -> list[Comparison]:
        """The comparisons that are alarms, the largest difference first."""
        return sorted(
            (one for one in self.comparisons if one.p <= self.alpha), key=lambda one: (-abs(one.difference), one.view)
        )


@dataclass(frozen=True)
class Place:
    """The object and the view that a photograph's name tells."""

    object: str
    view: str


def identify(names: Sequence[str], views: Collection[str]) -> dict[str, Place]:
    """The objects and views of photographs, with composed accents, as in a plan.

    If no name ends in one of the reference's views, each photograph is an object of its own, of the view ANY.
    Otherwise photographs whose names end in another are left out, because there is nothing to compare them with.

    Args:
        names: relative paths.
        views: the reference's.
    """
    stems = {name: normalized(str(PurePosixPath(name).with_suffix(""))) for name in names}
    places = {name: Place(*stem.rpartition("_")[::2]) for name, stem in stems.items()}
    known = {name: place for name, place in places.items() if place.view in views and place.object}
    return known or {name: Place(stem, ANY) for name, stem in stems.items()}


def comparable(reference: Sequence[Statistics], views: Collection[str]) -> list[Statistics]:
    """The reference's photographs to compare with.

    Those of the current views; if names don't tell these, one photograph of each object, chosen by its name's hash,
    because each current one counts as an object, too.
    """
    if ANY not in views:
        return [one for one in reference if one.view in views]
    chosen: dict[str, Statistics] = {}
    for one in sorted(reference, key=lambda one: sha256(one.image.encode())):
        chosen.setdefault(one.object, one)
    return [Statistics(one.image, one.object, ANY, one.fold, one.values) for one in chosen.values()]


def compare(reference: Sequence[Statistics], current: Sequence[Statistics], alpha: float) -> Drift:
    """Compares current photographs with the reference's of the same views, of which there is one at least.

    Args:
        reference: photographs of objects that no member trained on, as from `comparable`.
        current: other objects' photographs.
        alpha: the chance of a false alarm, 0..1.
    """
    views = sorted({one.view for one in current} & {one.view for one in reference})
    reference, current = (
        sorted((one for one in group if one.view in views), key=lambda one: one.image)  # sums of floats have an order
        for group in (reference, current)
    )
    objects = [sorted({one.object for one in group}) for group in (reference, current)]
    origins = np.repeat([False, True], [len(group) for group in objects])
    columns = _columns(reference, current, objects, views)
    values = np.stack([*columns.values()], 1)
    found, means = _differences(values, origins[None])[0], [_means(group, views) for group in (reference, current)]
    largest = np.sort(_largest(values, origins))

    def p_of(difference: float) -> float:
        reached = len(largest) - int(np.searchsorted(largest, abs(difference) - EQUAL))
        return (1 + reached) / (1 + len(largest))

    p = p_of(float(np.abs(found).max()))
    few, many = sorted(map(len, objects))
    apart = math.sqrt(3 * few * many / (few + many + 1))  # if all current ranks are higher than the reference's
    allowed = max(0, math.floor(alpha * (1 + len(largest)) + EQUAL) - 1)
    verdict: Verdict = "drift" if p <= alpha else "no drift" if p_of(apart) <= alpha else "unclear"
    return Drift(
        verdict=verdict,
        p=p,
        alpha=alpha,
        limit=float(largest[-1 - allowed]),
        reference_objects=len(objects[0]),
        current_objects=len(objects[1]),
        views=tuple(views),
        comparisons=tuple(
            Comparison(
                statistic=name,
                view=view,
                reference=means[0][name, view],
                current=means[1][name, view],
                difference=float(difference),
                p=p_of(float(difference)),
            )
            for (name, view), difference in zip(columns, found, strict=True)
        ),
    )


class Usual:
    """What the reference's photographs of each view are like, to find unusual ones."""

    def __init__(self, reference: Sequence[Statistics]) -> None:
        self._spread: dict[str, tuple[Floats, Floats]] = {}
        for view in {one.view for one in reference}:
            values = np.array([_vector(one.values) for one in reference if one.view == view])
            spread = values.std(0).clip(TINY) if len(values) > 1 else np.full(len(NAMES), np.inf)
            self._spread[view] = values.mean(0), spread

    def furthest(self, view: str, values: Mapping[str, float]) -> tuple[str, float]:
        """The statistic in which a photograph is furthest from the view's mean, and by how many standard deviations.

        None is far from the mean of a view with a single photograph: how much such photographs differ is unknown.
        """
        mean, spread = self._spread[view]
        away = (_vector(values) - mean) / spread
        index = int(np.abs(away).argmax())
        return NAMES[index], float(away[index])


def _vector(values: Mapping[str, float]) -> Floats:
    return np.array([values[name] for name in NAMES])


def _columns(
    reference: Sequence[Statistics],
    current: Sequence[Statistics],
    objects: Sequence[Sequence[str]],
    views: Sequence[str],
) -> dict[tuple[str, str], Floats]:
    """Each comparison's mean rank of each object, the reference's first, without its mean; NaN without a photograph.

    Over all views there is a comparison if no object lacks one: fewer photographs spread more.
    """
    places = {(origin, name): i for i, (origin, name) in enumerate((k, n) for k in (0, 1) for n in objects[k])}
    photos = [(places[origin, one.object], one) for origin, group in enumerate((reference, current)) for one in group]
    columns: dict[tuple[str, str], Floats] = {}
    for view in views:
        chosen = [(place, one) for place, one in photos if one.view == view]
        owners = np.array([place for place, _ in chosen])
        counts = np.bincount(owners, minlength=len(places))
        for name in NAMES:
            ranks = rankdata([one.values[name] for _, one in chosen]) - (len(chosen) + 1) / 2
            with np.errstate(invalid="ignore"):
                columns[name, view] = np.bincount(owners, ranks / len(chosen), len(places)) / counts
    if len(views) > 1:
        together = {(name, ALL): np.mean([columns[name, view] for view in views], 0) for name in NAMES}
        columns |= {key: column for key, column in together.items() if np.isfinite(column).all()}
    return columns


def _differences(values: Floats, origins: NDArray[np.bool_]) -> Floats:
    """The standardized differences (shuffles, comparisons) of values (objects, comparisons).

    Args:
        values: NaN where an object has none.
        origins: (shuffles, objects), true for current objects.
    """
    known = np.isfinite(values)
    number = known.sum(0)
    centered = np.where(known, values - np.nanmean(values, 0), 0.0)
    variance = (centered**2).sum(0) / np.maximum(1, number - 1)
    chosen = origins.astype(np.float64)
    current = chosen @ known.astype(np.float64)
    spread = np.sqrt(current * (number - current) / number * variance)
    return np.where(spread > EQUAL, chosen @ centered / np.maximum(spread, EQUAL), 0.0)


def _largest(values: Floats, origins: NDArray[np.bool_]) -> Floats:
    """The largest difference of each of SHUFFLES shuffles, without its sign."""
    random = np.random.default_rng(SEED)
    rows = max(1, CHUNK // max(values.shape))
    counts = [min(rows, SHUFFLES - start) for start in range(0, SHUFFLES, rows)]
    shuffled = (random.permuted(np.tile(origins, (count, 1)), axis=1) for count in counts)
    return np.concatenate([np.abs(_differences(values, some)).max(1) for some in shuffled])


def _means(photos: Sequence[Statistics], views: Sequence[str]) -> dict[tuple[str, str], float]:
    """The mean of each statistic over the photographs of each view, and over all."""
    values, names = np.array([_vector(one.values) for one in photos]), np.array([one.view for one in photos])
    parts = {ALL: values, **{view: values[names == view] for view in views}}
    return {
        (name, view): mean
        for view, part in parts.items()
        for name, mean in zip(NAMES, part.mean(0).tolist(), strict=True)
    }
