from pathlib import Path

import pytest
from kfp import dsl

from backdrop.common.outputs import INVENTORY
from backdrop.components.predict import predict
from backdrop.config import Ensemble, find_recipe
from backdrop.config.records import dump_yaml, parse
from tests.conftest import draw_pair
from tests.tracking.workspace import write_member

RECIPE = find_recipe("tiny", ["input.size=16x16", "network.width=2", "network.depth=1"])


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps run in this process, so that the tests see how they were called."""
    monkeypatch.setattr("backdrop.common.watch.watched", lambda _task, work: work())


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for index in range(2):
        draw_pair(tmp_path, f"car{index}_01", index)
    (tmp_path / "train" / "car2_01.jpg").write_bytes(b"")
    return str(tmp_path / "train")


def test_predict(photos: str, tmp_path: Path) -> None:
    member, out = str(write_member(tmp_path / "member", RECIPE, "k" * 64, 0)), str(tmp_path / "out")
    ensemble = dump_yaml(parse(Ensemble, {"name": "small", "members": [{"recipe": RECIPE}]}, "small"))
    for given in ("", ensemble):
        metrics = dsl.Artifact(name="metrics", uri=str(tmp_path / "metrics"), metadata={})
        assert predict.python_func(photos, out, [member], "", given, "submission", "", metrics) == out
        assert metrics.metadata == {"images": 3, "failed": 1}
        names = {path.name for path in Path(out).iterdir()} - {INVENTORY}
        assert sorted(names) == ["failed.csv", "predict.json", "submission.csv.gz"]


def test_its_inputs_are_the_step_s() -> None:
    spec = predict.component_spec
    assert set(spec.inputs) == {"images", "out", "members", "model", "ensemble", "format", "sample_submission"}
    assert set(spec.outputs) == {"metrics", "Output"}
