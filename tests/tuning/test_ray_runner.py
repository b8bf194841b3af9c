"""RAY_ADDRESS in each of its forms: joined, or refused in one line and within seconds."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from backdrop.common.errors import TuningError
from backdrop.tuning import ray_runner
from backdrop.tuning.ray_runner import TrialRecorder, cluster
from backdrop.tuning.trial_store import Entry, TrialStore
from tests.fakes.http import free_port, silent


@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "tcp://head:6379", "head", "head:port", "head:99999", ":6379"]
)
def test_an_address_that_no_search_can_use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(TuningError, match=r"isn't an address that a search can use\. Set it to") as caught, cluster():
        pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file in which `ray start` notes its cluster's address; other clusters of this machine stay out of sight."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("psutil.process_iter", lambda *_args, **_options: iter(()))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "auto"])
@pytest.mark.parametrize("died", [True, False])
def test_a_cluster_that_is_not_there(address: str, died: bool, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    if died:
        trace.write_text(f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=port))
    start = time.monotonic()
    with pytest.raises(TuningError, match="There is no Ray cluster at RAY_ADDRESS=") as caught, cluster():
        pass
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 60  # Ray alone asks for thirteen minutes


def test_what_never_answers_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_runner, "CONNECT_S", 0.2)
    with silent() as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(TuningError, match=rf"no Ray cluster at RAY_ADDRESS=127.0.0.1:{port} \(timed"), cluster():
            pass


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://me:hunter2@head:10001")
    with pytest.raises(TuningError) as caught, cluster():
        pass
    assert "hunter2" not in str(caught.value)


@pytest.mark.thorough
def test_modules_beside_the_photographs_are_not_imported_by_trials(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('beside the photographs')")
    code = (
        "import ray\n"
        "from backdrop.tuning.ray_runner import cluster\n"
        "def middle():\n"
        "    from statistics import median\n"
        "    return median([1, 2, 4])\n"
        "with cluster():\n"
        "    print('median', ray.get(ray.remote(middle).remote(), timeout=100))\n"
        "import os; print(os.getcwd())"
    )
    search = [sys.executable, "-P", "-c", code]
    done = subprocess.run(search, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == f"median 2\n{tmp_path}\n", done.stderr


def test_a_trial_whose_process_never_starts_is_a_failed_row(tmp_path: Path) -> None:
    entry = Entry(name="000-own", family="preset", override={})
    trial = SimpleNamespace(config={"entry": entry.model_dump()}, error_file=str(tmp_path / "error.txt"))
    store, told = TrialStore(str(tmp_path), "key"), []
    TrialRecorder(store, 2, told.append, told.append, told.append).on_trial_error(0, [trial], trial)
    failed = entry.model_copy(update={"status": "failed", "error": "its process died"})
    assert told == [failed]
    assert store.read(entry.name) == failed
