"""MLflow runs of a schedule search: a parent and one per trial, sent by a thread so that no server delays a trial."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from mlflow.entities import Metric, Param, RunTag

from backdrop.common.progress import log
from backdrop.common.retry import repeat
from backdrop.config import Recipe
from backdrop.tracking.client import retry
from backdrop.tracking.metrics_uploader import BEAT_S, HEARTBEAT, POLICY, heartbeat
from backdrop.tracking.provenance import provenance
from backdrop.tracking.runs import KIND, PARENT, OpenRun, flatten, open_run
from backdrop.tuning.results import Search
from backdrop.tuning.trial_store import Entry

SEARCH = "backdrop.search"
TRIAL = "backdrop.trial"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
REPORT = "search"
CLOSE_S = 5.0


@dataclass
class Sent:
    """The state of a trial's run: its id, the number of the trial's rows that it has, and whether it is closed."""

    run_id: str
    rows: int = 0
    closed: bool = False


class SearchRuns(OpenRun):
    """The runs of one search: `with SearchRuns(key, recipe, space) as runs: …; runs.finish(search, files)`.

    `key` is the search's; runs that a killed search with the same key left are resumed.
    """

    def __init__(self, key: str, recipe: Recipe, space: str) -> None:
        tags = {KIND: "search", SEARCH: key, "backdrop.recipe": recipe.name, "backdrop.space": space}
        query = f"tags.`{SEARCH}` = '{key}' and tags.`{KIND}` = 'search' and attributes.status != 'FINISHED'"
        super().__init__(f"{recipe.name}-search", tags, query)
        self._key = key
        self._news: dict[str, tuple[Entry, Recipe]] = {}
        self._sent: dict[str, Sent] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="search runs", daemon=True)
        self._beat_at = 0.0

    def __enter__(self) -> Self:
        """Opens the parent run.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        super().__enter__()
        self._thread.start()
        return self

    def notify(self, name: str, entry: Entry, recipe: Recipe) -> None:
        """Queues a trial's newest state to be sent; returns at once.

        Args:
            name: of its run.
            entry: the trial.
            recipe: the one it trains.
        """
        with self._lock:
            self._news[name] = (entry, recipe)

    def finish(self, search: Search, files: Mapping[str, bytes]) -> None:
        """Sends the remaining trials and the search's files; retries for minutes while the server is away.

        Raises:
            TrackingError: if the server refuses, or stays away; the same command then tries again.
        """
        self._stop()
        retry("The search is finished, but its trials can't be sent", self._send)
        retry("The search is finished, but its files can't be sent", lambda: self._close(search, files))

    def unfinished(self) -> Sequence[str]:
        """The parent and the open trials."""
        return [self.run_id, *(sent.run_id for sent in [*self._sent.values()] if not sent.closed)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread that sends trials, and closes what isn't finished."""
        if not self._closed:
            self._stop()
        super().__exit__(kind, error, trace)

    def _follow(self) -> None:
        """Sends trials repeatedly; the search continues whatever the server or a proxy does."""

        def warn(error: Exception) -> None:
            log(f"Trials can't be sent to MLflow ({type(error).__name__}); they are sent later")

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
            for key, value in (("dice", row.dice), ("loss", row.loss), ("lr", row.lr))
            if value is not None
        ]
        if points:
            self.client.log_batch(sent.run_id, metrics=points)  # MLflow stores a repeated point only once
            sent.rows = len(entry.rows)
        if entry.status in STATUS and not sent.closed:
            self.client.set_terminated(sent.run_id, STATUS[entry.status])
            sent.closed = True

    def _begin(self, name: str, entry: Entry, recipe: Recipe) -> Sent:
        known = {TRIAL: f"{self._key}/{name}", KIND: "trial", PARENT: self.run_id}
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in known.items())
        tags = {**known, "backdrop.family": entry.family, **provenance("trial")}
        run = open_run(self.client, name, tags, query)
        values = [Param(key, str(value)) for key, value in entry.values.items()]
        params = [*values, *(Param(*pair) for pair in flatten(recipe.model_dump(mode="json")))]
        new = [param for param in params if param.key not in run.data.params]
        self.client.log_batch(run.info.run_id, params=new)
        sent = self._sent[name] = Sent(str(run.info.run_id))
        return sent

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at < BEAT_S:
            return
        running = [sent.run_id for sent in self._sent.values() if not sent.closed]
        for run_id in (self.run_id, *running):
            self.client.set_tag(run_id, HEARTBEAT, heartbeat())
        self._beat_at = time.monotonic()

    def _close(self, search: Search, files: Mapping[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            for name, data in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self.client.log_artifacts(self.run_id, folder, REPORT)
        compared = search.comparison
        tags = {"backdrop.chosen": search.chosen, "backdrop.verdict": compared.sentence if compared else ""}
        self.client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])
        self.close()
