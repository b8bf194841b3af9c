"""What recipes would refuse of a dataset is found by `check`."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backdrop.config import find_recipe
from backdrop.config.records import dump_yaml
from backdrop.models import build
from backdrop.steps.check import check
from backdrop.training import preconditions
from tests.conftest import draw_pair

SMALL = ("network.width=2", "network.depth=2", "input.size=64x48")


@pytest.fixture
def ensemble(tmp_path: Path) -> Callable[..., str]:
    """Writes an ensemble of one recipe, and gives its path."""

    def write(*overrides: str, folds: dict[str, Any] | None = None) -> str:
        (tmp_path / "mine.yaml").write_text(dump_yaml(find_recipe("tiny", [*SMALL, *overrides])))
        lines = [f"{key}: {value}" for key, value in (folds or {"count": 2, "holdout": 0.15}).items()]
        path = tmp_path / "ours.yaml"
        path.write_text(f"name: ours\nfolds: {{{', '.join(lines)}}}\nmembers: [{{recipe: {tmp_path}/mine.yaml}}]\n")
        return str(path)

    return write


def found(data: Path, ensemble: str) -> list[str]:
    return [str(fault.error()) for fault in check(str(data), [ensemble]).errors]


def test_an_ensemble_that_fits_adds_nothing(data: Path, ensemble: Callable[..., str]) -> None:
    assert check(str(data), [ensemble()]) == check(str(data))


@pytest.mark.parametrize("fit", ["pad", "reflect"])
def test_a_photograph_larger_than_a_padded_input_is_named(data: Path, ensemble: Callable[..., str], fit: str) -> None:
    for stem in ("car02_01", "car04_02"):
        draw_pair(data, stem, 7 + ord(stem[-1]), (48, 80))
    assert found(data, ensemble(f"input.fit={fit}")) == [
        f"{data}/train/car02_01.jpg is 80x48 (like 1 other), too large for input.size 64x48 of recipe tiny. "
        "Set a larger input.size, or input.fit to stretch."
    ]
    assert found(data, ensemble()) == []


def test_a_view_that_an_object_lacks_is_named(data: Path, ensemble: Callable[..., str]) -> None:
    by = "area_rank"
    folds = {"count": 2, "holdout": 0.15, "by": by, "view": '"02"'}
    assert found(data, ensemble(folds=folds)) == []
    for folder, ending in (("train", ".jpg"), ("train_masks", "_mask.png")):
        (data / folder / f"car03_02{ending}").unlink()
    assert found(data, ensemble(folds=folds)) == [
        f"{data}/train/car03_01.jpg belongs to object car03, which has no view 02 (folds.view of ensemble ours). "
        "Add that view, or set folds.view to one that all objects have."
    ]


def test_too_few_objects_are_reported_as_by_split(data: Path, ensemble: Callable[..., str]) -> None:
    (line,) = found(data, ensemble(folds={"count": 6, "holdout": 0.15}))
    assert line.startswith("ensemble ours can't be split (folds): 6 objects, 1 of them held out, don't fill 6 folds")


def test_a_batch_norm_that_sees_one_value_in_a_smaller_phase_is_found(data: Path, ensemble: Callable[..., str]) -> None:
    assert found(data, ensemble("batch_size=1", "input.size=8x8")) == []
    (line,) = found(data, ensemble("batch_size=1", "input.size=8x8", "schedule.0.scale=0.5"))
    assert line.startswith("recipe tiny has input.size 8x8 at scale 0.5, which leaves batch norm one value per channel")


@pytest.mark.parametrize(("size", "starves"), [("4x4", True), ("8x4", False)])
def test_a_batch_norm_that_sees_one_value_is_found(
    data: Path, ensemble: Callable[..., str], size: str, starves: bool
) -> None:
    lines = found(data, ensemble("batch_size=1", f"input.size={size}"))
    assert bool(lines) == starves
    if starves:
        assert lines[0].startswith(f"recipe tiny has input.size {size}, which leaves batch norm one value per channel")
        assert found(data, ensemble("batch_size=2", f"input.size={size}")) == []


@pytest.mark.parametrize("name", ["tiny", "tiny-linknet", "unet-vgg11", "unet11", "linknet34"])
@pytest.mark.parametrize("times", [(1, 1), (2, 1)])
def test_torch_agrees_on_what_starves(name: str, times: tuple[int, int]) -> None:
    recipe = find_recipe(name)
    width, height = (recipe.network.stride * number for number in times)
    recipe = find_recipe(name, [f"input.size={width}x{height}"])
    with torch.device("meta"):
        network = build(**recipe.network.model_dump()).train()
        refusal = pytest.raises(ValueError, match="more than 1 value per channel")
        with refusal if preconditions._starves_batch_norm(recipe) else contextlib.nullcontext():
            network(torch.zeros(1, 3, height, width))
