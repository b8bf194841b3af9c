"""A bucket in which a right is missing: each command says which, in one line, before it begins its work."""

import json
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from backdrop.cli.app import main
from backdrop.common import s3_client, storage
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import dump_plan, make_plan
from backdrop.steps.train import train
from tests.conftest import SMALL, draw_dataset

RIGHTS = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")
DATA, PLAN, MEMBER = "s3://photos/data", "s3://photos/plan.csv", "s3://photos/m"
SETS = [word for assignment in SMALL for word in ("--set", assignment)]
# What reads a bucket, and what writes to one.
READING = {
    "check": ["check", DATA],
    "split": ["split", DATA, "--out", "new.csv"],
    "train": ["train", DATA, "--plan", PLAN, "--recipe", "tiny", "--fold", "0", "--out", "new", *SETS],
    "tune": ["tune", DATA, "--plan", PLAN, "--recipe", "tiny", "--out", "new"],
    "label": ["label", DATA, "--plan", PLAN, "--members", MEMBER, "--out", "new"],
    "evaluate": ["evaluate", DATA, "--plan", PLAN, "--members", MEMBER, "--out", "new"],
    "predict": ["predict", f"{DATA}/train", "--members", MEMBER, "--out", "new"],
    "import": ["import", f"{DATA}/train", "new"],
    "estimate": ["estimate", DATA, "--ensemble", "tiny"],
}
NEW = "s3://photos/new"
WRITING = {
    "sample": ["sample", NEW, "--objects", "1", "--views", "1", "--size", "64x64"],
    "import": ["import", "data/train", NEW, "--masks", "data/train_masks"],
    "split": ["split", "data", "--out", f"{NEW}.csv"],
    "train": ["train", "data", "--plan", "plan.csv", "--recipe", "tiny", "--fold", "0", "--out", NEW, *SETS],
    "tune": ["tune", "data", "--plan", "plan.csv", "--recipe", "tiny", "--out", NEW],
    "label": ["label", "data", "--plan", "plan.csv", "--members", "m", "--out", NEW],
    "evaluate": ["evaluate", "data", "--plan", "plan.csv", "--members", "m", "--out", NEW],
    "predict": ["predict", "data/train", "--members", "m", "--out", NEW],
}
Grant = Callable[[str], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, its plan and a member."""
    folder = tmp_path_factory.mktemp("world")
    data, plan = draw_dataset(folder / "data", 4, 2), folder / "plan.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, 0.0, "area", 0))))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BACKDROP_CACHE", str(folder / "cache"))
        train(str(data), str(plan), "tiny", 0, str(folder / "m"), SMALL)
    return folder


@pytest.fixture(autouse=True)
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, with links to all that commands read."""
    for name in ("data", "plan.csv", "m"):
        (tmp_path / name).symlink_to(world / name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def without(bucket: str, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grant]:
    """Has the server check rights from now on, and gives a user all but one."""
    iam = boto3.client("iam", endpoint_url=s3_address)
    iam.create_user(UserName="me")
    key = iam.create_access_key(UserName="me")["AccessKey"]

    def check(free_calls: str) -> None:
        address = f"{s3_address}/moto-api/reset-auth"
        text = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, free_calls.encode(), text, method="POST")).close()

    def grant(missing: str) -> None:
        allowed = [right for right in RIGHTS if right != missing]
        policy = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": allowed, "Resource": "*"}}
        check("inf")
        iam.put_user_policy(UserName="me", PolicyName="rights", PolicyDocument=json.dumps(policy))
        check("0")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        s3_client.client.cache_clear()

    yield grant
    check("inf")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], str], None]:
    """Runs a command, which lacks a right."""

    def run(arguments: list[str], right: str) -> None:
        monkeypatch.setattr(sys, "argv", ["backdrop", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        line = said.splitlines()[-1]
        assert ended.value.code == 2, (arguments, said)
        assert line.startswith("error: s3://photos/"), (arguments, said)
        assert "bucket photos denies" in line, (arguments, said)
        assert right in line, (arguments, said)
        assert line.endswith("Grant them this right, or use others."), (arguments, said)
        assert "epoch" not in said, "it ends before its work"

    return run


@pytest.mark.parametrize("right", ["s3:ListBucket", "s3:GetObject"])
def test_what_cannot_be_read_is_said_in_one_line(
    right: str, world: Path, bucket: str, without: Grant, refused: Callable[[list[str], str], None]
) -> None:
    for path in (path for name in ("data", "m", "plan.csv") for path in (world / name, *(world / name).rglob("*"))):
        if path.is_file():
            storage.write_bytes(f"{bucket}/{path.relative_to(world)}", path.read_bytes())
    without(right)
    for arguments in READING.values():
        refused(arguments, right)
    assert not Path("new").exists()


@pytest.mark.parametrize("right", RIGHTS)
def test_where_nothing_can_be_written_the_work_is_not_begun(
    right: str, bucket: str, without: Grant, refused: Callable[[list[str], str], None]
) -> None:
    without(right)
    for name, arguments in WRITING.items():
        if (name, right) != ("split", "s3:ListBucket"):  # it writes one object, and lists nothing
            refused(arguments, right)
    without("")
    assert storage.list_files(bucket) == []
