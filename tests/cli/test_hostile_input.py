"""Whatever files, arguments and variables a command is given, it answers in a few lines and a known exit code."""

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import typer

from backdrop.cli import app
from backdrop.config import find_recipe
from backdrop.config.folds import Rule
from backdrop.config.records import dump_yaml
from backdrop.data.dataset import file_digest, open_dataset, read_mask
from backdrop.data.folds import dump_plan, make_plan
from backdrop.data.masks import mask_digest
from backdrop.data.pseudo_labels import LABELS, Label, dump_labels
from tests.cli import hostile
from tests.conftest import SPACE, draw_dataset
from tests.tracking.workspace import HELD, Workspace

# Imported before the forks, each of which would take seconds for them.
LIBRARIES = """
boto3 docker kfp kubernetes mlflow ray.tune optuna aiohttp backdrop.kubeflow.preflight
backdrop.kubeflow.recurring_runs backdrop.local.run backdrop.steps.promote backdrop.steps.register
backdrop.tuning.cluster.jobs backdrop.tuning.cluster.kuberay backdrop.tuning.search
"""
STEPS = "check describe estimate evaluate import_ label merge predict split train"
SEEDS = range(1, 50)
COCO = {
    "images": [{"id": 1, "file_name": "car00_01.jpg", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "car"}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "segmentation": [[8, 8, 50, 8, 50, 40]]},
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [48, 64], "counts": [100, 200, 2772]}},
    ],
}
TEXTS = {
    "recipe.yaml": dump_yaml(
        find_recipe("tiny", ["network={kind: unet, width: 2, depth: 1}", "input.size=16x16", "epochs=1"])
    ),
    "set.yaml": "epochs: 1\nbatch_size: 4\ninput: {size: 16x16}\n",
    "space.yaml": SPACE,
    "cluster.yaml": "image: example.com/backdrop:1\nworkers: 1\n",
    "coco.json": json.dumps(COCO),
    "s.csv": "img,rle_mask\nnew_01.jpg,1 1\nnew_02.jpg,1 1\n",
    "tokens.txt": "a-token-of-the-first-team\n",
    "params.yaml": 'data: data\nwork: out\ngpus: "1"\nobjects: 2\nnode_selector: {pool: gpu}\n',
}


def commands() -> set[str]:
    """Every command of `backdrop --help`, and of the groups in it."""
    group = typer.main.get_command(app.app)
    names = set()
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        names |= {f"{name} {sub}" for sub in inner} if inner else {name}
    return names


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the light commands name."""
    return make_workspace(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def whole_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the commands name, and MLflow's store with a champion."""
    return add_store(make_workspace(tmp_path_factory.mktemp("hostile")))


def make_workspace(folder: Path) -> Path:
    for name in STEPS.split():
        importlib.import_module(f"backdrop.steps.{name}")
    importlib.import_module("backdrop.training.fit")
    draw_dataset(folder / "data", HELD + 4, 2)
    (folder / "data" / "test").mkdir()
    for view in ("01", "02"):
        shutil.copy(folder / "data" / "train" / f"car00_{view}.jpg", folder / "data" / "test" / f"new_{view}.jpg")
    plan = make_plan(open_dataset(folder / "data"), Rule(2, HELD / (HELD + 4), "area", 0))
    (folder / "plan.csv").write_bytes(dump_plan(plan))
    space = Workspace(folder, folder / "data", folder / "plan.csv")
    for member in space.members(1):
        shutil.copytree(member, folder / member.name.replace("tiny", "member"))
    space.report(0.97).rename(folder / "report")
    space.ensemble(1).rename(folder / "ensemble.yaml")
    shutil.copytree(folder / "data" / "train", folder / "source")
    shutil.copy(folder / "data" / "train_masks" / "car00_01_mask.png", folder / "source")
    (folder / "labels" / "fold-0").mkdir(parents=True)
    shutil.copy(folder / "data" / "train_masks" / "car00_01_mask.png", folder / "labels" / "fold-0" / "new_01.png")
    mask = mask_digest(read_mask(folder / "labels" / "fold-0" / "new_01.png"))
    photo = file_digest(folder / "data" / "test" / "new_01.jpg")
    (folder / "labels" / LABELS).write_bytes(dump_labels(plan, [Label("new_01", "new", 0, 0.0, True, photo, mask)]))
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    # In a process of its own: what forks this one must find no threads of networks.
    made = hostile.run(
        ["predict", "data/test", "--members", "member-0", "--out", "share", "--shard", "1/1"], {}, folder
    )
    assert made.code == 0, made
    return folder


def add_store(folder: Path) -> Path:
    for name in LIBRARIES.split():
        importlib.import_module(name)
    (folder / hostile.STORE).touch()  # an empty file is a store that is made at its first use
    for words in (hostile.COMMANDS["pipeline compile"], hostile.COMMANDS["register"], hostile.COMMANDS["promote"]):
        done = hostile.run(words.split(" "), {}, folder)
        assert done.code == 0, done
    (folder / "package.out").rename(folder / "package.yaml")
    return folder


def test_every_command_is_tried() -> None:
    tried = {name for name in commands() for words in hostile.COMMANDS.values() if f"{words} ".startswith(f"{name} ")}
    assert tried == commands()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with hostile.garbage_server() as address:
        yield address


def attack(
    workspace: Path,
    scratch: Path,
    server: str,
    seeds: Iterable[int],
    commands: Iterable[str] = hostile.COMMANDS,
    apart: bool = False,
) -> None:
    faults = []
    for seed in seeds:
        for command in commands:
            attempt = hostile.attack(workspace, scratch, server, seed, command, apart)
            faults += [f"seed {seed}: {', '.join(attempt.faults)}\n{attempt}"] if attempt.faults else []
    assert not faults, "\n".join(faults)


def test_whatever_is_broken_the_answer_is_short(workspace: Path, tmp_path: Path, server: str) -> None:
    attack(workspace, tmp_path, server, [0], hostile.LIGHT)


OUTPUTS = ("out", "new.csv", "new.yaml", "merged", "mine.yaml", "package.out")
WRITERS = {
    name: next(word for word in words.split() if word in OUTPUTS)
    for name, words in hostile.COMMANDS.items()
    if name in (*hostile.LIGHT, "pipeline compile")
    and not {*OUTPUTS}.isdisjoint(words.split())
    and name != "import coco"
}
OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("mine"),
    "a folder": lambda path: put(path / "mine", path / "new.csv", path / "merge.json", path / "member.json"),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to what can't be made": lambda path: path.symlink_to("plan.csv/new"),
    "a folder that is a file": lambda _: None,
}


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("command", WRITERS)
def test_what_is_in_the_way_of_an_output_is_found_before_the_work(
    command: str, obstacle: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # slow

    def work(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(torch.nn.Module, "__call__", work)
    folder = tmp_path / "workspace"
    shutil.copytree(workspace, folder)
    words, target = hostile.COMMANDS[command].split(" "), WRITERS[command]
    OBSTACLES[obstacle](folder / target)
    if obstacle == "a folder that is a file":
        words = [f"plan.csv/{word}" if word == target else word for word in words]
    before = tree(folder)
    attempt = hostile.run(words, {}, folder)
    assert (attempt.code, attempt.faults) == (2, []), attempt
    assert target in attempt.err, attempt
    assert tree(folder) == before


def tree(folder: Path) -> list[str]:
    """The files and folders that a command leaves, but for caches and what was printed."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in names if name.split("/")[0] not in ("cache", "stdout", "stderr"))


@pytest.mark.slow
def test_whatever_is_broken_the_answer_is_short_for_many_seeds(
    whole_workspace: Path, tmp_path: Path, server: str
) -> None:
    attack(whole_workspace, tmp_path, server, SEEDS)


@pytest.mark.slow
def test_whatever_the_environment_says_the_answer_is_short(whole_workspace: Path, tmp_path: Path, server: str) -> None:
    """Each command in a Python of its own, for libraries read much of the environment when they are imported."""
    attack(whole_workspace, tmp_path, server, range(5), apart=True)
