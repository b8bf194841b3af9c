"""Work in threads, in order and with a progress bar."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from typing import TypeVar

from backdrop.common.progress import progress

ARENA_MAX = -8  # glibc's M_ARENA_MAX, see malloc.h

T = TypeVar("T")
U = TypeVar("U")


def in_threads(
    function: Callable[[T], U], items: Sequence[T], label: str | None = None, lasting: bool = True
) -> list[U]:
    """Applies `function` to every item in threads, in order. Hashing and decoding release Python's lock.

    Args:
        function: what to apply.
        items: its arguments.
        label: of a progress bar; None shows none.
        lasting: whether the progress bar leaves a line.
    """
    _share_heaps()
    shown = progress(label, len(items), lasting) if label else nullcontext(_quiet)
    with ThreadPoolExecutor() as pool, shown as advance:
        results = []
        for result in pool.map(function, items):
            results.append(result)
            advance()
        return results


def _quiet() -> None:
    pass


@cache
def _share_heaps() -> None:
    """Lets all threads share two heaps, unless `MALLOC_ARENA_MAX` says otherwise.

    glibc gives threads heaps of their own, where what they have freed stays. With photographs passing from threads that
    decode them to others, that was a third of the memory of `predict`, and another amount each time.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(ARENA_MAX, 2)
