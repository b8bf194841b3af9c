"""Many processes that decide about a model and look at it at once, some of them killed: `python -m … SETTINGS`.

They share nothing but the store: each has a working folder and a cache of its own. They are forked from one process
that has imported everything but not connected to anything, because importing takes longer than what they do.
"""

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from backdrop.common.errors import BackdropError
from backdrop.steps.hold import hold
from backdrop.steps.promote import override, promote
from backdrop.steps.release import release
from backdrop.steps.rollback import rollback
from backdrop.tracking.registry import find_alias
from backdrop.tracking.server import is_healthy
from tests.tracking.workspace import Workspace

REFUSED = 2
UNEXPECTED = 3


@dataclass(frozen=True)
class Turmoil:
    """What is done to a model with these registered ensembles, each with its Dice."""

    name: str
    workspace: Workspace
    dices: tuple[float, ...]
    uri: str
    experiment: str
    count: int
    parallel: int
    killed: float
    seed: int


@dataclass(frozen=True)
class Deed:
    """One process: what it did, and how it ended; None if it was killed."""

    verb: str
    code: int | None


def cause(turmoil: Turmoil) -> list[Deed]:
    """Starts all processes, a few at a time, and waits for them."""
    chance = random.Random(turmoil.seed)
    running: dict[int, tuple[str, float]] = {}
    deeds: list[Deed] = []
    port = urlsplit(turmoil.uri).port
    for number in range(turmoil.count):
        while port and not is_healthy(port):  # an outage shall hit processes in the middle of what they do
            time.sleep(0.1)
        verb, act = _choose(turmoil, chance)
        end = time.monotonic() + chance.uniform(0, 2.0) if chance.random() < turmoil.killed else float("inf")
        pid = os.fork()
        if pid == 0:
            _be(turmoil, number, act)
        running[pid] = (verb, end)
        while len(running) >= turmoil.parallel:
            _reap(running, deeds)
    while running:
        _reap(running, deeds)
    return deeds


def _choose(turmoil: Turmoil, chance: random.Random) -> tuple[str, Callable[[], object]]:
    name, data, which = turmoil.name, str(turmoil.workspace.data), chance.randrange(len(turmoil.dices))
    deeds: dict[str, Callable[[], object]] = {
        "promote": lambda: promote(data, name),
        "rollback": lambda: rollback(name, reason="turmoil"),
        "override": lambda: override(name, 1 + which, "turmoil"),
        "hold": lambda: hold(name),
        "release": lambda: release(name),
        "register": lambda: turmoil.workspace.register(name, 1 + which, turmoil.dices[which]),
        "look": lambda: _look(name),
    }
    verb = chance.choices(list(deeds), [8, 3, 2, 1, 5, 4, 3])[0]
    return verb, deeds[verb]


def _look(name: str) -> None:
    """Looks for the champion, as whoever predicts does."""
    assert find_alias(name, "champion"), "there is no champion"


def _be(turmoil: Turmoil, number: int, act: Callable[[], object]) -> None:
    """The rest of a forked process's life."""
    code = UNEXPECTED
    with contextlib.suppress(BaseException):
        folder = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=turmoil.workspace.root))
        os.chdir(folder)
        os.environ["BACKDROP_CACHE"] = str(folder / "cache")
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            act()
            code = 0
        except BackdropError as error:
            print(error, flush=True)
            code = REFUSED
        except BaseException:
            import traceback

            traceback.print_exc()
    os._exit(code)


def _reap(running: dict[int, tuple[str, float]], deeds: list[Deed]) -> None:
    time.sleep(0.01)
    for pid, (verb, end) in list(running.items()):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            del running[pid]
            deeds.append(Deed(verb, None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    place = {key: Path(value) for key, value in given.pop("workspace").items()}
    settings = Turmoil(workspace=Workspace(**place), **given)
    os.environ.pop("BACKDROP_TRACKING", None)
    os.environ |= {"MLFLOW_TRACKING_URI": settings.uri, "MLFLOW_EXPERIMENT_NAME": settings.experiment}
    print(json.dumps([asdict(deed) for deed in cause(settings)]))
