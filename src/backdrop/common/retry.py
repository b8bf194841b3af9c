"""Retries for unavailable servers: a policy, `retry` for one call, and `repeat` for a background thread.

We tried tenacity 9 and stamina 26. Both count their time limit from the start of the first attempt, so a call that
follows a job's log for hours and then loses its connection would not be retried. Here the limit counts from the first
failure. Neither library has a loop like `repeat`, which also waits after a success.
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
    """When and how often to retry.

    Attributes:
        pause_s: seconds before the second attempt; each later pause is twice as long.
        max_pause_s: maximum pause in seconds.
        give_up_s: no attempt starts more than this many seconds after the first failure.
        attempts: maximum number of attempts.
        jitter: whether to multiply each pause by a random factor from 1 to 2, so that many clients that failed together
            don't retry at the same time.
    """

    pause_s: float
    max_pause_s: float
    give_up_s: float = math.inf
    attempts: float = math.inf
    jitter: bool = False

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after each attempt, without end."""
        pause_s = self.pause_s
        while True:
            yield pause_s * random.uniform(1, 2) if self.jitter else pause_s  # noqa: S311  # not for security
            pause_s = min(2 * pause_s, self.max_pause_s)


def retry(
    act: Callable[[], T],
    policy: RetryPolicy,
    may_pass: Callable[[Exception], bool],
    notify: Callable[[Exception], None] | None = None,
) -> T:
    """Calls `act` until it succeeds.

    Ctrl-C ends the wait immediately; so does the end of the `workers` whose thread waits.

    Args:
        act: the call; it must be safe to repeat after it partly succeeded.
        policy: how often and how long to retry.
        may_pass: returns whether an error may be temporary.
        notify: called once, with the first error, before the first pause.

    Returns:
        The result of `act`.

    Raises:
        Exception: the last error of `act`, if it isn't temporary or the policy gives up.
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
    """A `notify` for `retry` that logs what fails, why, and how long it will be retried."""
    return lambda error: log(f"{what} ({words(error)}); retrying for {policy.give_up_s / 60:.0f} minutes")


def repeat(
    act: Callable[[], None],
    policy: RetryPolicy,
    closing: threading.Event,
    notify: Callable[[Exception], None],
    once_more: bool = False,
) -> None:
    """Calls `act` repeatedly until `closing` is set, even if it raises errors; for a background thread.

    Args:
        act: the call.
        policy: pauses of `pause_s` after a success, and growing up to `max_pause_s` during an outage.
        closing: ends the loop, and interrupts a pause.
        notify: called with the first error of each outage.
        once_more: whether to call `act` once more after `closing` is set.
    """
    pauses, failing = policy.pauses(), False
    while not (last := closing.is_set()) or once_more:
        try:
            act()
        except Exception as error:
            if not failing:
                notify(error)
            failing = True
        else:
            pauses, failing = policy.pauses(), False
        if last:
            return
        closing.wait(next(pauses))
