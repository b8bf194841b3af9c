"""Runs a command as a job on a Ray cluster, through Ray's job API: submitted once, followed from here."""

import asyncio
import contextlib
import itertools
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from backdrop.common.errors import TuningError, cause, shorten
from backdrop.common.progress import log
from backdrop.common.redact import ENCODE, is_http, is_misread, without_credentials
from backdrop.common.retry import RetryPolicy, retry, trying
from backdrop.tuning.cluster.auth import USAGE, cluster_token

TIMEOUT_S = (10.0, 30.0)  # to connect, and for each answer
SILENCE_S = 60.0  # after this long without a log line we reconnect, because the connection may be dead
POLICY = RetryPolicy(pause_s=5.0, max_pause_s=5.0, give_up_s=600.0)
DASHBOARD = "that of its dashboard, such as http://head:8265"
FAILED = ("FAILED", "STOPPED")
UNKNOWN, TAKEN = "status code 404", "already exists"  # in the errors of Ray's client

logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it logs each connection


def run(address: str, name: str, command: Sequence[str]) -> None:
    """Runs a command on a Ray cluster until it has succeeded; its log is shown on stderr.

    The job's submission id is `name`. A job of that id that runs is followed, and one that has succeeded isn't run
    again. After one that failed or was stopped the id is `name-2`, and so on: Ray never accepts an id twice, not even
    that of a deleted job. If this process is interrupted, the job continues.

    Args:
        address: of the cluster's dashboard, `http://head:8265`; Ray lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS
            override it.
        name: contains the spec's digest, so that the same spec has the same name.
        command: the program and its arguments on the cluster's nodes.

    Raises:
        TuningError: if the job fails, or if the cluster can't be reached, rejects the token or forgets the job.
    """
    if is_misread(address):
        raise TuningError(f"The password for Ray at {without_credentials(address)} can't be read", ENCODE)
    if not is_http(address):
        raise TuningError(
            f"Ray's address {without_credentials(address)} isn't an http address", f"Set RAY_ADDRESS to {DASHBOARD}"
        )
    with _errors_at(address):
        client = _Client(address, headers={"Authorization": f"Bearer {cluster_token()}"})
        job, status = _latest(client, name)
        if status == "SUCCEEDED":
            return log(f"Ray job {job} at {address} has already succeeded")
        if status is None:
            _submit(client, job, command)
        log(f"following Ray job {job} at {address}")
        try:
            _check(_follow(client, job), address)
        except KeyboardInterrupt:
            stop = f"RAY_AUTH_MODE=token ray job stop {job} --address {address}"
            log(f"Ray job {job} keeps running. Run the same command to follow it, or stop it with `{stop}`.")
            raise


class _Client(JobSubmissionClient):
    """Ray's client, with a timeout: its own waits forever for a server that doesn't answer."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=TIMEOUT_S, **options)


@contextlib.contextmanager
def _errors_at(address: str) -> Iterator[None]:
    """Turns the errors of Ray's client into ours."""
    try:
        yield
    except AuthenticationError as error:
        raise TuningError(
            f"Ray at {address} rejects the token", "Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
        ) from error
    except (OSError, RuntimeError, ValueError, aiohttp.ClientError) as error:
        raise TuningError(
            f"Ray at {address} gives no valid answer ({shorten(error)})",
            f"Check that it runs, and that RAY_ADDRESS is {DASHBOARD}",
        ) from error


def _latest(client: Any, name: str) -> tuple[str, str | None]:
    """The first job of that name that hasn't failed, with its status; None if it hasn't been submitted."""
    known = {job.submission_id: job.status for job in client.list_jobs()}
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    job = next(job for job in names if known.get(job) not in FAILED)
    return job, known.get(job)


def _submit(client: Any, job: str, command: Sequence[str]) -> None:
    request = {"entrypoint": shlex.join(command), "runtime_env": {"env_vars": USAGE}}
    try:
        _retry(lambda: client.submit_job(submission_id=job, **request))
    except RuntimeError as error:
        if TAKEN not in str(error):
            raise
        # Another client submitted the same spec, or our first attempt succeeded, but its answer got lost.


def _follow(client: Any, job: str) -> Any:
    """Shows the job's log until it ends, reconnects if needed, and returns the job's final state."""
    log = _Log()

    def poll() -> Any:
        info = client.get_job_info(job)
        asyncio.run(log.show(client, job))
        return info

    try:
        # The state is read before the log, so after a final state the log is complete.
        while not (info := _retry(poll)).status.is_terminal():
            pass
        return info
    except RuntimeError as error:
        if UNKNOWN not in str(error):
            raise
        raise TuningError(f"The Ray cluster no longer knows its job {job}", "Run the same command again") from error


def _retry(act: Callable[[], Any]) -> Any:
    """Ray's answer, after retries if needed: a cluster that has just started may refuse requests at first."""
    return retry(act, POLICY, _is_transient, trying("Ray doesn't answer", POLICY, shorten))


def _is_transient(error: Exception) -> bool:
    connection = isinstance(error, OSError | RuntimeError | aiohttp.ClientError)
    return connection and UNKNOWN not in str(error) and TAKEN not in str(error)


class _Log:
    """A job's log; `shown` counts the characters shown so far."""

    shown = 0

    async def show(self, client: Any, job: str) -> None:
        """Prints the rest of the log as it arrives, until it ends or there is no line for a minute."""
        seen, chunks = 0, client.tail_job_logs(job)  # from its beginning
        with contextlib.suppress(StopAsyncIteration, TimeoutError):
            while True:
                chunk = await asyncio.wait_for(anext(chunks), SILENCE_S)
                print(chunk[max(0, self.shown - seen) :], end="", file=sys.stderr, flush=True)
                seen += len(chunk)
                self.shown = max(self.shown, seen)


def _check(info: Any, address: str) -> None:
    """Checks that a job has succeeded.

    Raises:
        TuningError: if it hasn't, with our own error from its log, or else the log's last line.
    """
    if info.status == "SUCCEEDED":
        return
    result = "was stopped" if info.status == "STOPPED" else "failed"
    raise TuningError(
        f"Ray job {info.submission_id} at {address} {result} ({cause(info.message)})",
        "Read its log above, and run the same command again to resume",
    )
