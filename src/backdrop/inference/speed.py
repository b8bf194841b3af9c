"""How long an ensemble's networks take for a photograph on this device."""

import statistics
import time
from collections.abc import Sequence

from backdrop.inference.batch import keep_networks
from backdrop.inference.ensemble import EnsembleModel, Photograph

RUNS, ENOUGH_S = 9, 1.0  # the most runs that are timed, and seconds after which no further one is


def measure_seconds(model: EnsembleModel, photos: Sequence[Photograph]) -> dict[str, float]:
    """The seconds that one member of each recipe takes for one photograph, by recipe, sorted.

    Each is timed as the only member of an ensemble, from the network's input to the mask, as prediction runs it and
    with its network in memory: the median of up to nine runs, after one that isn't timed. Several members share a part
    of that, so together they hardly take longer than the sum.

    Args:
        model: the ensemble.
        photos: what prediction runs at a time: a batch, or a large photograph.
    """
    firsts = {member.record.recipe: member for member in reversed(model.members)}
    found = {}
    for name in sorted(firsts):
        alone = EnsembleModel((firsts[name],), {})
        found[name] = _median(alone if alone.is_in_memory else keep_networks(alone), photos) / len(photos)
    return found


def _median(model: EnsembleModel, photos: Sequence[Photograph]) -> float:
    times: list[float] = []
    _run(model, photos)
    while len(times) < RUNS and sum(times) < ENOUGH_S:
        start = time.perf_counter()
        _run(model, photos)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _run(model: EnsembleModel, photos: Sequence[Photograph]) -> None:
    for _ in model.outcomes(photos):
        pass  # its mask is copied from the device, so that everything has been computed
