"""Uploads a member's metrics from its own file, and its pictures, in a thread that never stops the training."""

import contextlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from backdrop.common.owner import this_process
from backdrop.common.progress import log
from backdrop.common.retry import RetryPolicy, repeat
from backdrop.common.storage import sha256
from backdrop.evaluation.pictures import Image

METRICS = ("lr", "loss", "dice")
HEARTBEAT = "backdrop.heartbeat"  # tag with the time of a run's last sign of life, in ms since 1970
OWNER = "backdrop.owner"  # tag with the process that writes the run
POLICY = RetryPolicy(pause_s=2.0, max_pause_s=60.0)
BEAT_S = 30.0
BATCH = 500
WAITING = 40  # pictures that wait for a server that is away; older ones are dropped
UNNAMABLE = re.compile(r"[^a-zA-Z0-9_\-. ]")  # what MLflow refuses in a picture's key
LONGEST = 100  # characters of a key; MLflow makes a file's name of it and of 90 more


class MetricsUploader(threading.Thread):
    """Uploads the points of `metrics.jsonl` to a run while training writes it, and updates the run's heartbeat.

    Each pass reads the file from its start and sends the points that the run doesn't have by metric and epoch. So
    nothing is lost while the server is away, and a resumed training may shorten the file. Pictures are in memory until
    they are sent.
    """

    def __init__(self, client: MlflowClient, run_id: str, path: Path) -> None:
        super().__init__(name=f"follow {path}", daemon=True)
        self._client, self._run_id = client, run_id
        self.path = path
        self._sent: set[tuple[str, int]] | None = None
        self._beat_at = -BEAT_S
        self._closing = threading.Event()
        self._pictures: deque[tuple[str, int, Image]] = deque(maxlen=WAITING)

    def show(self, name: str, step: int, picture: Image) -> None:
        """Takes a picture (H, W, 3) RGB of a photograph at an epoch, from 0, to be sent with the next points."""
        self._pictures.append((picture_key(name), step, picture))

    def run(self) -> None:
        """Sends new points repeatedly, and a last time after `close`."""
        repeat(self._pass, POLICY, self._closing, self._warn, once_more=True)

    def close(self, timeout_s: float) -> None:
        """Stops the thread; returns after the time-out even if it still runs."""
        self._closing.set()
        self.join(timeout_s)

    def send(self) -> None:
        """Sends the points that the run doesn't have; MLflow stores a repeated point only once.

        Raises:
            MlflowException: if the server doesn't accept them.
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
        self._send_pictures()  # last: a server may take metrics but no files, and the run lives all the same

    def _send_pictures(self) -> None:
        while self._pictures:
            name, step, picture = first = self._pictures[0]
            self._client.log_image(self._run_id, picture, key=name, step=step, synchronous=True)
            if self._pictures and self._pictures[0] is first:  # else it was dropped meanwhile
                self._pictures.popleft()

    def _warn(self, error: Exception) -> None:
        """Logs an error of the server or a proxy; training continues."""
        log(f"Metrics can't be sent to MLflow ({type(error).__name__}); they are kept in {self.path} and sent later")

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beat_at < BEAT_S or self._closing.is_set():
            return
        run = self._client.get_run(self._run_id)
        if run.data.tags.get(OWNER, owner()) != owner():
            log(f"Run {self._run_id} belongs to another process now, because this one was silent; it sends no metrics")
            self._closing.set()
            return
        if run.info.status == "KILLED":  # by `backdrop reap`
            self._client.update_run(self._run_id, status="RUNNING")
        self._client.set_tag(self._run_id, HEARTBEAT, heartbeat())
        self._beat_at = now

    def _stored(self) -> set[tuple[str, int]]:
        histories = (self._client.get_metric_history(self._run_id, key) for key in METRICS)
        return {(metric.key, metric.step) for history in histories for metric in history}


def picture_key(name: str) -> str:
    """The key in MLflow of a photograph's pictures: its name, or else what is left of that and a part of its sha256."""
    kept = UNNAMABLE.sub("_", name[:LONGEST])
    return kept if kept == name else f"{kept}-{sha256(name.encode())[:8]}"


@cache
def owner() -> str:
    """The tag of runs that this process writes."""
    return this_process("train").dump()


def heartbeat() -> str:
    """The tag's current value."""
    return str(time.time_ns() // 1_000_000)


def read_points(path: Path) -> Iterator[Metric]:
    """The points of a `metrics.jsonl` with their times; a line that is still being written is ignored."""
    text = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # it doesn't exist yet, or is damaged
        text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            row = json.loads(line)
            values = {key: row[key] for key in METRICS if row.get(key) is not None}
            yield from (Metric(key, float(value), row["time_ms"], row["epoch"]) for key, value in values.items())
