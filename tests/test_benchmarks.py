"""The GPU benchmark repeats what the recipes say, because it must run where they can't be read; it says the same."""

import pytest
import torch

from backdrop.config import find_ensemble, find_recipe
from backdrop.config.network import parse_size
from benchmarks import gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", gpu.CASES)
def test_a_case_is_its_recipe(name: str) -> None:
    case, recipe = gpu.CASES[name], find_recipe(name)
    network, loss = recipe.network_options(), recipe.loss_options()
    assert {key: network[key] for key in case.network} == case.network
    assert {key: loss[key] for key in case.loss} == case.loss
    assert case.size == parse_size(recipe.input.size)
    assert (case.optimizer, case.batch) == (recipe.optimizer.kind, recipe.batch_size)
    assert case.clip_norm == recipe.optimizer.clip_norm


def test_the_cases_are_the_winners_schedule() -> None:
    assert sum(case.networks for case in gpu.CASES.values()) == 49
    assert sum(case.networks * case.epochs for case in gpu.CASES.values()) == 3630
    for name, case in gpu.CASES.items():
        faithful = find_recipe(f"{name}-faithful")
        assert case.epochs == faithful.epochs
        assert case.replay == (1 / faithful.replay_every if faithful.replay_every else 0)
    parts = find_ensemble("best-overfitting").parts()
    assert sum((part.folds or find_ensemble("best-overfitting").folds).count for part in parts) == 49


@pytest.mark.parametrize("way", [way for way in gpu.WAYS if "compiled" not in way])
def test_each_way_runs(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUND_S", 0)
    small = gpu.Case({"kind": "unet", "width": 2, "depth": 2}, (32, 16), {"kind": "bce_dice"}, "adam", 2, 1.0, 1, 1, 2)
    rate, taken = gpu.train_rate(small, gpu.WAYS[way], CPU)
    assert rate > 0
    assert taken == 0
    assert gpu.fed_rate(small, gpu.WAYS[way], CPU) > 0
    assert gpu.predict_rate(small, gpu.WAYS[way], CPU) > 0


def test_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUND_S", 0)
    assert all(value > 0 for value in gpu.ceilings(CPU, side=64).values())


def test_the_changes_are_a_recipe_s() -> None:
    changes = find_recipe("linknet34").augmentation
    assert [vars(change) for change in gpu.CHANGES] == [change.model_dump() for change in changes]
