"""Whole searches on a real Ray of this machine."""

import csv
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run

from backdrop.common import storage
from backdrop.common.errors import ConfigError, StorageError, TuningError
from backdrop.config import Budget, find_recipe, read_over
from backdrop.config.records import dump_yaml
from backdrop.steps.train import train
from backdrop.steps.tune import read_search, tune
from backdrop.tracking.client import connect, experiment_id
from backdrop.tuning.results import Search
from backdrop.tuning.search import _compare, _winner
from backdrop.tuning.trial_store import Entry, Row, TrialStore, named
from tests.conftest import SMALL, SPACE, draw_cars
from tests.tuning.conftest import NAMED

# Where Ray's own processes took too long to start, they are started again, and Ray forgets the first ones.
pytestmark = pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning")

BUDGET = Budget(trials=6, epochs=4, searcher="random", repeats=2)
RUN = """
import sys
from backdrop.config import Budget
from backdrop.steps.tune import tune
data, plan, out, space, budget = sys.argv[1:]
tune(data, plan, "tiny", out, Budget.model_validate_json(budget), space)
"""


def come_to(search: Search) -> list[Any]:
    """All that doesn't depend on time."""
    return [(one.name, one.family, one.values, one.dices, one.status) for one in search.trials]


@dataclass(frozen=True)
class Whole:
    """A search that nothing interrupted: where it lies, and what it was asked."""

    out: Path
    cars: tuple[Path, Path]
    space: Path
    search: Search
    store: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], Path]) -> Whole:
    """One search for all tests, because Ray takes long to start; `store` has its runs."""
    folder = tmp_path_factory.mktemp("whole")
    cars, space = draw_cars(folder), folder / "space.yaml"
    space.write_text(SPACE)
    data, plan = map(str, cars)
    with pytest.MonkeyPatch.context() as environment:
        for name in NAMED:
            environment.delenv(name, raising=False)
        environment.setenv("BACKDROP_CACHE", str(folder / "cache"))
        environment.delenv("BACKDROP_TRACKING")
        store = f"sqlite:///{make_store(folder / 'store')}/mlflow.db"
        environment.setenv("MLFLOW_TRACKING_URI", store)
        search = tune(data, plan, "tiny", str(folder / "search"), BUDGET, str(space)).search
    return Whole(folder / "search", cars, space, search, store)


def test_a_search_finds_a_schedule_that_train_takes(whole: Whole, tmp_path: Path) -> None:
    data, plan = map(str, whole.cars)
    out, space, search = whole.out, whole.space, whole.search

    assert [one.name for one in search.trials[:2]] == ["000-own", "001-linknet34-faithful"]
    assert [one.preset for one in search.trials] == [True, True, False, False, False, False]
    assert all(one.status == "finished" for one in search.trials if one.preset)
    assert all(len(one.lrs) == BUDGET.epochs for one in search.trials)
    assert max(one.dice or 0 for one in search.trials) > 0.5
    assert search.comparison is not None
    assert search.comparison.seeds == (1, 2)
    better = search.comparison.best if search.comparison.difference > 0 else search.comparison.preset
    assert search.chosen == better
    assert sorted(path.name for path in out.iterdir()) == [
        ".backdrop.json",
        "key",
        "plan.csv",
        "recipe.yaml",
        "repeats",
        "report",
        "schedule.yaml",
        "search.json",
        "space.yaml",
        "trials",
        "trials.csv",
    ]
    assert not [path for path in (out / "trials").iterdir() if path.is_dir()], "checkpoints of trials that are over"
    rows = list(csv.DictReader(io.StringIO((out / "trials.csv").read_text())))
    assert [row["name"] for row in rows] == [one.name for one in search.trials]

    chosen = find_recipe("tiny", over=read_over(str(out / "schedule.yaml")))
    member = train(data, plan, chosen, 0, str(tmp_path / "m"), SMALL)
    kept = yaml.safe_load((tmp_path / "m" / "recipe.yaml").read_text())
    assert (
        kept["schedule"]
        == find_recipe("tiny", (), read_over(str(out / "schedule.yaml"))).model_dump(mode="json")["schedule"]
    )
    assert member.member.dice >= 0

    again = tune(data, plan, "tiny", str(out), BUDGET, str(space))
    assert again.reused
    assert again.search == search
    with pytest.raises(TuningError, match="a search of other data, settings or budget"):
        tune(data, plan, "tiny", str(out), BUDGET.model_copy(update={"seed": 1}), str(space))


def test_a_search_is_a_parent_in_mlflow_with_a_run_per_trial(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole.store)
    client, search = connect(), whole.search

    def runs(kind: str) -> list[Run]:
        return client.search_runs([experiment_id(client)], f"tags.`backdrop.kind` = '{kind}'")

    (parent,) = runs("search")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["backdrop.chosen"] == search.chosen
    trials = {run.info.run_name: run for run in runs("trial")}
    repeats = {name for name in trials if name.startswith("repeat-")}
    assert set(trials) - repeats == {trial.name for trial in search.trials}
    assert len(repeats) == 2 * BUDGET.repeats
    for trial in search.trials:
        run = trials[trial.name]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == {"finished": "FINISHED", "stopped": "KILLED"}[trial.status]
        history = client.get_metric_history(run.info.run_id, "dice")
        assert [(point.step, point.value) for point in history] == list(enumerate(trial.dices))
        assert {key: run.data.params[key] for key in trial.values} == {k: str(v) for k, v in trial.values.items()}
    names = {file.path for file in client.list_artifacts(parent.info.run_id, "search")}
    assert names >= {"search/schedule.yaml", "search/trials.csv"}


@pytest.mark.slow
def test_a_search_that_lost_files_is_made_again_from_its_trials(
    whole: Whole, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, plan = map(str, whole.cars)
    out = shutil.copytree(whole.out, tmp_path / "search")
    (out / "schedule.yaml").unlink()
    (out / "search.json").write_text((out / "search.json").read_text()[:100])
    next(out.glob("trials/005-*.json")).write_text("{")
    again = tune(data, plan, "tiny", str(out), BUDGET, str(whole.space))
    said = capfd.readouterr().err
    assert (
        f"Making the result in {out} again from its trials: schedule.yaml is missing, search.json has changed" in said
    )
    assert len(next(out.glob("search.json.*")).read_text()) == 100, "what was there is kept"
    assert ".json is damaged: the trial runs again" in said
    assert not again.reused
    assert come_to(again.search) == come_to(whole.search)
    assert (out / "schedule.yaml").read_bytes() == (whole.out / "schedule.yaml").read_bytes()


def test_a_record_of_another_search_is_refused(whole: Whole, tmp_path: Path) -> None:
    data, plan = map(str, whole.cars)
    for content in (b"mine", (whole.out / "trials" / "000-own.json").read_bytes()):
        record = tmp_path / "search" / "trials" / "000-own.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_bytes(content)
        with pytest.raises(StorageError, match=r"000-own\.json isn't a record of this search\. Move it"):
            tune(data, plan, "tiny", str(tmp_path / "search"), BUDGET.model_copy(update={"seed": 1}), str(whole.space))
        assert record.read_bytes() == content


def start(cars: tuple[Path, Path], out: Path | str, space: Path, budget: Budget) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", RUN, *map(str, cars), str(out), str(space), budget.model_dump_json()]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def kill_again_and_again(whole: Whole, tmp_path: Path, kills: int, seed: int, budget: Budget = BUDGET) -> None:
    """Kills the driver of one search at random moments, so often; then lets it end as `whole` did."""
    data, plan = map(str, whole.cars)
    out, chance = tmp_path / "killed", random.Random(seed)
    for kill in range(kills):
        process = start(whole.cars, out, whole.space, budget)
        begun = len(list(out.glob("[!.]*/*.json")))
        # Ray takes seconds to begin; then a kill hits a trial: the first one, or some later one.
        most = 2 * len(whole.search.trials)
        while process.poll() is None and len(list(out.glob("[!.]*/*.json"))) <= begun and kill < most:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    search = tune(data, plan, "tiny", str(out), budget, str(whole.space)).search
    assert come_to(search) == come_to(whole.search)
    assert search.chosen == whole.search.chosen
    assert search.comparison == whole.search.comparison
    assert read_search(str(out)) == search


@pytest.mark.slow
def test_a_killed_search_resumes_and_ends_the_same(whole: Whole, tmp_path: Path) -> None:
    kill_again_and_again(whole, tmp_path, kills=1, seed=0)


@pytest.mark.slow
def test_ten_kills_change_nothing(whole: Whole, tmp_path: Path) -> None:
    kill_again_and_again(whole, tmp_path, kills=10, seed=1)


@pytest.mark.slow
def test_tpe_resumes_with_the_same_draws(cars: tuple[Path, Path], space: Path, tmp_path: Path) -> None:
    budget = Budget(trials=10, epochs=2, folds=(0, 1), searcher="tpe", repeats=0)
    search = tune(str(cars[0]), str(cars[1]), "tiny", str(tmp_path / "whole"), budget, str(space)).search
    whole = Whole(tmp_path / "whole", cars, space, search)
    kill_again_and_again(whole, tmp_path, kills=4, seed=2, budget=budget)


@pytest.mark.thorough
def test_a_trial_that_fails_is_a_row(cars: tuple[Path, Path], space: Path, tmp_path: Path) -> None:
    data, plan = map(str, cars)
    space.write_text(
        space.read_text().replace("presets: [linknet34-faithful]", "presets: []").replace("3e-3, 3e-2", "1e30, 1e35")
    )
    recipe = tmp_path / "recipe.yaml"
    schedule = [
        {"kind": "constant", "epochs": 1, "lr": 0.001, "augmentation": [{"kind": "hflip"}, {"kind": "erase"}]},
        {"kind": "cosine", "epochs": 3, "lr": 0.001, "final": 0.0001},
    ]
    recipe.write_text(dump_yaml(find_recipe("tiny", [f"schedule={json.dumps(schedule)}"])))
    out = tmp_path / "out"
    search = tune(data, plan, str(recipe), str(out), Budget(trials=3, epochs=2), str(space)).search
    assert [one.status for one in search.trials] == ["finished", "failed", "failed"]
    assert "Loss is NaN" in search.trials[1].error
    assert search.chosen == "000-own"
    assert search.comparison is None
    same = find_recipe(str(recipe), over=read_over(str(out / "schedule.yaml")))
    assert same == find_recipe(str(recipe)), (
        "its own schedule is the recipe itself, with the augmentation of its phases"
    )


@pytest.mark.slow
def test_a_search_in_s3_resumes_on_another_machine(
    bucket: str, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = map(str, whole.cars)
    out, space = f"{bucket}/search", str(whole.space)
    process = start(whole.cars, out, whole.space, BUDGET)
    while process.poll() is None and not storage.exists(f"{out}/trials/001-linknet34-faithful.json"):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "another machine"))
    search = tune(data, plan, "tiny", out, BUDGET, space).search
    assert come_to(search) == come_to(whole.search)
    names = storage.list_files(out)
    assert {"schedule.yaml", "trials.csv", "search.json", "report/index.html", "plan.csv"} <= set(names)
    assert not [name for name in names if "checkpoints" in name]
    assert tune(data, plan, "tiny", out, BUDGET, space).reused


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_a_search_needs_to_resume(
    number: signal.Signals, code: int, cars: tuple[Path, Path], space: Path, tmp_path: Path
) -> None:
    out, budget = tmp_path / "out", Budget(trials=3, epochs=200, searcher="random", repeats=0)
    process = start(cars, out, space, budget)
    while process.poll() is None and not list(out.glob("trials/000-own/fold-0/checkpoints/index.json")):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() == code
    own = TrialStore(str(out / "trials"), (out / "key").read_text()).find(0)
    assert own is not None
    assert own.status == "running"
    assert list(out.glob("trials/000-own/fold-0/checkpoints/[0-9]*"))
    assert not (out / "search.json").exists()


BAD = (
    (("cosine", "cosin"), "families.0"),
    (("[3e-3, 3e-2]", "[3e-2, 3e-3]"), "families.0.lr"),
    (("[3e-3, 3e-2]", "-1"), "families.0.lr"),
    (("linknet34-faithful", "linknet43"), "There is no recipe linknet43"),
)
TUNE = """
import sys
from backdrop.cli.app import main
from backdrop.common import progress
progress.HEARTBEAT_S = 1e6  # however busy the machine is
words, spaces = sys.argv[:-4], sys.argv[-4:]
for space in spaces:
    sys.argv = [*words, "--space", space]
    try: main()
    except SystemExit as end: print(end.code, "ray" in sys.modules)
"""


def test_a_bad_space_is_refused_before_ray_starts(cars: tuple[Path, Path], space: Path, tmp_path: Path) -> None:
    data, plan = map(str, cars)
    spaces = [tmp_path / f"bad-{number}.yaml" for number in range(len(BAD))]
    for path, (change, _) in zip(spaces, BAD, strict=True):
        path.write_text(space.read_text().replace(*change))
    command = [sys.executable, "-c", TUNE, "tune", data, "--plan", plan, "--recipe", "tiny"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out"), *spaces], capture_output=True, text=True)
    assert done.stdout == "2 False\n" * len(BAD), done.stderr
    for line, (_, said) in zip(done.stderr.splitlines(), BAD, strict=True):
        assert said in line
    assert not (tmp_path / "out").exists()


def test_presets_alone_are_no_search(cars: tuple[Path, Path], space: Path, tmp_path: Path) -> None:
    data, plan = map(str, cars)
    with pytest.raises(ConfigError, match="--trials 2 leaves nothing to search after the 2 presets of small"):
        tune(data, plan, "tiny", str(tmp_path / "out"), Budget(trials=2), str(space))


FINALISTS = {"002-cosine": "cosine", "000-own": "preset"}


@pytest.mark.parametrize(
    ("statuses", "chosen"),
    [((), "002-cosine"), (("finished",) * 4, "002-cosine"), (("failed", *["finished"] * 3), "000-own")],
)
def test_a_sampled_schedule_whose_repeats_failed_is_not_the_result(statuses: tuple[Any, ...], chosen: str) -> None:
    finalists = [Entry(name=name, family=family, override={}) for name, family in FINALISTS.items()]
    dices = (0.98, 0.97, 0.99, 0.97)
    repeats = [
        Entry(
            name=named(index, "repeat"), family="cosine", override={}, status=status,
            rows=(Row(fold=0, epoch=0, lr=0.1, loss=0.1, dice=dices[index], seconds=1.0, time_ms=0),),
        )
        for index, status in enumerate(statuses)
    ]  # fmt: skip
    assert _winner(finalists, _compare(finalists, [1, 2], repeats), repeats).name == chosen
