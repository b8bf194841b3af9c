import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from backdrop.common.errors import ConfigError, explain
from backdrop.config import find_recipe
from backdrop.config.network import Network
from backdrop.models import build
from backdrop.models.cost import macs, parameters
from backdrop.models.folding import fold_batch_norms
from backdrop.models.initialization import init_like_torch_0_2
from backdrop.models.resnet import ResNet
from backdrop.models.snapshot_ensemble import SnapshotEnsemble
from backdrop.steps.describe import describe
from tests.conftest import shipped_recipes

# Parameters, batch norm's share of them, its buffers, and 1e9 multiply-accumulates at each size, as counted on the
# winners' own code.
WINNERS = [
    ({"kind": "linknet"}, 21_642_401, 19_008, 19_056, (217.3, 92.7, 25.35)),
    ({"kind": "vgg_unet", "width": 32}, 22_927_393, 0, 0, (964.1, 411.3, 112.5)),
    (
        {"kind": "unet", "width": 32, "depth": 6, "max_channels": 1024, "up_convolutions": 3, "bias": True},
        *(91_238_817, 24_256, 24_288, (862.9, 368.2, 100.7)),
    ),
    ({"kind": "vgg_unet", "width": 64}, 33_554_753, 0, 0, (1318.1, 562.4, 153.8)),
]
SIZES = [(1280, 1920), (1024, 1024), (448, 640)]
SMALL = [
    {
        "kind": "unet",
        "width": 4,
        "depth": 3,
        "max_channels": 8,
        "up_convolutions": 3,
        "bias": True,
        "align_corners": True,
    },
    {"kind": "linknet", "width": 8, "skip": "add"},
    {"kind": "linknet", "width": 8, "skip": "concat"},
    {"kind": "vgg_unet", "width": 3, "encoder_width": 4},
]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_network_keeps_the_size_of_its_input(name: str) -> None:
    size = find_recipe(name).input
    with torch.device("meta"):
        network = build(**find_recipe(name).network_options())
        assert network(torch.zeros(1, 3, size.height, size.width)).shape == (1, 1, size.height, size.width)


@pytest.mark.parametrize("options", SMALL, ids=lambda options: options["kind"])
def test_logits_have_their_images_size(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build(**options)
    height, width = 2 * network.stride, 3 * network.stride
    logits = network(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 1, height, width)
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("options", SMALL, ids=lambda options: options["kind"])
@pytest.mark.parametrize("snapshots", [0, 2])
def test_folded_batch_norms_change_nothing_but_rounding(options: dict[str, Any], snapshots: int) -> None:
    torch.manual_seed(0)
    network: nn.Module = build(**options)
    network = SnapshotEnsemble([network, build(**options)]) if snapshots else network
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                *((module.running_mean, -1, 1), (module.running_var, 0.3, 2)),
                *((module.weight, 0.5, 2), (module.bias, -1, 1)),
            ):
                assert value is not None
                nn.init.uniform_(value, low, high)
    network.eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        before = network(images)
    fold_batch_norms(network)
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (16, 3)])
def test_a_cpus_way_in_bfloat16_to_double_the_size_is_the_same(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = build("linknet", width=8).head[0]
    images = torch.randn(2, 8, *size)
    plain = layer(images)
    plain.sum().backward()
    slope = layer.weight.grad.clone()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        fast = layer(images)
    fast.float().sum().backward()
    torch.testing.assert_close(fast.float(), plain, rtol=0.02, atol=0.02)
    torch.testing.assert_close(layer.weight.grad, slope, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("options", [options for options, *_ in WINNERS] + SMALL)
def test_a_network_and_its_record_agree_on_the_stride(options: dict[str, Any]) -> None:
    legacy = {"align_corners"}  # not the network's own: see Recipe.network_options
    known = {key: value for key, value in options.items() if key not in legacy}
    record: Network = TypeAdapter(Network).validate_python(known)
    with torch.device("meta"):
        assert build(**record.model_dump()).stride == record.stride


@pytest.mark.parametrize(("options", "numbers", "norms", "buffers", "cost"), WINNERS, ids=lambda value: str(value)[:28])
def test_networks_cost_what_the_winners_do(
    options: dict[str, Any], numbers: int, norms: int, buffers: int, cost: tuple[float, ...]
) -> None:
    with torch.device("meta"):
        network = build(**options)
    assert parameters(network) == numbers
    assert sum(parameters(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d)) == norms
    assert sum(buffer.numel() for buffer in network.buffers()) == buffers
    gigamacs = [macs(network, height, width) / 1e9 for height, width in SIZES]
    assert gigamacs == pytest.approx(cost, rel=0.001)


def test_concatenation_costs_three_1x1_convolutions() -> None:
    with torch.device("meta"):
        network = build("linknet", skip="concat")
    joins = sum(2 * channels * channels + channels for channels in (256, 128, 64))
    assert parameters(network) == 21_642_401 + joins == 21_814_881
    # At 1/16, 1/8 and 1/4 of the size.
    more = sum(2 * c * c * (1280 // s) * (1920 // s) for c, s in ((256, 16), (128, 8), (64, 4)))
    with torch.device("meta"):
        assert macs(network, 1280, 1920) - macs(build("linknet"), 1280, 1920) == more


def test_linknet34_is_the_winners() -> None:
    description = describe("linknet34")
    assert description.parameters == 21_642_401
    assert description.macs / 1e9 == pytest.approx(217.3, rel=0.0005)
    assert description.input == "1920x1280"
    cycle = [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    assert description.learning_rates == (*[1e-4] * 12, *[1e-5] * 11, *(cycle * 3), 1e-4, 1e-4)


def test_the_tiny_ones_are_under_a_million() -> None:
    assert all(describe(name).parameters < 1_000_000 for name in ("tiny", "tiny-linknet"))


def test_macs_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2))
    assert macs(network, 16, 32) == 3 * 8 * 9 * 8 * 16 + 8 * 4 * 4 * 8 * 16
    assert parameters(network) == 3 * 8 * 9 + 8 + 8 * 4 * 4 + 4
    kept = network.training and {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert kept, "counting leaves the network as it was"


@pytest.mark.parametrize(("depth", "blocks"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))])
def test_encoders_have_torchvisions_keys(depth: str, blocks: tuple[int, ...]) -> None:
    keys = {key for key in ResNet(depth).state_dict() if "num_batches_tracked" not in key}
    expected = {"conv1.weight"} | {f"bn1.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    for stage, number in enumerate(blocks, start=1):
        for block in range(number):
            prefix = f"layer{stage}.{block}"
            norms = ["bn1", "bn2"]
            expected |= {f"{prefix}.conv1.weight", f"{prefix}.conv2.weight"}
            if stage > 1 and block == 0:
                expected.add(f"{prefix}.downsample.0.weight")
                norms.append("downsample.1")
            expected |= {f"{prefix}.{n}.{p}" for n in norms for p in ("weight", "bias", "running_mean", "running_var")}
    assert keys == expected


FIRST = [
    (
        {"kind": "linknet", "encoder": "resnet18", "width": 64},
        {"head.0": 1 / 24, "decoder4.layers.3": 1 / 128**0.5 / 3},
    ),
    (
        {"kind": "vgg_unet", "width": 4, "encoder_width": 8},
        {"center.2": 1 / 24, "decoder5.2": 1 / 24, "decoder3.2": 1 / 32**0.5 / 3, "decoder2.2": 1 / 12},
    ),
    ({"kind": "unet", "width": 32, "depth": 3}, {}),
]


@pytest.mark.parametrize(("options", "bounds"), FIRST, ids=lambda value: value.get("kind", ""))
def test_first_weights_of_2017(options: dict[str, Any], bounds: dict[str, float]) -> None:
    """Bounds are 1 / sqrt(C_in k²), by hand."""
    torch.manual_seed(0)
    network = build(**options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    init_like_torch_0_2(network)
    after = network.state_dict()
    for key, bound in bounds.items():
        weight = after[f"{key}.weight"]
        assert 0.98 * bound < weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.25 * bound < after[f"{key}.bias"].abs().max() <= bound
    layers = dict(network.named_modules())
    drawn = {key for key in after if isinstance(layers[key.rpartition(".")[0]], nn.ConvTranspose2d)}
    norms = {key for key in after if isinstance(layers[key.rpartition(".")[0]], nn.BatchNorm2d) and "weight" in key}
    outside = {key for key in norms if not key.startswith("encoder.")}
    assert {key for key in after if not torch.equal(before[key], after[key])} == drawn | outside
    if outside:
        weights = torch.cat([after[key] for key in sorted(outside)])
        assert weights.min() >= 0
        assert weights.max() < 1
        assert float(weights.mean()) == pytest.approx(0.5, abs=0.05)
        assert float(weights.std()) == pytest.approx(12**-0.5, abs=0.03)


def test_first_weights_of_2017_follow_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = build("vgg_unet", width=2, encoder_width=2)
        init_like_torch_0_2(network)
        return nn.utils.parameters_to_vector(network.parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_timm_is_asked_for_only_where_a_network_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = find_recipe("efficientnet-lite")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        build(**recipe.network_options())
    assert str(explain(caught.value, "")) == "timm isn't installed. Run: pip install 'backdrop-ml[encoders]'."
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"timm can't be imported .*nms.* Install the torchvision that fits torch \d"):
        build(**recipe.network_options())
