"""Populations on a real Ray of this machine: weights change hands, and a kill costs little."""

import signal
import time
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from backdrop.common.errors import ConfigError
from backdrop.config import Budget, find_recipe
from backdrop.steps.tune import tune
from backdrop.training.lr_schedules import learning_rates
from backdrop.tuning.lineage import constant, stretch
from backdrop.tuning.population import STATE, Population, _left
from backdrop.tuning.results import Search
from backdrop.tuning.trial import TrialSpec
from backdrop.tuning.trial_store import Entry, Row, TrialStore, judged
from tests.tuning.test_search import start

BUDGET = Budget(trials=5, epochs=4, scheduler="pb2", repeats=2)
FIRST = stretch(BUDGET.epochs)


@pytest.fixture
def wide(space: Path) -> Path:
    """Rates of which the lowest teach nothing; no preset but the recipe's own."""
    text = space.read_text().replace("presets: [linknet34-faithful]", "presets: []")
    space.write_text(text.replace("3e-3, 3e-2", "1e-7, 3e-2"))
    return space


def row(fold: int, epoch: int, rate: float) -> Row:
    return Row(fold=fold, epoch=epoch, rate=rate, loss=0.5, dice=0.9, seconds=1.0, time_ms=epoch)


def population(folds: tuple[int, ...] = (0,), epochs: int = 4, **changes: object) -> Population:
    spec = TrialSpec("data", "plan.csv", find_recipe("tiny", [f"epochs={epochs}"]), folds, "trials")
    parts = {"first": 2, "size": 5, "ends": (1e-4, 1e-2), "seed": 0, "state": "population"}
    return Population(spec, find_recipe("tiny"), **parts | changes)  # type: ignore[arg-type]


def test_rates_begin_spread_over_the_decades() -> None:
    begun = population().start()
    assert [one.name for one in begun] == ["002-pb2", "003-pb2", "004-pb2", "005-pb2", "006-pb2"]
    assert [one.values["first"] for one in begun] == [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]
    assert [one.override["schedule"] for one in begun] == [constant([one.values["first"]] * 32) for one in begun]


def test_a_lineage_becomes_a_schedule_of_the_recipes_own_length() -> None:
    rows = [row(1, 0, 0.01), row(0, 0, 0.01), row(1, 1, 0.01), row(0, 1, 0.01), row(1, 2, 0.003), row(0, 2, 0.003)]
    grown = population(folds=(0, 1)).entry(1, rows, 0.0004)
    assert grown.values == {"first": 0.01, "last": 0.0004}
    phases = [{"epochs": 16, "rate": 0.01}, {"epochs": 8, "rate": 0.003}, {"epochs": 8, "rate": 0.0004}]
    assert grown.override["schedule"] == [{"kind": "constant", **phase} for phase in phases]
    assert [(one.fold, one.epoch) for one in grown.rows] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize(("epochs", "expected"), [(2, 1), (4, 1), (6, 2), (20, 5), (250, 62)])
def test_a_stretch_is_a_quarter_of_the_budget(epochs: int, expected: int) -> None:
    assert stretch(epochs) == expected


def test_too_small_a_population_is_refused_before_ray_starts(
    cars: tuple[Path, Path], space: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"3 trials beside 2 presets are too few for a population.*--trials 6"):
        tune(*map(str, cars), "tiny", str(tmp_path / "out"), BUDGET, str(space))
    space.write_text(space.read_text().replace("[3e-3, 3e-2]", "1e-2"))
    more = BUDGET.model_copy(update={"trials": 6})
    with pytest.raises(ConfigError, match=r"A population of rates needs more than 0\.01"):
        tune(*map(str, cars), "tiny", str(tmp_path / "out"), more, str(space))
    assert not (tmp_path / "out").exists()


def test_a_torn_state_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not _left(str(tmp_path))
    state = tmp_path / STATE / "experiment_state-2026-01-01_00-00-00.json"
    state.parent.mkdir()
    state.write_text('{"trial_data": []}')
    assert _left(str(tmp_path))
    state.write_text('{"trial_da')
    assert not _left(str(tmp_path))
    assert "torn" in capsys.readouterr().err


def check(search: Search, out: Path) -> None:
    """What must be true of each population's end."""
    grown = [one for one in search.trials if one.family == "pb2"]
    assert [one.name for one in grown] == ["001-pb2", "002-pb2", "003-pb2", "004-pb2"]
    assert all(one.status == "finished" and len(one.dices) == BUDGET.epochs for one in grown)
    assert not (out / "population").exists()
    assert search.comparison is not None
    assert search.comparison.best in {one.name for one in grown}
    entry = TrialStore(str(out / "trials")).read(search.comparison.best)
    again = TrialStore(str(out / "repeats")).read(f"000-{search.comparison.best}-seed-1")
    assert entry is not None
    assert again is not None
    assert again.override["schedule"] == entry.override["schedule"], "the schedule is what is trained again"
    assert [one.epoch for one in again.rows] == list(range(BUDGET.epochs))


def test_the_worst_go_on_with_the_weights_of_the_better(
    cars: tuple[Path, Path], wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Entry]] = defaultdict(list)
    write = TrialStore.write

    def heard(store: TrialStore, one: Entry) -> None:
        seen[one.name].append(one)
        write(store, one)

    monkeypatch.setattr(TrialStore, "write", heard)
    search = tune(*map(str, cars), "tiny", str(tmp_path / "out"), BUDGET, str(wide)).search
    check(search, tmp_path / "out")

    trials = {name: entries for name, entries in seen.items() if name.endswith("-pb2")}
    first = {name: next(one for one in entries if len(one.rows) == FIRST) for name, entries in trials.items()}
    last = {name: entries[-1] for name, entries in trials.items()}
    heirs = [name for name in trials if last[name].rows[0] != first[name].rows[0]]
    assert heirs, "nobody took over another's weights"
    for name in heirs:
        donors = [one for one in first.values() if one.rows[0] == last[name].rows[0]]
        assert len(donors) == 1, "the epochs behind an heir are those of one of the others"
        assert judged(donors[0].rows) >= judged(first[name].rows)
    assert any(len({one.rate for one in last[name].rows}) > 1 for name in heirs), "an heir goes on with another rate"
    best = max(judged(one.rows) for one in last.values())
    assert best >= max(judged(one.rows) for one in first.values())
    for trial in search.trials[1:]:
        assert trial.rates == tuple(one.rate for one in last[trial.name].rows)

    chosen = yaml.safe_load((tmp_path / "out" / "schedule.yaml").read_text())
    recipe = find_recipe("tiny", (), chosen)
    assert len(learning_rates(recipe.schedule, recipe.epochs)) == recipe.epochs


def kill(cars: tuple[Path, Path], space: Path, out: Path, epochs: int) -> None:
    """Kills the driver once the population has trained so many epochs."""
    process = start(cars, out, space, BUDGET)
    trials = TrialStore(str(out / "trials"))

    def trained() -> int:
        found = [trials.read(path.stem) for path in (out / "trials").glob("*-pb2.json")]
        return sum(len(one.rows) for one in found if one)

    while process.poll() is None and trained() < epochs:
        time.sleep(0.05)
    assert process.poll() is None, "it was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def _saved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps its state as often as it can, so that there is one of each moment to go on from."""
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")


@pytest.mark.slow
@pytest.mark.usefixtures("_saved_often")
@pytest.mark.parametrize("epochs", [1, 6, 11])
def test_a_killed_population_goes_on(
    cars: tuple[Path, Path], wide: Path, tmp_path: Path, epochs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    kill(cars, wide, out, epochs)
    presets = [path.read_bytes() for path in (out / "trials").glob("*-own.json")]
    check(tune(*map(str, cars), "tiny", str(out), BUDGET, str(wide)).search, out)
    assert [path.read_bytes() for path in (out / "trials").glob("*-own.json")] == presets
    assert "anew" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_saved_often")
@pytest.mark.parametrize("lost", ["experiment_state*", "run_*/checkpoint_*/rows.json"])
def test_a_population_that_cant_go_on_begins_anew(
    cars: tuple[Path, Path], wide: Path, tmp_path: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    kill(cars, wide, out, 6)
    torn = list((out / "population" / STATE).glob(lost))
    assert torn
    for path in torn:
        path.write_bytes(path.read_bytes()[:20])
    check(tune(*map(str, cars), "tiny", str(out), BUDGET, str(wide)).search, out)
    assert "anew" in capsys.readouterr().err


@pytest.mark.slow
def test_two_folds_and_two_at_a_time_in_s3(cars: tuple[Path, Path], wide: Path, bucket: str, tmp_path: Path) -> None:
    budget = BUDGET.model_copy(update={"folds": (0, 1), "repeats": 0})
    search = tune(*map(str, cars), "tiny", f"{bucket}/search", budget, str(wide), parallel=2).search
    grown = [one for one in search.trials if one.family == "pb2"]
    assert all(one.status == "finished" and len(one.dices) == 2 * budget.epochs for one in grown)


@pytest.mark.slow
def test_rates_that_can_not_be_trained_are_replaced_or_rows(
    cars: tuple[Path, Path], wide: Path, tmp_path: Path
) -> None:
    wide.write_text(wide.read_text().replace("1e-7, 3e-2", "1e-2, 1e30"))
    budget = BUDGET.model_copy(update={"repeats": 0})
    search = tune(*map(str, cars), "tiny", str(tmp_path / "out"), budget, str(wide)).search
    assert search.trials[1].status == "finished"
    for one in search.trials[2:]:
        assert one.status == "finished" or "Loss is NaN" in one.error
