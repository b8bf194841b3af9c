"""Many processes that decide at once, killed at random: one champion, and a history that says what happened."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow.exceptions import BAD_REQUEST, MlflowException

from backdrop.common.retry import RetryPolicy
from backdrop.steps.promote import promote
from backdrop.tracking import history, tracking_uri
from backdrop.tracking.client import connect, retry
from backdrop.tracking.ledger import State
from tests.tracking.outages import Unsteady, postgresql, postgresql_programs, unsteady_server
from tests.tracking.turmoil import Turmoil
from tests.tracking.workspace import Workspace

DICES = (0.95, 0.93, 0.97, 0.99)
POSTGRESQL = postgresql_programs()


def name_of(workspace: Workspace) -> str:
    return f"products-{workspace.root.name}"


def prepare(workspace: Workspace) -> None:
    """Registers and promotes the first ensemble, and makes the files of the others, which processes share."""
    for number, dice in enumerate(DICES, start=1):
        workspace.report(dice, number)
    workspace.register(name_of(workspace), 1, DICES[0])
    promote(str(workspace.data), name_of(workspace))


def turmoil(workspace: Workspace, count: int, parallel: int, seed: int) -> list[dict[str, object]]:
    """Lets processes do at random what people and pipelines do."""
    settings = Turmoil(
        name_of(workspace), workspace, DICES, tracking_uri(), workspace.root.name, count, parallel, 0.3, seed
    )
    command = [sys.executable, "-m", "tests.tracking.turmoil", json.dumps(asdict(settings), default=str)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    deeds: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return deeds


def check(workspace: Workspace, deeds: list[dict[str, object]], outages: bool = False) -> None:
    """One champion at all times, a whole chain, and nothing decided twice."""
    name = name_of(workspace)
    bad = [deed for deed in deeds if deed["code"] not in (0, 2, None)]
    assert not bad, [log.read_text() for log in workspace.root.glob("*/log") if "Traceback" in log.read_text()]
    lines = [line for log in workspace.root.glob("*/log") for line in log.read_text().splitlines()]
    assert not [line for line in lines if "BAD_REQUEST" in line and "yet (" not in line], "two wrote the same tag"
    history.mirror(name)
    known = history.read(name)
    state, rejected, versions = State(), set(), {}
    for link in known.links:
        entry = link.entry
        if entry.event == "registered":
            assert versions.setdefault(entry.digests["ensemble"], entry.version) == entry.version
        else:
            assert entry.champion == state.champion, "it was decided on another champion than the one that it replaced"
        if entry.verdict:
            assert state.hold is None
            key = (entry.version, entry.evaluation, entry.champion)
            assert key not in rejected
            rejected |= {key} if entry.event == "rejected" else set()
        state = state.after(entry)
    assert state == known.state
    aliases = connect().get_registered_model(name).aliases
    assert int(aliases["champion"]) == state.champion
    made = Counter(link.entry.event for link in known.links if not link.entry.verdict)
    for verb, event in (("override", "promoted"), ("rollback", "rolled back"), ("release", "released")):
        ends = Counter(deed["code"] for deed in deeds if deed["verb"] == verb)
        # One that an outage stopped may have decided before.
        assert made[event] <= ends[0] + ends[None] + (ends[2] if outages else 0)
        if verb == "rollback":
            assert made[event] >= ends[0]
    assert len({link.entry.token for link in known.links}) == len(known.links)
    check_versions(workspace)


def check_versions(workspace: Workspace) -> None:
    """What a killed process left of a second registration is gone once the same is registered again."""
    name = name_of(workspace)
    kept = {workspace.register(name, number, dice).version for number, dice in enumerate(DICES, start=1)}
    decided = {entry.version for entry in history.read(name).state.changes}
    found = {int(version.version) for version in connect().search_model_versions(f"name = '{name}'")}
    assert kept <= found <= kept | decided


@pytest.mark.parametrize(
    "words", ["(psycopg2.errors.UniqueViolation) duplicate key", "(sqlite3.IntegrityError) UNIQUE constraint failed"]
)
def test_a_tag_that_two_write_at_once_is_written_again(clean: None, words: str) -> None:
    """What MLflow says of it with either database."""
    failures = [MlflowException(words, error_code=BAD_REQUEST)]

    def write() -> str:
        if failures:
            raise failures.pop()
        return "written"

    assert retry("The tag can't be set", write, RetryPolicy(pause_s=0, max_pause_s=0, give_up_s=9)) == "written"


@pytest.mark.parametrize("tracked", ["server", pytest.param("embedded", marks=pytest.mark.thorough)], indirect=True)
def test_turmoil_leaves_one_champion_and_a_whole_history(tracked: str, workspace: Workspace) -> None:
    prepare(workspace)
    check(workspace, turmoil(workspace, count=8, parallel=4, seed=0))


@pytest.mark.slow
def test_two_hundred_decide_at_once(tracked: str, workspace: Workspace) -> None:
    prepare(workspace)
    check(workspace, turmoil(workspace, count=200, parallel=8, seed=1))


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgresql",
            marks=pytest.mark.skipif(
                POSTGRESQL is None, reason="needs PostgreSQL's programs and psycopg2: apt-get install postgresql"
            ),
        ),
    ]
)
def unsteady(
    request: pytest.FixtureRequest, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Unsteady]:
    """A server that is stopped again and again, on either database."""
    with ExitStack() as stack:
        database = f"sqlite:///{tmp_path / 'mlflow.db'}"
        if request.param == "postgresql":
            assert POSTGRESQL
            database = stack.enter_context(postgresql(POSTGRESQL))
        server = stack.enter_context(unsteady_server(database, tmp_path, seed=2))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        yield server


@pytest.mark.slow
def test_two_hundred_decide_while_the_server_comes_and_goes(unsteady: Unsteady, workspace: Workspace) -> None:
    prepare(workspace)
    with unsteady.disturbed():
        deeds = turmoil(workspace, count=200, parallel=8, seed=3)
    assert unsteady.stops >= 3
    check(workspace, deeds, outages=True)
