"""Takes kfp's output apart: it prints all tasks' logs and its own lines into one stream, marked only by their form."""

import io
import re
from pathlib import Path
from typing import Protocol, TextIO

STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
COLOR = re.compile(r"\x1b\[\d*m")
INDENT = "    "  # kfp sets a task's own lines off by it, so no task can imitate kfp's


class Watcher(Protocol):
    """Hears what happens in a run."""

    def started(self, task: str) -> None:
        """A task begins."""

    def printed(self, task: str, line: str) -> None:
        """A task printed a line."""

    def finished(self, task: str, well: bool) -> None:
        """A task has ended."""


class TaskLogs(io.TextIOBase):
    """Stands in for `sys.stdout` during a local run and gives each task's lines to a file of its own.

    kfp runs the tasks of an unrolled graph one after another, so a line belongs to the task that began last.
    """

    def __init__(self, folder: Path, watcher: Watcher) -> None:
        self._folder = folder
        self._watcher = watcher
        self._task = ""
        self._file: TextIO | None = None
        self._rest = ""

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Takes some text, whole lines or not."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def path(self, task: str) -> Path:
        """The task's log file."""
        return self._folder / f"{task}.log"

    def close(self) -> None:
        """Ends the last task's file, should kfp have been stopped in it."""
        self._end()
        super().close()

    def _take(self, line: str) -> None:
        if self._file is not None and line.startswith(INDENT):
            self._own(line.removeprefix(INDENT))
            return
        line = COLOR.sub("", line)
        if found := STARTED.search(line):
            self._begin(found[1])
        elif (found := FINISHED.search(line)) and found[1] == self._task:
            self._end()
            self._watcher.finished(found[1], found[2] == "SUCCESS")

    def _begin(self, task: str) -> None:
        self._end()
        self._task = task
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path(task).open("a", encoding="utf-8", buffering=1)
        self._watcher.started(task)

    def _own(self, line: str) -> None:
        assert self._file is not None  # _take checks it
        self._file.write(f"{line}\n")
        self._watcher.printed(self._task, line)

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
