"""The gallery of `backdrop review` in a real browser: decisions by keys and clicks, and what is saved of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from backdrop.report.review import CARDS, render_review
from tests.e2e.chromium import Tab, chromium
from tests.report.test_review import cards

pytestmark = pytest.mark.e2e

KEYS = {"ArrowDown": 40, "ArrowUp": 38, "a": 65, "f": 70, "u": 85}


@pytest.fixture
def tab(tmp_path: Path) -> Any:
    with chromium(tmp_path) as opened:
        yield opened


@pytest.fixture
def page(tmp_path: Path) -> str:
    for name, html in render_review("photos", "sha256:abc", cards(CARDS + 3, 'a "quoted" car, '), 900).items():
        (tmp_path / name).write_text(html)
    return (tmp_path / "index.html").as_uri()


def press(tab: Tab, *keys: str) -> None:
    for key in keys:
        tab.press(key, KEYS[key])


@pytest.mark.parametrize("width", [1280, 480])
def test_masks_are_decided_on_and_saved(tab: Tab, page: str, tmp_path: Path, width: int) -> None:
    tab.open(page, width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    press(tab, "ArrowDown", "a", "f", "a", "ArrowUp", "u")  # the third is undone
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(one => one.dataset.choice).join()"
    assert tab.run(pressed) == "accept,flag"
    assert tab.run("document.querySelector('#status').textContent") == "2 of 40 here decided; in all 2, 1 flagged"
    tab.open(page.replace("index", "page-2"), width)
    tab.run("document.querySelector('[data-choice=flag]').click()")
    assert tab.run("document.querySelector('#status').textContent") == "1 of 3 here decided; in all 3, 2 flagged"
    tab.run("document.querySelector('[data-choice=accept]').click()")
    tab.run("document.querySelector('[data-choice=accept]').click()")  # again: undone
    tab.run("document.querySelector('[data-choice=flag]').click()")
    for kind in ("csv", "json"):
        tab.run(f"document.querySelector('[data-save={kind}]').click()")
        saved = tmp_path / f"decisions.{kind}"
        tab.wait_for(lambda saved=saved: saved.is_file() and saved.stat().st_size > 0, "a download")  # type: ignore[misc]
    names = {f'a "quoted" car, {index}_01': choice for index, choice in ((0, "accept"), (1, "flag"), (40, "flag"))}
    assert json.loads((tmp_path / "decisions.json").read_text()) == names
    lines = (tmp_path / "decisions.csv").read_text().splitlines()
    assert lines[:2] == ["image,decision", '"a ""quoted"" car, 0_01",accept']
    assert len(lines) == 4
    assert tab.messages == []


def test_everything_has_a_name(tab: Tab, page: str) -> None:
    tab.open(page, 1280)
    assert all(tab.names("button", "link", "image"))
