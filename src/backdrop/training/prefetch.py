"""Prepares the next batches on the GPU during the current step. Imports only torch, so that it runs on any machine."""

from collections.abc import Iterator

import torch

from backdrop.training.step import Batch


def prefetch(steps: Iterator[list[Batch]], device: torch.device) -> Iterator[list[Batch]]:
    """The batches of each step; on a GPU, the next ones are prepared on a separate stream.

    Args:
        steps: prepares a step's batches on the device's current stream.
        device: where the batches are prepared.
    """
    if device.type != "cuda":
        yield from steps
        return
    side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch left it untyped
    while (batches := _next_on(side_stream, steps)) is not None:
        main_stream = torch.cuda.current_stream(device)
        main_stream.wait_stream(side_stream)
        for batch in batches:
            for tensor in batch.tensors():
                tensor.record_stream(main_stream)  # else its memory could be reused while the step still reads it
        yield batches


def _next_on(stream: torch.cuda.Stream, steps: Iterator[list[Batch]]) -> list[Batch] | None:
    """The next step's batches, queued right after the current step was queued on the device."""
    with torch.cuda.stream(stream):
        return next(steps, None)
