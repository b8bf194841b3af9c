"""Runs of a schedule search: one per trial under a parent, sent by a thread, so that no server ever delays a trial."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from mlflow.entities import Metric, Param, RunTag

from backdrop.common.errors import TrackingError
from backdrop.common.progress import log
from backdrop.common.retry import repeat
from backdrop.config import Recipe
from backdrop.tracking.client import connect, experiment_id, ping, retry, server_errors
from backdrop.tracking.metrics_uploader import BEAT_S, HEARTBEAT, POLICY, heartbeat
from backdrop.tracking.runs import KIND, PARENT, find_run, flatten
from backdrop.tuning.results import Search
from backdrop.tuning.trial_store import Entry

SEARCH = "backdrop.search"
TRIAL = "backdrop.trial"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
REPORT = "search"
CLOSE_S = 5.0


@dataclass
class Sent:
    """What a trial's run has: its id, how many of the trial's rows, and whether it is closed."""

    run_id: str
    rows: int = 0
    closed: bool = False


@dataclass
class SearchRuns:
    """The runs of one search: `with SearchRuns(key, recipe, space) as runs: …`.

    `key` is the search's; the runs that a killed search with the same key left are joined.
    """

    key: str
    recipe: Recipe
    space: str
    _news: dict[str, tuple[Entry, Recipe]] = field(default_factory=dict)
    _sent: dict[str, Sent] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _finished: bool = False
    _beat_at: float = 0.0

    def __enter__(self) -> "SearchRuns":
        """Opens the parent.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        self._client = connect()
        tags = {SEARCH: self.key, "backdrop.recipe": self.recipe.name, "backdrop.space": self.space}
        self.parent = self._open("search", f"{self.recipe.name}-search", tags)
        self._thread = threading.Thread(target=self._follow, name="search runs", daemon=True)
        self._thread.start()
        return self

    def notify(self, name: str, entry: Entry, recipe: Recipe) -> None:
        """A trial has come so far; returns at once.

        Args:
            name: of its run.
            entry: the trial.
            recipe: what it trains.
        """
        with self._lock:
            self._news[name] = (entry, recipe)

    def finish(self, search: Search, files: Mapping[str, bytes]) -> None:
        """Sends what is left, and the search's files; waits for a server that is away for minutes.

        Raises:
            TrackingError: if it refuses, or stays away. The same command does it again.
        """
        self._stop()
        retry("The search is finished, but its trials can't be sent", self._send)
        retry("The search is finished, but its files can't be sent", lambda: self._close(search, files))
        self._finished = True

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Marks a search that didn't finish as failed, or as killed by Ctrl-C, if the server is still there."""
        if self._finished:
            return
        self._stop()
        status = "FAILED" if kind is None or issubclass(kind, Exception) else "KILLED"
        open_runs = [self.parent, *(sent.run_id for sent in self._sent.values() if not sent.closed)]
        try:
            with server_errors("The search's runs can't be closed"):
                ping()
                for run_id in open_runs:
                    self._client.set_terminated(run_id, status)
        except TrackingError as error:
            log(str(error))  # what ended the block matters more

    def _follow(self) -> None:
        """Whatever a server or a proxy does, the search goes on."""

        def warn(error: Exception) -> None:
            log(f"MLflow doesn't take trials ({type(error).__name__}); they follow later")

        repeat(self._pass, POLICY, self._closing, warn)

    def _pass(self) -> None:
        self._send()
        self._beat()

    def _stop(self) -> None:
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _send(self) -> None:
        with self._lock:
            news = dict(self._news)
        for name, (entry, recipe) in news.items():
            self._send_trial(name, entry, recipe)
            with self._lock:
                if self._news.get(name) == (entry, recipe):
                    del self._news[name]

    def _send_trial(self, name: str, entry: Entry, recipe: Recipe) -> None:
        sent = self._sent.get(name) or self._begin(name, entry, recipe)
        points = [
            Metric(key, float(value), row.time_ms, step)
            for step, row in enumerate(entry.rows[sent.rows :], start=sent.rows)
            for key, value in (("dice", row.dice), ("loss", row.loss), ("rate", row.rate))
            if value is not None
        ]
        if points:
            self._client.log_batch(sent.run_id, metrics=points)  # a point that is sent twice is there once
            sent.rows = len(entry.rows)
        if entry.status in STATUS and not sent.closed:
            self._client.set_terminated(sent.run_id, STATUS[entry.status])
            sent.closed = True

    def _begin(self, name: str, entry: Entry, recipe: Recipe) -> Sent:
        tags = {TRIAL: f"{self.key}/{name}", PARENT: self.parent, "backdrop.family": entry.family}
        run_id = self._open("trial", name, tags)
        drawn = [Param(key, str(value)) for key, value in entry.values.items()]
        known = self._client.get_run(run_id).data.params
        params = [*drawn, *(Param(*pair) for pair in flatten(recipe.model_dump(mode="json")))]
        self._client.log_batch(run_id, params=[param for param in params if param.key not in known])
        sent = self._sent[name] = Sent(run_id)
        return sent

    def _open(self, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """The run with these tags, or a new one."""
        by = next(iter(tags))
        run = find_run(self._client, f"tags.`{by}` = '{tags[by]}' and tags.`{KIND}` = '{kind}'")
        with server_errors("A search's run can't be opened"):
            if run:
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
            whole = {KIND: kind, HEARTBEAT: heartbeat(), **tags}
            made = self._client.create_run(experiment_id(self._client), tags=whole, run_name=name)
            return str(made.info.run_id)

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at < BEAT_S:
            return
        running = [sent.run_id for sent in self._sent.values() if not sent.closed]
        for run_id in (self.parent, *running):
            self._client.set_tag(run_id, HEARTBEAT, heartbeat())
        self._beat_at = time.monotonic()

    def _close(self, search: Search, files: Mapping[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            for name, data in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self._client.log_artifacts(self.parent, folder, REPORT)
        compared = search.comparison
        tags = {"backdrop.chosen": search.chosen, "backdrop.verdict": compared.sentence if compared else ""}
        self._client.log_batch(self.parent, tags=[RunTag(*tag) for tag in tags.items()])
        self._client.set_terminated(self.parent, "FINISHED")
