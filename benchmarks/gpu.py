"""Measures what the reference solution costs on a GPU, by the product's own parts, in one call of at most 8 minutes.

PYTHONPATH=src python benchmarks/gpu.py [results.json]

First what the GPU can do at best. Then each network of `best-overfitting` as `train` trains and judges it, and all 49
as `predict` uses them, with random weights and rendered photographs of 1918x1280. Then each network compiled, and other
settings. Each row is printed and written as soon as it is measured; a row that fails says why, and a row that begins
too late is left out. `hours` are those of the winners' schedule and of Carvana's 100,064 photographs.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from backdrop import __version__
from backdrop.common.errors import shorten
from backdrop.config import Ensemble, Part, Recipe, find_ensemble
from backdrop.config.records import dump_yaml
from backdrop.data.dataset import Photo, open_dataset
from backdrop.data.digests import content_digests
from backdrop.data.photographs import Source
from backdrop.inference.batch import cut_out
from backdrop.inference.ensemble import EnsembleModel, prediction_cost
from backdrop.inference.member import Member, MemberRecord, assemble
from backdrop.models import build
from backdrop.models.cost import macs
from backdrop.steps.sample import sample
from backdrop.training.compute import device_name
from backdrop.training.throughput import measure
from backdrop.training.trainer import first_network

ENSEMBLE = "best-overfitting"
LABELED, UNLABELED = 5_088, 100_064  # photographs of Carvana
PREDICTED = 48
LATEST_S = 400  # no row begins later
ROUNDS, ROUND_S = 5, 0.4
COMPILED, AUTOTUNED = ", compiled", ", cuDNN autotuned"
EACH_NETWORK, LATE_PREDICTIONS = ("", COMPILED), (AUTOTUNED, COMPILED)
WAYS: dict[str, dict[str, Any]] = {  # measured with the first network alone
    "fp32 with TF32": {"compute.precision": "tf32"},
    "fp32 without TF32": {"compute.precision": "fp32"},
    "photographs cached on the GPU": {"loading.cache": "device"},
    "deterministic": {"compute.deterministic": True},
}


class Results:
    """The rows so far, printed and written one by one."""

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, time.monotonic()
        self.rows: dict[str, dict[str, Any]] = {}

    def row(self, name: str, act: Callable[[], dict[str, Any]]) -> None:
        """Measures a row, if it isn't too late."""
        start = time.monotonic()
        if start - self._begun > LATEST_S:
            found: dict[str, Any] = {"left out": "too late"}
        else:
            try:
                found = act()
            except Exception as error:  # whatever it is, the other rows are measured all the same
                found = {"failed": shorten(error)}
        self.rows[name] = found | {"took_s": time.monotonic() - start}
        cells = ", ".join(f"{key} {_readable(value)}" for key, value in self.rows[name].items())
        print(f"{name}: {cells}", flush=True)
        self._path.write_text(json.dumps(self.rows, indent=1))

    def value(self, name: str, key: str) -> float:
        """A row's figure; not a number without it."""
        return float(self.rows.get(name, {}).get(key, "nan"))


def _readable(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class RandomMember(Member):
    """A member with random weights, whose network stays in memory."""

    is_in_memory = True

    def network(self) -> nn.Module:
        """The recipe's, which all its members share."""
        return random_network(self.recipe)


@cache
def random_network(recipe: Recipe) -> nn.Module:
    """A recipe's network; members of a recipe share it, because that changes no time."""
    return assemble(recipe, first_network(recipe).state_dict())


def parts_by_network(ensemble: Ensemble) -> dict[str, list[Part]]:
    """An ensemble's parts whose network and input size are the same, by the name of the first one's recipe."""
    parts: dict[str, list[Part]] = {}
    for part in ensemble.parts():
        parts.setdefault(dump_yaml(part.resolve().network) + part.resolve().input.size, []).append(part)
    return {same[0].resolve().name: same for same in parts.values()}


def random_model(ensemble: Ensemble) -> EnsembleModel:
    """All members of an ensemble."""
    members = [
        random_member(part.resolve(), fold) for part in ensemble.parts() for fold in range(folds(ensemble, part))
    ]
    return EnsembleModel(tuple(members), ensemble.weights(), ensemble.postprocessing)


def folds(ensemble: Ensemble, part: Part) -> int:
    """How many members a part has."""
    return ensemble.rule(part).folds


def random_member(recipe: Recipe, fold: int) -> RandomMember:
    """A member that never trained."""
    text = dict.fromkeys(("key", "weights", "settings", "device", "precision"), "")
    counts = dict.fromkeys(("seed", "epochs", "selected_epoch", "parameters", "threads", "processes"), 0)
    scores = {"dice": 0.0, "seconds": 0.0, "resumed_at": (), "version": __version__}
    record = MemberRecord(recipe=recipe.name, fold=fold, **text, **counts, **scores)
    return RandomMember(Path(), record, recipe)


def training(photos: Sequence[Photo], seconds: float, flops: float, recipe: Recipe) -> dict[str, Any]:
    """Photographs per second that `train` trains and judges, its share of the ceiling, and its peak memory."""
    found = measure(recipe, photos, content_digests(photos), seconds)
    cost = macs(build(**recipe.network_options()), recipe.input.height, recipe.input.width)
    # A backward pass costs two forward passes, and a multiply-accumulate is two operations.
    share = found.training * 6 * cost / flops
    return asdict(found) | {"share": share, "GiB": found.memory / 2**30}


def prediction(photos: Sequence[Photo], flops: float, model: EnsembleModel, way: str) -> dict[str, Any]:
    """Seconds per photograph of `predict` without its start, and peak memory.

    In a process of its own, because cuDNN goes on with the algorithms that it once chose.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_predict, model, photos, PREDICTED, way).result()
    cost = sum(prediction_cost(member.recipe) for member in model.members)
    return found | {"share": 2 * cost / found["s_per_photograph"] / flops}


def _predict(model: EnsembleModel, photos: Sequence[Photo], count: int, way: str) -> dict[str, float]:
    cuda = torch.cuda.is_available()
    sources = [Source(photos[i % len(photos)].image, f"{i}.jpg") for i in range(count)]
    torch.backends.cudnn.benchmark = way == AUTOTUNED
    if way == COMPILED:
        for member in model.members:
            member.network().compile()
    cut_out(model, sources[:4])
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    cut_out(model, sources)
    seconds = (time.monotonic() - start) / count
    return {"s_per_photograph": seconds, "GiB": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0}


def ceilings(where: torch.device, side: int = 8192) -> dict[str, Any]:
    """The device's limits: bf16 matrix products in FLOP/s, copies on it and to it in bytes/s."""
    one, other = (torch.randn(side, side, device=where, dtype=torch.bfloat16) for _ in range(2))
    large, onto = (torch.empty(4 * side * side, dtype=torch.uint8, device=where) for _ in range(2))
    host = torch.empty(side * side, dtype=torch.uint8, pin_memory=where.type == "cuda")
    return {
        "device": device_name(where),
        "torch": torch.__version__,
        "flops": rate(lambda: one @ other, where) * 2 * side**3,
        "copy_bytes": rate(lambda: onto.copy_(large), where) * 2 * large.numel(),
        "upload_bytes": rate(lambda: onto[: host.numel()].copy_(host, non_blocking=True), where) * host.numel(),
    }


def rate(act: Callable[[], object], where: torch.device) -> float:
    """Calls per second, the median of some rounds."""
    act()
    rates = []
    for _ in range(ROUNDS):
        count, start = 0, now(where)
        while count == 0 or time.monotonic() - start < ROUND_S:
            act()
            count += 1
            if count % 8 == 0:  # or a round would queue more work than it measures
                now(where)
        rates.append(count / (now(where) - start))
    return statistics.median(rates)


def now(where: torch.device) -> float:
    """The time when the device has finished its work."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.monotonic()


def hours(ensemble: Ensemble, results: Results, suffix: str) -> dict[str, Any]:
    """Hours to train and judge all members of an ensemble on all of Carvana, and to predict the rest of it."""
    total = {"train": 0.0, "judge": 0.0}
    for name, parts in parts_by_network(ensemble).items():
        for part in parts:
            recipe, count = part.resolve(), folds(ensemble, part)
            replays = 1 / recipe.replay_every if recipe.replay_every else 0
            seen = LABELED * (count - 1) / count * (1 + replays)
            total["train"] += count * recipe.epochs * seen / results.value(name + suffix, "training") / 3600
            total["judge"] += (recipe.epochs + 1) * LABELED / results.value(name + suffix, "judging") / 3600
    predict = UNLABELED * results.value("predict" + suffix, "s_per_photograph") / 3600
    return {"schedule": sum(total.values()), **total, "predict 100,064": predict}


def run(ensemble: Ensemble, photos: Sequence[Photo], results: Results, where: torch.device, seconds: float) -> None:
    """Measures all rows."""
    results.row("ceilings", lambda: ceilings(where, 8192 if where.type == "cuda" else 64))
    flops = results.value("ceilings", "flops")
    networks = {name: parts[0] for name, parts in parts_by_network(ensemble).items()}
    predict, train = partial(prediction, photos, flops), partial(training, photos, seconds, flops)
    whole = random_model(ensemble)
    alone = {name: EnsembleModel((random_member(part.resolve(), 0),), {}) for name, part in networks.items()}
    results.row("predict", partial(predict, whole, ""))
    for suffix in EACH_NETWORK:
        compiled = {"compute.compile": bool(suffix)}
        for name, part in networks.items():
            results.row(name + suffix, partial(train, resolve(part, compiled)))
            results.row(f"{name} predicts{suffix}", partial(predict, alone[name], suffix))
        results.row("hours" + suffix, partial(hours, ensemble, results, suffix))
    for way in LATE_PREDICTIONS:
        results.row("predict" + way, partial(predict, whole, way))
    name, part = next(iter(networks.items()))
    for way, settings in WAYS.items():
        results.row(f"{name}, {way}", partial(train, resolve(part, settings)))


def resolve(part: Part, settings: dict[str, Any] | None = None) -> Recipe:
    """A part's recipe with other settings; nothing is downloaded."""
    changed = {**part.set, "pretrained": None, **(settings or {})}
    return part.model_copy(update={"set": changed}).resolve()


def main() -> None:
    """Measures everything."""
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    results = Results(Path(sys.argv[1] if len(sys.argv) > 1 else "gpu.json"))
    with TemporaryDirectory() as folder:
        sample(f"{folder}/data", objects=4, views=4, size="1918x1280")
        photos = list(open_dataset(f"{folder}/data").photos.values())
        run(find_ensemble(ENSEMBLE), photos, results, torch.device("cuda"), 6.0)


if __name__ == "__main__":
    main()
