"""Compares an ensemble's masks with others of the same photographs: the champion's, a member's, any program's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError
from backdrop.common.threads import in_threads
from backdrop.common.words import count
from backdrop.data.dataset import Dataset, Digests, find_unusable, mask_files, read_mask
from backdrop.data.digests import wrong_size
from backdrop.data.listing import printable
from backdrop.data.masks import dice
from backdrop.evaluation.metrics import estimate_values, object_means, spread
from backdrop.evaluation.outline import NAMES, Measures, measure_mask
from backdrop.evaluation.quality import summarize_measure
from backdrop.evaluation.records import Comparison, Score


@dataclass(frozen=True)
class Rival:
    """Other masks: the Dice of each image, and what is known of their outlines."""

    kind: Literal["champion", "member", "baseline"]
    name: str
    dice: Mapping[str, float]
    measures: Mapping[str, Measures] = field(default_factory=dict)


def parse_baselines(texts: Sequence[str]) -> dict[str, str]:
    """The folders of `NAME=FOLDER`, by name.

    Raises:
        ConfigError: if one is written otherwise, or a name is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not (name and separator and folder):
            raise ConfigError(f"--baseline {text} isn't NAME=FOLDER", "Write a name for the report, =, and the folder")
        if name in found:
            raise ConfigError(f"--baseline {name} is there twice", "Give each its own name")
        found[name] = folder
    return found


def read_baseline(name: str, address: str, images: Sequence[str], dataset: Dataset, digests: Digests) -> Rival:
    """Measures the masks in a folder, named as the photographs, with or without `_mask` at the end.

    Args:
        name: of the baseline.
        address: the folder or `s3://` prefix, with a PNG or GIF for each image.
        images: those to compare on.
        dataset: has the true masks.
        digests: sha256 of images and masks by stem.

    Raises:
        DataError: if a mask is missing, isn't one, or has another size than the photograph.
        StorageError: if the folder can't be read.
    """
    folder = storage.local_folder(address)
    files = mask_files(folder)
    missing = [image for image in images if image not in files]
    if missing:
        more = f", nor of {count(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
        unusable = find_unusable(folder, missing[0])
        reason, remedy = unusable or ("", f"Add {missing[0]}.png, or leave {name} out")
        raise DataError(f"{address} has no mask of {missing[0]}{more}{reason and f': {reason}'}", remedy)

    def one(image: str) -> tuple[float, Measures]:
        true = dataset.photos[image].mask
        assert true is not None  # Dataset.select has checked it
        found, truth = read_mask(files[image]), read_mask(true, digests[image][1])
        if fault := wrong_size(found.shape, truth.shape):
            raise DataError(f"{printable(files[image])} {fault}", "Save the masks at the photographs' size")
        return dice(found, truth), measure_mask(found, truth)

    pairs = dict(zip(images, in_threads(one, images, f"measuring {name}", lasting=False), strict=True))
    by_image = {image: measures for image, (_, measures) in pairs.items()}
    return Rival("baseline", name, {image: value for image, (value, _) in pairs.items()}, by_image)


def best_member(members: Mapping[str, Mapping[str, float]], scores: Sequence[Score]) -> Rival | None:
    """The member with the best Dice on the images, which flatters it; None if fewer than two are known there."""
    known = {name: dices for name, dices in members.items() if all(score.image in dices for score in scores)}
    if len(known) < 2:
        return None
    means = {name: estimate_values((s.object, dices[s.image]) for s in scores).dice for name, dices in known.items()}
    name = max(sorted(means), key=lambda name: means[name])
    return Rival("member", name, known[name])


def compare(scores: Sequence[Score], rival: Rival) -> Comparison:
    """What the ensemble's masks gain over another's, paired by object.

    Args:
        scores: the ensemble's, of images that the rival has too.
        rival: the other.
    """
    others = [(score.object, rival.dice[score.image]) for score in scores]
    gain = spread(object_means((score.object, score.dice - rival.dice[score.image]) for score in scores))
    found = {name: summarize_measure(scores, rival.measures, name) for name in NAMES if rival.measures}
    return Comparison(
        kind=rival.kind,
        name=rival.name,
        dice=estimate_values(others),
        gain=gain,
        measures={name: summary for name, summary in found.items() if summary},
    )
