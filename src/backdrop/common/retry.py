"""Waiting for a server that is away: one policy, one way to ask again, one way to keep sending from a thread.

Our own rather than tenacity 9 or stamina 26, which were tried: both count their time limit from the start of the first
attempt. A call that follows a job's log for hours and then loses its connection would never be tried again. Here the
limit counts from the first failure. Neither library has the second loop, the one that also waits after a success.
"""

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from backdrop.common.progress import log

T = TypeVar("T")
_thread = threading.local()  # `closing`: the event of the workers that a thread is one of


@dataclass(frozen=True)
class RetryPolicy:
    """How patiently a server is asked again.

    Attributes:
        pause_s: seconds before the second attempt; each pause is twice as long as the one before it.
        max_pause_s: the longest pause, in seconds.
        give_up_s: no attempt begins more than this many seconds after the first failure.
        attempts: how many attempts there are at most.
        jitter: whether each pause is drawn at random between one and two times its length, so that many clients that
            failed together don't all come back together.
    """

    pause_s: float
    max_pause_s: float
    give_up_s: float = math.inf
    attempts: float = math.inf
    jitter: bool = False

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after the first attempt, after the second, and so on, without end."""
        pause_s = self.pause_s
        while True:
            yield pause_s * random.uniform(1, 2) if self.jitter else pause_s  # noqa: S311  # not a secret
            pause_s = min(2 * pause_s, self.max_pause_s)


def retry(
    act: Callable[[], T],
    policy: RetryPolicy,
    may_pass: Callable[[Exception], bool],
    notify: Callable[[Exception], None] | None = None,
) -> T:
    """Calls `act` until it succeeds.

    Ctrl-C ends the wait at once; so does the end of the `workers` whose thread waits.

    Args:
        act: what to do; parts of it that went through are done again, and must do no harm.
        policy: how often, and for how long.
        may_pass: whether the same call may succeed a little later, by its error.
        notify: is called once, with the first error, before the first pause.

    Returns:
        What `act` returns.

    Raises:
        Exception: the last error of `act`, if `may_pass` says no or the policy's patience is over.
    """
    pauses, attempts, give_up_at = policy.pauses(), 0, math.inf
    while True:
        try:
            return act()
        except Exception as error:
            attempts, pause_s, now = attempts + 1, next(pauses), time.monotonic()
            give_up_at = min(give_up_at, now + policy.give_up_s)
            if not may_pass(error) or attempts >= policy.attempts or now + pause_s > give_up_at:
                raise
            if notify and attempts == 1:
                notify(error)
            failure = error
        if _closed_within(pause_s):
            raise failure


@contextlib.contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that stop waiting in `retry`, and begin nothing new, when an error or Ctrl-C ends the block."""
    closing = threading.Event()
    with ThreadPoolExecutor(threads, initializer=setattr, initargs=(_thread, "closing", closing)) as pool:
        try:
            yield pool
        except BaseException:
            closing.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _closed_within(pause_s: float) -> bool:
    """Waits, and says whether the thread's workers were ended meanwhile."""
    closing: threading.Event | None = getattr(_thread, "closing", None)
    if closing is not None:
        return closing.wait(pause_s)
    time.sleep(pause_s)
    return False


def trying(what: str, policy: RetryPolicy, words: Callable[[Exception], str]) -> Callable[[Exception], None]:
    """A `notify` for `retry` that logs what doesn't work, why, and for how long it is tried."""
    return lambda error: log(f"{what} ({words(error)}); trying for {policy.give_up_s / 60:.0f} minutes")


def repeat(
    act: Callable[[], None],
    policy: RetryPolicy,
    closing: threading.Event,
    notify: Callable[[Exception], None],
    once_more: bool = False,
) -> None:
    """Calls `act` again and again until `closing` is set, whatever it raises; for a thread beside the work.

    Args:
        act: what to do.
        policy: `pause_s` apart while all is well; apart up to `max_pause_s` while it fails.
        closing: ends the loop, and a pause at once.
        notify: is called with the first error of each outage.
        once_more: whether to call it once more after `closing` is set.
    """
    pauses, away = policy.pauses(), False
    while not (last := closing.is_set()) or once_more:
        try:
            act()
        except Exception as error:
            if not away:
                notify(error)
            away = True
        else:
            pauses, away = policy.pauses(), False
        if last:
            return
        closing.wait(next(pauses))
