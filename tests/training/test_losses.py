"""Each loss against its formula in float64 numpy, pixel after pixel; then what must hold for all of them."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backdrop.config.loss import BceDice, BceLog, Boundary
from backdrop.config.records import Record
from backdrop.training.losses import LOSSES, boundary_weights, make_loss

WeightMap = Callable[[np.ndarray, float, float], np.ndarray]

Options = dict[str, Any]
# As recipes give them.
OPTIONS: list[Options] = [
    {"kind": "bce_dice", "clamped": False},
    {"kind": "bce_dice", "clamped": True},
    *(
        BceLog(kind="bce_log", of=of, over=over).model_dump()
        for of in ("dice", "jaccard")
        for over in ("image", "batch")
    ),
    Boundary(kind="boundary", band=0.5).model_dump(),
    Boundary(kind="boundary", band=0.9, weight=5, squared=True).model_dump(),
    Boundary(kind="boundary", band=0.5, profile="box", squared=True).model_dump(),
    Boundary(kind="boundary", band=0.04, profile="box").model_dump(),
]
every = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))


class Case(NamedTuple):
    """Photographs, in float64."""

    logits: np.ndarray  # B1HW
    target: np.ndarray  # B1HW
    weights: np.ndarray  # B

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.tensor(self.logits), torch.tensor(self.target), torch.tensor(self.weights)


@st.composite
def cases(draw: st.DrawFn, values: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)) -> Case:
    """Of any shape; each mask is of noise, a rectangle, one pixel unlike all others, empty or full."""
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 11)), draw(st.integers(1, 11))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    target = random.choice(values, (batch, 1, height, width))
    for image in target[:, 0]:
        pattern = random.choice(["noise", "rectangle", "pixel", "flat"], p=[0.3, 0.4, 0.2, 0.1])
        y, x, inside = random.integers(height), random.integers(width), random.integers(2)
        if pattern != "noise":
            image[:] = 1 - inside
        if pattern == "rectangle":
            image[y:, x:] = inside
        if pattern == "pixel":
            image[y, x] = inside
    return Case(random.normal(0, random.choice([0.1, 3, 30]), target.shape), target, random.uniform(0.1, 2, batch))


HARD = cases((0.0, 1.0))


# The references.


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def cross_entropy(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """-t ln p - (1 - t) ln(1 - p)."""
    return t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)


def bce(case: Case) -> float:
    return float(np.average(cross_entropy(case.logits, case.target).mean(axis=(1, 2, 3)), weights=case.weights))


def bce_dice(case: Case, clamped: bool) -> float:
    dice = []
    for p, t in zip(sigmoid(case.logits), case.target, strict=True):
        overlap, areas = (p * t).sum(), p.sum() + t.sum()
        dice.append(2 * (overlap + 1) / (areas + 1) if clamped else (2 * overlap + 1) / (areas + 1))
    mean = np.average(dice, weights=case.weights)
    return float(bce(case) + 1 - (np.clip(mean, 0, 1) if clamped else mean))


def bce_log(case: Case, of: str, over: str) -> float:
    def share(photographs: list[tuple[np.ndarray, np.ndarray, float]]) -> float:
        both = sum(weight * p[t > 0.5].sum() for p, t, weight in photographs)
        areas = sum(weight * (p.sum() + np.count_nonzero(t > 0.5)) for p, t, weight in photographs)
        return (2 * both + 1) / (areas + 1) if of == "dice" else (both + 1) / (areas - both + 1)

    p = sigmoid(case.logits)
    if over == "batch":
        return bce(case) - np.log(share(list(zip(p, case.target, case.weights, strict=True))))
    logs = [np.log(share([(a, t, 1.0)])) for a, t in zip(p, case.target, strict=True)]
    return bce(case) - float(np.average(logs, weights=case.weights))


def boundary(case: Case, band: float, weight: float, profile: str, squared: bool) -> float:
    maps: dict[str, WeightMap] = {"distance": distance_map, "box": box_map}
    w = np.stack([[maps[profile](t[0] > 0.5, band, weight)] for t in case.target])
    photographs = case.weights[:, None, None, None] * np.ones_like(w)
    w *= photographs.sum() / (photographs * w).sum()
    pixels = photographs * w
    entropy = (pixels * cross_entropy(case.logits, case.target)).sum() / pixels.sum()
    dice = []
    for p, t, v in zip(sigmoid(case.logits), case.target, w**2 if squared else w, strict=True):
        dice.append((2 * (v * p * t).sum() + 1) / ((v * p).sum() + (v * t).sum() + 1))
    return float(entropy + 1 - np.average(dice, weights=case.weights))


def sides(mask: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Sides between a pixel in the mask and one that is not, as top, bottom, left, right; pixel centers are whole."""
    height, width = mask.shape
    losses = [
        (y - 0.5, y + 0.5, x + 0.5, x + 0.5)
        for y in range(height)
        for x in range(width - 1)
        if mask[y, x] != mask[y, x + 1]
    ]
    return losses + [
        (y + 0.5, y + 0.5, x - 0.5, x + 0.5)
        for y in range(height - 1)
        for x in range(width)
        if mask[y, x] != mask[y + 1, x]
    ]


def distance_map(mask: np.ndarray, band: float, weight: float) -> np.ndarray:
    reach = max(3, band * len(mask)) / 2
    found, result = sides(mask), np.ones(mask.shape)
    for y, x in np.ndindex(mask.shape):
        for top, bottom, left, right in found:
            distance = math.hypot(max(top - y, 0, y - bottom), max(left - x, 0, x - right))
            result[y, x] = max(result[y, x], weight + (1 - weight) * distance / reach)
    return result


def box_map(mask: np.ndarray, band: float, weight: float) -> np.ndarray:
    width = max(3, band * len(mask))
    half = min(range(1, 50), key=lambda half: (abs(2 * half + 1 - width), -half))
    result = np.ones(mask.shape)
    for y, x in np.ndindex(mask.shape):
        inside = mask[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].sum()
        if 0.01 <= inside / (2 * half + 1) ** 2 <= 0.99:
            result[y, x] = weight
    return result


REFERENCES: dict[str, Callable[..., float]] = {"bce_dice": bce_dice, "bce_log": bce_log, "boundary": boundary}


def reference(options: Options, case: Case) -> float:
    return REFERENCES[options["kind"]](case, **{name: value for name, value in options.items() if name != "kind"})


def loss_of(options: Options, *tensors: Tensor | None) -> Tensor:
    logits, target, weights = tensors
    assert logits is not None
    assert target is not None
    return make_loss(**options)(logits, target, weights)


def loss_and_gradient(options: Options, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
    logits, target, weights = tensors
    assert logits is not None
    leaf = logits.clone().requires_grad_()
    loss = loss_of(options, leaf, target, weights)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


# Agreement with the references.


@every
@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_agrees_with_its_formula(options: Options, case: Case) -> None:
    expected = reference(options, case)
    tensors = case.tensors
    exact = loss_of(options, *tensors)
    assert exact.dtype == torch.float64
    assert float(exact) == pytest.approx(expected, rel=1e-6, abs=1e-9)  # the boundary's weights are of float32
    single = loss_of(options, *(tensor.float() for tensor in tensors))
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@every
@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_low_precision_costs_no_more_than_the_rounding_of_the_logits(options: Options, case: Case) -> None:
    logits, target, weights = (tensor.float() for tensor in case.tensors)
    for kind in (torch.bfloat16, torch.float16):
        rounded = logits.to(kind)
        with torch.autocast("cpu", kind):
            found, gradient = loss_and_gradient(options, rounded, target.to(kind), weights)
        expected = loss_of(options, rounded.float(), target, weights)
        assert found.dtype == torch.float32
        assert gradient.dtype == kind
        assert torch.equal(found, expected)


@every
def test_gradient_is_the_losss_own(options: Options) -> None:
    random = np.random.default_rng(3)
    logits = torch.tensor(random.normal(0, 2, (2, 1, 5, 4)), requires_grad=True)
    target, weights = torch.tensor(random.choice([0, 0.25, 1], (2, 1, 5, 4))), torch.tensor([1, 0.5])
    assert torch.autograd.gradcheck(lambda x: loss_of(options, x, target, weights), (logits,))


# Edges.


@every
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_loss_and_gradient_are_finite_for_sure_answers_about_empty_and_full_masks(
    options: Options, kind: torch.dtype, value: float
) -> None:
    logits = torch.full((2, 1, 6, 7), value, dtype=kind)
    half = torch.zeros(2, 1, 6, 7, dtype=kind)
    half[..., :3] = 1
    for target in (torch.zeros_like(half), torch.ones_like(half), half, half.flip(0, 3)):
        for weights in (None, torch.tensor([1, 1e-3])):
            loss, gradient = loss_and_gradient(options, logits, target, weights)
            assert loss.isfinite()
            assert gradient.isfinite().all()


@every
@settings(max_examples=20, deadline=None)
@given(case=HARD)
def test_a_perfect_answer_costs_nothing(options: Options, case: Case) -> None:
    target = case.tensors[1].float()
    assert float(loss_of(options, (target - 0.5) * 2e4, target, None)) == pytest.approx(0, abs=1e-6)


@every
@settings(max_examples=20, deadline=None)
@given(case=HARD)
def test_every_pixel_is_drawn_towards_the_truth(options: Options, case: Case) -> None:
    logits, target, weights = case.tensors
    gradient = loss_and_gradient(options, logits, target, weights)[1]
    assert (gradient * (2 * target - 1) <= 0).all()


@every
@settings(max_examples=20, deadline=None)
@given(case=HARD)
def test_surer_right_answers_cost_less(options: Options, case: Case) -> None:
    target = case.tensors[1]
    losses = [float(loss_of(options, (target - 0.5) * sureness, target, None)) for sureness in (-4, -1, 0, 1, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


# Photographs' weights.


@every
@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_no_weights_are_weights_of_one(options: Options, case: Case) -> None:
    logits, target, weights = case.tensors
    plain = loss_of(options, logits, target, None)
    assert float(plain) == pytest.approx(float(loss_of(options, logits, target, torch.ones_like(weights))), rel=1e-12)
    assert float(plain) == pytest.approx(reference(options, case._replace(weights=np.ones(len(logits)))), rel=1e-6)


@every
@settings(max_examples=20, deadline=None)
@given(case=cases(), times=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(lambda times: times[0] > 0))
def test_a_photographs_weight_is_how_often_it_is_there(options: Options, case: Case, times: list[int]) -> None:
    logits, target, _ = case.tensors
    counts = torch.tensor(times[: len(logits)])
    repeated = loss_of(options, logits.repeat_interleave(counts, 0), target.repeat_interleave(counts, 0), None)
    assert float(loss_of(options, logits, target, counts.double())) == pytest.approx(float(repeated), rel=1e-9)


# The boundary's band.


def half_plane(height: int, width: int) -> Tensor:
    """Background left, mask right."""
    return (torch.arange(width) >= width // 2).expand(1, 1, height, width)


@pytest.mark.parametrize(
    ("height", "band", "side"),
    [(128, 0.082, 11), (256, 0.082, 21), (512, 0.04, 21), (1024, 0.04, 41), (1280, 0.04, 51), (48, 0.04, 3)],
)
def test_the_boxs_sides_are_the_winners_at_their_heights(height: int, band: float, side: int) -> None:
    row = boundary_weights(half_plane(height, 128), band, 3, "box")[0, 0, height // 2]
    middle = (row[32:96] == 3).nonzero().flatten() + 32  # the frame on the right is a boundary too
    assert middle.tolist() == list(range(64 - side // 2, 64 + side // 2))


def test_the_weight_falls_linearly_with_the_distance() -> None:
    weights = boundary_weights(half_plane(10, 14), 0.8, 5, "distance")  # it reaches 4 pixels
    assert weights[0, 0, 5].tolist() == [1, 1, 1, 1.5, 2.5, 3.5, 4.5, 4.5, 3.5, 2.5, 1.5, 1, 1, 1]
    assert (weights == weights[:, :, :1]).all(), "the frame is no boundary"


@settings(max_examples=50, deadline=None)
@given(case=cases(), band=st.floats(0.01, 1), weight=st.floats(1, 9))
def test_weights_agree_with_every_pixels_distance_to_every_side(case: Case, band: float, weight: float) -> None:
    mask = case.tensors[1] > 0.5
    weights = boundary_weights(mask, band, weight, "distance")
    expected = [distance_map(image, band, weight) for image in mask[:, 0].numpy()]
    assert np.allclose(weights[:, 0], expected, rtol=0, atol=1e-5)
    assert float(weights.min()) >= 1
    assert float(weights.max()) <= weight
    flat = boundary_weights(torch.zeros_like(mask), band, weight, "distance")
    assert (flat == 1).all()


@pytest.mark.parametrize(("profile", "expected"), [("distance", distance_map), ("box", box_map)])
def test_weights_of_a_larger_photograph(profile: Literal["distance", "box"], expected: WeightMap) -> None:
    y, x = np.mgrid[:40, :48]
    mask = np.hypot(y - 19, (x - 20) / 1.3) < 12
    mask[0, 0] = mask[5:9, 40:] = True  # a pixel is less than a hundredth of a box of 13
    mask[18, 20] = False
    weights = boundary_weights(torch.tensor(mask)[None, None], 0.3, 3, profile)
    assert np.allclose(weights, expected(mask, 0.3, 3), rtol=0, atol=1e-5)


# The recipe's words.


@pytest.mark.parametrize("record", [BceDice(), BceLog(kind="bce_log"), Boundary(kind="boundary")])
def test_a_recipes_words_are_the_losss_own(record: Record) -> None:
    name = record.model_dump()["kind"]
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    defaults = {option.name: option.default for option in parameters if option.kind is option.KEYWORD_ONLY}
    defaults.pop("clamped", None)  # a recipe's `legacy.clamp_dice`
    assert defaults == record.model_dump(exclude={"kind"})
