"""A network as an ONNX graph, which onnxruntime runs on CPUs, also outside Backdrop.

The graph takes `image`, float32 (B, 3, H, W) as `normalize` makes it, at the recipe's input size and any batch B, and
returns `logits`, float32 (B, 1, H, W): the sigmoid of one is a pixel's probability. Its metadata say the same.
"""

import io
import json
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from backdrop.common.errors import ConfigError, MemberError, is_out_of_memory, shorten
from backdrop.config import Recipe
from backdrop.data.preprocessing import IMAGENET

OPSET = 17
IMAGE, LOGITS = "image", "logits"
METADATA = "backdrop"
EXTRA = "Install it: pip install 'backdrop-ml[student]'"


class OnnxNetwork(nn.Module):
    """A network that onnxruntime runs, on this process's CPU threads.

    Args:
        path: the graph.

    Raises:
        ConfigError: if onnxruntime isn't installed.
        MemberError: if it can't read the graph.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = require_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            if is_out_of_memory(error):
                raise
            raise MemberError(f"{path} can't be run ({shorten(error)})", "Distill the student again") from error

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        (logits,) = self._session.run([LOGITS], {IMAGE: images.contiguous().cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)


def require_runtime() -> ModuleType:
    """Imports onnxruntime, which otherwise tells its makers about each machine that imports it.

    Raises:
        ConfigError: if it isn't installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it reads it when it's imported
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("A student needs onnxruntime, which isn't installed", EXTRA) from error
    module: ModuleType = onnxruntime
    return module


def require_export() -> None:
    """Makes sure that `export` can work.

    Raises:
        ConfigError: if onnx or onnxruntime isn't installed.
    """
    require_runtime()
    try:
        import onnx  # noqa: F401  # only whether it's there
    except ImportError as error:
        raise ConfigError("Distilling needs onnx, which isn't installed", EXTRA) from error


def export(network: nn.Module, recipe: Recipe) -> bytes:
    """The ONNX graph of a trained network; the same weights give the same bytes.

    Args:
        network: on the CPU, in evaluation mode.
        recipe: the network's.
    """
    import onnx

    file = io.BytesIO()
    example = torch.zeros(1, 3, recipe.input.height, recipe.input.width)
    with warnings.catch_warnings():
        # Torch prefers its newer exporter, which needs a further package and gives these networks the same graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            file,  # type: ignore[arg-type]  # the type is the newer exporter's
            dynamo=False,
            opset_version=OPSET,
            input_names=[IMAGE],
            output_names=[LOGITS],
            dynamic_axes={IMAGE: {0: "batch"}, LOGITS: {0: "batch"}},
        )
    graph = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(graph, {METADATA: json.dumps(_description(recipe))})
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString(deterministic=True))


def _description(recipe: Recipe) -> dict[str, Any]:
    """What whoever runs the graph has to know."""
    mean, deviation = IMAGENET if recipe.input.normalize == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
    return {
        "input": recipe.input.model_dump(mode="json"),
        "scale": 1 / 255,
        "mean": mean,
        "deviation": deviation,
        "output": "logits",
    }
