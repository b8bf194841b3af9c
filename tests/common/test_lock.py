"""Locks: one owner at a time, in a folder and in S3; whoever comes second learns who it is; a dead owner's is taken."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from backdrop.common import lock, s3, s3_client, storage
from backdrop.common.errors import StorageError
from backdrop.common.lock import hold
from backdrop.common.owner import Owner, parse_owner, this_process

HOLD = """
import sys, time
from backdrop.common.errors import StorageError
from backdrop.common.lock import hold
try:
    with hold(sys.argv[1], "train"):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except StorageError as error:
    print(error, flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.getfixturevalue('bucket')}/out" if request.param == "s3" else str(tmp_path / "out")


def start(target: str, seconds: float = 60) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, target, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def another(target: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    with start(target) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def leave(target: str, owner: Owner) -> None:
    """The lock of an owner that didn't remove it."""
    storage.write_bytes(f"{target}/{s3.LOCK}", owner.dump().encode())


def stranger(**changes: object) -> Owner:
    """An owner on another machine."""
    own = {**json.loads(this_process("train").dump()), "host": "node-7", "boot": "other", **changes}
    return Owner(**own)


def test_the_second_is_refused_in_one_line_that_names_the_first(target: str) -> None:
    with another(target) as first, pytest.raises(StorageError) as refused, hold(target, "train"):
        pass
    line = str(refused.value)
    assert line.startswith(
        f"{target} is in use by `backdrop train` (process {first.pid} on {os.uname().nodename}, since"
    )
    assert line.endswith("). Wait until it ends, or use another --out.")


def test_it_leaves_nothing(target: str, tmp_path: Path) -> None:
    for _ in range(2):
        with hold(target, "train"):
            assert storage.exists(f"{target}/{s3.LOCK}")
            assert storage.list_files(target) == []
        assert not storage.exists(f"{target}/{s3.LOCK}")
        assert not (tmp_path / "out").exists()


def test_a_lock_that_can_t_be_written_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk, where files can be created, but not filled."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    command = [sys.executable, "-B", "-c", limit + HOLD, str(tmp_path / "new" / "out"), "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "can't be written (File too large)" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_lock_beside_a_folder_survives_its_replacement(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with hold(out, "evaluate", beside=True):
        assert not out.exists()
        out.mkdir()
        with pytest.raises(StorageError, match="is in use"), hold(out, "evaluate", beside=True):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_owner_is_followed_at_once(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with another(target) as first:
        first.kill()
    with hold(target, "train"):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Taking over {target}/{s3.LOCK} from `backdrop train` (process {first.pid} on ")


def test_of_many_that_take_over_at_once_one_wins(target: str) -> None:
    with another(target) as first:
        first.kill()
    processes = [start(target, 3) for _ in range(4)]
    lines = [process.communicate()[0].strip() for process in processes]
    assert lines.count("held") == 1, lines
    assert sum("is in use by `backdrop train`" in line for line in lines) == 3


@pytest.mark.parametrize("beats", [False, True])
def test_an_owner_elsewhere_is_dead_if_it_is_silent(
    target: str, beats: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "SILENT_S", 1.0)
    monkeypatch.setattr(lock, "POLL_S", 0.05)
    leave(target, stranger())
    if beats:
        sleep = time.sleep

        def beat(seconds: float) -> None:
            sleep(seconds)
            if Path(target).is_dir():
                os.utime(Path(target, s3.LOCK))
            else:
                leave(target, stranger(token="next"))

        monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=beat, monotonic=time.monotonic, time=time.time))
        with (
            pytest.raises(StorageError, match=r"in use by `backdrop train` \(process \d+ on node-7"),
            hold(target, "x"),
        ):
            pass
        return
    with hold(target, "train"):
        pass
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["Watching", "Taking"]


def test_a_lock_that_was_lost_ends_the_process(target: str) -> None:
    code = f"import backdrop.common.lock as lock; lock.BEAT_S = 0.2\n{HOLD}"
    command = [sys.executable, "-c", code, target, "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        if not target.startswith("s3://"):
            Path(target, s3.LOCK).unlink()  # as another machine's process replaces it
        leave(target, stranger())
        _, log = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert log == f"This process lost {target} to another one, because it was silent for a minute; it ends now\n"
    assert storage.exists(f"{target}/{s3.LOCK}")


def test_heartbeats_change_the_lock(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)

    def state() -> object:
        if target.startswith("s3://"):
            version = s3.read_version(f"{target}/{s3.LOCK}")
            return version and version.etag
        return Path(target, s3.LOCK).stat().st_mtime_ns

    with hold(target, "train"):
        first = state()
        while state() == first:
            time.sleep(0.05)


def test_a_lock_that_this_process_could_not_remove_is_taken(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(target, this_process("train"))
    with hold(target, "train"), pytest.raises(StorageError, match="is in use by"), hold(target, "train"):
        pass
    assert capsys.readouterr().err.startswith("Taking over ")


@pytest.mark.parametrize("content", [b"", b"{", b'{"step": "tra', b'{"step": 1}'])
def test_a_damaged_lock_without_an_owner_is_taken(target: str, content: bytes) -> None:
    storage.write_bytes(f"{target}/{s3.LOCK}", content)
    with hold(target, "train"):
        pass


@pytest.mark.parametrize("content", [b"[1]", b'{"pid": 1}', b"mine\n"])
def test_a_file_of_others_is_not_taken_for_a_lock(target: str, content: bytes) -> None:
    storage.write_bytes(f"{target}/{s3.LOCK}", content)
    for _ in range(2):
        with (
            pytest.raises(StorageError, match=r"lock exists, and Backdrop didn't write it\. Move it\."),
            hold(target, "train"),
        ):
            pass
    assert storage.read_bytes(f"{target}/{s3.LOCK}") == content


def test_a_lock_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out" / s3.LOCK
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="lock can't be written"), hold(tmp_path / "out", "train"):
        pass
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StorageError, match="lock can't be written"), hold(tmp_path / "out", "train"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_bucket_it_is_refused(bucket: str) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"), hold("s3://nobody/out", "train"):
        pass


def test_a_server_that_ignores_conditions(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.1)
    client = s3_client.client()

    class Unconditional:
        def put_object(self, IfNoneMatch: str = "", IfMatch: str = "", **rest: object) -> object:  # noqa: N803
            return client.put_object(**rest)

        def __getattr__(self, name: str) -> object:
            return getattr(client, name)

    with monkeypatch.context() as patched:
        patched.setattr(s3, "client", Unconditional)
        with hold(f"{bucket}/out", "train"), pytest.raises(StorageError, match="is in use"), hold(f"{bucket}/out", "x"):
            pass


def test_a_process_id_that_was_used_again_is_another_process() -> None:
    own = this_process("train")
    assert own.lives
    assert not Owner(**{**json.loads(own.dump()), "started": "1"}).lives
    assert stranger().lives is None
    assert parse_owner(own.dump()) == own


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ID and the heartbeat decide."""
    monkeypatch.setattr(lock, "try_lock", lambda _: None)
    monkeypatch.setattr(lock, "SETTLE_S", 0.1)
    target = str(tmp_path / "out")
    with another(target) as first:
        with pytest.raises(StorageError, match="is in use"), hold(target, "train"):
            pass
        first.kill()
    with hold(target, "train"):
        pass
