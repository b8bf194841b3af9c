import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backdrop import storage
from backdrop.errors import ConfigError
from backdrop.losses import bce_dice
from backdrop.models import build
from backdrop.models.cost import macs, parameters
from backdrop.models.resnet import ResNet
from backdrop.recipe import Pretrained, find_recipe, shipped
from backdrop.schedules import learning_rates, lengths
from backdrop.steps.describe import describe
from backdrop.training.pretrained import load_encoder


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_shipped_network_keeps_the_size_of_its_input(name: str) -> None:
    network = build(**find_recipe(name).network.model_dump()).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)
    with torch.device("meta"):
        size = find_recipe(name).input
        network = build(**find_recipe(name).network.model_dump())
        assert network(torch.zeros(1, 3, size.height, size.width)).shape[-2:] == (size.height, size.width)


def test_linknet34_is_the_winners() -> None:
    found = describe("linknet34")
    assert found.parameters == 21_642_401
    assert found.macs / 1e9 == pytest.approx(217.3, rel=0.0005)
    assert found.input == "1920x1280"
    cycle = [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    assert found.learning_rates == (*[1e-4] * 12, *[1e-5] * 11, *(cycle * 3), 1e-4, 1e-4)


def test_the_tiny_ones_are_under_a_million() -> None:
    assert all(describe(name).parameters < 1_000_000 for name in ("tiny", "tiny-linknet"))


def test_macs_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2))
    assert macs(network, 16, 32) == 3 * 8 * 9 * 8 * 16 + 8 * 4 * 4 * 8 * 16
    assert parameters(network) == 3 * 8 * 9 + 8 + 8 * 4 * 4 + 4


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


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_pretrained_weights_fill_the_encoder_and_are_known_by_digest(tmp_path, suffix: str) -> None:
    network, donor = build("linknet", encoder="resnet18", width=8), ResNet("resnet18", 8)
    weights = donor.state_dict() | {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    path = tmp_path / f"weights.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    digest = storage.sha256(path.read_bytes())
    load_encoder(network, Pretrained(address=str(path), sha256=digest))
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in network.encoder.state_dict().items())
    with pytest.raises(ConfigError, match=f"has sha256 {digest}, not 0000"):
        load_encoder(network, Pretrained(address=str(path), sha256="0" * 64))
    with pytest.raises(ConfigError, match="has no encoder"):
        load_encoder(build("unet", width=2, depth=1), Pretrained(address=str(path), sha256=digest))
    with pytest.raises(ConfigError, match="doesn't fit the encoder"):
        load_encoder(build("linknet", width=8), Pretrained(address=str(path), sha256=digest))


def test_pretrained_weights_that_are_none(tmp_path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"no weights at all")
    with pytest.raises(ConfigError, match="holds no weights"):
        load_encoder(build("linknet", width=8), Pretrained(address=str(path), sha256=storage.sha256(path.read_bytes())))


def loss_by_hand(logits: np.ndarray, target: np.ndarray) -> float:
    """BCE + 1 - Dice in float64, image by image."""
    p = 1 / (1 + np.exp(-logits))
    bce = -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean()
    dice = [(2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, target, strict=True)]
    return float(bce + 1 - np.mean(dice))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_bce_dice_agrees_with_float64(share: float) -> None:
    random = np.random.default_rng(1)
    logits, target = random.normal(0, 3, (2, 1, 8, 9)), (random.random((2, 1, 8, 9)) < share).astype(float)
    found = bce_dice(torch.tensor(logits, dtype=torch.float32), torch.tensor(target, dtype=torch.float32))
    assert float(found) == pytest.approx(loss_by_hand(logits, target), rel=1e-5)
    rough = bce_dice(torch.tensor(logits).bfloat16(), torch.tensor(target).bfloat16())
    assert float(rough) == pytest.approx(float(found), rel=0.02)


def test_bce_dice_of_a_perfect_answer_is_zero_even_for_an_empty_mask() -> None:
    for value in (0.0, 1.0):
        target = torch.full((1, 1, 4, 4), value)
        assert float(bce_dice((target - 0.5) * 200, target)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 14, 40, 41, 400])
@pytest.mark.parametrize("name", shipped("recipes"))
def test_phases_fill_any_length(name: str, epochs: int) -> None:
    phases = find_recipe(name).schedule
    assert len(learning_rates(phases, epochs)) == sum(lengths(phases, epochs)) == epochs
    assert min(lengths(phases, epochs)) >= (epochs >= len(phases)), "no phase vanishes"
    if epochs % sum(phase.epochs for phase in phases) == 0:
        factor = epochs // sum(phase.epochs for phase in phases)
        assert lengths(phases, epochs) == [phase.epochs * factor for phase in phases]


def test_a_cosine_falls_from_its_rate_to_its_end() -> None:
    rates = describe(
        "tiny", ["schedule=[{kind: cosine, epochs: 5, rate: 1e-2, final: 1e-4}]", "epochs=5"]
    ).learning_rates
    assert rates[0] == pytest.approx(1e-2)
    assert rates[2] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[4] == pytest.approx(1e-4)
    assert list(rates) == sorted(rates, reverse=True)
