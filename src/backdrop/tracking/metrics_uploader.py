"""Metrics on their way to the server: from the member's own file, beside the training, never in its way."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from backdrop.common.progress import log
from backdrop.common.retry import RetryPolicy, repeat

METRICS = ("lr", "loss", "dice")
HEARTBEAT = "backdrop.heartbeat"  # the tag that says when a run's process last gave a sign of life, in ms
POLICY = RetryPolicy(pause_s=2.0, max_pause_s=60.0)
BEAT_S = 30.0
BATCH = 500


class MetricsUploader(threading.Thread):
    """Replays `metrics.jsonl` into a run, each point once, while training writes it; and says that training lives.

    The file is the truth and every pass reads the whole of it, so that nothing is lost while the server is away, and
    a file that a resumed training shortened does no harm. What the run has already, by metric and epoch, is not sent.
    """

    def __init__(self, client: MlflowClient, run_id: str, path: Path) -> None:
        super().__init__(name=f"follow {path}", daemon=True)
        self._client, self._run_id = client, run_id
        self.path = path
        self._sent: set[tuple[str, int]] | None = None
        self._beat_at = -BEAT_S
        self._closing = threading.Event()

    def run(self) -> None:
        """Sends what is new, again and again; ends one pass after `close` was called."""
        repeat(self._pass, POLICY, self._closing, self._warn, once_more=True)

    def close(self, timeout_s: float) -> None:
        """Ends the thread, or leaves it to itself after so long."""
        self._closing.set()
        self.join(timeout_s)

    def send(self) -> None:
        """Sends the points that the run doesn't have; a point that is sent twice is there once.

        Raises:
            MlflowException: if the server doesn't take them.
        """
        if self._sent is None:
            self._sent = self._stored()
        sent = self._sent
        points = [point for point in read_points(self.path) if (point.key, point.step) not in sent]
        for start in range(0, len(points), BATCH):
            batch = points[start : start + BATCH]
            self._client.log_batch(self._run_id, metrics=batch)
            sent |= {(point.key, point.step) for point in batch}

    def _pass(self) -> None:
        self.send()
        self._beat()

    def _warn(self, error: Exception) -> None:
        """Whatever a server or a proxy does, training goes on."""
        log(f"MLflow doesn't take metrics ({type(error).__name__}); they wait in {self.path}")

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beat_at < BEAT_S or self._closing.is_set():
            return
        self._client.update_run(self._run_id, status="RUNNING")  # if it was taken for dead and reaped
        self._client.set_tag(self._run_id, HEARTBEAT, heartbeat())
        self._beat_at = now

    def _stored(self) -> set[tuple[str, int]]:
        histories = (self._client.get_metric_history(self._run_id, key) for key in METRICS)
        return {(metric.key, metric.step) for history in histories for metric in history}


def heartbeat() -> str:
    """The tag's value now."""
    return str(time.time_ns() // 1_000_000)


def read_points(path: Path) -> Iterator[Metric]:
    """The points in a `metrics.jsonl`, at the times that it gives; a line that is still being written is left out."""
    text = ""
    with contextlib.suppress(OSError):  # not there yet
        text = path.read_text()
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            row = json.loads(line)
            values = {key: row[key] for key in METRICS if row.get(key) is not None}
            yield from (Metric(key, float(value), row["time_ms"], row["epoch"]) for key, value in values.items())
