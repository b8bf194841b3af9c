"""What a student costs on one core, and what it loses.

.venv/bin/python benchmarks/student.py STUDENT PHOTOS                          milliseconds of a photograph, by part
.venv/bin/python benchmarks/student.py STUDENT PHOTOS --data DATA --plan CSV   and Dice on the holdout, fp32 and int8
    [--members TEACHERS…]                                                      and that of the members that taught it

STUDENT is a member folder that `backdrop distill` wrote, PHOTOS a folder of photographs. The int8 graph is from
onnxruntime's static quantization, calibrated on 32 photographs that the student has trained on.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from backdrop.data.dataset import open_dataset, read_image, read_pair
from backdrop.data.folds import read_plan, verify
from backdrop.data.masks import dice
from backdrop.data.preprocessing import normalize, to_input
from backdrop.inference.ensemble import gather
from backdrop.inference.mean import Mean
from backdrop.inference.member import ONNX, WEIGHTS, Member, assemble, read_member
from backdrop.inference.onnx import IMAGE, OnnxNetwork
from backdrop.inference.predict import answers, batches

CALIBRATION, ROUNDS = 32, 3

Image = NDArray[np.uint8]
Networks = dict[str, tuple[nn.Module, str]]  # each with the precision that it computes in


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Inputs of the network, one photograph at a time."""

    def __init__(self, images: Sequence[Image], member: Member) -> None:
        self._inputs: Iterator[Image] = iter(images)
        self._spec = member.recipe.input

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input; None after the last one."""
        image = next(self._inputs, None)
        if image is None:
            return None
        batch = torch.from_numpy(to_input(image, self._spec)[None])
        return {IMAGE: normalize(batch, self._spec).contiguous().numpy()}


def quantize(member: Member, images: Sequence[Image], target: Path) -> OnnxNetwork:
    """The student's graph in int8."""
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(member.folder / ONNX, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        Calibration(images, member),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return OnnxNetwork(target)


def cut(network: nn.Module, precision: str, member: Member, image: Image) -> tuple[NDArray[np.bool_], dict[str, float]]:
    """A photograph's mask as `predict` makes it, and the seconds of each part."""
    recipe, seconds = member.recipe, {}
    start = time.process_time()
    prepared = to_input(image, recipe.input)
    seconds["resize"] = time.process_time() - start
    start = time.process_time()
    shown = batches([prepared], recipe.input, torch.device("cpu"))
    (answer,) = answers(network, shown, [image.shape[:2]], recipe.input, recipe.tta, precision=precision)
    seconds["network"] = time.process_time() - start
    start = time.process_time()
    mean = Mean()
    mean.add(answer.probability(), 1)
    mask = mean.mask()
    seconds["mask"] = time.process_time() - start
    return mask, seconds


def mask_of(network: nn.Module, precision: str, member: Member, image: Image) -> NDArray[np.bool_]:
    """A photograph's mask alone."""
    return cut(network, precision, member, image)[0]


def time_all(networks: Networks, member: Member, paths: list[Path]) -> None:
    """Prints the median milliseconds of a photograph, by part and as a whole, with the decoding.

    The networks take turns, and CPU time is counted, so that other work on the machine matters less.
    """
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for index, path in enumerate([paths[0], *paths * ROUNDS]):
        for name, (network, precision) in networks.items():
            start = time.process_time()
            image = read_image(path)
            decoded = time.process_time() - start
            _, seconds = cut(network, precision, member, image)
            if index:  # the first one warms up
                parts[name].append({"decode": decoded, **seconds, "all": decoded + sum(seconds.values())})
    for name, rows in parts.items():
        medians = {part: 1000 * statistics.median(row[part] for row in rows) for part in rows[0]}
        print(f"{name:10} {'  '.join(f'{part} {value:5.1f}' for part, value in medians.items())} ms")


def holdout_dice(data: str, plan: str, cutting: Callable[[Image], NDArray[np.bool_]]) -> float:
    """The mean Dice over the holdout's photographs."""
    dataset, folds = open_dataset(data), read_plan(plan)
    digests = verify(folds, dataset)
    pairs = (read_pair(dataset.photos[row.image], digests) for row in folds.holdout)
    return statistics.fmean(dice(cutting(image), truth) for image, truth in pairs)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("student", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--plan")
    parser.add_argument("--members", nargs="*", type=Path, default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    member = read_member(options.student)
    paths = sorted(options.photos.glob("*.jpg"))[:10]
    images = [read_image(path) for path in paths]
    if options.data:
        dataset, rows = open_dataset(options.data), read_plan(options.plan).training(None)
        chosen = rows[:: max(1, len(rows) // CALIBRATION)][:CALIBRATION]
        images = [read_image(dataset.photos[row.image].image) for row in chosen]
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        ours = assemble(member.recipe, load_file(member.folder / WEIGHTS))
        networks: Networks = {
            "torch fp32": (ours, "fp32"),
            "torch bf16": (ours, "bf16"),
            "onnx fp32": (member.network(), "fp32"),
            "onnx int8": (quantize(member, images, Path(folder) / "int8.onnx"), "fp32"),
        }
        height, width = read_image(paths[0]).shape[:2]
        print(f"onnxruntime {onnxruntime.__version__}, one thread, {width}x{height} at {member.recipe.input.size}")
        time_all(networks, member, paths)
        if options.data:
            for name, (network, precision) in networks.items():
                value = holdout_dice(options.data, options.plan, partial(mask_of, network, precision, member))
                print(f"{name:10} Dice {value:.5f} on the holdout")
        if options.members:
            teacher = gather([read_member(path) for path in options.members], None)
            print(f"teacher Dice {holdout_dice(options.data, options.plan, teacher.mask):.5f} on the holdout")


if __name__ == "__main__":
    main()
