"""A checkpoint: what it holds, and its files, each known by digest, so that a torn or altered one is never used."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

MANIFEST = "manifest.json"

# Networks and optimizers hold no others.
DTYPES = {torch.float32: "F32", torch.int64: "I64"}

Weights = dict[str, Tensor]
Buffer = bytes | memoryview


@dataclass
class Progress:
    """How far training has come: what can't be derived from recipe and step.

    `losses` are those of the epoch's steps so far (replayed batches are not among them), `epoch_seconds` what it took;
    `history` has a row per finished epoch; `selected` the best epoch of each cycle that is kept (`cycle`, `epoch`,
    `dice`); `resumed_at` the steps at which a killed run went on. `threads` are the CPU's, `processes` those that
    share a batch, and `device` and `precision` what they compute on and in: with others the last bits would differ.
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
    """Progress, the network's weights, their running mean (empty without), those selected, the optimizer's state.

    `selected` has the weights of each cycle's best epoch (empty where none had a Dice).
    """

    progress: Progress
    weights: Weights
    average: Weights
    selected: list[Weights]
    optimizer: dict[str, Any]


def save_weights(weights: Weights) -> bytes:
    """Weights as safetensors; the same weights have the same bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})


def to_host(values: Any) -> Any:
    """A copy of nested tensors in the host's memory, which training doesn't change any more."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, dict):
        return {key: to_host(value) for key, value in values.items()}
    return [to_host(value) for value in values] if isinstance(values, list | tuple) else values


def pack(checkpoint: Checkpoint) -> dict[str, Sequence[Buffer]]:
    """The files of a checkpoint by name, in pieces; the manifest, with the digests of all others, is the last."""
    optimizer = checkpoint.optimizer
    progress = {**asdict(checkpoint.progress), "optimizer": optimizer["param_groups"]}
    files = {
        "progress.json": [json.dumps(progress).encode()],
        "weights.safetensors": pieces(checkpoint.weights),
        "average.safetensors": pieces(checkpoint.average),
        "selected.safetensors": pieces(_numbered(dict(enumerate(checkpoint.selected)))),
        "optimizer.safetensors": pieces(_numbered(optimizer["state"])),
    }
    digests = {name: _digest(parts) for name, parts in files.items()}
    return {**files, MANIFEST: [json.dumps(digests).encode()]}


def unpack(read: Callable[[str], bytes]) -> Checkpoint:
    """A checkpoint from its files.

    Args:
        read: gives a file's content by its name.

    Raises:
        ValueError: if a file isn't what was written, or as whatever safetensors, JSON and `read` say of a damaged one.
    """
    digests: Mapping[str, str] = json.loads(read(MANIFEST))
    files = {name: read(name) for name in digests}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise ValueError(f"{name} has another digest than when it was written")
    weights, average, selected, moments = (
        load(files[f"{name}.safetensors"]) for name in ("weights", "average", "selected", "optimizer")
    )
    kept = json.loads(files["progress.json"])
    groups = kept.pop("optimizer")
    progress = Progress(**kept)
    cycles = [_of_number(selected, i) for i in range(len(progress.selected))]
    numbers = sorted({int(name.partition(".")[0]) for name in moments})
    optimizer = {"state": {i: _of_number(moments, i) for i in numbers}, "param_groups": groups}
    return Checkpoint(progress, weights, average, cycles, optimizer)


def pieces(weights: Weights) -> Sequence[Buffer]:
    """What safetensors' own `save` gives, joined; but the tensors' memory isn't copied, and Python's lock not held.

    So training goes on while this is written.
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


def _numbered(parts: Mapping[int, Weights]) -> Weights:
    return {f"{i}.{name}": tensor for i, weights in parts.items() for name, tensor in weights.items()}


def _of_number(weights: Weights, i: int) -> Weights:
    return {name.removeprefix(f"{i}."): tensor for name, tensor in weights.items() if name.startswith(f"{i}.")}
