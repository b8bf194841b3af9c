"""The reports in a real browser: nothing on the console, everything on the page."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from backdrop.evaluation.gate import Verdict
from backdrop.report import Standing, render_search, with_verdict
from backdrop.report.drift import render_drift
from backdrop.steps.evaluate import evaluate
from backdrop.steps.train import train
from tests.conftest import SMALL
from tests.e2e.chromium import chromium
from tests.report.test_drift import found
from tests.report.test_search import make_search

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-logging=stderr")
# Says how many labels of charts leave the window, and how many pairs within a chart cover each other.
MEASURE = """<script>
const boxes = svg => [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
const charts = [...document.querySelectorAll('.plot > svg')].map(boxes);
const covers = (a, b) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom;
const beyond = charts.flat().filter(box => box.left < 0 || box.right > innerWidth).length;
const covered = charts.flatMap(all => all.flatMap((a, i) => all.slice(i + 1).filter(b => covers(a, b)))).length;
console.log(`MEASURED width ${document.documentElement.scrollWidth} beyond ${beyond} covered ${covered}`);
</script>"""

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
        return Path(given).resolve()
    members = [train(str(data), str(plan), "tiny", fold, str(tmp_path / f"m{fold}"), SMALL).address for fold in (0, 1)]
    evaluate(str(data), str(plan), members, str(tmp_path / "report"))
    path = tmp_path / "report" / "index.html"
    verdict = Verdict(outcome="promoted", reasons=("Better",), objects=3)
    standing = Standing(
        version="models:/cars/1", champion=None, rival=None, time="2026-01-31T12:00Z", page="https://mlflow.example/#/1"
    )
    path.write_text(with_verdict(path.read_text(encoding="utf-8"), verdict, standing), encoding="utf-8")
    return path


def test_the_console_check_can_fail(browse: Browse, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('broken')</script>")
    assert "CONSOLE" in browse(bad, "--dump-dom").stderr


def test_the_report_opens_without_a_word_on_the_console(browse: Browse, page: Path) -> None:
    done = browse(page, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    for heading in ("Verdict", "Members", "Curves over epochs", "Worst holdout images", "Typical holdout", "Lineage"):
        assert heading in done.stdout


@pytest.mark.parametrize("width", [1280, 480])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_its_window_and_asks_for_nothing(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    assert page.stat().st_size < 2_000_000
    with chromium(tmp_path) as tab:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.open(page.as_uri(), width)
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run("performance.getEntriesByType('resource').filter(one => !/^data:/.test(one.name)).length") == 0
        paper = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 300) == (scheme == "dark")
        assert all(tab.names("image", "link", "heading"))
        if link := tab.run("document.querySelector('#verdict a')?.href ?? ''"):  # MLflow's, if it is a server
            tab.press("Tab", 9)
            assert tab.run("document.activeElement.href") == link
        assert tab.messages == []


@pytest.mark.parametrize("width", [1280, 480])
def test_no_table_about_drift_must_be_scrolled(tmp_path: Path, width: int) -> None:
    page = tmp_path / "index.html"
    page.write_text(render_drift("models:/cars/3", found(-6, ("1", "2", "3", "4")), [], []), encoding="utf-8")
    with chromium(tmp_path) as tab:
        tab.open(page.as_uri(), width)
        tables = tab.run("[...document.querySelectorAll('.wide')].map(one => one.scrollWidth - one.clientWidth)")
        assert tables == [0, 0]


def test_the_report_is_drawn(browse: Browse, page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(page, "--window-size=1200,2000", f"--screenshot={shot}")
    picture = cv2.imread(str(shot))
    assert picture.shape[:2] == (2000, 1200)
    assert picture.std() > 10
    assert picture[1000:].std() > 10


@pytest.fixture
def search_page(tmp_path: Path) -> Path:
    """The page that BACKDROP_SEARCH_REPORT names, or one made here."""
    if given := os.environ.get("BACKDROP_SEARCH_REPORT"):
        return Path(given)
    (tmp_path / "search.html").write_text(render_search(make_search(40, 12, folds=2, presets=12)), encoding="utf-8")
    return tmp_path / "search.html"


def test_a_search_opens_without_a_word_on_the_console(browse: Browse, search_page: Path) -> None:
    done = browse(search_page, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    for heading in ("Best sampled schedule against best preset", "Schedules", "Dice over epochs", "Trials"):
        assert heading in done.stdout


@pytest.mark.parametrize("width", [420, 1120])
def test_a_search_is_drawn_within_its_width_and_no_label_covers_another(
    browse: Browse, search_page: Path, tmp_path: Path, width: int
) -> None:
    html = re.sub("<meta http-equiv.*?>", "", search_page.read_text(encoding="utf-8"))
    (tmp_path / "inner.html").write_text(html.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    # A window can't be as narrow as a telephone, but a frame can.
    outer = tmp_path / "outer.html"
    outer.write_text(f'<body style="margin: 0"><iframe src="inner.html" width="{width}" height="3000" frameborder="0">')
    shot = tmp_path / "shot.png"
    done = browse(outer, "--hide-scrollbars", "--window-size=1120,3000", f"--screenshot={shot}")
    said = re.search(r'"MEASURED (.*?)"', done.stderr)
    assert said is not None
    assert said[1] == f"width {width} beyond 0 covered 0"
    picture = cv2.imread(str(shot))[:, :width]
    assert all(picture[top : top + 500].std() > 10 for top in range(0, 3000, 500))
