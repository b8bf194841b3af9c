"""What components share."""

import os
import subprocess
import sys
from pathlib import Path

from backdrop.components.pages import SHOWN_FAULTS, as_file, check_page, verdict_page
from backdrop.config import find_recipe
from backdrop.data.validation import Fault
from backdrop.evaluation.gate import Verdict
from backdrop.report import Standing
from backdrop.steps.check import CheckReport


def test_file_is_found_by_the_library_and_goes_away() -> None:
    text = Path("src/backdrop/config/recipes/tiny.yaml").read_text()
    with as_file(text) as path:
        assert find_recipe(path) == find_recipe("tiny")
    assert not Path(path).exists()


def test_long_list_of_faults_says_that_it_is_cut() -> None:
    faults = tuple(
        Fault(level="warning", file=f"{n}.jpg", what="is odd", remedy="Look") for n in range(SHOWN_FAULTS + 3)
    )
    report = CheckReport(data="d", objects=1, images=1, views=(), sizes=("1x1",), digest="", faults=faults)
    assert check_page(report).endswith("… and 3 more.\n")
    assert "No faults." in check_page(report.model_copy(update={"faults": ()}))


def test_promotion_says_so() -> None:
    verdict = Verdict(outcome="promoted", summary="better than the champion", reasons=("better",), objects=20)
    standing = Standing(version="models:/cars/1", champion=None, rival=None, time="2026-01-31T12:00Z")
    assert verdict_page(verdict, standing) == (
        "# Promoted: better than the champion\n\nmodels:/cars/1 became the champion on 2026-01-31 12:00 UTC. "
        "There was no champion to compare it with.\n\n- better\n"
    )


def test_imported_in_a_task_as_kfp_runs_it() -> None:
    """There kfp can't declare components; and what a body imports, each task pays for."""
    heavy = ("kfp", "mlflow", "torch", "cv2", "numpy")
    code = f"import sys, components.pages; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "_KFP_RUNTIME": "true", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
