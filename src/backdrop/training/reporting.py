"""What you see of a training: bars while an epoch trains and is judged, a lasting line when it is over."""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backdrop.common.progress import Work, clock, log, progress, stage

LAST = 5  # epochs whose median says how long the next ones take


class EpochReporter:
    """Shows one training, and how long it still takes by the epochs that this process has trained whole.

    Args:
        epochs: of the whole training.
        shown: whether lines are printed; of several processes, only the first does.
    """

    def __init__(self, epochs: int, shown: bool = True) -> None:
        self._epochs, self._shown = epochs, shown
        self._epoch, self._began, self._seconds = 0, time.monotonic(), list[float]()
        self._images_per_s = 0.0

    @contextmanager
    def epoch(self, epoch: int, whole: bool) -> Iterator[None]:
        """An epoch with its judging.

        Args:
            epoch: its number, from 0.
            whole: whether it begins with its first step; a resumed one says nothing of an epoch's length.
        """
        self._epoch, self._began = epoch, time.monotonic()
        with stage(f"epoch {epoch + 1}/{self._epochs}", self.eta_s):
            yield
        if whole:
            self._seconds.append(time.monotonic() - self._began)

    @contextmanager
    def steps(self, total: int, done: int, images: int) -> Iterator[Work]:
        """The epoch's steps.

        Args:
            total: the epoch's steps.
            done: those that were done before.
            images: trained on in the steps that are left.
        """
        began = time.monotonic()
        with progress("step", total, lasting=False) as advance:
            advance.done = done
            yield advance
        self._images_per_s = images / max(1e-9, time.monotonic() - began)

    def eta_s(self) -> float | None:
        """Seconds to the end of the last epoch; None before the first whole one."""
        if not self._seconds:
            return None
        length = statistics.median(self._seconds[-LAST:])
        under_way = max(0.0, length - (time.monotonic() - self._began))
        return under_way + length * (self._epochs - self._epoch - 1)

    def finished(self, row: Mapping[str, Any]) -> None:
        """Prints the line of the epoch that is over.

        Args:
            row: the epoch's, as in `metrics.jsonl`.
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
    """`6.0e-3`."""
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
