from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from backdrop.common.errors import DataError
from backdrop.config import Input, Tta
from backdrop.inference import predict
from backdrop.inference.answer import Answer


class Brightness(nn.Module):
    """Logits that are the mean of the three channels: what comes out is what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x.mean(dim=1, keepdim=True)


class Crooked(nn.Module):
    """A 3x3 convolution that is no mirror image of itself, and the sizes that it was asked at."""

    stride = 16

    def __init__(self) -> None:
        super().__init__()
        weight = np.random.default_rng(5).normal(0, 2, (1, 3, 3, 3))
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float32))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return nn.functional.conv2d(x, self.weight, padding=1)

    def by_hand(self, image: NDArray[Any]) -> NDArray[np.float64]:
        """Logits (H, W) of an image (H, W, 3) in 0..1."""
        padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
        weight = self.weight.detach().double().numpy()[0]
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        return np.einsum("yxcij,cij->yx", windows, weight)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def bilinear(image: NDArray[Any], height: int, width: int, corners: bool = False) -> NDArray[np.float64]:
    """An image (H, W) or (H, W, 3) at another size, in float64: by pixel centers, or by the pixels at the corners."""
    result = np.asarray(image, float)
    for axis, size in enumerate((height, width)):
        old, places = result.shape[axis], np.arange(size)
        spot = places * (old - 1) / (size - 1) if corners else (places + 0.5) * old / size - 0.5
        spot = np.clip(spot, 0, old - 1)
        lower = np.minimum(np.floor(spot).astype(int), max(0, old - 2))
        share = (spot - lower).reshape(-1, *[1] * (result.ndim - 1 - axis))
        upper = np.minimum(lower + 1, old - 1)
        result = result.take(lower, axis) * (1 - share) + result.take(upper, axis) * share
    return result


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


def test_padding_is_cropped_again_and_stretching_comes_back_by_pixel_centers() -> None:
    ramp = np.repeat(np.tile(np.linspace(40, 200, 40).astype(np.uint8), (20, 1))[..., None], 3, axis=2)
    for spec in (Input(size="64x32", fit="pad"), Input(size="20x10")):
        (probability,) = predict.predict_all(Brightness(), [ramp], spec)
        logits = torch.logit(probability.double()).numpy()
        assert probability.shape == (20, 40)
        assert np.allclose(logits[:, 2:-2], ramp[:, 2:-2, 0] / 255, atol=0.01)


def test_a_photograph_larger_than_its_frame_is_refused() -> None:
    with pytest.raises(DataError, match=r"40x20 doesn't fit into 32x32\)\. Set a larger input\.size"):
        next(predict.predict_all(Brightness(), [np.zeros((20, 40, 3), np.uint8)], Input(size="32x32", fit="pad")))


def test_channels_and_normalization() -> None:
    pixel = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    assert predict.normalize(pixel, Input(size="1x1")).flatten().tolist() == pytest.approx([1, 0, 0.2])
    bgr = predict.normalize(pixel, Input(size="1x1", channels="bgr"))
    assert bgr.flatten().tolist() == pytest.approx([0.2, 0, 1])
    imagenet = predict.normalize(pixel, Input(size="1x1", normalize="imagenet")).flatten().tolist()
    assert imagenet == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])


def test_many_photographs_of_many_sizes() -> None:
    images = [np.full((8 + i, 9, 3), 10 * i, np.uint8) for i in range(6)]
    probabilities = list(predict.predict_all(Brightness(), images, Input(size="8x8")))
    assert [tuple(one.shape) for one in probabilities] == [(8 + i, 9) for i in range(6)]
    expected = torch.sigmoid(torch.tensor([10 * i / 255 for i in range(6)]))
    assert [float(one[0, 0]) for one in probabilities] == pytest.approx(expected.tolist(), abs=1e-6)


# The input: padding, reflection, CLAHE, corners.


def test_the_winners_widths_are_reflected_by_one_pixel_on_either_side() -> None:
    image = noise(1280, 1918)
    frame = predict.to_input(image, Input(size="1920x1280", fit="reflect"))
    assert frame.shape == (1280, 1920, 3)
    assert np.array_equal(frame[:, 1:-1], image)
    assert np.array_equal(frame[:, 0], image[:, 1])
    assert np.array_equal(frame[:, -1], image[:, -2])


@given(*[st.integers(1, 9)] * 4, st.sampled_from(["pad", "reflect"]))
def test_padding_is_as_defined_and_undone_exactly(height: int, width: int, rows: int, columns: int, fit: Any) -> None:
    spec = Input(size=f"{width + columns}x{height + rows}", fit=fit)
    image = noise(height, width)
    frame, mask = predict.to_input(image, spec), predict.to_input(image[..., 0], spec)
    assert frame.shape == (height + rows, width + columns, 3)
    assert np.array_equal(frame[..., 0], mask)
    top, left = (rows // 2, columns // 2) if fit == "reflect" else (0, 0)
    for y in range(height + rows):
        for x in range(width + columns):
            inside = 0 <= y - top < height and 0 <= x - left < width
            expected = image[mirrored(y - top, height), mirrored(x - left, width)] if inside or fit == "reflect" else 0
            assert (frame[y, x] == expected).all()
    logits = torch.from_numpy(frame[None, None, ..., 0].astype(np.float32))
    answer = Answer(logits, height, width, spec, Tta(), align_corners=False)
    assert np.array_equal(answer.enlarged(range(height))[0, 0, :, :width].numpy(), image[..., 0])


def mirrored(place: int, size: int) -> int:
    """Where a place beyond an edge is found again, the edge pixel being the mirror."""
    while not 0 <= place < size:
        place = 0 if size == 1 else -place if place < 0 else 2 * (size - 1) - place
    return place


def test_reflection_refuses_a_larger_photograph_too() -> None:
    with pytest.raises(DataError, match=r"40x20 doesn't fit into 32x32\)\. Set a larger input\.size"):
        predict.to_input(noise(20, 40), Input(size="32x32", fit="reflect"))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(7, 11), (33, 21), (10, 12)])
def test_logits_are_resized_by_centers_or_by_corners(size: tuple[int, int], corners: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (10, 12))
    spec = Input(size="12x10")
    answer = Answer(torch.tensor(logits, dtype=torch.float32)[None, None], *size, spec, Tta(), corners)
    resized = answer.enlarged(range(size[0]))[0, 0, :, : size[1]]
    assert np.allclose(resized, bilinear(logits, *size, corners), atol=1e-5)


def clahe_by_hand(luma: NDArray[np.uint8], limit: float, tiles: int) -> NDArray[np.float64]:
    """Contrast-limited adaptive histogram equalization of luma (H, W) whose sides are multiples of `tiles`.

    What is cut off is shared among the bins; what is left over goes one each to bins at even distances from the first.
    """
    height, width = (side // tiles for side in luma.shape)
    tables = np.empty((tiles, tiles, 256))
    for row in range(tiles):
        for column in range(tiles):
            tile = luma[row * height : (row + 1) * height, column * width : (column + 1) * width]
            counts = np.bincount(tile.ravel(), minlength=256).astype(float)
            highest = max(1, int(limit * tile.size / 256))
            share, rest = divmod(int(np.maximum(counts - highest, 0).sum()), 256)
            counts = np.minimum(counts, highest) + share
            counts[:: max(1, 256 // max(1, rest))][:rest] += 1
            tables[row, column] = np.cumsum(counts) * 255 / tile.size
    places = []
    for size, side in ((height, luma.shape[0]), (width, luma.shape[1])):
        spot = np.clip((np.arange(side) + 0.5) / size - 0.5, 0, tiles - 1)
        first = np.minimum(np.floor(spot).astype(int), tiles - 2)
        places.append((first, spot - first))
    (y, wy), (x, wx) = places
    y, x, wy, wx = y[:, None], x[None], wy[:, None], wx[None]
    above = tables[y, x, luma] * (1 - wx) + tables[y, x + 1, luma] * wx
    below = tables[y + 1, x, luma] * (1 - wx) + tables[y + 1, x + 1, luma] * wx
    return above * (1 - wy) + below * wy


def as_yuv(image: NDArray[Any]) -> NDArray[np.float64]:
    """BT.601, as PAL had it: luma, and what blue and red exceed it by."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    return np.stack([luma, 0.492 * (image[..., 2] - luma), 0.877 * (image[..., 0] - luma)], axis=-1)


def test_clahe_evens_the_lumas_contrast_and_leaves_color_and_masks() -> None:
    random = np.random.default_rng(3)
    light = 90 + 40 * np.sin(np.arange(256) / 40) + 30 * np.cos(np.arange(256) / 25)[:, None]
    image = np.clip(light[..., None] + [20, 0, -15] + random.normal(0, 6, (256, 256, 3)), 0, 255).astype(np.uint8)
    spec = Input(size="256x256", fit="pad", clahe=True)
    before, after = as_yuv(image), as_yuv(predict.to_input(image, spec))
    expected = clahe_by_hand(np.rint(before[..., 0]).astype(np.uint8), 2.0, 8)
    inside = (after[..., 0] > 40) & (after[..., 0] < 215)  # beyond, a color may be cut off
    assert inside.mean() > 0.5
    assert abs(after[..., 0] - expected)[inside].max() < 5
    assert abs(after[..., 0] - expected)[inside].mean() < 0.8
    assert abs(after[..., 1:] - before[..., 1:])[inside].max() < 3
    assert abs(np.diff(after[..., 0])).mean() > 1.5 * abs(np.diff(before[..., 0])).mean()
    mask = image[..., 0]
    assert np.array_equal(predict.to_input(mask, spec), mask)


@pytest.mark.parametrize("fit", ["stretch", "pad", "reflect"])
def test_clahe_comes_before_the_size_changes(fit: Any) -> None:
    image = noise(24, 40) // 2
    plain = predict.to_input(image, Input(size="40x24", clahe=True))
    assert not np.array_equal(plain, image)
    expected = predict.to_input(plain, Input(size="64x32", fit=fit))
    assert np.array_equal(predict.to_input(image, Input(size="64x32", fit=fit, clahe=True)), expected)
    assert predict.to_input(noise(1, 1), Input(size="4x4", fit=fit, clahe=True)).shape == (4, 4, 3)


# Test-time augmentation.

FLIPS = [(), (1,), (0,), (0, 1)]


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize(("hflip", "vflip"), [(False, False), (True, False), (False, True), (True, True)])
def test_flipped_answers_are_averaged_as_the_recipe_says(hflip: bool, vflip: bool, average: Any) -> None:
    network, image = Crooked(), noise(16, 32)
    ways = [dims for dims in FLIPS if (hflip or 1 not in dims) and (vflip or 0 not in dims)]
    logits = [np.flip(network.by_hand(np.flip(image / 255, dims)), dims) for dims in ways]
    expected = sigmoid(np.mean(logits, axis=0)) if average == "logits" else np.mean(sigmoid(np.array(logits)), axis=0)
    tta = Tta(hflip=hflip, vflip=vflip, average=average)
    (probability,) = predict.predict_all(network, [image], Input(size="32x16"), tta)
    assert probability.dtype == torch.float32
    assert np.allclose(probability, expected, atol=1e-6)
    assert len(network.sizes) == len(ways)


@pytest.mark.parametrize("spec", [Input(size="32x16"), Input(size="48x32", fit="reflect")])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_photograph_has_the_mirrored_answer(spec: Input, axis: int) -> None:
    images = [noise(14, 30), np.ascontiguousarray(np.flip(noise(14, 30), axis))]
    own, both = Tta(hflip=axis == 1, vflip=axis == 0), Tta(hflip=True, vflip=True)
    for tta, equal in ((Tta(), False), (own, True), (both, True)):
        one, other = predict.predict_all(Crooked(), images, spec, tta)
        assert torch.allclose(one, other.flip(axis), atol=1e-5) == equal


def test_scales_go_with_the_networks_stride_and_come_back_by_pixel_centers() -> None:
    network, image = Crooked(), noise(48, 64)
    tta = Tta(scales=(0.1, 0.7, 1.0, 1.25), average="probabilities")
    (probability,) = predict.predict_all(network, [image], Input(size="64x48"), tta)
    assert network.sizes == [(16, 16), (32, 48), (48, 64), (64, 80)]
    logits = [bilinear(network.by_hand(bilinear(image / 255, *size)), 48, 64) for size in network.sizes]
    assert np.allclose(probability, np.mean(sigmoid(np.array(logits)), axis=0), atol=1e-5)


def test_photographs_of_many_sizes_are_augmented_as_if_each_were_alone() -> None:
    images = [noise(16 + i, 30 - i, i) for i in range(3)]
    tta = Tta(hflip=True, scales=(1.0, 1.5))
    for spec in (Input(size="32x16"), Input(size="32x32", fit="reflect", clahe=True), Input(size="32x32", fit="pad")):
        together = predict.predict_all(Crooked(), images, spec, tta)
        for image, found in zip(images, together, strict=True):
            (alone,) = predict.predict_all(Crooked(), [image], spec, tta)
            assert found.shape == image.shape[:2]
            assert torch.allclose(found, alone, atol=1e-6)
            if spec.fit == "stretch":
                frame = predict.to_input(image, spec)
                logits = [np.flip(Crooked().by_hand(np.flip(frame / 255, d)), d) for d in ((), (1,))]
                larger = bilinear(frame / 255, 32, 48)
                big = [np.flip(Crooked().by_hand(np.flip(larger, d)), d) for d in ((), (1,))]
                every = np.array([*logits, *(bilinear(one, 16, 32) for one in big)])
                assert np.allclose(found, sigmoid(bilinear(every.mean(axis=0), *image.shape[:2])), atol=1e-5)
