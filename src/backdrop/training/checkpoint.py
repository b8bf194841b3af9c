"""Checkpoints: written whole or not at all, known by digest, so that a torn or altered one is never used."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from backdrop import storage
from backdrop.errors import MemberError
from backdrop.progress import say

KEEP = 2
MANIFEST = "manifest.json"

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """How far training has come: what can't be derived from recipe and step.

    `history` has a row per finished epoch; `selected` the best epoch of each cycle that is kept (`cycle`, `epoch`,
    `dice`); `resumed_at` the steps at which a killed run went on.
    """

    key: str
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
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


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint into `folder` and forgets all but the last few.

    Raises:
        StorageError: if it can't be written.
    """
    optimiser = io.BytesIO()
    torch.save(checkpoint.optimiser, optimiser)
    files = {
        "progress.json": json.dumps(asdict(checkpoint.progress)).encode(),
        "weights.safetensors": save_weights(checkpoint.weights),
        "average.safetensors": save_weights(checkpoint.average),
        "selected.safetensors": save_weights(_numbered(checkpoint.selected)),
        "optimiser.pt": optimiser.getvalue(),
    }
    files[MANIFEST] = json.dumps({name: storage.sha256(data) for name, data in files.items()}).encode()
    with storage.output_folder(folder / f"{checkpoint.progress.step:08d}", MANIFEST) as scratch:
        for name, data in files.items():
            _write_through(scratch / name, data)
    for old in _folders(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, or None if there is none; what is damaged is said and passed over.

    Raises:
        MemberError: if all are damaged, rather than to begin anew without a word.
    """
    candidates = _folders(folder)
    for candidate in reversed(candidates):
        try:
            return _read(candidate)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            say(f"{candidate} is damaged ({error}); going back to the one before")
    if candidates:
        raise MemberError(f"All checkpoints in {folder} are damaged", "Delete that folder to begin anew")
    return None


def _read(folder: Path) -> Checkpoint:
    digests = json.loads((folder / MANIFEST).read_bytes())
    files = {name: (folder / name).read_bytes() for name in digests}
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


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _write_through(path: Path, data: bytes) -> None:
    """To the disk itself: a rename must not become visible before what it names."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
