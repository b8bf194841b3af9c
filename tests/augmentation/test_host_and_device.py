import colorsys
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import albumentations
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch.utils.data import Dataset

from backdrop.augmentation import device, host
from backdrop.augmentation.host import GrayObject, HardMask
from backdrop.config.augmentation import Change

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 48, 64
LUMA = np.array([0.299, 0.587, 0.114])
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
EDGE = np.clip((np.arange(WIDTH) - 30) * 20, 0, 255).astype(np.uint8) * np.ones((HEIGHT, 1), np.uint8)
# Red says which column a pixel came from, green which row, blue nothing.
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PLACES = np.stack([4 * COLUMNS, 4 * ROWS, 0 * ROWS], axis=-1).astype(np.uint8)
EVERYTHING: list[dict[str, Any]] = [
    {"kind": "hflip"},
    {"kind": "affine"},
    {"kind": "brightness"},
    {"kind": "contrast"},
    {"kind": "saturation"},
    {"kind": "hsv"},
    {"kind": "gray"},
    {"kind": "gray", "region": "object"},
    {"kind": "erase"},
    {"kind": "one_of", "of": [{"kind": "hsv"}, {"kind": "affine"}]},
]


class OnDevice(device.Augmenter):
    """With arrays instead of tensors."""

    def __call__(self, image: Any, mask: Any, epoch: int, sample: int) -> Any:
        changed = super().__call__(torch.tensor(image), torch.tensor(mask), epoch, sample)
        return tuple(part.numpy() for part in changed)


class Engine:
    """What makes the changes; all that follows holds for each."""

    all: ClassVar[dict[str, Any]] = {"host": host.Augmenter, "device": OnDevice}
    name = "host"


@pytest.fixture(params=Engine.all, autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "name", request.param)


def make(*changes: dict[str, Any], seed: int = 0, hard_masks: bool = False) -> Any:
    return Engine.all[Engine.name](TypeAdapter(tuple[Change, ...]).validate_python(changes), seed, hard_masks)


def once(
    change: dict[str, Any], image: Pixels = NOISE, mask: Pixels = EDGE, sample: int = 0, hard_masks: bool = False
) -> tuple[Pixels, Pixels]:
    """What a change does when it's certain."""
    return make({"p": 1, **change}, hard_masks=hard_masks)(image, mask, 0, sample)


def same(first: tuple[Pixels, ...], second: tuple[Pixels, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# What it depends on.


@pytest.mark.parametrize("hard", [False, True])
def test_the_same_seed_epoch_and_sample_give_the_same_bytes_in_any_order(hard: bool) -> None:
    forth, back = make(*EVERYTHING, hard_masks=hard), make(*EVERYTHING, hard_masks=hard)
    places = [(epoch, sample) for epoch in range(2) for sample in range(12)]
    first = {place: forth(NOISE, EDGE, *place) for place in places}
    second = {place: back(NOISE, EDGE, *place) for place in reversed(places)}
    assert all(same(first[place], second[place]) for place in places)
    copied = pickle.loads(pickle.dumps(forth))
    assert all(same(first[place], copied(NOISE, EDGE, *place)) for place in places)


def test_another_seed_epoch_or_sample_gives_others() -> None:
    change = {"kind": "affine", "p": 1}
    changed = [
        make(change, seed=seed)(NOISE, EDGE, epoch, sample)[0].tobytes()
        for seed in (0, 1, 2**40)
        for epoch in range(3)
        for sample in range(3)
    ]
    assert len(set(changed)) == len(changed)


class Drawn(Dataset[tuple[Pixels, Pixels]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        return make(*EVERYTHING)(NOISE, EDGE, 3, index)


DRAW = """
import torch
from torch.utils.data import DataLoader
from tests.augmentation.test_host_and_device import Drawn, Engine
for Engine.name in Engine.all:
    alone = list(DataLoader(Drawn(), batch_size=3))
    shared = list(DataLoader(Drawn(), batch_size=3, num_workers=2, multiprocessing_context="fork"))
    assert len(alone) == len(shared) == 4
    for batch, other in zip(alone, shared):
        assert all(map(torch.equal, batch, other))
"""


@pytest.mark.parametrize("engine", ["each"], indirect=True)
def test_workers_draw_what_one_process_draws() -> None:
    """In a process of its own: forked workers don't get on with what pytest and coverage keep running in theirs."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", DRAW], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize("change", EVERYTHING, ids=lambda change: change["kind"])
@pytest.mark.parametrize("hard", [False, True])
def test_every_change_gives_bytes_of_the_same_shape_and_leaves_its_input_alone(
    change: dict[str, Any], hard: bool
) -> None:
    image, mask = NOISE.copy(), EDGE.copy()
    for sample in range(5):
        changed, changed_mask = once(change, image, mask, sample, hard)
        assert changed.dtype == changed_mask.dtype == np.uint8
        assert changed.shape == image.shape
        assert changed_mask.shape == mask.shape
    assert same((image, mask), (NOISE, EDGE))


# How often: drawn with fixed seeds, so that bounds of four deviations are met or not once and for all.


def about(count: int, of: int, share: float) -> bool:
    return abs(count - of * share) < 4 * math.sqrt(of * share * (1 - share))


@pytest.mark.parametrize("change", EVERYTHING, ids=lambda change: change["kind"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_change_happens_as_often_as_it_should(change: dict[str, Any], hard: bool) -> None:
    augmenter = make({**change, "p": 0.25}, hard_masks=hard)
    changed = sum(not np.array_equal(augmenter(NOISE, EDGE, 0, sample)[0], NOISE) for sample in range(400))
    assert about(changed, 400, 0.25)


def test_changes_are_drawn_independently() -> None:
    augmenter = make({"kind": "hflip"}, {"kind": "brightness", "factor": (0.5, 0.5)}, {"kind": "gray", "p": 0.5})
    image = np.full((2, 2, 3), (200, 100, 100), np.uint8)
    counts: dict[tuple[bool, bool, bool], int] = {}
    for sample in range(800):
        changed, mask = augmenter(image, np.array([[0, 255]] * 2, np.uint8), 0, sample)
        red, green, _ = changed[0, 0].tolist()
        what = (mask[0, 0] == 255, max(red, green) <= 100, red == green)
        counts[what] = counts.get(what, 0) + 1
    assert len(counts) == 8
    assert all(about(count, 800, 1 / 8) for count in counts.values())


def test_one_of_takes_exactly_one_whatever_their_own_probability() -> None:
    halves = {"kind": "brightness", "factor": (0.5, 0.5), "p": 0.0}
    of = [halves, {"kind": "hflip", "p": 0.9}, {"kind": "gray", "p": 0.1}, {"kind": "affine", "p": 0}]
    augmenter = make({"kind": "one_of", "p": 0.6, "of": of})
    luma = np.rint(NOISE @ LUMA)
    counts = {"none": 0, "half": 0, "flip": 0, "gray": 0, "affine": 0}
    for sample in range(600):
        image, _ = augmenter(NOISE, EDGE, 0, sample)
        references = {"none": NOISE, "half": NOISE // 2, "flip": NOISE[:, ::-1], "gray": luma[..., None]}
        equal = [name for name, reference in references.items() if (abs(image - reference.astype(float)) <= 1).all()]
        assert len(equal) <= 1
        counts[equal[0] if equal else "affine"] += 1
    assert about(counts.pop("none"), 600, 0.4)
    assert all(about(count, 600, 0.15) for count in counts.values()), counts


def test_a_quarter_hsv_a_quarter_gray_object_and_half_neither_as_for_unet11() -> None:
    of = [{"kind": "hsv", "hue": 50, "saturation": 5, "value": 15}, {"kind": "gray", "region": "object"}]
    augmenter = make({"kind": "one_of", "p": 0.5, "of": of})
    images = [augmenter(NOISE, EDGE, 0, sample)[0] for sample in range(400)]
    neither = sum(np.array_equal(image, NOISE) for image in images)
    gray = sum(np.ptp(image[EDGE > 127], axis=-1).max() == 0 for image in images)
    assert about(neither, 400, 0.5)
    assert about(gray, 400, 0.25)


# What each does.


def test_hflip_mirrors_left_and_right() -> None:
    assert same(once({"kind": "hflip"}), (NOISE[:, ::-1], EDGE[:, ::-1]))


def whence(image: Pixels) -> tuple[float, float, float, float]:
    """Scale, degrees and the shift (x, y) of the center, read off where the middle's pixels say they came from."""
    middle = np.s_[15:33, 20:44]
    x, y = COLUMNS[middle].ravel() - (WIDTH - 1) / 2, ROWS[middle].ravel() - (HEIGHT - 1) / 2
    source = image[middle].reshape(-1, 3)[:, :2] / 4 - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
    fit, *_ = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], axis=1), source, rcond=None)
    back = fit[:2].T
    assert back == pytest.approx(np.array([[back[0, 0], -back[1, 0]], [back[1, 0], back[0, 0]]]), abs=0.01), "one scale"
    shift = -np.linalg.solve(back, fit[2])
    return 1 / math.sqrt(np.linalg.det(back)), math.degrees(math.atan2(back[1, 0], back[0, 0])), *shift.tolist()


def test_affine_scales_turns_and_shifts_about_the_center_within_its_bounds() -> None:
    augmenter = make({"kind": "affine", "p": 1, "shift": 0.1, "scale": (0.9, 1.2), "rotate": 7})
    drawn = []
    for sample in range(200):
        image, mask = augmenter(PLACES, PLACES[..., 0], 0, sample)
        assert np.array_equal(image[..., 0], mask), "the mask moves with the image"
        drawn.append(whence(image))
    values = np.array(drawn)
    bounds = np.array([[0.9, 1.2], [-7, 7], [-0.1 * WIDTH, 0.1 * WIDTH], [-0.1 * HEIGHT, 0.1 * HEIGHT]])
    slack = np.array([0.01, 0.4, 0.15, 0.15])
    assert (values >= bounds[:, 0] - slack).all()
    assert (values <= bounds[:, 1] + slack).all()
    spread = np.ptp(values, axis=0) / np.ptp(bounds, axis=1)
    assert (spread > 0.75).all(), "they are used to the full"
    assert (abs(np.corrcoef(values.T) - np.eye(4)) < 4 / math.sqrt(200)).all(), "and drawn independently"


def reflected(size: int, places: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
    """Both neighbors of places along a side, mirrored at its first and last pixel, and the weight of the second."""
    lower = np.floor(places).astype(int)
    first, second = (abs((n + size - 1) % (2 * size - 2) - size + 1) for n in (lower, lower + 1))
    return first, second, places - lower


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_affine_is_bilinear_and_mirrors_at_the_borders(scale: float) -> None:
    image, _ = once({"kind": "affine", "shift": 0, "scale": (scale, scale), "rotate": 0})
    middle = np.array([HEIGHT - 1, WIDTH - 1]) / 2
    y0, y1, wy = reflected(HEIGHT, middle[0] + (np.arange(HEIGHT) - middle[0]) / scale)
    x0, x1, wx = reflected(WIDTH, middle[1] + (np.arange(WIDTH) - middle[1]) / scale)
    rows = NOISE[y0] * (1 - wy[:, None, None]) + NOISE[y1] * wy[:, None, None]
    expected = rows[:, x0] * (1 - wx[:, None]) + rows[:, x1] * wx[:, None]
    assert abs(image - expected).max() <= 1


def test_a_hard_mask_is_cut_at_one_half_moved_or_not() -> None:
    for p in (0.0, 1.0):
        image, mask = make({"kind": "affine", "p": p}, hard_masks=True)(PLACES, PLACES[..., 0], 0, 0)
        assert np.array_equal(image, PLACES) == (p == 0)
        assert np.array_equal(mask, np.where(image[..., 0] >= 128, 255, 0))
    soft = once({"kind": "affine"})[1]
    assert ((soft > 0) & (soft < 255)).any()


def with_factor(kind: str, factor: float) -> NDArray[np.float64]:
    values, luma = NOISE.astype(float), (NOISE @ LUMA)[..., None]
    anchor = {"brightness": 0.0, "contrast": luma.mean(), "saturation": luma}[kind]
    return np.clip(anchor + factor * (values - anchor), 0, 255)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.7, 1.0, 1.3, 1.5])
def test_factors_multiply_about_black_the_mean_luma_or_the_own_luma(kind: str, factor: float) -> None:
    image, mask = once({"kind": kind, "factor": (factor, factor)})
    assert abs(image - with_factor(kind, factor)).max() <= 1.5
    assert np.array_equal(mask, EDGE)


def test_factors_are_drawn_from_their_whole_range() -> None:
    white = np.full((2, 2, 3), 200, np.uint8)
    augmenter = make({"kind": "brightness", "p": 1, "factor": (0.5, 1.2)})
    factors = [augmenter(white, EDGE[:2, :2], 0, sample)[0].mean() / 200 for sample in range(600)]
    assert min(factors) == pytest.approx(0.5, abs=0.01)
    assert max(factors) == pytest.approx(1.2, abs=0.01)
    assert np.mean(factors) == pytest.approx(0.85, abs=0.05)


def hsv_after(color: tuple[int, int, int], **limits: int) -> NDArray[np.float64]:
    """Hue (of 180), saturation and value (of 255) of a color after each of 200 changes."""
    change = {"kind": "hsv", "p": 1, "hue": 0, "saturation": 0, "value": 0, **limits}
    augmenter, image = make(change), np.full((1, 1, 3), color, np.uint8)
    images = [augmenter(image, EDGE[:1, :1], 0, sample)[0] for sample in range(200)]
    values = [colorsys.rgb_to_hsv(*(one[0, 0] / 255).tolist()) for one in images]
    return np.array(values) * [180, 255, 255]


def test_hue_is_a_circle() -> None:
    turned = (hsv_after((255, 0, 0), hue=10)[:, 0] + 90) % 180 - 90
    assert np.percentile(turned, [0, 50, 100]) == pytest.approx([-10, 0, 10], abs=2)
    assert about(int((turned < -0.5).sum()), 200, 0.475), "half of red turns towards purple, none is stuck at red"


def test_saturation_and_value_stop_at_their_ends() -> None:
    hue, saturation, value = hsv_after((200, 10, 10), saturation=25).T
    assert np.ptp(hue) < 2
    assert value == pytest.approx(200, abs=1)
    assert saturation.min() == pytest.approx(242 - 25, abs=3)
    assert saturation.max() == pytest.approx(255, abs=1)
    hue, saturation, value = hsv_after((250, 125, 125), value=25).T
    assert saturation == pytest.approx(127.5, abs=2)
    assert value.min() == pytest.approx(225, abs=2)
    assert value.max() == 255
    assert hsv_after((90, 90, 90), hue=90, saturation=255)[:, 1].max() == 0, "gray stays gray"


def test_gray_is_luma() -> None:
    image, mask = once({"kind": "gray"})
    assert abs(image - (NOISE @ LUMA)[..., None]).max() <= 1
    assert np.ptp(image, axis=-1).max() == 0
    assert np.array_equal(mask, EDGE)


def test_a_gray_object_stands_on_its_colored_background() -> None:
    image, mask = once({"kind": "gray", "region": "object"})
    inside = EDGE >= 128
    assert 0 < inside.mean() < 1
    assert np.array_equal(image[~inside], NOISE[~inside])
    assert abs(image[inside] - (NOISE[inside] @ LUMA)[:, None]).max() <= 1
    assert np.ptp(image[inside], axis=-1).max() == 0
    assert np.array_equal(mask, EDGE)
    assert np.array_equal(once({"kind": "gray", "region": "object"}, mask=0 * EDGE)[0], NOISE)


def test_a_gray_object_follows_the_mask_as_changes_before_it_left_it() -> None:
    augmenter = make({"kind": "hflip", "p": 1}, {"kind": "gray", "region": "object", "p": 1})
    image, mask = augmenter(NOISE, EDGE, 0, 0)
    colorless = np.ptp(image, axis=-1) == 0
    assert colorless[mask >= 128].all()
    assert np.array_equal(image[mask < 128], NOISE[:, ::-1][mask < 128])


def test_what_is_erased_are_rectangles_of_one_color_and_the_mask_stays() -> None:
    blank = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    for sample in range(40):
        image, mask = once({"kind": "erase", "max_count": 1}, blank, sample=sample)
        erased = (image != blank).any(axis=-1)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(np.unique(image[erased], axis=0)) == 1
        assert len(rows) <= 0.2 * HEIGHT
        assert np.array_equal(mask, EDGE)
    colors = [len(np.unique(once({"kind": "erase"}, blank, sample=n)[0].reshape(-1, 3), axis=0)) for n in range(40)]
    assert max(colors) == 1 + 3, "three by default"


@pytest.mark.parametrize("transform", [GrayObject(p=0.3), HardMask(p=1)], ids=["GrayObject", "HardMask"])
def test_own_transforms_survive_albumentations_own_serialisation(transform: Any) -> None:
    again = albumentations.from_dict(albumentations.to_dict(transform))
    assert type(again) is type(transform)
    assert again.p == transform.p
    assert "backdrop.augmentation" in type(again).__module__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "affine", "scale": (1.1, 0.9)}, "1.1 is above 0.9; write the lower factor first"),
        ({"kind": "affine", "scale": (0, 1)}, "greater than 0"),
        ({"kind": "brightness", "factor": (-1, 1)}, "greater than or equal to 0"),
        ({"kind": "one_of", "of": [{"kind": "hflip"}]}, "at least 2 items"),
        ({"kind": "hflip", "p": 2}, "less than or equal to 1"),
    ],
)
def test_changes_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(change)
