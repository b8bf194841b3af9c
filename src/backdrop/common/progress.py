"""How long work says that it is alive: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backdrop.common.redact import redact

HEARTBEAT_S = 10.0


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yields a function to be called once per finished piece of work, with a few words about it."""
    show = _bar if sys.stderr.isatty() else _lines
    with show(label, total) as advance:
        yield advance


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


@contextmanager
def _lines(label: str, total: int) -> Iterator[Callable[[str], None]]:
    done, last = 0, time.monotonic()

    def advance(note: str) -> None:
        nonlocal done, last
        done += 1
        if done == total or time.monotonic() - last >= HEARTBEAT_S:
            last = time.monotonic()
            log(f"{label} {done}/{total} {note}".rstrip())

    yield advance


def log(message: str) -> None:
    """One plain line on stderr; no address in it shows a password."""
    print(redact(message), file=sys.stderr, flush=True)
