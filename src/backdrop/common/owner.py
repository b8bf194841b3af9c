"""Names whoever acts: the process that holds a lock or an MLflow run, and the person who decides."""

import getpass
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from backdrop.common.text import parse_json


@dataclass(frozen=True)
class Owner:
    """A process, as it writes itself into what it owns.

    Attributes:
        step: what it does, such as `train`; never its arguments, which may contain secrets.
        host: the name of its machine.
        pid: its process ID there.
        since: when it began, in UTC.
        boot: the machine's boot, which is the same in its containers; empty if unknown.
        namespace: the process ID namespace, within which `pid` means the same process.
        started: the process's start by the kernel's clock, because the kernel uses process IDs again.
        token: random, so that no two owners are the same.
    """

    step: str
    host: str
    pid: int
    since: str
    boot: str
    namespace: str
    started: str
    token: str

    def __str__(self) -> str:
        return f"`backdrop {self.step}` (process {self.pid} on {self.host}, since {self.since})"

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it runs, or ran, under this kernel, perhaps in another container."""
        return bool(self.boot) and self.boot == _machine()[0]

    @property
    def lives(self) -> bool | None:
        """Whether its process runs; None if that can't be known from here."""
        if not self.is_on_this_machine or self.namespace != _machine()[1]:
            return None
        return self.started == _started(self.pid)

    def dump(self) -> str:
        """The owner as one line of JSON."""
        return json.dumps(asdict(self))


def this_process(step: str) -> Owner:
    """This process as an owner, with a new token."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    pid = os.getpid()
    return Owner(step, socket.gethostname(), pid, since, *_machine(), _started(pid), secrets.token_hex(8))


def parse_owner(text: str | bytes) -> Owner | None:
    """The owner in the first line, as JSON; None if there is none, such as in a file whose writer was killed."""
    try:
        return Owner(**parse_json(text.splitlines()[0]))
    except (ValueError, TypeError, IndexError):
        return None


def actor() -> str:
    """The person or machine that acts: BACKDROP_ACTOR, or user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user needn't have a name
        user = f"user {os.getuid()}"
    return os.environ.get("BACKDROP_ACTOR") or f"{user}@{socket.gethostname()}"


@cache
def _machine() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return "", ""


def _started(pid: int) -> str:
    """The start of a process in the kernel's clock ticks; empty if it doesn't run."""
    try:
        # It has the program's name, of which the kernel may have cut a character in two.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
