"""The final table and the lines below it, from files as kfp's executor leaves them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backdrop.config import find_ensemble
from backdrop.config.planned import planned
from backdrop.local.console import Task
from backdrop.local.results import members_table, read_outputs, summary

BELOW = "below gate.minimum_dice; there is no champion yet"


def leave(root: Path, task: str, **artifacts: dict[str, Any]) -> None:
    """Leaves a task's output file: artifacts with their metadata."""
    folder = root / "pipeline" / task
    folder.mkdir(parents=True)
    results = {
        name: {"artifacts": [{"name": name, "uri": str(folder / name), "metadata": metadata}]}
        for name, metadata in artifacts.items()
    }
    (folder / "executor_output.json").write_text(json.dumps({"artifacts": results}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    figures = {"dice": 0.98761, "epochs": 10, "selected_epoch": 9, "seconds": 41.2, "reused": 0}
    leave(tmp_path, "train-tiny-0", metrics=figures)
    leave(tmp_path, "train-tiny-1", metrics={**figures, "reused": 1})
    leave(
        tmp_path,
        "evaluate",
        metrics={"holdout": 0.99, "holdout_low": 0.98, "holdout_high": 0.995, "objects": 3},
        page={},
    )
    leave(tmp_path, "register", model={"name": "cars", "version": 2, "created": False, "run_id": "x"})
    leave(tmp_path, "promote", summary={"outcome": "rejected", "summary": BELOW, "reasons": ["too few objects"]})
    return tmp_path


def test_table(root: Path) -> None:
    tasks = {f"train-tiny-{fold}": Task(f"train-tiny-{fold}", 0.0, 50.0, fold < 2) for fold in range(3)}
    text = io.StringIO()
    console = Console(file=text, width=100)
    console.print(members_table(planned(find_ensemble("tiny")), tasks, read_outputs(root)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["0", "tiny", "10", "0.98761", "41 s"],
        ["1", "tiny", "10", "0.98761", "reused"],
        ["2", "tiny", "", "", "FAILED"],
    ]


def test_member_that_never_ran(root: Path) -> None:
    table = members_table(planned(find_ensemble("tiny"), [2]), {}, read_outputs(root))
    assert list(table.columns[4].cells) == ["not run"]


def test_summary(root: Path) -> None:
    assert summary(read_outputs(root)) == [
        "Ensemble   Dice 0.99000 on 3 holdout objects (95 % interval 0.98000 to 0.99500)",
        "Model      models:/cars/2 (unchanged)",
        "Verdict    rejected: below gate.minimum_dice; there is no champion yet",
        "           too few objects",
    ]


def test_summary_of_a_promotion(tmp_path: Path) -> None:
    leave(tmp_path, "register", model={"name": "cars", "version": 1, "created": True, "run_id": "x"})
    leave(tmp_path, "promote", summary={"outcome": "promoted", "summary": "better", "reasons": ["good"]})
    lines = summary(read_outputs(tmp_path))
    assert lines[0] == "Model      models:/cars/1 (new)"
    assert lines[1] == "Verdict    promoted: it is models:/cars@champion now"


def test_summary_of_nothing(tmp_path: Path) -> None:
    assert summary(read_outputs(tmp_path)) == []


def test_path_only_of_what_was_written(root: Path) -> None:
    outputs = read_outputs(root)
    assert outputs.path("evaluate", "page") is None
    (root / "pipeline" / "evaluate" / "page").write_text("<p>")
    assert outputs.path("evaluate", "page") == root / "pipeline" / "evaluate" / "page"
