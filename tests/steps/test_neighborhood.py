"""A hostile neighborhood: every command that writes, among files of others and killed at random, touches none of them.

Afterward every foreign byte is there, and the same command works, or refuses in one line.
"""

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import dump_plan, make_plan
from backdrop.steps.train import train
from tests.conftest import SMALL, SPACE, draw_dataset, draw_pair
from tests.steps.command_process import start

TRAINED = ("epochs=3", *SMALL[1:], "checkpoint.every_steps=1", "loading.workers=0")

# What each command writes; others' files have these names too.
WRITTEN = {
    "sample": ("sample.json", "train/x_01.jpg"),
    "import": ("import.csv", "train/car00_01.jpg"),
    "train": (
        "member.json",
        "checkpoints/index.json",
        "checkpoints/00001-00000004/x",
        "samples/x.png",
        "metrics.jsonl",
    ),
    "evaluate": ("index.html", "metrics.json", "images.csv", "worst.jpg", "speed.json"),
    "label": ("labels.csv", "fold-0/new0_01.png"),
    "predict": ("predict.json", "new0_01.png", "failed.csv"),
    "split": (),
    "compile": (),
    "cp": (),
}
FILES = ("split", "compile", "cp")  # these write a file, not a folder
ALIKE = sorted({*WRITTEN} - {"train", "split"})  # as one of these two
HERE = [(command, "folder") for command in WRITTEN]  # searches: tests/tuning/test_search.py
IN_S3 = [(command, "s3") for command, _ in HERE if command not in ("compile", "cp")]
# Each way of writing once: bit by bit, as a whole, and as a single file; all commands are tried by the slow test.
SHORT = [
    ("train", "folder"),
    pytest.param(("train", "s3"), marks=pytest.mark.thorough),
    pytest.param(("evaluate", "folder"), marks=pytest.mark.thorough),
    ("evaluate", "s3"),
    ("split", "folder"),
    ("split", "s3"),
]


@dataclass(frozen=True)
class World:
    """What commands read."""

    data: Path
    plan: Path
    members: tuple[Path, Path]
    folder: Path

    def command(self, name: str, out: str) -> list[str]:
        data, plan = str(self.data), str(self.plan)
        members = [word for member in self.members for word in ("--members", str(member))]
        sets = [word for assignment in TRAINED for word in ("--set", assignment)]
        return {
            "sample": ["sample", out, "--objects", "2", "--views", "2", "--size", "64x64"],
            "import": ["import", data + "/train", out, "--masks", data + "/train_masks"],
            "train": ["train", data, "--plan", plan, "--recipe", "tiny", "--fold", "0", "--out", out, *sets],
            "evaluate": ["evaluate", data, "--plan", plan, *members, "--out", out],
            "label": ["label", data, "--plan", plan, *members, "--out", out],
            "predict": ["predict", data + "/test", *members, "--out", out],
            "split": ["split", data, "--out", out, "--folds", "2"],
            "compile": ["pipeline", "compile", "tiny", "--out", out],
            "cp": ["recipes", "cp", "tiny", out],
            "tune": [
                *(
                    "tune",
                    data,
                    "--plan",
                    plan,
                    "--recipe",
                    "tiny",
                    "--out",
                    out,
                    "--space",
                    f"{self.folder}/space.yaml",
                ),
                *("--trials", "4", "--budget-epochs", "2", "--repeats", "0"),
            ],
        }[name]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    data, plan = draw_dataset(folder / "data", 4, 2), folder / "plan.csv"
    for view in (1, 2):
        draw_pair(folder / "extra", f"new0_{view:02d}", 900 + view)
    shutil.copytree(folder / "extra" / "train", data / "test")
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, 0.0, "area", 0))))
    (folder / "space.yaml").write_text(SPACE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BACKDROP_CACHE", str(folder / "cache"))
        environment.setenv("BACKDROP_TRACKING", "off")
        for fold in (0, 1):
            train(str(data), str(plan), "tiny", fold, str(folder / f"m{fold}"), SMALL)
    return World(data, plan, (folder / "m0", folder / "m1"), folder)


class Neighborhood:
    """A folder or a bucket, with others' files."""

    def __init__(self, root: str, chance: random.Random) -> None:
        self.root, self.chance = root, chance
        self.others: dict[str, bytes] = {}

    def add(self, name: str) -> None:
        """Puts a foreign file there, unless there is one."""
        data = self.chance.randbytes(self.chance.randint(0, 300))
        if self.read(name) is not None:
            return
        self.others[name] = data
        if self.root.startswith("s3://"):
            boto3.client("s3").put_object(Bucket="photos", Key=name, Body=data)
        else:
            path = Path(self.root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def read(self, name: str) -> bytes | None:
        if self.root.startswith("s3://"):
            client = boto3.client("s3")
            entries = client.list_objects_v2(Bucket="photos", Prefix=name).get("Contents", [])
            if name not in [entry["Key"] for entry in entries]:
                return None
            body: bytes = client.get_object(Bucket="photos", Key=name)["Body"].read()
            return body
        path = Path(self.root, name)
        return path.read_bytes() if path.is_file() else None

    def check(self) -> None:
        assert {name: self.read(name) for name in self.others} == self.others


@pytest.fixture
def neighborhood(request: pytest.FixtureRequest, tmp_path: Path) -> Neighborhood:
    command, place = request.param
    root = request.getfixturevalue("bucket") if place == "s3" else str(tmp_path / "place")
    chance = random.Random(f"{command} {place}")
    neighbors = Neighborhood(root, chance)
    for _ in range(5):
        neighbors.add(f"{chance.choice(('', 'photos/', 'out2/', 'checkpoints/'))}{chance.randbytes(4).hex()}.jpg")
    return neighbors


def finish(words: list[str], log: Path) -> int:
    """Runs a command to its end; it works, or refuses in one line."""
    process = start(words, log)
    process.join()
    text = log.read_text()
    assert process.exitcode in (0, 2), text
    assert "Traceback" not in text, text
    assert len([line for line in text.splitlines() if line.startswith("error: ")]) == (process.exitcode == 2), text
    return process.exitcode


def run_among_others(command: str, world: World, place: Neighborhood, tmp_path: Path, kills: int) -> None:
    log = tmp_path / "log"
    # In a folder full of others' files, among them those that it would write.
    for name in WRITTEN[command] or ("",):
        place.add(f"full/{name}".rstrip("/"))
    assert finish(world.command(command, f"{place.root}/full"), log) == 2
    place.check()
    if command == "train":
        finish([*world.command(command, place.root), "--fresh"], log)
        place.check()

    # In a new one, into which others put files while it is killed.
    words = world.command(command, f"{place.root}/out")
    begun = time.monotonic()
    finish(world.command(command, f"{place.root}/whole"), log)
    whole_s = time.monotonic() - begun
    for _ in range(kills):
        process = start(words, log)
        process.join(place.chance.uniform(0, whole_s))
        process.kill()
        process.join()
        if command not in FILES and place.chance.random() < 0.5:
            name = place.chance.choice([*WRITTEN[command], f"{place.chance.randbytes(4).hex()}.txt"])
            place.add(f"out/{name}")
        place.check()
    code = finish(words, log)
    place.check()
    if code == 0 and command not in FILES:
        finish(words, log)
        place.check()
    if not any(name.startswith("out/") for name in place.others):
        assert code == 0 or command == "cp", log.read_text()


@pytest.mark.parametrize("neighborhood", SHORT, indirect=True, ids="-".join)
def test_nothing_of_others_is_touched(
    neighborhood: Neighborhood, world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = request.node.callspec.params["neighborhood"][0]
    run_among_others(command, world, neighborhood, tmp_path, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("neighborhood", [*HERE, *IN_S3], indirect=True, ids="-".join)
def test_nothing_of_others_is_touched_however_often_it_is_killed(
    neighborhood: Neighborhood, world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = request.node.callspec.params["neighborhood"][0]
    run_among_others(command, world, neighborhood, tmp_path, kills=12)


@pytest.mark.parametrize(
    "command", ["train", "split", *(pytest.param(name, marks=pytest.mark.thorough) for name in ALIKE)]
)
def test_no_address_is_refused(command: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for out in ("", "/", "/proc/none/x"):
        assert finish(world.command(command, out), tmp_path / "log") == 2, out
    # Where coverage is measured, its files lie in the working folder.
    assert not [path for path in (tmp_path / "empty").iterdir() if not path.name.startswith(".coverage.")]


@pytest.mark.thorough
@pytest.mark.parametrize("neighborhood", [("tune", "s3")], indirect=True, ids="-".join)
def test_a_search_is_refused_before_it_begins(neighborhood: Neighborhood, world: World, tmp_path: Path) -> None:
    for name in ("key", "schedule.yaml", "report/index.html", "plan.csv"):
        neighborhood.add(f"{name}/{name}")
        assert finish(world.command("tune", f"{neighborhood.root}/{name}"), tmp_path / "log") == 2
    assert finish(world.command("tune", ""), tmp_path / "log") == 2
    neighborhood.check()


@pytest.fixture(autouse=True)
def _small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is in the test's own folder, also in other processes."""
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "cache"))
