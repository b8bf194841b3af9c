"""Networks on timm's encoders: `make test-encoders` runs these in an environment that has timm."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.config import Pretrained, find_recipe
from backdrop.inference.member import assemble
from backdrop.inference.onnx import OnnxNetwork, export
from backdrop.models import build
from backdrop.models.cost import macs
from backdrop.models.timm_unet import TimmUNet
from backdrop.steps.describe import describe
from backdrop.training.pretrained import load_encoder
from tests.conftest import NEEDS_TIMM

pytestmark = NEEDS_TIMM

RECIPES = ("convnext-base", "convnext-tiny", "efficientnet-lite")
# Features from stride 1, 2 and 4; batch norms with an activation inside, plain ones, and layer norms.
SMALL = ("vgg11_bn", "efficientnet_lite0", "resnet10t", "convnext_atto", "convnextv2_atto", "densenet121")


def small(encoder: str) -> tuple[str, ...]:
    network = f"network={{kind: timm_unet, encoder: {encoder}, width: 2}}"
    return (network, "pretrained=null", "input.size=64x64", "epochs=2", "batch_size=2", "ema=0.5")


def uninitialized(encoder: str) -> TimmUNet:
    with torch.device("meta"):
        network = build("timm_unet", encoder=encoder, width=2)
    assert isinstance(network, TimmUNet)
    return network


@pytest.mark.parametrize("encoder", SMALL)
def test_a_member_predicts_what_its_network_does(encoder: str) -> None:
    """Built without memory, its weights assigned, its decoder's batch norms folded."""
    torch.manual_seed(0)
    recipe = find_recipe("efficientnet-lite", small(encoder))
    network = build(**recipe.network_options())
    images = torch.randn(2, 3, 64, 96)
    logits = network(images)
    assert logits.shape == (2, 1, 64, 96)
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    with torch.inference_mode():
        expected = network.eval()(images)
        torch.testing.assert_close(assemble(recipe, network.state_dict())(images), expected, rtol=1e-4, atol=1e-4)


def test_costs_are_counted_without_computing() -> None:
    block = Channels(uninitialized("convnextv2_atto").encoder.stages_0.blocks[0])
    # A 7x7 depthwise convolution, and two linear layers from 40 channels to 160 and back.
    assert macs(block, 16, 32) == 16 * 32 * (40 * 49 + 2 * 40 * 160)
    assert macs(uninitialized("pvt_v2_b0"), 64, 64) > 0, "attention has no empty batches"
    for name in RECIPES:
        assert describe(name).parameters > 3_000_000


class Channels(torch.nn.Module):
    """A block, given its own channels instead of an image's three."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.block(image.repeat(1, 14, 1, 1)[:, :40])


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "convnext_atto", "convnext_tiny_hnf"])
def test_timms_own_files_fill_encoders(
    encoder: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("timm downloads"))
    torch.manual_seed(1)
    whole = timm.create_model(encoder, pretrained=False).eval()
    path = tmp_path / f"weights.{suffix}"
    save_file(whole.state_dict(), path) if suffix == "safetensors" else torch.save(whole.state_dict(), path)
    network = build("timm_unet", encoder=encoder, width=2).eval()
    load_encoder(network, Pretrained(address=str(path), sha256=storage.sha256(path.read_bytes())))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        *_, ours = network.encoder(images)
        (theirs,) = whole.forward_intermediates(images, indices=1, intermediates_only=True, norm=False)
    assert torch.equal(ours, theirs)
    del whole
    weights = timm.create_model(encoder, pretrained=False).state_dict()
    first = next(iter(weights))
    for change, complaint in (
        ({first: None}, "Missing key"),
        ({"stranger.weight": torch.zeros(1)}, "Unexpected key.*stranger.weight"),
        ({first: torch.zeros(1)}, "size mismatch"),
    ):
        torch.save({key: value for key, value in (weights | change).items() if value is not None}, path)
        with pytest.raises(ConfigError, match=rf"weights.{suffix} doesn't fit the encoder .*{complaint}"):
            load_encoder(network, Pretrained(address=str(path), sha256=storage.sha256(path.read_bytes())))


def test_real_weights_know_what_they_see(tmp_path: Path) -> None:
    """EfficientNet-Lite0, trained on ImageNet: its batch norms' statistics are those of real features."""
    from benchmarks.encoders import ENCODER, imagenet_weights

    recipe = find_recipe("efficientnet-lite", [f"network.encoder={ENCODER}", *imagenet_weights(tmp_path)])
    network = build(**recipe.network_options()).eval()
    torch.manual_seed(0)
    before = network.encoder.state_dict()["bn1.running_var"].clone()
    assert recipe.pretrained
    load_encoder(network, recipe.pretrained)
    after = network.encoder.state_dict()["bn1.running_var"]
    assert not torch.equal(before, after)
    assert network(torch.randn(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize(
    ("encoder", "complaint"),
    [
        ("resnet_nobody_knows", r"timm .* has no encoder resnet_nobody_knows"),
        ("vit_tiny_patch16_224", r"vit_tiny_patch16_224 can't be an encoder: .* strides \[16, 16, 16\]"),
        ("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224 can't be an encoder"),
        ("resnetblur50", "resnetblur50 can't be an encoder: its weights don't contain layer2"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(encoder: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        uninitialized(encoder)


def test_a_student_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    recipe = find_recipe("student", [*small("efficientnet_lite0")[:3], "input.normalize=imagenet"])
    torch.manual_seed(1)
    network = build(**recipe.network_options())
    network(torch.rand(4, 3, 64, 64))
    (tmp_path / "network.onnx").write_bytes(export(network.eval(), recipe))
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        ours = network(images)
    torch.testing.assert_close(OnnxNetwork(tmp_path / "network.onnx")(images), ours, rtol=1e-4, atol=1e-4)
