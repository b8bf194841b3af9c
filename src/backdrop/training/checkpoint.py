"""A checkpoint: what it holds, and its files, each known by digest, so that a torn or altered one is never used."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from backdrop import storage

MANIFEST = "manifest.json"

Weights = dict[str, Tensor]


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
    """Progress, the network's weights, their running mean (empty without), those selected, the optimiser's state.

    `selected` has the weights of each cycle's best epoch (empty where none had a Dice).
    """

    progress: Progress
    weights: Weights
    average: Weights
    selected: list[Weights]
    optimiser: dict[str, Any]


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


def pack(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of a checkpoint by name; the manifest, with the digests of all others, is the last."""
    optimiser = io.BytesIO()
    torch.save(checkpoint.optimiser, optimiser)
    files = {
        "progress.json": json.dumps(asdict(checkpoint.progress)).encode(),
        "weights.safetensors": save_weights(checkpoint.weights),
        "average.safetensors": save_weights(checkpoint.average),
        "selected.safetensors": save_weights(_numbered(checkpoint.selected)),
        "optimiser.pt": optimiser.getvalue(),
    }
    digests = {name: storage.sha256(data) for name, data in files.items()}
    return {**files, MANIFEST: json.dumps(digests).encode()}


def unpack(read: Callable[[str], bytes]) -> Checkpoint:
    """A checkpoint from its files.

    Args:
        read: gives a file's content by its name.

    Raises:
        ValueError: if a file isn't what was written, or as whatever torch, JSON and `read` say of a damaged one.
    """
    digests: Mapping[str, str] = json.loads(read(MANIFEST))
    files = {name: read(name) for name in digests}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise ValueError(f"{name} has another digest than when it was written")
    optimiser = torch.load(io.BytesIO(files["optimiser.pt"]), weights_only=True)
    weights, average, selected = (load(files[f"{name}.safetensors"]) for name in ("weights", "average", "selected"))
    progress = Progress(**json.loads(files["progress.json"]))
    cycles = [_of_number(selected, i) for i in range(len(progress.selected))]
    return Checkpoint(progress, weights, average, cycles, optimiser)


def _numbered(cycles: Sequence[Weights]) -> Weights:
    return {f"{i}.{name}": tensor for i, weights in enumerate(cycles) for name, tensor in weights.items()}


def _of_number(weights: Weights, i: int) -> Weights:
    return {name.removeprefix(f"{i}."): tensor for name, tensor in weights.items() if name.startswith(f"{i}.")}
