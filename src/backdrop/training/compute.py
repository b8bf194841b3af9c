"""Torch's settings for precision, determinism and threads. Imports only torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def augments_on(setting: str, device: torch.device) -> str:
    """`host` or `device`: the setting, with `auto` resolved for the device."""
    if setting != "auto":
        return setting
    return "host" if device.type == "cpu" else "device"


@contextmanager
def computing(precision: str, deterministic: bool, threads: int) -> Iterator[None]:
    """Sets torch's switches for the duration of the block, and restores them and the random state after it.

    Args:
        precision: as returned by `precision_of`; `bf16` allows TF32 for float32 operations.
        deterministic: whether a GPU uses only deterministic algorithms. A CPU always does.
        threads: number of CPU threads; another number changes the last bits.
    """
    cuda = torch.cuda.is_available()
    switches = _switches(precision, deterministic)
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in switches]
    threads_before, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if deterministic:  # cuBLAS reads it at first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic or not cuda)
        _set(switches)
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
    """Each switch: its module, name and value."""
    cudnn: Any = torch.backends.cudnn  # its type stubs are incomplete
    fp32 = "ieee" if precision == "fp32" else "tf32"
    return [
        (cudnn, "benchmark", not deterministic),
        (cudnn.conv, "fp32_precision", fp32),
        (torch.backends.cuda.matmul, "fp32_precision", fp32),
        # Filling costs time, and no code reads uninitialized memory.
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]


def _set(switches: list[tuple[Any, str, Any]]) -> None:
    for holder, name, value in switches:
        setattr(holder, name, value)
