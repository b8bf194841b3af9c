"""A faulty S3: what is read is right, what is written is whole, and nothing is done twice."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.common import outputs, s3, s3_client, storage
from backdrop.common.errors import StorageError
from backdrop.common.retry import RetryPolicy
from backdrop.inference.member import CHECKPOINTS, read_member
from backdrop.steps.train import train
from backdrop.training.checkpoint_store import CheckpointStore
from tests.conftest import SMALL
from tests.fakes.http import silent
from tests.fakes.proxy import faulty


@pytest.fixture
def port(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of an S3 server with an empty bucket, which `AWS_ENDPOINT_URL` doesn't name yet."""
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1)
    monkeypatch.setattr(s3_client, "POLICY", RetryPolicy(0.05, 0.05, attempts=7, jitter=True))
    return int(s3_address.rpartition(":")[2])


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    s3_client.client.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty small files and one that is uploaded in parts."""
    for index in range(40):
        path = tmp_path / "folder" / f"{index % 4}" / f"{index}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(100 + index))
    (tmp_path / "folder" / "large.bin").write_bytes(os.urandom(9 * 2**20))
    (tmp_path / "folder" / "key.json").write_text("{}")
    return tmp_path / "folder"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("share", [0.1, pytest.param(0.3, marks=pytest.mark.thorough)])
def test_a_folder_goes_there_and_back_whole(
    port: int, folder: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    with faulty(port, share, silence_s=1.5) as proxy:
        use(monkeypatch, proxy.address)
        assert storage.upload_folder(folder, "s3://photos/x", "key.json") == 42
        assert contents(storage.local_folder("s3://photos/x")) == contents(folder)
        assert storage.read_bytes("s3://photos/x/large.bin") == (folder / "large.bin").read_bytes()
        assert all(proxy.seen[fault] for fault in proxy.faults), proxy.seen
        before = proxy.seen["PUT"] + proxy.seen["POST"]
        assert storage.upload_folder(folder, "s3://photos/x", "key.json") == 0
        assert proxy.seen["PUT"] + proxy.seen["POST"] == before
        (folder / "0" / "0.bin").write_bytes(b"new")
        assert storage.upload_folder(folder, "s3://photos/x", "key.json") == 1
        with outputs.output_folder("s3://photos/y", "sample", "key.json") as scratch:
            shutil.copytree(folder, scratch, dirs_exist_ok=True)
        assert contents(storage.local_folder("s3://photos/y")).items() >= contents(folder).items()
        outputs.remove("s3://photos/y")
        assert storage.list_files("s3://photos/y") == []


def test_what_isnt_there_is_not_asked_for_again(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(port, 0) as proxy:
        use(monkeypatch, proxy.address)
        with pytest.raises(StorageError, match=r"s3://photos/nothing: S3 says: .*NoSuchKey"):
            storage.read_bytes("s3://photos/nothing")
        assert proxy.seen["GET"] == 1
        assert not storage.exists("s3://photos/nothing")


def test_what_was_altered_there_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, f"http://127.0.0.1:{port}")
    storage.write_bytes("s3://photos/a", b"one")
    assert storage.exists("s3://photos/a")
    s3_client.client().put_object(Bucket="photos", Key="a", Body=b"two", Metadata=s3.head("s3://photos/a").metadata)
    with pytest.raises(StorageError, match="is damaged: its sha256 differs"):
        storage.read_bytes("s3://photos/a")


def test_a_server_that_is_away_is_a_clear_error(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "POLICY", RetryPolicy(0.01, 0.01, attempts=2))
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"s3://photos/a: S3 at http://127.0.0.1:9 doesn't answer \(Could not connect\)\. Check AWS"
    ):
        storage.read_bytes("s3://photos/a")


def test_a_server_that_never_answers_is_given_up(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3_client.POLICY.give_up_s + 2 * s3_client.READ_TIMEOUT_S < 90
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(s3_client, "POLICY", RetryPolicy(0.01, 0.01, give_up_s=0.5))
    with silent() as port:
        use(monkeypatch, f"http://127.0.0.1:{port}")
        for call in (storage.list_files, storage.read_bytes, storage.exists, lambda a: storage.write_bytes(a, b"x")):
            start = time.monotonic()
            with pytest.raises(StorageError, match=rf"^s3://photos/a: S3 at http://127.0.0.1:{port} doesn't answer"):
                call("s3://photos/a")
            assert time.monotonic() - start < 10


def test_a_server_of_credentials_that_never_answers_is_given_up(
    s3_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.2)
    (tmp_path / "token").write_text("token")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/trainer")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    with silent() as port:
        use(monkeypatch, f"http://127.0.0.1:{port}")
        with pytest.raises(StorageError, match=rf"^S3 can't be used .*Read timeout .*127.0.0.1:{port}"):
            storage.list_files("s3://photos/a")


def test_a_slow_line_gets_time_to_send_a_large_object(s3_address: str) -> None:
    assert s3_client.client(uploads=True).meta.config.read_timeout >= 60


OFTEN = (*SMALL, "epochs=6", "schedule=[{kind: constant, epochs: 1, lr: 1e-2}]", "checkpoint.every_steps=1")


@pytest.fixture
def world(port: int, data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Data and plan in the bucket; gives the folder of the cache."""
    use(monkeypatch, f"http://127.0.0.1:{port}")
    storage.upload_folder(data, "s3://photos/set", "")
    storage.write_bytes("s3://photos/plan.csv", plan.read_bytes())
    return tmp_path


@pytest.fixture
def calm(trained_once: Callable[[int, tuple[str, ...]], str]) -> str:
    """The sha256 of the weights that a training without S3 and faults comes to."""
    return read_member(Path(trained_once(0, OFTEN))).record.weights


def run(out: str) -> None:
    train("s3://photos/set", "s3://photos/plan.csv", "tiny", 0, out, OFTEN)


def test_a_training_survives_a_faulty_s3(
    port: int, world: Path, calm: str, kept_checkpoints: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(port, 0.1, seed=3) as proxy:
        use(monkeypatch, proxy.address)
        run("s3://photos/faulty")
        assert sum(proxy.seen[fault] for fault in proxy.faults) > 5, proxy.seen
    use(monkeypatch, f"http://127.0.0.1:{port}")
    shaken = storage.local_folder("s3://photos/faulty")
    assert read_member(shaken).record.weights == calm
    whole = CheckpointStore(shaken / CHECKPOINTS).read()
    assert whole is not None
    assert whole.progress.epoch == 6
    assert not s3_client.client().list_multipart_uploads(Bucket="photos").get("Uploads")
    assert storage.upload_folder(shaken, "s3://photos/faulty", "member.json") == 0


def test_a_killed_training_resumes_on_another_machine(world: Path, calm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, made = CheckpointStore.write, []

    def write_and_stop(store: CheckpointStore, checkpoint: object) -> None:
        write(store, checkpoint)  # type: ignore[arg-type]  # it is a Checkpoint
        made.append(checkpoint)
        if len(made) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointStore, "write", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run("s3://photos/killed")
    monkeypatch.setattr(CheckpointStore, "write", write)
    shutil.rmtree(world / "cache")
    run("s3://photos/killed")
    resumed = read_member(storage.local_folder("s3://photos/killed")).record
    assert len(resumed.resumed_at) == 1
    assert resumed.resumed_at[0] > 0
    assert resumed.weights == calm
    shutil.rmtree(world / "cache")
    assert train("s3://photos/set", "s3://photos/plan.csv", "tiny", 0, "s3://photos/killed", OFTEN).reused
