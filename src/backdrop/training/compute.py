"""How a device computes: torch's switches for precision, determinism and threads. Imports nothing but torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def precision_of(wanted: str, device: torch.device) -> str:
    """`fp32`, `tf32` or `bf16`: what `auto` comes to on a device, else what is wanted."""
    if wanted != "auto":
        return wanted
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if native else "fp32"


def augments_on(wanted: str, device: torch.device) -> str:
    """`host` or `device`: what `auto` comes to where this device trains, else what is wanted."""
    if wanted != "auto":
        return wanted
    return "host" if device.type == "cpu" else "device"


@contextmanager
def computing(precision: str, deterministic: bool, threads: int) -> Iterator[None]:
    """Sets torch's switches while the block lasts, and what it draws at random there is the block's own.

    Args:
        precision: as `precision_of` gives it; with `bf16` what isn't computed in it may use TF32.
        deterministic: whether a GPU uses only algorithms that give the same bits again. A CPU always does.
        threads: of the CPU; another number gives other bits.
    """
    cuda = torch.cuda.is_available()
    wanted = _switches(precision, deterministic)
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in wanted]
    threads_before, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if deterministic:  # cuBLAS reads it when it's first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic or not cuda)
        _set(wanted)
        with torch.random.fork_rng([torch.cuda.current_device()] if cuda else []):
            yield
    finally:
        _set(before)
        torch.use_deterministic_algorithms(deterministic_before)
        torch.set_num_threads(threads_before)


def device_name(device: torch.device) -> str:
    """A GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _switches(precision: str, deterministic: bool) -> list[tuple[Any, str, Any]]:
    """Where each switch is, its name, and how it's wanted."""
    cudnn: Any = torch.backends.cudnn  # its types know less than it has
    fp32 = "ieee" if precision == "fp32" else "tf32"
    return [
        (cudnn, "benchmark", not deterministic),
        (cudnn.conv, "fp32_precision", fp32),
        (torch.backends.cuda.matmul, "fp32_precision", fp32),
        # It costs time, and nothing reads such memory.
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]


def _set(switches: list[tuple[Any, str, Any]]) -> None:
    for holder, name, value in switches:
        setattr(holder, name, value)
