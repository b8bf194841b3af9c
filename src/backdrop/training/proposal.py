"""Proposes an ensemble for photographs, a machine and a number of hours, and says why."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import yaml

from backdrop.common.errors import DataError, TrainingError
from backdrop.common.words import count as plural
from backdrop.config import Ensemble, Recipe, find_recipe
from backdrop.config.ensemble import AUTO
from backdrop.config.network import parse_size
from backdrop.config.records import parse
from backdrop.training.lr_schedules import lengths
from backdrop.training.throughput import Throughput

SHARE = 0.9  # of the hours are for training; the rest is for decoding, evaluating and the report
MARGIN = 1.5  # a forecast from another recipe's speed may be wrong by this factor
HOLDOUT, MAX_HOLDOUT = 0.15, 0.25
GATE_OBJECTS = 12  # that the gate needs in the holdout to replace a champion
FOLDS, MORE_FOLDS = 3, 5
MIN_EPOCHS = 4
LIMIT_S = 70.0  # after that, no further recipe is measured on a CPU

Measure = Callable[[Recipe], Throughput]


@dataclass(frozen=True)
class Photographs:
    """What a proposal depends on: labeled objects and photographs, and how often each size WxH was seen.

    `complete` means that the size of every photograph was read, not only of a sample.
    """

    objects: int
    photographs: int
    sizes: Counter[str]
    complete: bool

    def middle(self) -> tuple[int, int]:
        """Width and height, in pixels, of the median aspect and the median number of pixels.

        That is the photographs' own size where most have the same. Of all aspects, the median one stretches them least.
        """
        sides = [side for size, number in self.sizes.items() for side in [parse_size(size)] * number]
        aspect = math.exp(median(math.log(width / height) for width, height in sides))
        area = median(width * height for width, height in sides)
        return max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))


@dataclass(frozen=True)
class Proposal:
    """An ensemble and its YAML, a reason for each choice, and its recipe's speed."""

    ensemble: Ensemble
    text: str
    reasons: tuple[str, ...]
    pace: Throughput


@dataclass(frozen=True)
class _Rung:
    """A recipe at an area of its input in pixels; its own epochs suit a member that trains on `photographs`."""

    recipe: str
    area: int
    photographs: int


# Best first.
CPU = (_Rung("tiny", 512 * 512, 500), _Rung("tiny", 384 * 384, 500), _Rung("tiny", 256 * 256, 500))
GPU = (_Rung("linknet34-progressive", 1920 * 1280, 3500), _Rung("linknet34-progressive", 1024 * 1024, 3500), CPU[0])
LEAST = _Rung("quick", 256 * 256, 500)


def propose(photographs: Photographs, gpu: bool, hours: float, measure: Measure) -> Proposal:
    """The best ensemble that one device trains within the hours.

    Args:
        photographs: the dataset.
        gpu: whether the device is a GPU.
        hours: of one device, for everything.
        measure: trains a recipe for a moment.

    Raises:
        DataError: if there are too few objects for two folds and a holdout.
        TrainingError: if nothing fits the hours or the device's memory.
    """
    return _Search(photographs, gpu, hours, measure).best()


def training_hours(recipe: Recipe, pace: Throughput, photographs: float, folds: int) -> float:
    """Hours that one device takes for one member, judging and replayed batches included.

    Args:
        recipe: what to train.
        pace: its speed.
        photographs: number of photographs in all folds.
        folds: number of folds.
    """
    replayed = 1 + 1 / recipe.replay_every if recipe.replay_every else 1
    trained = recipe.epochs * photographs * (folds - 1) / folds * replayed
    judged = (recipe.epochs + 1) * photographs / folds
    return (trained / pace.training + judged / pace.judging) / 3600


class _Search:
    def __init__(self, photographs: Photographs, gpu: bool, hours: float, measure: Measure) -> None:
        self.photographs, self.gpu, self.hours, self.measure = photographs, gpu, hours, measure
        objects = photographs.objects
        self.holdout = HOLDOUT
        if objects * MAX_HOLDOUT >= GATE_OBJECTS:
            self.holdout = max(HOLDOUT, math.ceil(1000 * GATE_OBJECTS / objects) / 1000)
        self.held = max(1, round(self.holdout * objects))
        self.folds = min(FOLDS, objects - self.held)
        if self.folds < 2:
            remedy = "Add photographs of other objects"
            raise DataError(f"{plural(objects, 'labeled object')} can't fill two folds and a holdout", remedy)
        self.seen = photographs.photographs * (1 - self.holdout)
        self.middle = photographs.middle()
        self.deadline = time.monotonic() + LIMIT_S

    def best(self) -> Proposal:
        """The first rung that fits, with as many epochs as fit."""
        rungs = (*(GPU if self.gpu else CPU), LEAST)
        # A CPU's recipes have one network, whose speed follows from its pixels, so that few need to be measured.
        known = None if self.gpu else self._measured(LEAST)
        missed = ""
        for rung in rungs:
            if rung is not LEAST and (reason := self._forecast(rung, known)):
                missed = missed or reason
                continue
            try:
                recipe, pace = known if rung is LEAST and known else self._measured(rung)
            except TrainingError as error:
                if rung is LEAST:
                    raise
                missed = missed or error.what
                continue
            if found := self._fitting(recipe, pace, missed):
                return found
            missed = missed or self._too_long(rung, self._total(_with_epochs(recipe, self._least(recipe)), pace))
        least = self._total(_with_epochs(recipe, self._least(recipe)), pace, 2) / SHARE
        what = f"The smallest ensemble takes {least:.2g} hours of one {pace.device}, more than {self.hours:g}"
        raise TrainingError(what, "Allow more --hours, or use fewer photographs")

    def _forecast(self, rung: _Rung, known: tuple[Recipe, Throughput] | None) -> str:
        """Why a recipe isn't worth measuring; empty if it is."""
        if known is None:
            return ""
        recipe = self._recipe(rung)
        if time.monotonic() > self.deadline:
            return f"there was no time to measure {recipe.name} at {recipe.input.size}"
        (base, pace), pixels = known, recipe.input.width * recipe.input.height
        training = pace.training * _pixels(base) / _pixels(recipe)
        judging = pace.judging * base.input.width * base.input.height / pixels
        pace = Throughput(training, judging, pace.memory, pace.device)
        hours = self._total(_with_epochs(recipe, self._least(recipe)), pace)
        return self._too_long(rung, hours) if hours > MARGIN * SHARE * self.hours else ""

    def _too_long(self, rung: _Rung, hours: float) -> str:
        size = self._recipe(rung).input.size
        return f"{rung.recipe} at {size} would take about {hours / SHARE:.2g} hours or more"

    def _measured(self, rung: _Rung) -> tuple[Recipe, Throughput]:
        """The recipe and its speed, in smaller batches if the device's memory is too small."""
        whole = recipe = self._recipe(rung)
        while True:
            try:
                return recipe, self.measure(recipe)
            except TrainingError:
                if recipe.batch_size == 1:
                    raise
            half = recipe.batch_size // 2
            recipe = recipe.model_copy(update={"batch_size": half, "accumulate": whole.batch_size // half})

    def _recipe(self, rung: _Rung) -> Recipe:
        """The rung's recipe at an input size and a number of epochs that suit the photographs."""
        base = find_recipe(rung.recipe)
        trained = self.seen * (self.folds - 1) / self.folds
        epochs = max(MIN_EPOCHS, round(base.epochs * min(4.0, max(0.25, rung.photographs / trained))))
        size, fit = self._input(rung.area, 2 * base.network.stride)
        return find_recipe(rung.recipe, [f"input.size={size}", f"input.fit={fit}", f"epochs={epochs}"])

    def _input(self, area: int, stride: int) -> tuple[str, str]:
        """An input of about this area in the photographs' aspect, not larger than they are, and its fit."""
        width, height = self.middle
        scale = math.sqrt(area / (width * height))
        if scale >= 1:
            sides = [max(2, math.ceil(side / stride)) * stride for side in (width, height)]
        else:
            sides = [max(2, round(side * scale / stride)) * stride for side in (width, height)]
        sizes = [parse_size(size) for size in self.photographs.sizes]
        holds_all = self.photographs.complete and all(w <= sides[0] and h <= sides[1] for w, h in sizes)
        return f"{sides[0]}x{sides[1]}", "pad" if holds_all else "stretch"

    def _least(self, recipe: Recipe) -> int:
        return max(MIN_EPOCHS, math.ceil(recipe.epochs / 2))

    def _total(self, recipe: Recipe, pace: Throughput, folds: int | None = None) -> float:
        folds = folds or self.folds
        return folds * training_hours(recipe, pace, self.seen, folds)

    def _fitting(self, recipe: Recipe, pace: Throughput, missed: str) -> Proposal | None:
        """The ensemble with as many epochs as fit the hours, and with more folds if even those fit."""
        for folds, epochs in self._lengths(recipe):
            chosen = _with_epochs(recipe, epochs)
            if self._total(chosen, pace, folds) <= SHARE * self.hours:
                reasons = tuple(self._reasons(chosen, recipe.epochs, folds, pace, missed))
                return self._proposal(chosen, folds, pace, reasons)
        return None

    def _lengths(self, recipe: Recipe) -> Iterator[tuple[int, int]]:
        """Folds and epochs to try, best first; two folds only for the least recipe."""
        if self.photographs.objects - self.held >= MORE_FOLDS:
            yield MORE_FOLDS, recipe.epochs
        fewest = min(2, self.folds) if recipe.name == LEAST.recipe else self.folds
        for folds in range(self.folds, fewest - 1, -1):
            for epochs in range(recipe.epochs, self._least(recipe) - 1, -1):
                yield folds, epochs

    def _reasons(self, recipe: Recipe, wished: int, folds: int, pace: Throughput, missed: str) -> Iterator[str]:
        objects = plural(self.photographs.objects, "object")
        yield f"recipe {recipe.name} at {recipe.input.size}: {missed or 'the best for this machine'}"
        how = "padded" if recipe.input.fit == "pad" else "stretched"
        yield f"input {recipe.input.size}, {how}: {self._sizes()}"
        memory = f"{pace.memory / 2**30:.1f} GiB"
        steps = f", {recipe.accumulate} in each step" if recipe.accumulate > 1 else ""
        yield f"batch {recipe.batch_size}{steps}: training takes {memory} of memory"
        yield f"folds {folds}: {objects}, {self.held} of them held out to judge a promotion"
        trained = plural(round(self.seen * (folds - 1) / folds), "photograph")
        cut = f"; {wished} would take longer than allowed" if recipe.epochs < wished else ""
        yield f"epochs {recipe.epochs}: a member trains on {trained}{cut}"

    def _sizes(self) -> str:
        sizes = self.photographs.sizes
        width, height = self.middle
        most, number = sizes.most_common(1)[0]
        if number > sizes.total() / 2:
            return f"most photographs are {most}"
        return f"photographs have {len(sizes)} sizes, {width}x{height} in the median"

    def _proposal(self, recipe: Recipe, folds: int, pace: Throughput, reasons: tuple[str, ...]) -> Proposal:
        settings: dict[str, Any] = {"epochs": recipe.epochs, "input.size": recipe.input.size}
        settings |= {"input.fit": recipe.input.fit, "batch_size": recipe.batch_size}
        if recipe.accumulate > 1:
            settings["accumulate"] = recipe.accumulate
        values = {
            "name": AUTO,
            "description": f"{recipe.name} for {plural(self.photographs.objects, 'object')}, proposed by Backdrop",
            "folds": {"count": folds, "by": "area", "holdout": self.holdout},
            "members": [{"recipe": recipe.name, "set": settings}],
        }
        text = "".join(f"# {reason}\n" for reason in reasons) + yaml.safe_dump(values, sort_keys=False)
        return Proposal(parse(Ensemble, values, AUTO).resolve(), text, reasons, pace)


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    return recipe.model_copy(update={"epochs": epochs})


def _pixels(recipe: Recipe) -> float:
    """Pixels of an input in training, the mean over the epochs."""
    epochs = zip(recipe.schedule, lengths(recipe.schedule, recipe.epochs), strict=True)
    share = sum(phase.scale**2 * length for phase, length in epochs) / recipe.epochs
    return recipe.input.height * recipe.input.width * share
