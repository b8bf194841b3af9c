"""Splits kfp's output: it prints its own lines and every task's log to one stream, told apart only by their format."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TextIO

from kfp.local import logging_utils

STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
COLOR = re.compile(r"\x1b\[\d*m")
INDENT = "    "  # of a task's lines, so that no task can imitate kfp's own


class Watcher(Protocol):
    """Is called when something happens in a run."""

    def started(self, task: str) -> None:
        """A task has started."""

    def printed(self, task: str, line: str) -> None:
        """A task has printed a line."""

    def finished(self, task: str, well: bool) -> None:
        """A task has ended; `well` says whether it succeeded."""


def print_line(line: str) -> None:
    """Prints a line of a task, so that `TaskLogs` knows it from kfp's own."""
    sys.stdout.write(f"{INDENT}{line}\n")


@contextlib.contextmanager
def task_logs(folder: Path, watcher: Watcher) -> Iterator["TaskLogs"]:
    """Collects what kfp prints within the block; the runners print tasks' lines by `print_line`.

    kfp itself would indent them by a changed `print`, for all threads and files: then any other thread that prints a
    word to stderr leaves an indentation before kfp's next line, such as the one that says that a task has ended.
    """
    original, logging_utils.indented_print = logging_utils.indented_print, contextlib.nullcontext
    try:
        with contextlib.closing(TaskLogs(folder, watcher)) as stream, contextlib.redirect_stdout(stream):
            yield stream
    finally:
        logging_utils.indented_print = original


class TaskLogs(io.TextIOBase):
    """Replaces `sys.stdout` during a local run, and writes each task's lines to a file of its own.

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
