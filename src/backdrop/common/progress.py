"""How long work shows that it is alive: a bar on a terminal, a plain line now and then elsewhere.

All of a process's work shares one place to show it: what began last is what you see. Everything goes to stderr.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backdrop.common.redact import redact

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

HEARTBEAT_S = 10.0  # where there is no bar, nothing is silent for longer
DELAY_S = 0.3  # shorter work shows no bar
RATE_S = 3.0  # a rate that was measured for less time says little
BAR_WIDTH = 28

Eta = Callable[[], float | None]


@dataclass(eq=False)
class Work:
    """Work under way; call it once for each finished piece, with a few words about the piece.

    `total` is None if the work has no pieces to count. `prefix` says that the label also stands before the labels of
    what is done within it. `eta_s` gives the seconds left; without it they follow from the pieces' rate. `hidden` work
    has no bar.
    """

    label: str
    total: int | None = None
    eta_s: Eta | None = None
    prefix: bool = False
    hidden: bool = False
    note: str = ""
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def __call__(self, note: str = "") -> None:
        """One more piece is done."""
        self.note, self.done = note, self.done + 1

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return time.monotonic() - self.began

    def left_s(self) -> float | None:
        """Seconds left by the rate of this work's own pieces; None while that isn't known."""
        if not self.total or not self.done or self.seconds < RATE_S:
            return None
        return self.seconds / self.done * (self.total - self.done)


class _Screen:
    """Shows the innermost work of this process; `_lock` guards all of it, because work may begin in any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stack: list[Work] = []
        self._ended = threading.Event()
        self._live: Live | None = None
        self._held: Live | None = None  # while this process forks
        self.quiet = False
        self._printed = time.monotonic()

    def begin(self, work: Work) -> None:
        """Work begins; the first starts the thread that shows it."""
        if self.quiet:
            return
        with self._lock:
            self._stack.append(work)
            if len(self._stack) == 1:
                self._ended, self._printed = threading.Event(), time.monotonic()
                threading.Thread(target=self._watch, args=(self._ended,), daemon=True).start()

    def end(self, work: Work) -> None:
        """Work has ended; the bar goes before anything else is printed."""
        with self._lock:
            if work in self._stack:  # not in a forked process, where nothing is shown
                self._stack.remove(work)
            if not work.label:  # it printed by itself all the time
                self._printed = time.monotonic()
            if not self._stack:
                self._ended.set()
            if not self._stack or self._stack[-1].hidden:
                self._hide()

    def log(self, message: str) -> None:
        """Prints a line, above the bar if there is one."""
        with self._lock:
            if self._live:
                self._live.console.print(message, markup=False, highlight=False, soft_wrap=True)
            else:
                print(message, file=sys.stderr, flush=True)
            self._printed = time.monotonic()

    def last_line(self) -> float:
        """When the last line was printed; now if no work is under way."""
        return self._printed if self._stack else time.monotonic()

    def hold(self) -> None:
        """Nothing is printed until `release`: a fork in the middle would copy a locked stream."""
        self._lock.acquire()
        self._held = self._live
        if self._held:
            self._held._lock.acquire()

    def release(self) -> None:
        """Ends `hold`."""
        if self._held:
            self._held._lock.release()
        self._lock.release()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(self._pause()):
            with self._lock:
                if not ended.is_set():
                    self._show()

    def _pause(self) -> float:
        return DELAY_S if _on_terminal() else max(0.02, self._printed + HEARTBEAT_S - time.monotonic())

    def _show(self) -> None:
        work = self._stack[-1]
        if _on_terminal() and not work.hidden:
            if self._live is None and work.seconds >= DELAY_S:
                self._live = self._start()
        elif work.label and time.monotonic() - self._printed >= HEARTBEAT_S:
            self.log(_line(self._stack))

    def _start(self) -> "Live":
        from rich.console import Console
        from rich.live import Live

        live = Live(
            console=Console(stderr=True),
            get_renderable=lambda: _bar([*self._stack]),
            transient=True,
            refresh_per_second=5,
            redirect_stdout=sys.stdout.isatty(),
        )
        live.start()
        return live

    def _hide(self) -> None:
        if self._live:
            self._live.stop()
        self._live = None


def _line(stack: Sequence[Work]) -> str:
    """The innermost work in a line: `epoch 4/32 step 12/40  ETA 2:10`."""
    count, eta = _count(stack[-1]), _eta(stack)
    first = f"{_label(stack)} {count if stack[-1].total else f'({count})'}"
    return "  ".join(part for part in (first, stack[-1].note, eta) if part)


def _bar(stack: Sequence[Work]) -> "Table | str":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if not stack or stack[-1].hidden:  # it was just about to be drawn again
        return ""
    work = stack[-1]
    bar = ProgressBar(work.total or 1, work.done, BAR_WIDTH, pulse=work.total is None)
    tail = "  ".join(part for part in (_eta(stack), work.note) if part)
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(_label(stack)), bar, Text(_count(work)), Text(tail, no_wrap=True, overflow="ellipsis"))
    return row


def _label(stack: Sequence[Work]) -> str:
    return " ".join(work.label for work in stack if work.prefix or work is stack[-1])


def _count(work: Work) -> str:
    return clock(work.seconds) if work.total is None else f"{work.done}/{work.total}"


def _eta(stack: Sequence[Work]) -> str:
    given = [work.eta_s for work in stack if work.eta_s]
    left = given[-1]() if given else stack[-1].left_s()
    return "" if left is None else f"ETA {clock(left)}"


_screen = _Screen()


def _in_child() -> None:
    """The bar is the parent's, and so is the thread that shows it."""
    global _screen
    _screen = _Screen()
    sys.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    sys.stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)


os.register_at_fork(before=lambda: _screen.hold(), after_in_parent=lambda: _screen.release(), after_in_child=_in_child)


@contextmanager
def progress(label: str, total: int, lasting: bool = True) -> Iterator[Work]:
    """Yields a function to be called once per finished piece of work, with a few words about it.

    Args:
        label: what is done, such as `judging photographs`.
        total: how many pieces there are.
        lasting: whether a line stays when all is done.
    """
    work = Work(label, total)
    with _shown(work):
        yield work
    if lasting and work.done == total:
        log(f"{label} {total}/{total} in {duration(work.seconds)}")


@contextmanager
def working(label: str) -> Iterator[None]:
    """Shows that work without pieces is under way, as long as the block or the decorated function lasts.

    Args:
        label: what is done, such as `starting Ray`.
    """
    with _shown(Work(label)):
        yield


@contextmanager
def stage(label: str, eta_s: Eta | None = None) -> Iterator[None]:
    """A part of some work, such as `epoch 4/32`, which stands before the labels of what is done within it.

    Args:
        label: the part.
        eta_s: the seconds left of the whole work, None while unknown; shown in place of the part's own.
    """
    with _shown(Work(label, eta_s=eta_s, prefix=True)):
        yield


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """A plain line now and then, on a terminal too: for work that prints by itself, or may be over at once."""
    with _shown(Work(label, hidden=True)):
        yield


@contextmanager
def _shown(work: Work) -> Iterator[None]:
    _screen.begin(work)
    try:
        yield
    finally:
        _screen.end(work)


def only_log() -> None:
    """From now on this process shows nothing but lasting lines: another one beside it shows the progress."""
    _screen.quiet = True


def log(message: str) -> None:
    """One lasting line on stderr; no address in it shows a password."""
    _screen.log(redact(message))


def last_line() -> float:
    """Since when nothing was printed about the work under way, by `time.monotonic`."""
    return _screen.last_line()


def clock(seconds: float) -> str:
    """`0:07`, `1:05`, `2:00:09`."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def duration(seconds: float) -> str:
    """`7 s`, `1:05`, `2:00:09`."""
    return f"{round(seconds)} s" if round(seconds) < 60 else clock(seconds)


def _on_terminal() -> bool:
    return sys.stderr.isatty()
