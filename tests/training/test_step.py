"""One step: accumulated, clipped, averaged."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from backdrop.training.losses import make_loss
from backdrop.training.step import Batch, make_optimizer, set_lr, train_step, update_average


def network() -> nn.Module:
    """Without batch norm, which knows the batch's size."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))


def batch(count: int, seed: int, weights: Sequence[float] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 8, 8, generator=generator)
    targets = (torch.rand(count, 1, 8, 8, generator=generator) > 0.5).float()
    return Batch(images, targets, None if weights is None else torch.tensor(weights))


def joined(batches: Sequence[Batch]) -> Batch:
    weights = [b.weights for b in batches if b.weights is not None]
    return Batch(
        torch.cat([b.images for b in batches]),
        torch.cat([b.targets for b in batches]),
        torch.cat(weights) if weights else None,
    )


def gradient(batches: Sequence[Batch], add_up: bool = False) -> torch.Tensor:
    """What one step of plain SGD at rate 1 takes away."""
    model = network()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = make_optimizer(model, "sgd", 0.0, 0.0)
    set_lr(optimizer, 1.0)
    train_step(model, optimizer, make_loss("bce_dice"), batches, None, add_up)
    return before - nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("weights", [None, [[1.0, 0.5], [0.25, 1.0], [0.5]]])
def test_accumulated_batches_step_as_one_large_one_even_if_the_last_is_smaller(weights) -> None:
    batches = [batch(count, i, weights and weights[i]) for i, count in enumerate((2, 2, 1))]
    torch.testing.assert_close(gradient(batches), gradient([joined(batches)]), rtol=1e-4, atol=1e-6)


def test_the_winners_accumulation_adds_the_batches_gradients_up() -> None:
    batches = [batch(2, seed) for seed in range(3)]
    alone = sum(gradient([one]) for one in batches)
    torch.testing.assert_close(gradient(batches, add_up=True), alone, rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_step_is_the_mean_over_its_images() -> None:
    batches = [batch(2, 0), batch(1, 1)]
    model = network()
    expected = make_loss("bce_dice")(model(joined(batches).images), joined(batches).targets, None)
    optimizer = make_optimizer(model, "sgd", 0.0, 0.0)
    loss = train_step(model, optimizer, make_loss("bce_dice"), batches, None)
    assert float(loss) == pytest.approx(float(expected.detach()))


def test_clipping_bounds_the_gradient() -> None:
    model = network()
    optimizer = make_optimizer(model, "sgd", 0.0, 0.0)
    train_step(model, optimizer, make_loss("bce_dice"), [batch(2, 0)], 1e-3)
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_running_mean_follows_the_weights_and_copies_counts() -> None:
    fast = nn.BatchNorm2d(2)
    slow = copy.deepcopy(fast)
    with torch.no_grad():
        fast.weight.fill_(3.0)
    assert fast.num_batches_tracked is not None
    fast.num_batches_tracked.fill_(7)
    update_average(slow, fast, 0.9, step=1)  # (1 + 1) / (10 + 1) of the old stays
    assert slow.weight.tolist() == pytest.approx([3 - 2 * 2 / 11] * 2)
    assert slow.num_batches_tracked == 7
    with torch.no_grad():
        slow.weight.fill_(1.0)
    update_average(slow, fast, 0.9, step=10_000)
    assert slow.weight.tolist() == pytest.approx([1.2] * 2)
