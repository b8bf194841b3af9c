"""Splits kfp's output: it prints its own lines and every task's log to one stream, told apart only by their format."""

import io
import re
from pathlib import Path
from typing import Protocol, TextIO

STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
COLOR = re.compile(r"\x1b\[\d*m")
INDENT = "    "  # kfp indents a task's lines, so no task can imitate kfp's own


class Watcher(Protocol):
    """Is called when something happens in a run."""

    def started(self, task: str) -> None:
        """A task has started."""

    def printed(self, task: str, line: str) -> None:
        """A task has printed a line."""

    def finished(self, task: str, well: bool) -> None:
        """A task has ended; `well` says whether it succeeded."""


class TaskLogs(io.TextIOBase):
    """Replaces `sys.stdout` during a local run and writes each task's lines to a file of its own.

    kfp runs the tasks of an unrolled graph one after another, so a line belongs to the task that started last.
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
        """Takes text, which may end in the middle of a line."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def path(self, task: str) -> Path:
        """The task's log file."""
        return self._folder / f"{task}.log"

    def close(self) -> None:
        """Closes the last task's file, in case kfp was stopped during that task."""
        self._end()
        super().close()

    def _take(self, line: str) -> None:
        if self._file is not None and line.startswith(INDENT):
            self._own(line.removeprefix(INDENT))
            return
        line = COLOR.sub("", line)
        if match := STARTED.search(line):
            self._begin(match[1])
        elif (match := FINISHED.search(line)) and match[1] == self._task:
            self._end()
            self._watcher.finished(match[1], match[2] == "SUCCESS")

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
