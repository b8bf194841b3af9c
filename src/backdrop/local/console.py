"""What the user sees of a local run: one calm line a task, and how far the present one is."""

import re
import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

HEARTBEAT_S = 30.0
PROGRESS = re.compile(r"^[\w -]+ \d+/\d+\b")  # as backdrop.progress prints it
ERROR = re.compile(r"^backdrop\.common\.errors\.\w+: (.+)$")
KFP = "[KFP Executor "
LAST_LINES = 5


@dataclass
class Task:
    """How a task went: `well` is None while it runs, `last` are its last lines, `kfp` whether kfp speaks just now."""

    name: str
    began: float
    seconds: float = 0.0
    well: bool | None = None
    kfp: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def take(self, line: str) -> None:
        """Keeps a line as one of the last, but none of kfp's own: it begins with a page of JSON."""
        if line.startswith(KFP):
            self.kfp = line.endswith("Got executor_input:")
        elif line.strip() and not self.kfp:
            self.last.append(line)
        self.kfp = self.kfp and line != "}"

    @property
    def error(self) -> str | None:
        """The message of a BackdropError, without the traceback above it."""
        return next((found[1] for line in reversed(self.last) if (found := ERROR.match(line))), None)


class Screen:
    """Prints a line when a task ends; in between a live line on a terminal, a heartbeat elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        self.tasks: dict[str, Task] = {}
        self._console = console
        self._total = total
        self._beat = 0.0
        # Its own redirection of stdout would end ours.
        self._live = Live(console=console, transient=True, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def started(self, task: str) -> None:
        """A task begins."""
        self._beat = time.monotonic()
        self.tasks[task] = Task(task, self._beat)
        self._live.update(Spinner("dots", Text(self._label(task))))

    def said(self, task: str, line: str) -> None:
        """A task printed a line."""
        if not PROGRESS.search(line):
            self.tasks[task].take(line)
            return
        self._live.update(Spinner("dots", Text(f"{self._label(task)}  {line}")))
        if not self._live.is_started and time.monotonic() - self._beat >= HEARTBEAT_S:
            self._beat = time.monotonic()
            self._print(f"{self._label(task)}  {line}")

    def finished(self, task: str, well: bool) -> None:
        """A task has ended."""
        done = self.tasks[task]
        done.well, done.seconds = well, time.monotonic() - done.began
        self._live.update("")
        self._print(f"{self._label(task)}  {'done' if well else 'FAILED'} in {clock(done.seconds)}")
        if not well:
            for line in [done.error] if done.error else done.last:
                self._print(f"    {line}")

    def _label(self, task: str) -> str:
        return f"[{len(self.tasks)}/{self._total}] {task:<24}"

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """`7 s`, `1:05`, `2:00:09`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{seconds_left:02d}" if hours else f"{minutes}:{seconds_left:02d}"
