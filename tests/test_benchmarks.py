"""The GPU benchmark, as far as a CPU runs it."""

import json
import math
from pathlib import Path

import pytest
import torch

from backdrop.config import Ensemble, find_ensemble
from backdrop.config.records import parse
from backdrop.data.dataset import open_dataset
from backdrop.steps.sample import sample
from benchmarks import gpu


def test_the_members_are_the_winners() -> None:
    parts = gpu.parts_by_network(ensemble := find_ensemble("best-overfitting"))
    counts = {name: sum(gpu.folds(ensemble, part) for part in found) for name, found in parts.items()}
    assert counts == {
        "linknet34-fma-s44": 30,
        "unet11-faithful": 5,
        "unet-scratch-faithful": 7,
        "unet-vgg11-faithful": 7,
    }
    epochs = [part.resolve().epochs * gpu.folds(ensemble, part) for found in parts.values() for part in found]
    assert sum(epochs) == 3630
    for found in parts.values():
        assert gpu.resolve(found[0]).pretrained is None


@pytest.mark.thorough
def test_every_row_is_written_and_one_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "ROUND_S", 0)
    monkeypatch.setattr(gpu, "PREDICTED", 6)
    monkeypatch.setattr(gpu, "WAYS", {"photographs cached on the GPU": {"loading.cache": "device"}})
    monkeypatch.setattr(gpu, "EACH_NETWORK", ("",))  # a compiler takes its time
    monkeypatch.setattr(gpu, "LATE_PREDICTIONS", ())
    sample(str(tmp_path / "data"), objects=2, views=2, size="96x64")
    photos = list(open_dataset(str(tmp_path / "data")).photos.values())
    values = {"name": "small", "folds": {"count": 2}, "members": [{"recipe": "tiny", "set": {"input.size": "64x32"}}]}
    results = gpu.Results(tmp_path / "gpu.json")
    gpu.run(parse(Ensemble, values, "small"), photos, results, torch.device("cpu"), 0.0)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written.keys() == results.rows.keys()
    assert "augmentation on the host" in written["tiny, photographs cached on the GPU"]["failed"]
    assert all(value > 0 for key, value in written["hours"].items() if key != "took_s")
    for row in ("predict", "tiny predicts"):
        assert 0 < written[row]["s_per_photograph"] < 60
    assert capsys.readouterr().out.count("\n") == len(written)
    monkeypatch.setattr(gpu, "LATEST_S", -1)
    results.row("late", lambda: pytest.fail("it is too late"))
    assert results.rows["late"]["left out"] == "too late"
    assert math.isnan(results.value("late", "training"))
