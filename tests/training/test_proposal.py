"""What is proposed for photographs and a machine that nobody has seen before."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.common.errors import DataError, TrainingError
from backdrop.config import Recipe, parse_size
from backdrop.config.ensemble import Ensemble
from backdrop.config.records import parse, parse_yaml
from backdrop.data.folds import assign
from backdrop.training.proposal import Photographs, Proposal, propose, training_hours
from backdrop.training.throughput import Throughput

SIZES = st.tuples(st.integers(1, 6000), st.integers(1, 6000)).map(lambda size: f"{size[0]}x{size[1]}")


@st.composite
def photographs(draw: st.DrawFn) -> Photographs:
    objects = draw(st.integers(1, 500))
    count = objects * draw(st.integers(1, 20))
    sizes = Counter(draw(st.dictionaries(SIZES, st.integers(1, 9), min_size=1, max_size=3)))
    return Photographs(objects, count, sizes, draw(st.booleans()))


class Machine:
    """Trains some pixels per second, and holds some in a batch."""

    def __init__(self, speed: float, room: float, name: str = "cpu") -> None:
        self.speed, self.room, self.name = speed, room, name
        self.measured: list[Recipe] = []

    def __call__(self, recipe: Recipe) -> Throughput:
        self.measured.append(recipe)
        pixels = recipe.input.width * recipe.input.height
        if pixels * recipe.batch_size > self.room:
            raise TrainingError("It needs more memory than this machine has", "Buy more")
        return Throughput(self.speed / pixels, 3 * self.speed / pixels, 2**30, self.name)


@settings(max_examples=60)
@given(
    photographs(),
    st.booleans(),
    st.floats(0.01, 100),
    st.floats(1e4, 1e9),
    st.sampled_from([1e5, 5e6, 1e12]),
)
def test_a_proposal_can_be_trained_within_the_hours(
    seen: Photographs, gpu: bool, hours: float, speed: float, room: float
) -> None:
    machine = Machine(speed, room)
    try:
        found = propose(seen, gpu, hours, machine)
    except DataError:
        assert seen.objects < 3
        return
    except TrainingError as error:
        too_long = error.what.startswith("The smallest ensemble takes")
        assert too_long or room == 1e5  # only some inputs can't be trained
        return
    ensemble = parse(Ensemble, parse_yaml(found.text, "auto"), "auto").resolve()
    assert ensemble == found.ensemble
    (part,) = ensemble.parts()
    recipe, rule = part.resolve(), ensemble.rule()
    count = seen.photographs * (1 - rule.holdout)
    assert rule.folds * training_hours(recipe, found.pace, count, rule.folds) <= hours
    places = assign({str(number): number for number in range(seen.objects)}, rule)
    assert set(places.values()) == {None, *range(rule.folds)}
    assert recipe.batch_size * recipe.accumulate == 4
    assert recipe.input.width * recipe.input.height * recipe.batch_size <= room
    if recipe.input.fit == "pad":
        assert seen.complete
        assert all(w <= recipe.input.width and h <= recipe.input.height for w, h in map(parse_size, seen.sizes))
    assert found.text.startswith("".join(f"# {reason}\n" for reason in found.reasons))
    assert len(found.reasons) == 5


def cars(objects: int = 60) -> Photographs:
    return Photographs(objects, 16 * objects, Counter({"1918x1280": 16 * objects}), True)


def chosen(found: Proposal) -> Recipe:
    (part,) = found.ensemble.parts()
    return part.resolve()


@given(st.dictionaries(st.tuples(*[st.integers(1, 20_000)] * 2), st.integers(1, 50), min_size=1, max_size=5))
def test_no_size_would_stretch_photographs_less(found: dict[tuple[int, int], int]) -> None:
    sizes = Counter({f"{width}x{height}": number for (width, height), number in found.items()})
    middle = Photographs(9, sizes.total(), sizes, True).middle()

    def stretched(shape: tuple[int, int]) -> float:
        return sum(number * abs(math.log(w / h * shape[1] / shape[0])) for (w, h), number in found.items())

    rounding = sizes.total() / min(middle)  # to whole pixels
    assert all(stretched(middle) <= stretched(shape) + rounding for shape in found)
    (most, number), *_ = sizes.most_common(1)
    if number > sizes.total() / 2:
        assert f"{middle[0]}x{middle[1]}" == most


def test_more_hours_train_more() -> None:
    found = [propose(cars(), False, hours, Machine(2e6, 1e12)) for hours in (0.1, 0.2, 0.5, 1, 2, 8)]
    recipes = [(chosen(one).name, chosen(one).input.size) for one in found]
    tiny = [("tiny", size) for size in ("320x224", "480x320", "640x416", "640x416")]
    assert recipes == [("quick", "320x224"), ("quick", "320x224"), *tiny]
    costs = [one.ensemble.folds.count * chosen(one).epochs for one in found[-2:]]
    assert costs == [3 * 27, 5 * 31]


def test_a_cpu_measures_only_what_may_fit() -> None:
    machine = Machine(2e6, 1e12)
    propose(cars(), False, 0.1, machine)
    assert [recipe.name for recipe in machine.measured] == ["quick"]


def test_a_gpu_trains_at_full_size_in_batches_that_fit() -> None:
    found = propose(cars(318), True, 100, Machine(1e9, 2 * 1920 * 1280, "GPU"))
    recipe = chosen(found)
    assert (recipe.name, recipe.input.size, recipe.input.fit) == ("linknet34-progressive", "1920x1280", "pad")
    assert (recipe.batch_size, recipe.accumulate) == (2, 2)
    assert "batch 2, 2 in each step: training takes 1.0 GiB of memory" in found.reasons


def test_the_holdout_has_the_objects_that_the_gate_needs_if_there_are_enough() -> None:
    held = {}
    for objects in (20, 47, 48, 60, 318):
        rule = propose(cars(objects), False, 100, Machine(1e8, 1e12)).ensemble.rule()
        places = assign({str(number): number for number in range(objects)}, rule)
        held[objects] = list(places.values()).count(None)
    assert held == {20: 3, 47: 7, 48: 12, 60: 12, 318: 48}


def test_what_cannot_be_trained_in_time_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"The smallest ensemble takes .* hours of one cpu, more than 0.01\. Allow"):
        propose(cars(), False, 0.01, Machine(1e5, 1e12))
    with pytest.raises(DataError, match="2 labeled objects can't fill two folds and a holdout"):
        propose(cars(2), False, 1, Machine(1e8, 1e12))
