"""The photographs that a report shows: the worst, typical ones, doubtful labels, and where the champion differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backdrop.data.dataset import Dataset, Digests, read_pair
from backdrop.data.masks import binarize
from backdrop.evaluation.pictures import Image, difference_panel, doubt_panel, panel
from backdrop.evaluation.records import Score
from backdrop.evaluation.review import Region, find_regions, severity

if TYPE_CHECKING:  # torch's import takes seconds: a report needs none
    from backdrop.evaluation.scoring import Judges
    from backdrop.inference.ensemble import EnsembleModel

WORST = 12  # of the holdout, and as many out of fold
TYPICAL = 4
DOUBTS = 4
DIFFERENCES = 6


@dataclass(frozen=True)
class Example:
    """An image and its panel (see `pictures.panel`)."""

    score: Score
    panel: Image


@dataclass(frozen=True)
class Doubtful:
    """An image whose label is in doubt, its doubtful regions, most severe first, and its `pictures.doubt_panel`."""

    score: Score
    regions: list[Region]
    panel: Image


@dataclass(frozen=True)
class Difference:
    """A holdout image on which ensemble and champion differ: its score, the champion's Dice, and both outlines.

    `panel` is None if the champion's masks can't be had.
    """

    score: Score
    champion: float
    panel: Image | None


def choose_worst(scores: Sequence[Score], count: int = WORST) -> list[Score]:
    """The images to show: the `count` worst of the holdout, then the `count` worst out of fold, worst first."""
    ranking = _ranked(scores)
    held = [score for score in ranking if score.fold is None]
    return held[:count] + [score for score in ranking if score.fold is not None][:count]


def choose_typical(scores: Sequence[Score], count: int = TYPICAL) -> list[Score]:
    """The `count` images around the median Dice of the holdout; out of fold, if there is no holdout."""
    ranking = _ranked(scores)
    held = [score for score in ranking if score.fold is None] or ranking
    start = max(0, (len(held) - count) // 2)
    return held[start : start + count]


def choose_different(
    scores: Sequence[Score], champion: Mapping[str, float], count: int = DIFFERENCES
) -> list[tuple[Score, float]]:
    """The `count` images whose Dice differs most from the champion's, with that; none whose Dice is the same.

    Args:
        scores: the ensemble's.
        champion: the champion's Dice by image; images that it lacks aren't compared.
        count: how many at most.
    """
    pairs = [(score, champion[score.image]) for score in scores if score.image in champion]
    ranking = sorted(pairs, key=lambda pair: (-abs(pair[0].dice - pair[1]), pair[0].image))
    return [(score, other) for score, other in ranking if score.dice != other][:count]


def show(
    dataset: Dataset, digests: Digests, who: "Judges", scores: Sequence[Score]
) -> tuple[list[Example], list[Doubtful]]:
    """The images' panels, and those of their labels that are most in doubt, at most 4 and most doubtful first.

    Args:
        dataset: the photographs.
        digests: sha256 of images and masks by stem.
        who: the members that may judge each photograph.
        scores: the images to show.

    Raises:
        DataError: if a photograph has changed or can't be read.
    """
    models = {row.image: model for row, model in who.items()}
    examples, doubts = [], []
    for score in scores:
        image, truth = read_pair(dataset.photos[score.image], digests)
        probability = models[score.image].probability(image)
        examples.append(Example(score, panel(image, truth, probability)))
        if regions := find_regions(probability, truth):
            doubts.append(Doubtful(score, regions, doubt_panel(image, truth, binarize(probability), regions[0].box)))
    doubts.sort(key=lambda one: (-severity(one.regions), one.score.image))
    return examples, doubts[:DOUBTS]


def show_differences(
    dataset: Dataset,
    digests: Digests,
    who: "Judges",
    champion: "EnsembleModel | None",
    chosen: Sequence[tuple[Score, float]],
) -> list[Difference]:
    """Images with the outlines of ensemble and champion, whose networks are run for these images alone.

    Args:
        dataset: the photographs.
        digests: sha256 of images and masks by stem.
        who: the members that may judge each photograph.
        champion: the champion; None if its files can't be had.
        chosen: the images, with the champion's Dice.

    Raises:
        DataError: if a photograph has changed or can't be read.
    """
    models = {row.image: model for row, model in who.items()}

    def drawn(score: Score) -> Image | None:
        if champion is None:
            return None
        image, truth = read_pair(dataset.photos[score.image], digests)
        ours, other = (model.mask(image, score.view) for model in (models[score.image], champion))
        return difference_panel(image, truth, ours, other)

    return [Difference(score, other, drawn(score)) for score, other in chosen]


def _ranked(scores: Sequence[Score]) -> list[Score]:
    return sorted(scores, key=lambda score: (score.dice, score.image))
