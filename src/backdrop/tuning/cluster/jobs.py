"""A command as a job of a Ray cluster, by Ray's own job API: submitted once, followed from here."""

import asyncio
import contextlib
import itertools
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from backdrop.common.errors import TuningError, cause, shorten
from backdrop.common.progress import log
from backdrop.common.redact import ENCODE, is_misread, without_credentials
from backdrop.common.retry import RetryPolicy, retry, trying
from backdrop.tuning.cluster.auth import USAGE, cluster_token

SILENCE_S = 60.0  # of the log; the connection may be dead, so it is made anew
POLICY = RetryPolicy(pause_s=5.0, max_pause_s=5.0, give_up_s=600.0)
SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|KEY|USERNAME", re.IGNORECASE)
DASHBOARD = "that of its dashboard, such as http://head:8265"
FAILED = ("FAILED", "STOPPED")
UNKNOWN, TAKEN = "status code 404", "already exists"  # in the errors of Ray's client

logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of each connection


def run(address: str, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs a command on a Ray cluster until it has succeeded; its log comes to our stderr.

    The job's submission id is `name`. One that is known there already is followed, one that has succeeded isn't run
    again, and after one that failed or was stopped comes `name-2`, and so on: Ray supports no second job of an id, not
    even of one that was deleted. If we are interrupted, the job goes on.

    Args:
        address: of the cluster's dashboard, `http://head:8265`; Ray lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS
            override it.
        name: made from a digest of the spec, so that the same spec has the same.
        command: the program and its arguments, as the cluster's nodes know them.
        environment: variables for it and all its workers; anyone who sees the cluster's dashboard sees them.

    Raises:
        TuningError: if the job fails, or the cluster can't be reached, doesn't take the token, or forgets the job; or
            if `environment` holds what looks like a secret.
    """
    if is_misread(address):
        raise TuningError(f"The password for Ray at {without_credentials(address)} can't be read", ENCODE)
    if urlsplit(address).scheme not in ("http", "https"):
        raise TuningError(
            f"Ray's address is {without_credentials(address)}, no http address", f"Set RAY_ADDRESS to {DASHBOARD}"
        )
    _refuse_secrets(environment)
    with _errors_at(address):
        client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {cluster_token()}"})
        job, status = _latest(client, name)
        if status == "SUCCEEDED":
            return log(f"Ray job {job} at {address} is done already")
        if status is None:
            _submit(client, job, command, environment)
        log(f"following Ray job {job} at {address}")
        try:
            _check(_follow(client, job), address)
        except KeyboardInterrupt:
            stop = f"RAY_AUTH_MODE=token ray job stop {job} --address {address}"
            log(f"Ray job {job} goes on. The same command follows it again, and `{stop}` stops it.")
            raise


def _refuse_secrets(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if SECRET.search(name) or without_credentials(value) != value:
            raise TuningError(
                f"{name} looks like a secret, and a job's environment can be read on the cluster's dashboard",
                "Set it on the cluster's nodes",
            )


@contextlib.contextmanager
def _errors_at(address: str) -> Iterator[None]:
    """Turns the errors of Ray's client into ours."""
    try:
        yield
    except AuthenticationError as error:
        raise TuningError(
            f"Ray at {address} doesn't take the token", "Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"
        ) from error
    except (OSError, RuntimeError, ValueError, aiohttp.ClientError) as error:
        raise TuningError(
            f"Ray at {address} doesn't answer as it should ({shorten(error)})",
            f"Check that it runs, and that RAY_ADDRESS is {DASHBOARD}",
        ) from error


def _latest(client: Any, name: str) -> tuple[str, str | None]:
    """The first job of that name that hasn't failed, with its status; None for one that is still to be submitted."""
    known = {job.submission_id: job.status for job in client.list_jobs()}
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    job = next(job for job in names if known.get(job) not in FAILED)
    return job, known.get(job)


def _submit(client: Any, job: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
    ask = {"entrypoint": shlex.join(command), "runtime_env": {"env_vars": {**environment, **USAGE}}}
    try:
        _patiently(lambda: client.submit_job(submission_id=job, **ask))
    except RuntimeError as error:
        if TAKEN not in str(error):
            raise
        # Somebody with the same spec was a moment faster, or we were, and didn't hear it.


def _follow(client: Any, job: str) -> Any:
    """Shows the job's log until it ends, over whatever happens to the connection; what the cluster says of it then."""
    log = _Log()

    def look() -> Any:
        found = client.get_job_info(job)
        asyncio.run(log.show(client, job))
        return found

    try:
        # It has ended before its log was shown, so that this was all of it.
        while not (found := _patiently(look)).status.is_terminal():
            pass
        return found
    except RuntimeError as error:
        if UNKNOWN not in str(error):
            raise
        raise TuningError(
            f"The Ray cluster doesn't know its job {job} any more", "Run the same command again"
        ) from error


def _patiently(act: Callable[[], Any]) -> Any:
    """What Ray answers in the end: a cluster that has just been started answers, but can't do much yet."""
    return retry(act, POLICY, _may_pass, trying("Ray doesn't answer", POLICY, shorten))


def _may_pass(error: Exception) -> bool:
    connection = isinstance(error, OSError | RuntimeError | aiohttp.ClientError)
    return connection and UNKNOWN not in str(error) and TAKEN not in str(error)


class _Log:
    """A job's log, of which so many characters are shown."""

    shown = 0

    async def show(self, client: Any, job: str) -> None:
        """Prints the rest of it as it comes, until it ends or falls silent."""
        seen, chunks = 0, client.tail_job_logs(job)  # from its beginning
        with contextlib.suppress(StopAsyncIteration, TimeoutError):
            while True:
                chunk = await asyncio.wait_for(anext(chunks), SILENCE_S)
                print(chunk[max(0, self.shown - seen) :], end="", file=sys.stderr, flush=True)
                seen += len(chunk)
                self.shown = max(self.shown, seen)


def _check(found: Any, address: str) -> None:
    """Nothing for a job that has succeeded.

    Raises:
        TuningError: for any other, with our own error from its log, or else the last line.
    """
    if found.status == "SUCCEEDED":
        return
    how = "was stopped" if found.status == "STOPPED" else "failed"
    raise TuningError(
        f"Ray job {found.submission_id} at {address} {how} ({cause(found.message)})",
        "Read its log above, and run the same command again: it goes on where it was",
    )
