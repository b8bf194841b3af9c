"""The report in a real browser: nothing on the console, everything on the page."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from backdrop.steps.evaluate import evaluate
from backdrop.steps.train import train
from tests.conftest import SMALL

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-logging=stderr")

Browse = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")

    def call(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    return call


@pytest.fixture
def page(data: Path, plan: Path, tmp_path: Path) -> Path:
    """The page that BACKDROP_REPORT names, or one made here."""
    if given := os.environ.get("BACKDROP_REPORT"):
        return Path(given)
    members = [train(str(data), str(plan), "tiny", fold, str(tmp_path / f"m{fold}"), SMALL).address for fold in (0, 1)]
    evaluate(str(data), str(plan), members, str(tmp_path / "report"))
    return tmp_path / "report" / "index.html"


def test_the_console_check_can_fail(browse: Browse, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('broken')</script>")
    assert "CONSOLE" in browse(bad, "--dump-dom").stderr


def test_the_report_opens_without_a_word_on_the_console(browse: Browse, page: Path) -> None:
    done = browse(page, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    for heading in ("Verdict", "Members", "Curves over epochs", "Worst holdout images"):
        assert heading in done.stdout


def test_the_report_is_drawn(browse: Browse, page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(page, "--window-size=1200,2000", f"--screenshot={shot}")
    picture = cv2.imread(str(shot))
    assert picture.shape[:2] == (2000, 1200)
    assert picture.std() > 10
    assert picture[1000:].std() > 10
