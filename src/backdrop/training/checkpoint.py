"""A checkpoint and its files, each verified by digest, so that a torn or altered file is never used."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

MANIFEST = "manifest.json"

# The only types in networks and optimizers.
DTYPES = {torch.float32: "F32", torch.int64: "I64"}

Weights = dict[str, Tensor]
Buffer = bytes | memoryview


@dataclass
class Progress:
    """The progress of training: everything that can't be derived from recipe and step.

    `losses` has the current epoch's losses so far (without replayed batches), and `epoch_seconds` its duration;
    `history` has a row per finished epoch; `selected` the best epoch of each kept cycle (`cycle`, `epoch`, `dice`);
    `resumed_at` the steps at which a killed run resumed. `threads` (of the CPU), `processes` (that share a batch),
    `device` and `precision` describe the computation: with others, the weights differ in their last bits.
    """

    key: str
    threads: int = 1
    processes: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    selected: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)


@dataclass
class Checkpoint:
    """Progress, the network's weights, their running mean (empty without one), selected weights, optimizer state.

    `selected` has the weights of each cycle's best epoch (empty if no epoch had a valid Dice).
    """

    progress: Progress
    weights: Weights
    average: Weights
    selected: list[Weights]
    optimizer: dict[str, Any]


def save_weights(weights: Weights) -> bytes:
    """Weights as safetensors; equal weights give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})


def to_host(values: Any) -> Any:
    """A copy of nested tensors in the host's memory, independent of further training."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, dict):
        return {key: to_host(value) for key, value in values.items()}
    return [to_host(value) for value in values] if isinstance(values, list | tuple) else values


def pack(checkpoint: Checkpoint) -> dict[str, Sequence[Buffer]]:
    """The files of a checkpoint by name, in pieces; the manifest with the digests of the others comes last."""
    optimizer = checkpoint.optimizer
    progress = {**asdict(checkpoint.progress), "optimizer": optimizer["param_groups"]}
    files = {
        "progress.json": [json.dumps(progress).encode()],
        "weights.safetensors": pieces(checkpoint.weights),
        "average.safetensors": pieces(checkpoint.average),
        "selected.safetensors": pieces(_add_prefixes(dict(enumerate(checkpoint.selected)))),
        "optimizer.safetensors": pieces(_add_prefixes(optimizer["state"])),
    }
    digests = {name: _digest(parts) for name, parts in files.items()}
    return {**files, MANIFEST: [json.dumps(digests).encode()]}


def unpack(read: Callable[[str], bytes]) -> Checkpoint:
    """A checkpoint from its files.

    Args:
        read: returns a file's content by name.

    Raises:
        ValueError: if a file has changed since it was written; safetensors, JSON and `read` may raise other errors.
    """
    digests: Mapping[str, str] = json.loads(read(MANIFEST))
    files = {name: read(name) for name in digests}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise ValueError(f"{name} has changed since it was written")
    weights, average, selected, moments = (
        load(files[f"{name}.safetensors"]) for name in ("weights", "average", "selected", "optimizer")
    )
    values = json.loads(files["progress.json"])
    groups = values.pop("optimizer")
    progress = Progress(**values)
    cycles = [_select_prefix(selected, i) for i in range(len(progress.selected))]
    numbers = sorted({int(name.partition(".")[0]) for name in moments})
    optimizer = {"state": {i: _select_prefix(moments, i) for i in numbers}, "param_groups": groups}
    return Checkpoint(progress, weights, average, cycles, optimizer)


def pieces(weights: Weights) -> Sequence[Buffer]:
    """The bytes of safetensors' `save`, in pieces: without copying tensors or holding Python's lock.

    Training continues while they are written.
    """
    header: dict[str, Any] = {}
    ordered = sorted(weights.items(), key=lambda item: (-item[1].itemsize, item[0]))
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    views = [tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data for _, tensor in ordered]
    return [len(text).to_bytes(8, "little") + text, *views]


def _digest(parts: Sequence[Buffer]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _add_prefixes(parts: Mapping[int, Weights]) -> Weights:
    return {f"{i}.{name}": tensor for i, weights in parts.items() for name, tensor in weights.items()}


def _select_prefix(weights: Weights, i: int) -> Weights:
    return {name.removeprefix(f"{i}."): tensor for name, tensor in weights.items() if name.startswith(f"{i}.")}
