"""Measures how fast a GPU trains and predicts with the four networks, in one call of a few minutes.

    PYTHONPATH=src python benchmarks/gpu.py [results.json]

It needs torch >= 2.11 and numpy alone. First what the device can do at best: a bf16 matrix product, copies. Then each
network at its own size: training as Backdrop does it, with torch.compile too, with torch's defaults (TF32 for
convolutions), and with TF32 off; fed from the host's memory, the samples changed on the device; and predicting. Last
the hours of the winners' 49 networks at these rates. Each line is printed, and written, as soon as it is measured.
"""

import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from backdrop.augmentation.device import Augmenter
from backdrop.models import build
from backdrop.models.cost import macs
from backdrop.training.compute import computing, device_name
from backdrop.training.losses import make_loss
from backdrop.training.prefetch import prefetch
from backdrop.training.step import Batch, make_optimizer, set_lr, train_step

PHOTOGRAPHS = 5088
ROUNDS = 5  # a figure is the median of this many
ROUND_S = 0.6


@dataclass(frozen=True)
class Case:
    """A shipped recipe in plain values, and how the winners trained it: networks, epochs, folds, replayed steps."""

    network: dict[str, Any]
    size: tuple[int, int]  # width, height
    loss: dict[str, Any]
    optimizer: str
    batch: int
    clip_norm: float | None
    networks: int
    epochs: int
    folds: int
    replay: float = 0.0

    def images(self) -> float:
        """The number of images that the winners' networks of this kind were trained on, in total."""
        return self.networks * self.epochs * PHOTOGRAPHS * (self.folds - 1) / self.folds * (1 + self.replay)


# linknet34's augmentation; no recipe does more at full size.
CHANGES: Any = [
    SimpleNamespace(kind="hflip", p=0.5),
    SimpleNamespace(kind="affine", p=0.75, shift=0.0625, scale=(0.9, 1.1), rotate=5),
    SimpleNamespace(kind="brightness", p=0.5, factor=(0.9, 1.1)),
    SimpleNamespace(kind="hsv", p=0.5, hue=10, saturation=25, value=25),
]
BOUNDARY = {"kind": "boundary", "band": 0.04, "weight": 3}
FULL, SQUARE = (1920, 1280), (1024, 1024)
CASES = {
    "linknet34": Case(
        {"kind": "linknet", "encoder": "resnet34", "width": 64},
        *(FULL, {"kind": "bce_dice"}, "adam", 4, 1.0),
        *(30, 40, 5, 0.1),
    ),
    "unet11": Case(
        {"kind": "vgg_unet", "width": 32},
        *(FULL, {"kind": "bce_log", "of": "dice", "over": "image"}, "adam", 4, None),
        *(5, 52, 5),
    ),
    "unet-scratch": Case(
        {"kind": "unet", "width": 32, "depth": 6, "max_channels": 1024, "up_convolutions": 3},
        *(SQUARE, BOUNDARY, "sgd", 4, None),
        *(7, 250, 7),
    ),
    "unet-vgg11": Case({"kind": "vgg_unet", "width": 64}, *(SQUARE, BOUNDARY, "adam", 4, None), *(7, 60, 7)),
}


@dataclass(frozen=True)
class Way:
    """How to compute a network; `switches` is one of our precisions, or None for torch's defaults."""

    precision: str | None
    channels_last: bool = True
    compile: bool = False
    fused: bool = True


WAYS = {
    "backdrop": Way("bf16"),
    "backdrop, compiled": Way("bf16", compile=True),
    "torch's defaults": Way(None, channels_last=False, fused=False),
    "TF32 off": Way("fp32", channels_last=False, fused=False),
}


def train_rate(case: Case, way: Way, where: torch.device) -> tuple[float, int]:
    """Images per second with a batch that is on the device already, and the maximum device memory in bytes."""
    width, height = case.size
    images = torch.rand(case.batch, 3, height, width, device=where)
    if way.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    batches = [Batch(images, (torch.rand(case.batch, 1, height, width, device=where) > 0.5).float())]
    with switched(way):
        step = trainer(case, way, where)
        return case.batch * measured(lambda: step(batches), where), memory(where)


def fed_rate(case: Case, way: Way, where: torch.device) -> float:
    """Images per second when they come from host memory, and the device augments them during the previous step."""
    with switched(way):
        step, batches = trainer(case, way, where), prefetch(feed(case, where), where)
        return case.batch * measured(lambda: step(next(batches)), where)


def feed(case: Case, where: torch.device) -> Iterator[list[Batch]]:
    """Batches like those that training makes of decoded photographs; their pixels are noise."""
    width, height = case.size
    pin = where.type == "cuda"
    photographs = torch.randint(256, (case.batch, height, width, 3), dtype=torch.uint8, pin_memory=pin)
    masks = torch.randint(256, (case.batch, height, width), dtype=torch.uint8, pin_memory=pin)
    augment = Augmenter(CHANGES, 0)
    for epoch in itertools.count():
        pairs = zip(photographs.to(where, non_blocking=True), masks.to(where, non_blocking=True), strict=True)
        changed = [augment(*pair, epoch, sample) for sample, pair in enumerate(pairs)]
        images, targets = (torch.stack(parts) for parts in zip(*changed, strict=True))
        yield [Batch(images.permute(0, 3, 1, 2).float() / 255, targets[:, None].float() / 255)]


def trainer(case: Case, way: Way, where: torch.device) -> Callable[[list[Batch]], object]:
    """One step of training."""
    torch.manual_seed(0)
    network = build(**case.network).to(where)
    if way.channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, case.optimizer, 0.0, 0.9)
    if not way.fused:
        for group in optimizer.param_groups:
            group["fused"] = False
    set_lr(optimizer, 1e-6)
    if way.compile:
        network.compile()
    loss = make_loss(**case.loss)
    return lambda batches: train_step(network, optimizer, loss, batches, case.clip_norm, bf16=way.precision == "bf16")


def predict_rate(case: Case, way: Way, where: torch.device) -> float:
    """Images per second from a batch on the device to probabilities there, without test-time augmentation."""
    network = build(**case.network).to(where, memory_format=torch.channels_last).eval()
    width, height = case.size
    images = torch.rand(case.batch, 3, height, width, device=where).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def once() -> torch.Tensor:
        with torch.autocast(where.type, torch.bfloat16, enabled=way.precision == "bf16"):
            answer: torch.Tensor = network(images).float().sigmoid()
            return answer

    with switched(way):
        return case.batch * measured(once, where)


def switched(way: Way) -> AbstractContextManager[None]:
    """Sets torch's switches for a way of computing; for torch's defaults it sets nothing."""
    if way.precision is None:
        return nullcontext()
    return computing(way.precision, deterministic=False, threads=torch.get_num_threads())


def measured(act: Callable[[], object], where: torch.device) -> float:
    """Calls per second, the median of some rounds, after warm-up calls in which torch chooses its algorithms."""
    for _ in range(3):
        act()
    rates = []
    for _ in range(ROUNDS):
        count, start = 0, now(where)
        while count == 0 or time.monotonic() - start < ROUND_S:
            act()
            count += 1
            if count % 2 == 0:  # or a round would queue more work than it measures
                now(where)
        rates.append(count / (now(where) - start))
    return statistics.median(rates)


def now(where: torch.device) -> float:
    """The time when the device has finished its work."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.monotonic()


def memory(where: torch.device) -> int:
    """Maximum bytes of device memory since the last call; 0 without a GPU."""
    if where.type != "cuda":
        return 0
    taken = torch.cuda.max_memory_allocated(where)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(where)
    return taken


def ceilings(where: torch.device, side: int = 8192) -> dict[str, float]:
    """The device's limits: bf16 matrix products in FLOP/s, copies on it and to it in bytes/s."""
    one, other = (torch.randn(side, side, device=where, dtype=torch.bfloat16) for _ in range(2))
    large, onto = (torch.empty(4 * side * side, dtype=torch.uint8, device=where) for _ in range(2))
    host = torch.empty(side * side, dtype=torch.uint8, pin_memory=where.type == "cuda")
    return {
        "matmul_flops": measured(lambda: one @ other, where) * 2 * side**3,
        "copy_bytes": measured(lambda: onto.copy_(large), where) * 2 * large.numel(),
        "upload_bytes": measured(lambda: onto[: host.numel()].copy_(host, non_blocking=True), where) * host.numel(),
    }


def main() -> None:
    """Measures everything, and prints Markdown."""
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    where, begun = torch.device("cuda"), time.monotonic()
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "gpu.json")
    best = ceilings(where)
    found: dict[str, Any] = {"device": device_name(where), "torch": torch.__version__, "ceilings": best, "cases": {}}
    print(f"{found['device']}, torch {torch.__version__}: bf16 {best['matmul_flops'] / 1e12:.0f} TFLOP/s,", end=" ")
    print(f"copy {best['copy_bytes'] / 1e9:.0f} GB/s, upload {best['upload_bytes'] / 1e9:.1f} GB/s\n")
    print("| network | way | trains images/s | of the ceiling | GiB | times backdrop's |\n|" + " --- |" * 6, flush=True)
    for name, case in CASES.items():
        cost = macs(build(**case.network), case.size[1], case.size[0])
        rows: dict[str, Any] = {"case": asdict(case), "macs": cost, "train": {}, "predict": {}}
        found["cases"][name] = rows
        for label, way in WAYS.items():
            try:
                rate, taken = train_rate(case, way, where)
            except torch.OutOfMemoryError:
                print(f"| {name} | {label} | out of memory | | | |", flush=True)
                continue
            share = (
                rate * 6 * cost / best["matmul_flops"]
            )  # a backward pass costs two forward passes, and a MAC is two operations
            rows["train"][label] = {"images_per_s": rate, "share": share, "bytes": taken}
            against = rate / rows["train"]["backdrop"]["images_per_s"]
            print(f"| {name} | {label} | {rate:.1f} | {share:.1%} | {taken / 2**30:.1f} | {against:.2f} |", flush=True)
            out.write_text(json.dumps(found, indent=1))
        if "backdrop" in rows["train"]:
            rows["fed"] = fed_rate(case, WAYS["backdrop"], where)
            busy = rows["fed"] / rows["train"]["backdrop"]["images_per_s"]
            print(f"| {name} | backdrop, fed | {rows['fed']:.1f} | | {memory(where) / 2**30:.1f} | {busy:.2f} |")
        for label in ("backdrop", "torch's defaults"):
            rows["predict"][label] = predict_rate(case, WAYS[label], where)
        memory(where)
        predicted = ", ".join(f"{label} {rate:.1f}" for label, rate in rows["predict"].items())
        print(f"| {name} | predicts images/s: {predicted} | | | | |", flush=True)
    rates = {name: max(row["images_per_s"] for row in rows["train"].values()) for name, rows in found["cases"].items()}
    found["hours"] = {name: case.images() / rates[name] / 3600 for name, case in CASES.items()}
    found["floor_hours"] = sum(
        case.images() * 6 * found["cases"][name]["macs"] / best["matmul_flops"] / 3600 for name, case in CASES.items()
    )
    found["seconds"] = time.monotonic() - begun
    out.write_text(json.dumps(found, indent=1))
    print(f"\nThe winners' schedule: {sum(found['hours'].values()):.1f} hours on this GPU", end=" ")
    print(f"({', '.join(f'{name} {hours:.1f}' for name, hours in found['hours'].items())});", end=" ")
    print(f"at the ceiling {found['floor_hours']:.1f}. Measured in {found['seconds']:.0f} s.")


if __name__ == "__main__":
    main()
