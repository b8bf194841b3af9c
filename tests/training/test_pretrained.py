"""Encoders take torchvision's own files: its keys and shapes are written down here from the architectures."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.config import Pretrained
from backdrop.config.network import MIRROR
from backdrop.models import build
from backdrop.models.resnet import ResNet
from backdrop.training.pretrained import load_encoder

Shapes = dict[str, tuple[int, ...]]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def vgg11() -> Shapes:
    """torchvision's `vgg11`: layer numbers count ReLUs and poolings too."""
    convolutions = {0: (64, 3), 3: (128, 64), 6: (256, 128), 8: (256, 256)}
    convolutions |= {11: (512, 256), 13: (512, 512), 16: (512, 512), 18: (512, 512)}
    shapes: Shapes = {}
    for layer, (high, low) in convolutions.items():
        shapes |= {f"features.{layer}.weight": (high, low, 3, 3), f"features.{layer}.bias": (high,)}
    for layer, (high, low) in {0: (4096, 512 * 7 * 7), 3: (4096, 4096), 6: (1000, 4096)}.items():
        shapes |= {f"classifier.{layer}.weight": (high, low), f"classifier.{layer}.bias": (high,)}
    return shapes


def norm(key: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{key}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{key}.num_batches_tracked": ()}


def resnet34() -> Shapes:
    """torchvision's `resnet34`."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    low = 64
    for stage, (blocks, high) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            key = f"layer{stage}.{block}"
            shapes |= {f"{key}.conv1.weight": (high, low, 3, 3)} | norm(f"{key}.bn1", high)
            shapes |= {f"{key}.conv2.weight": (high, high, 3, 3)} | norm(f"{key}.bn2", high)
            if low != high:
                shapes |= {f"{key}.downsample.0.weight": (high, low, 1, 1)} | norm(f"{key}.downsample.1", high)
            low = high
    return shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def is_head(key: str) -> bool:
    return key.partition(".")[0] in ("classifier", "fc")


def trained(shapes: Shapes) -> Iterator[int]:
    return (prod(shape) for key, shape in shapes.items() if not key.endswith(STATISTICS))


def test_the_lists_are_torchvisions() -> None:
    assert sum(trained(vgg11())) == 132_863_336, "as torchvision's documentation of its weights says"
    assert sum(trained(resnet34())) == 21_797_672


def numbered(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Each tensor is full of a number of its own, kept once, so that files are small."""
    return {
        key: torch.tensor(number, dtype=torch.int64 if key.endswith("tracked") else torch.float32).expand(shape)
        for number, (key, shape) in enumerate(shapes.items(), start=1)
    }


def source(path: Path) -> Pretrained:
    return Pretrained(address=str(path), sha256=storage.sha256(path.read_bytes()))


def uninitialized(**options: Any) -> torch.nn.Module:
    with torch.device("meta"):
        network = build(**options)
    return network.to_empty(device="cpu")


NETWORKS = [
    ({"kind": "vgg_unet", "width": 2}, vgg11()),
    ({"kind": "linknet"}, resnet34()),
    ({"kind": "linknet", "skip": "concat"}, resnet34()),
]


@pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "2017's format"])
@pytest.mark.parametrize(("options", "shapes"), NETWORKS, ids=["vgg11", "resnet34", "resnet34 concat"])
def test_torchvisions_files_fill_encoders(
    tmp_path: Path, options: dict[str, Any], shapes: Shapes, zipped: bool
) -> None:
    weights = numbered(shapes)
    torch.save(weights, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    network = uninitialized(**options)
    load_encoder(network, source(tmp_path / "weights.pth"))
    loaded = network.encoder.state_dict()
    assert {key: tuple(value.shape) for key, value in loaded.items()} == {
        k: v for k, v in shapes.items() if not is_head(k)
    }
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


def test_files_from_before_batches_were_counted_fill_encoders(tmp_path: Path) -> None:
    """torchvision's first ResNet files are older than `num_batches_tracked`."""
    weights = numbered({key: shape for key, shape in resnet34().items() if not key.endswith("tracked")})
    torch.save(weights, tmp_path / "weights.pth")
    network = uninitialized(kind="linknet")
    load_encoder(network, source(tmp_path / "weights.pth"))
    loaded = network.encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items() if not is_head(key))


@pytest.mark.parametrize("mirror", ["{bucket}/weights/", "{folder}"])
def test_a_mirror_replaces_every_url_and_no_other_address(
    mirror: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, mirror.format(bucket=bucket, folder=tmp_path))
    network, donor = build("linknet", encoder="resnet18", width=8), ResNet("resnet18", 8)
    save_file(donor.state_dict(), tmp_path / "resnet18.safetensors")
    own = source(tmp_path / "resnet18.safetensors")
    storage.write_bytes(f"{bucket}/weights/resnet18.safetensors", (tmp_path / "resnet18.safetensors").read_bytes())
    load_encoder(network, own.model_copy(update={"address": "https://nowhere.invalid/models/resnet18.safetensors"}))
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in network.encoder.state_dict().items())
    assert own.source == own.address
    for mine in ("s3://other/resnet18.pth", "weights/resnet18.pth"):
        assert Pretrained(address=mine, sha256=own.sha256).source == mine


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_are_known_by_their_digest(tmp_path: Path, suffix: str) -> None:
    network, donor = build("linknet", encoder="resnet18", width=8), ResNet("resnet18", 8)
    weights = donor.state_dict() | {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    path = tmp_path / f"weights.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    load_encoder(network, source(path))
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in network.encoder.state_dict().items())
    digest = source(path).sha256
    load_encoder(network, Pretrained(address=str(path), sha256=digest[:8]))
    with pytest.raises(ConfigError, match=f"has sha256 {digest}, not {digest[1:9]}"):
        load_encoder(network, Pretrained(address=str(path), sha256=digest[1:9]))
    with pytest.raises(ConfigError, match=f"has sha256 {digest}, not 0000"):
        load_encoder(network, Pretrained(address=str(path), sha256="0" * 64))
    with pytest.raises(ConfigError, match="has no encoder"):
        load_encoder(build("unet", width=2, depth=1), source(path))
    with pytest.raises(ConfigError, match="doesn't fit the encoder"):
        load_encoder(build("linknet", width=8), source(path))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"features.18.bias": None}, r'Missing key\(s\) in state_dict: "features.18.bias"'),
        ({"features.20.weight": torch.zeros(3)}, r'Unexpected key\(s\) in state_dict: "features.20.weight"'),
        ({"features.0.weight": torch.zeros(64, 4, 3, 3)}, "size mismatch for features.0.weight"),
    ],
)
def test_an_encoder_takes_all_or_nothing(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    weights = {key: value for key, value in (numbered(vgg11()) | change).items() if value is not None}
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=f"weights.pth doesn't fit the encoder .*{complaint}"):
        load_encoder(uninitialized(kind="vgg_unet", width=2), source(tmp_path / "weights.pth"))


def test_files_without_weights(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no weights at all")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"whole": torch.nn.Conv2d(1, 1, 1)}, tmp_path / "pickle.pth")
    for name in ("text", "cut.safetensors", "list.pth", "pickle.pth"):
        with pytest.raises(ConfigError, match=f"{name} is not a file of weights"):
            load_encoder(build("linknet", width=8), source(tmp_path / name))
