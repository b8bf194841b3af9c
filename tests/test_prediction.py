import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backdrop import prediction
from backdrop.errors import DataError
from backdrop.prediction import ONE, Mean, integer_weights, quantise
from backdrop.recipe import Input

SIZE = (6, 5)


class Brightness(nn.Module):
    """Logits that are the mean of the three channels: what comes out is what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x.mean(dim=1, keepdim=True)


def probability(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(SIZE, np.float32))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 2**20)), min_size=1, max_size=9), st.randoms())
def test_the_mean_does_not_depend_on_order(votes: list[tuple[int, int]], random) -> None:
    shuffled = votes.copy()
    random.shuffle(shuffled)
    means = []
    for order in (votes, shuffled):
        mean = Mean()
        for seed, weight in order:
            mean.add(probability(seed), weight)
        means.append(mean)
    assert np.array_equal(means[0].probability(), means[1].probability())
    assert np.array_equal(means[0].mask(), means[1].mask())
    exact = sum(w * probability(s).double() for s, w in votes) / sum(w for _, w in votes)
    assert np.allclose(means[0].probability(), exact, atol=2**-24)


def test_rounding_is_to_the_nearest_24th_bit() -> None:
    values = torch.tensor([0.0, 1.0, 0.5, 2**-24, 2**-25 * 0.99, 1 - 2**-24, 1 / 3])
    expected = [round(float(v) * ONE) for v in values]
    assert quantise(values).tolist() == expected


def test_half_is_not_yet_inside() -> None:
    mean = Mean()
    mean.add(torch.tensor([[0.5, 0.5 + 2**-24]]), 7)
    assert mean.mask().tolist() == [[False, True]]


def test_integer_weights_keep_proportions_and_never_vanish() -> None:
    assert integer_weights([1, 1, 2]) == [2**18, 2**18, 2**19]
    assert integer_weights([1.0, 1e-12])[1] == 1
    assert integer_weights([0.1] * 3) == integer_weights([7] * 3)


def test_padding_is_cropped_again_and_stretching_comes_back_by_pixel_centres() -> None:
    ramp = np.repeat(np.tile(np.linspace(40, 200, 40).astype(np.uint8), (20, 1))[..., None], 3, axis=2)
    for spec in (Input(size="64x32", fit="pad"), Input(size="20x10")):
        (found,) = prediction.predict(Brightness(), [ramp], spec)
        logits = torch.logit(found.double()).numpy()
        assert found.shape == (20, 40)
        assert np.allclose(logits[:, 2:-2], ramp[:, 2:-2, 0] / 255, atol=0.01)


def test_a_photograph_larger_than_its_frame_is_refused() -> None:
    with pytest.raises(DataError, match=r"40x20 doesn't fit into 32x32\)\. Set a larger input\.size"):
        prediction.predict(Brightness(), [np.zeros((20, 40, 3), np.uint8)], Input(size="32x32", fit="pad"))


def test_channels_and_normalisation() -> None:
    pixel = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    assert prediction.normalise(pixel, Input(size="1x1")).flatten().tolist() == pytest.approx([1, 0, 0.2])
    bgr = prediction.normalise(pixel, Input(size="1x1", channels="bgr"))
    assert bgr.flatten().tolist() == pytest.approx([0.2, 0, 1])
    imagenet = prediction.normalise(pixel, Input(size="1x1", normalize="imagenet")).flatten().tolist()
    assert imagenet == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])


def test_many_photographs_of_many_sizes() -> None:
    images = [np.full((8 + i, 9, 3), 10 * i, np.uint8) for i in range(6)]
    found = list(prediction.predict_all(Brightness(), images, Input(size="8x8")))
    assert [tuple(one.shape) for one in found] == [(8 + i, 9) for i in range(6)]
    expected = torch.sigmoid(torch.tensor([10 * i / 255 for i in range(6)]))
    assert [float(one[0, 0]) for one in found] == pytest.approx(expected.tolist(), abs=1e-6)
