"""The exported network: what onnxruntime computes is what torch computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from backdrop.common.errors import ConfigError, MemberError
from backdrop.config import Recipe, find_recipe
from backdrop.inference import onnx as exporting
from backdrop.inference.onnx import METADATA, OPSET, OnnxNetwork, export
from backdrop.models import build

# As large as float32 rounds: the two sum in different orders.
TOLERANCE = 1e-5
NETWORKS = (
    ("network.width=8", "network.depth=3", "input.size=96x64"),
    ("network={kind: linknet, encoder: resnet18, width: 8}", "input.size=96x64"),
    ("network={kind: vgg_unet, width: 4, encoder_width: 4}", "input.size=96x64", "input.normalize=imagenet"),
)


def trained(overrides: tuple[str, ...]) -> tuple[Recipe, torch.nn.Module]:
    """A network with weights and batch statistics such as training leaves."""
    recipe = find_recipe("student", overrides)
    torch.manual_seed(1)
    network = build(**recipe.network_options())
    for _ in range(3):
        network(torch.rand(4, 3, 64, 96))
    return recipe, network.eval()


@pytest.mark.parametrize("overrides", NETWORKS)
def test_onnxruntime_computes_what_torch_computes(overrides: tuple[str, ...], tmp_path: Path) -> None:
    recipe, network = trained(overrides)
    (tmp_path / "network.onnx").write_bytes(export(network, recipe))
    exported = OnnxNetwork(tmp_path / "network.onnx")
    for batch in (1, 3):
        images = torch.rand(batch, 3, 64, 96).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            ours, theirs = network(images), exported(images)
        assert theirs.shape == ours.shape == (batch, 1, 64, 96)
        assert float((ours - theirs).abs().max()) < TOLERANCE * max(1.0, float(ours.abs().max()))


def test_a_photograph_gets_the_same_logits_in_any_batch(tmp_path: Path) -> None:
    recipe, network = trained(NETWORKS[0])
    (tmp_path / "network.onnx").write_bytes(export(network, recipe))
    exported = OnnxNetwork(tmp_path / "network.onnx")
    images = torch.rand(4, 3, 64, 96)
    together = exported(images)
    for index in range(4):
        assert torch.equal(exported(images[index : index + 1])[0], together[index])


def test_the_same_weights_give_the_same_bytes() -> None:
    recipe, network = trained(NETWORKS[0])
    assert export(network, recipe) == export(network, recipe)


def test_the_graph_says_what_it_takes_and_runs_without_backdrop(tmp_path: Path) -> None:
    recipe, network = trained(NETWORKS[0])
    path = tmp_path / "network.onnx"
    path.write_bytes(export(network, recipe))
    graph = onnx.load(path)
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", OPSET)]
    about = json.loads({one.key: one.value for one in graph.metadata_props}[METADATA])
    assert about["input"]["size"] == "96x64"
    assert about["output"] == "logits"
    photo = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    image = ((photo * np.float32(about["scale"]) - about["mean"]) / about["deviation"]).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
    with torch.inference_mode():
        expected = network(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
    assert np.abs(logits - expected.numpy()).max() < TOLERANCE


def test_onnxruntime_reports_nothing_about_this_machine(tmp_path: Path) -> None:
    """Before it reports, it gives the machine a number, which it keeps in the user's cache."""
    code = "from backdrop.inference.onnx import require_runtime; require_runtime()"
    own = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    own |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    subprocess.run([sys.executable, "-c", code], env=own, check=True)
    assert not list(tmp_path.rglob("*"))


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(b"nothing")
    with pytest.raises(MemberError, match=r"network.onnx can't be run .*Distill the student again"):
        OnnxNetwork(tmp_path / "network.onnx")


@pytest.mark.parametrize(("missing", "message"), [("onnxruntime", "onnxruntime"), ("onnx", "Distilling needs onnx")])
def test_without_the_extra_it_is_named(missing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(ConfigError, match=rf"{message}.*pip install 'backdrop-ml\[student\]'"):
        exporting.require_export()
