"""Networks computed once more from their state dicts, in float64, as their papers and the winners' code draw them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from backdrop.models import build

Weights = dict[str, Tensor]


def scrambled(**options: Any) -> nn.Module:
    """A network in evaluation mode whose every number is random, and whose deepest features reach the logits."""
    torch.manual_seed(3)
    network = build(**options).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values, std=0.3)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def images(network: nn.Module) -> Tensor:
    return torch.randn(2, 3, 2 * network.stride, 3 * network.stride, dtype=torch.float64)


def agree(network: nn.Module, by_hand: Callable[[Weights, Tensor], Tensor]) -> None:
    x = images(network)
    with torch.inference_mode():
        expected = by_hand(network.state_dict(), x)
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


def convolve(weights: Weights, key: str, x: Tensor, **options: int) -> Tensor:
    return f.conv2d(x, weights[f"{key}.weight"], weights.get(f"{key}.bias"), **options)


def double(weights: Weights, key: str, x: Tensor) -> Tensor:
    """A transposed convolution 3x3 that doubles the size: spread with zeros between, flip the kernel, convolve."""
    b, c, h, w = x.shape
    spread = x.new_zeros(b, c, 2 * h + 2, 2 * w + 2)
    spread[:, :, 1:-1:2, 1:-1:2] = x
    kernel = weights[f"{key}.weight"].transpose(0, 1).flip(2, 3)
    return f.conv2d(spread, kernel, weights[f"{key}.bias"])


def norm(weights: Weights, key: str, x: Tensor) -> Tensor:
    """Batch norm in evaluation mode."""
    mean, variance, scale, shift = (
        weights[f"{key}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def vgg_unet(weights: Weights, x: Tensor) -> Tensor:
    skips = []
    for group in ((0,), (3,), (6, 8), (11, 13), (16, 18)):
        for layer in group:
            x = f.relu(convolve(weights, f"encoder.features.{layer}", x, padding=1))
        skips.append(x)
        x = f.max_pool2d(x, 2)
    for name in ("center", "decoder5", "decoder4", "decoder3", "decoder2"):
        x = f.relu(convolve(weights, f"{name}.0", x, padding=1))
        x = torch.cat([f.relu(double(weights, f"{name}.2", x)), skips.pop()], dim=1)
    return convolve(weights, "head", f.relu(convolve(weights, "decoder1.0", x, padding=1)))


@pytest.mark.parametrize("options", [{"width": 2, "encoder_width": 4}, {"width": 3, "encoder_width": 3}])
def test_vgg_unet(options: dict[str, int]) -> None:
    agree(scrambled(kind="vgg_unet", **options), vgg_unet)


def resnet(weights: Weights, x: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
    x = f.relu(norm(weights, "encoder.bn1", convolve(weights, "encoder.conv1", x, stride=2, padding=3)))
    x = f.max_pool2d(x, 3, stride=2, padding=1)
    features = []
    for stage, blocks in enumerate(depths, start=1):
        for block in range(blocks):
            key, stride = f"encoder.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = f.relu(norm(weights, f"{key}.bn1", convolve(weights, f"{key}.conv1", x, stride=stride, padding=1)))
            y = norm(weights, f"{key}.bn2", convolve(weights, f"{key}.conv2", y, padding=1))
            if stride == 2:
                x = norm(weights, f"{key}.downsample.1", convolve(weights, f"{key}.downsample.0", x, stride=2))
            x = f.relu(x + y)
        features.append(x)
    return features


def linknet_decoder(weights: Weights, key: str, x: Tensor) -> Tensor:
    x = f.relu(norm(weights, f"{key}.1", convolve(weights, f"{key}.0", x)))
    x = f.relu(norm(weights, f"{key}.4", double(weights, f"{key}.3", x)))
    return f.relu(norm(weights, f"{key}.7", convolve(weights, f"{key}.6", x)))


def linknet(weights: Weights, x: Tensor, depths: tuple[int, ...]) -> Tensor:
    *skips, x = resnet(weights, x, depths)
    for number in (4, 3, 2):
        x = linknet_decoder(weights, f"decoder{number}.layers", x)
        if "joins.0.weight" in weights:
            x = convolve(weights, f"joins.{4 - number}", torch.cat([x, skips.pop()], dim=1))
        else:
            x = x + skips.pop()
    x = linknet_decoder(weights, "decoder1.layers", x)
    x = f.relu(f.conv_transpose2d(x, weights["head.0.weight"], weights["head.0.bias"], stride=2))
    return convolve(weights, "head.4", f.relu(convolve(weights, "head.2", x)), padding=1)


@pytest.mark.parametrize("skip", ["add", "concat"])
@pytest.mark.parametrize(("encoder", "depths"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))])
def test_linknet(encoder: str, depths: tuple[int, ...], skip: str) -> None:
    network = scrambled(kind="linknet", encoder=encoder, width=8, skip=skip)
    agree(network, lambda weights, x: linknet(weights, x, depths))


def bilinear(size: int, align_corners: bool) -> Tensor:
    """The matrix that doubles a line of so many pixels."""
    positions = np.linspace(0, size - 1, 2 * size) if align_corners else (np.arange(2 * size) + 0.5) / 2 - 0.5
    return torch.tensor(np.stack([np.interp(positions, np.arange(size), line) for line in np.eye(size)], axis=1))


def unet(weights: Weights, x: Tensor, depth: int, convolutions: int, align_corners: bool) -> Tensor:
    def block(key: str, x: Tensor, number: int) -> Tensor:
        for layer in range(number):
            x = f.relu(norm(weights, f"{key}.{layer}.1", convolve(weights, f"{key}.{layer}.0", x, padding=1)))
        return x

    skips = []
    for level in range(depth):
        skips.append(block(f"down.{level}", x, 2))
        x = f.max_pool2d(skips[-1], 2)
    x = block(f"down.{depth}", x, 2)
    for level in range(depth):
        height, width = x.shape[-2:]
        x = bilinear(height, align_corners) @ x @ bilinear(width, align_corners).T
        x = block(f"up.{level}", torch.cat([skips.pop(), x], dim=1), convolutions)
    return convolve(weights, "head", x)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("convolutions", "bias"), [(3, True), (2, False)])
def test_unet(convolutions: int, bias: bool, align_corners: bool) -> None:
    options = {"depth": 3, "up_convolutions": convolutions, "align_corners": align_corners}
    network = scrambled(kind="unet", width=3, max_channels=12, bias=bias, **options)
    assert all(("bias" in key) == bias for key in network.state_dict() if key.endswith(".0.bias"))
    agree(network, lambda weights, x: unet(weights, x, 3, convolutions, align_corners))
