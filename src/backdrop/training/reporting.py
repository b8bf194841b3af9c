"""Shows a training run: progress bars during an epoch, and one lasting line after it."""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backdrop.common.progress import Work, clock, log, progress, stage

LAST = 5  # the ETA uses the median duration of this many epochs


class EpochReporter:
    """Shows one training run, with an ETA from the epochs that this process has trained completely.

    Args:
        epochs: total number of epochs.
        shown: whether to print lines; with several processes, only the first does.
    """

    def __init__(self, epochs: int, shown: bool = True) -> None:
        self._epochs, self._shown = epochs, shown
        self._epoch, self._began, self._seconds = 0, time.monotonic(), list[float]()
        self._images_per_s = 0.0

    @contextmanager
    def epoch(self, epoch: int, whole: bool) -> Iterator[None]:
        """Shows one epoch, validation included.

        Args:
            epoch: its number, from 0.
            whole: whether it starts at its first step; a resumed epoch is not used for the ETA.
        """
        self._epoch, self._began = epoch, time.monotonic()
        with stage(f"epoch {epoch + 1}/{self._epochs}", self.eta_s):
            yield
        if whole:
            self._seconds.append(time.monotonic() - self._began)

    @contextmanager
    def steps(self, total: int, done: int, images: int) -> Iterator[Work]:
        """Shows the epoch's steps.

        Args:
            total: number of steps in the epoch.
            done: number of steps done before.
            images: number of images in the remaining steps.
        """
        began = time.monotonic()
        with progress("step", total, lasting=False) as advance:
            advance.done = done
            yield advance
        self._images_per_s = images / max(1e-9, time.monotonic() - began)

    def eta_s(self) -> float | None:
        """Seconds until the last epoch ends; None before the first complete epoch."""
        if not self._seconds:
            return None
        length = statistics.median(self._seconds[-LAST:])
        rest_of_epoch = max(0.0, length - (time.monotonic() - self._began))
        return rest_of_epoch + length * (self._epochs - self._epoch - 1)

    def finished(self, row: Mapping[str, Any]) -> None:
        """Prints the line of a finished epoch.

        Args:
            row: the epoch's row of `metrics.jsonl`.
        """
        if not self._shown:
            return
        loss = "nan" if row["loss"] is None else f"{row['loss']:.4f}"
        parts = [f"epoch {row['epoch'] + 1}/{self._epochs}", f"loss {loss}", f"Dice {row['dice']:.4f}"]
        parts += [f"lr {_short(row['lr'])}", f"{self._images_per_s:.1f} img/s"]
        if self._seconds and self._epoch + 1 < self._epochs:
            length = statistics.median(self._seconds[-LAST:])
            parts.append(f"ETA {clock(length * (self._epochs - self._epoch - 1))}")
        log("  ".join(parts))


def _short(lr: float) -> str:
    """Formats a learning rate like `6.0e-3`."""
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
