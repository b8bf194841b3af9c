"""Batches made on the device beside the step before them. Imports nothing but torch, so that it runs on any GPU box."""

from collections.abc import Iterator

import torch

from backdrop.training.step import Batch


def ahead(steps: Iterator[list[Batch]], device: torch.device) -> Iterator[list[Batch]]:
    """The batches of each step; on a GPU, what makes the next ones runs on a stream of its own.

    Args:
        steps: makes a step's batches when asked for them, by work that it gives to the device's current stream.
        device: where that work is done.
    """
    if device.type != "cuda":
        yield from steps
        return
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch left it untyped
    while (coming := _on(beside, steps)) is not None:
        here = torch.cuda.current_stream(device)
        here.wait_stream(beside)
        for batch in coming:
            for tensor in batch.tensors():
                tensor.record_stream(here)  # else its memory would be given away while the step still reads it
        yield coming


def _on(stream: torch.cuda.Stream, steps: Iterator[list[Batch]]) -> list[Batch] | None:
    """What comes next; it is asked for when the step before has only just been given to the device."""
    with torch.cuda.stream(stream):
        return next(steps, None)
