"""The console output of a local run: one line for each task, and the progress of the running one."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from backdrop.common.errors import FIX, last_error
from backdrop.common.progress import clock, duration, last_line, waiting

HEARTBEAT_S = 10.0  # without a terminal, at least this long between two lines of progress
PROGRESS = re.compile(r"^[\w ,.'-]+ (\d+/\d+\b|\(\d+:\d\d)")  # printed by common.progress
EPOCH = re.compile(r"^epoch \d+/\d+\b")
JUDGED = re.compile(r"^judging photographs (\d+)/\1 in ([\d:]+)")
ETA = re.compile(r" *ETA ([\d:]+)$")
KFP = "[KFP Executor "
LAST_LINES = 5

Forecast = Callable[[Mapping[str, "Task"], float], float | None]


@dataclass
class Task:
    """A task's state and progress.

    Attributes:
        name: its name.
        began: when it started, by the monotonic clock.
        seconds: how long it took; 0 while it runs.
        well: whether it succeeded; None while it runs.
        kfp: whether kfp's own lines are being printed.
        last: its last lines.
        progress: its newest line of progress.
        trains: whether it has trained an epoch.
        judged_s: seconds that a member took to judge its fold, if known.
        eta: the last known seconds left, and when they were known.
    """

    name: str
    began: float
    seconds: float = 0.0
    well: bool | None = None
    kfp: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    progress: str = ""
    trains: bool = False
    judged_s: float | None = None
    eta: tuple[float, float] | None = None

    def advance(self, line: str, now: float) -> None:
        """Reads a line of progress."""
        self.progress = line
        self.trains = self.trains or bool(EPOCH.match(line))
        left = ETA.search(line)
        self.eta = (_seconds(left[1]), now) if left else None
        if judged := JUDGED.match(line):
            self.judged_s = _seconds(judged[2])

    def left_s(self, now: float) -> float | None:
        """Seconds left by the task's last estimate; None if there is none."""
        return max(0.0, self.eta[0] - (now - self.eta[1])) if self.eta else None

    def take(self, line: str) -> None:
        """Keeps a line as one of the last, unless it is kfp's: kfp starts with a page of JSON."""
        if line.startswith(KFP):
            self.kfp = line.endswith("Got executor_input:")
        elif line.strip() and not self.kfp:
            self.last.append(line)
        self.kfp = self.kfp and line != "}"

    @property
    def error(self) -> str | None:
        """The message of the error that ended it; None if it has no remedy, as a check's faults."""
        return last_error(list(self.last)) if self.last and self.last[-1].startswith(FIX) else None


class Screen:
    """Prints a line when a task ends, and its progress meanwhile: live on a terminal, as occasional lines elsewhere.

    Args:
        console: where to print.
        total: number of tasks.
        forecast: estimates the seconds to the end of the run; None while unknown.
    """

    def __init__(self, console: Console, total: int, forecast: Forecast = lambda *_: None) -> None:
        self.tasks: dict[str, Task] = {}
        self.console, self._total, self._forecast = console, total, forecast
        self._running: Task | None = None
        self._printed = last_line()
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._spinner = Spinner("dots")
        # Rich's redirection of stdout would undo ours.
        self._live = Live(
            console=console,
            get_renderable=self._row,
            transient=True,
            refresh_per_second=5,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._silence = waiting("")  # no other progress line is printed for this run

    def __enter__(self) -> "Screen":
        self._silence.__enter__()
        if self.console.is_terminal:
            self._live.start()
        else:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._live.stop()
        self._silence.__exit__(None, None, None)

    def started(self, task: str) -> None:
        """Starts the line of a task."""
        with self._lock:
            self._running = self.tasks[task] = Task(task, time.monotonic())

    def printed(self, task: str, line: str) -> None:
        """Reads a line that a task printed."""
        with self._lock:
            if not PROGRESS.search(line):
                self.tasks[task].take(line)
                return
            self.tasks[task].advance(line, time.monotonic())
            self._beat()

    def finished(self, task: str, well: bool) -> None:
        """Prints the result of a task."""
        with self._lock:
            ended = self.tasks[task]
            ended.well, ended.seconds, self._running = well, time.monotonic() - ended.began, None
            self._print(f"{self._label(task)}  {'done' if well else 'FAILED'} in {duration(ended.seconds)}")
            if not well:
                for line in [ended.error] if ended.error else ended.last:
                    self._print(f"    {line}")

    def _watch(self) -> None:
        while not self._ended.wait(max(0.02, self._printed + HEARTBEAT_S - time.monotonic())):
            with self._lock:
                self._beat()

    def _beat(self) -> None:
        """Without a terminal, prints the running task's progress, unless a line was printed just before."""
        if not self._live.is_started and time.monotonic() - self._printed >= HEARTBEAT_S:
            pause = f"[{len(self.tasks)}/{self._total}] starting the next task"
            self._print(self._now(self._running) if self._running else pause)

    def _row(self) -> Spinner | str:
        task = self._running
        if task is None:
            return ""
        text = Text(self._now(task))
        text.truncate(max(1, self.console.width - 3), overflow="ellipsis")
        self._spinner.update(text=text)
        return self._spinner

    def _now(self, task: Task) -> str:
        """The running task and its time, the ETA of the run, and the task's progress."""
        now = time.monotonic()
        left = self._forecast(self.tasks, now)
        eta = f"run ETA {clock(left)}" if left is not None else ""
        head = f"[{len(self.tasks)}/{self._total}] {task.name}"
        return "  ".join(filter(None, (head, clock(now - task.began), eta, task.progress)))

    def _label(self, task: str) -> str:
        return f"[{len(self.tasks)}/{self._total}] {task:<24}"

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _seconds(text: str) -> float:
    """The seconds of `7`, `1:05` or `2:00:09`."""
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return float(total)
