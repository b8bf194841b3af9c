from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from backdrop.config import Input, Tta
from backdrop.inference.answer import ALL, TILE, Answer, together

FITS = {"stretch": (24, 32), "pad": (80, 224), "reflect": (80, 224)}
WAYS = [("stretch", False), ("stretch", True), ("pad", False), ("reflect", False)]


def make_answer(
    fit: str = "stretch",
    size: tuple[int, int] = (70, 90),
    corners: bool = False,
    average: str = "logits",
    seed: int = 0,
) -> Answer:
    """A network's answer of two augmentations to a photograph of a height and width."""
    height, width = FITS[fit]
    values = np.random.default_rng(seed).normal(0, 3, (1, 2, height, width)).astype(np.float32)
    spec, tta = Input.model_validate({"size": f"{width}x{height}", "fit": fit}), {"hflip": True, "average": average}
    return Answer(torch.from_numpy(values), *size, spec, Tta.model_validate(tta), corners)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(70, 90), (33, 21), (24, 200), (1, 1), (24, 32), (300, 7)])
def test_enlarging_is_what_torch_does(size: tuple[int, int], corners: bool) -> None:
    answer = make_answer(size=size, corners=corners)
    expected = functional.interpolate(answer.logits, size=size, mode="bilinear", align_corners=corners)
    enlarged = answer.enlarged(range(size[0]))
    assert torch.allclose(enlarged[..., : size[1]], expected, atol=1e-5, rtol=0)
    assert enlarged.shape[3] % TILE == 0
    assert torch.equal(
        enlarged[..., size[1] :], enlarged[..., size[1] - 1 : size[1]].expand_as(enlarged[..., size[1] :])
    )


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize(
    ("fit", "corners"), [("stretch", False), ("stretch", True), ("pad", False), ("reflect", False)]
)
def test_a_pixel_is_the_same_to_the_last_bit_in_any_piece(
    fit: str, corners: bool, average: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (75, 205)
    answer = make_answer(fit, size, corners, average)
    whole = answer.probability()
    assert whole.shape == size
    assert 0 < float(whole.min()) < float(whole.max()) < 1
    for rows in (slice(0, 7), slice(7, 20), slice(20, None)):
        assert torch.equal(answer.probability(rows), whole[rows])
    columns = torch.tensor([*range(64, 96), *range(192, 224)])
    some = answer.probabilities(range(11, 52), columns)
    assert torch.equal(some[0, :, : 32 + 205 - 192], whole[11:52, columns[: 32 + 205 - 192]])
    other = make_answer(fit, size, corners, average, seed=1)
    both = together([other, answer, other]).probabilities(range(75), ALL)
    assert torch.equal(both[1, :, :205], whole)
    assert torch.equal(both[2, :, :205], other.probability())
    for room in (1, 3):
        monkeypatch.setattr(Answer, "room", lambda *_, room=room: room)
        assert torch.equal(answer.probability(), whole)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_threads_change_no_bit(average: str, threads: None) -> None:
    answer = make_answer(size=(320, 1918), average=average)
    torch.set_num_threads(1)
    whole = answer.probability()
    for count in (2, 3, 5, 7):
        torch.set_num_threads(count)
        assert torch.equal(answer.probability(), whole)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize(
    ("fit", "corners"), [("stretch", False), ("stretch", True), ("pad", False), ("reflect", False)]
)
@pytest.mark.parametrize("rows", [range(75), range(40, 61)])
def test_no_pixel_of_a_tile_is_beyond_its_bounds(fit: str, corners: bool, average: str, rows: range) -> None:
    answer = make_answer(fit, (75, 205), corners, average)
    low, high = (bound[0].repeat_interleave(TILE, 0).repeat_interleave(TILE, 1) for bound in answer.bounds(rows))
    whole = answer.probability()[rows.start : rows.stop]
    assert (whole >= low[: len(rows), :205] - 1e-6).all()
    assert (whole <= high[: len(rows), :205] + 1e-6).all()


def test_a_tile_with_a_logit_that_is_no_number_has_no_bounds() -> None:
    answer = make_answer(size=(96, 128))
    logits: Any = answer.logits.clone()
    logits[0, 1, 3, 3] = torch.nan
    bounds = replace(answer, logits=logits).bounds(range(96))
    assert all(bound.isnan().sum() == 1 for bound in bounds)
