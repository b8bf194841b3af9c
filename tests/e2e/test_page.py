"""The page of `backdrop serve` in a real browser, on a wide screen and on a telephone's."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backdrop.config.postprocessing import Threshold
from backdrop.inference.ensemble import EnsembleModel
from backdrop.serving.gate import Limits
from tests.data.test_formats import HEIC
from tests.e2e.chromium import Tab, chromium
from tests.serving.conftest import Service, champion_of, encode, model, photo, png, service, serving  # noqa: F401

pytestmark = pytest.mark.e2e

WIDE, NARROW = 1280, 390
TOKEN = "a-token-of-the-first-team"


@pytest.fixture
def tab(tmp_path: Path) -> Any:
    with chromium(tmp_path) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path, photo: Any) -> list[Path]:  # noqa: F811  # a fixture
    """Two with one stem, as telephones make them, and what is none."""
    files = {"car.jpg": encode(photo, ".jpg"), "car.png": encode(photo[:, ::-1], ".png"), "bad.jpg": b"\xff\xd8\xff no"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in files]


def finish(tab: Tab, count: int) -> None:
    tab.wait(f"items.length === {count} && items.every(one => one.state === 'done' || one.error)")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_photographs_are_cut_out_compared_and_fit_the_screen(
    tab: Tab,
    service: Service,  # noqa: F811  # a fixture
    photos: list[Path],
    tmp_path: Path,
    width: int,
) -> None:
    tab.open(f"http://127.0.0.1:{service.port}/", width)
    tab.wait("find('model').textContent === 'models:/cars/3'")  # asked for once the page stands
    assert tab.messages == []
    tab.choose("#files", *photos)
    finish(tab, 3)
    assert tab.run("find('status').textContent") == "2 of 3 cut out, 1 failed"
    assert "is not a readable image" in tab.run("document.querySelector('.bad').textContent")
    assert tab.run("document.documentElement.scrollWidth") <= width
    # What a person who can't use a mouse does.
    tab.run("document.querySelector('.compare input').focus()")
    tab.press("ArrowRight", 39)
    assert tab.run("document.querySelector('.compare').style.getPropertyValue('--at')") == "51%"
    assert tab.run("getComputedStyle(document.querySelector('.compare')).outlineStyle") == "solid"
    assert all("400 (Bad Request)" in message for message in tab.messages)
    tab.shot(tmp_path / "shot.png")
    picture = cv2.imread(str(tmp_path / "shot.png"))
    assert abs(picture.shape[1] - width) < 20
    assert picture.std() > 10


def test_a_photograph_without_a_product_is_named(tab: Tab, model: EnsembleModel, photos: list[Path]) -> None:  # noqa: F811
    """It has no doubtful region, and its cut-out is nothing at all."""
    strict = replace(model, operations=(Threshold(kind="threshold", level=0.999),))
    with serving(champion_of(strict)) as running:
        tab.open(f"http://127.0.0.1:{running.port}/", WIDE)
        tab.choose("#files", photos[0])
        finish(tab, 1)
        assert tab.run("document.querySelector('.bad').textContent") == "No product found"


def test_everything_has_a_name(tab: Tab, service: Service, photos: list[Path]) -> None:  # noqa: F811  # a fixture
    tab.open(f"http://127.0.0.1:{service.port}/", WIDE)
    tab.choose("#files", *photos)
    finish(tab, 3)
    names = tab.names("button", "slider", "radio", "checkbox", "spinbutton", "combobox", "image", "ColorWell", "list")
    assert len(names) > 20
    assert all(names), names
    assert {"Download car.jpg", "Remove bad.jpg", "Try again bad.jpg", "Cut-out of car.png", "Transparent"} <= set(
        names
    )


def test_contrast_is_enough_by_day_and_by_night(tab: Tab, service: Service) -> None:  # noqa: F811  # a fixture
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.open(f"http://127.0.0.1:{service.port}/", WIDE)
        style = "getComputedStyle(document.documentElement).getPropertyValue"
        colors = {
            name: tab.run(f"{style}('--{name}')")
            for name in ("ink", "soft", "bad", "accent", "on-accent", "line", "ground", "card")
        }
        for name, least in {"ink": 7, "soft": 4.5, "bad": 4.5, "accent": 4.5, "line": 3}.items():
            assert contrast(colors[name], colors["card"]) >= least, (scheme, name)
        assert contrast(colors["soft"], colors["ground"]) >= 4.5
        assert contrast(colors["on-accent"], colors["accent"]) >= 4.5


def test_one_and_all_are_saved(
    tab: Tab,
    service: Service,  # noqa: F811  # a fixture
    photos: list[Path],
    tmp_path: Path,
) -> None:
    tab.open(f"http://127.0.0.1:{service.port}/", WIDE)
    tab.choose("#files", *photos[:2])
    finish(tab, 2)
    tab.run("find('all').click()")
    archive = tmp_path / "cut-outs.zip"
    tab.wait_for(archive.is_file, "the archive")
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        assert packed.namelist() == ["car.png", "car-2.png"]
        assert packed.read("car.png") == service.post("/v1/cutout", photos[0].read_bytes()).body
    tab.run("document.querySelector('[value=\"#000000\"]').click(); find('crop').click(); find('type').value = 'webp'")
    tab.run("items[0].save.click()")
    saved = tmp_path / "car.webp"
    tab.wait_for(saved.is_file, "the picture")
    tab.wait("find('status').textContent === 'car.webp saved'")
    wanted = service.post("/v1/cutout?background=black&crop=5", photos[0].read_bytes()).body
    picture, same = (
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (saved.read_bytes(), wanted)
    )
    assert picture.shape == same.shape
    assert np.abs(picture.astype(int) - same).mean() < 12  # lossy


def test_a_photograph_that_the_browser_cannot_show_is_cut_out_all_the_same(
    tab: Tab,
    service: Service,  # noqa: F811  # a fixture
) -> None:
    tab.open(f"http://127.0.0.1:{service.port}/", WIDE)
    tab.choose("#files", HEIC)
    finish(tab, 1)
    assert tab.run("items[0].state") == "done"
    assert tab.run("[items[0].before, items[0].compare.querySelector('input')]") == [None, None]


def test_a_token_is_asked_for_once(
    tab: Tab,
    model: EnsembleModel,  # noqa: F811  # a fixture
    photos: list[Path],
) -> None:
    with serving(champion_of(model), Limits(tokens=[TOKEN])) as guarded:
        tab.open(f"http://127.0.0.1:{guarded.port}/", NARROW)
        tab.choose("#files", photos[0])
        finish(tab, 1)
        assert tab.run("find('token-form').hidden") is False
        tab.run(f"find('token').value = '{TOKEN}'; find('token-form').requestSubmit()")
        tab.wait("items[0].state === 'done'")
        assert tab.run("find('token-form').hidden") is True


def test_a_busy_server_is_waited_for(
    tab: Tab,
    model: EnsembleModel,  # noqa: F811  # a fixture
    photos: list[Path],
) -> None:
    with serving(champion_of(model), Limits(requests=1)) as small:
        tab.open(f"http://127.0.0.1:{small.port}/", WIDE)
        tab.choose("#files", *photos[:2] * 3)
        finish(tab, 6)
        assert tab.run("find('status').textContent") == "6 of 6 cut out"


def test_nothing_foreign_can_run(tab: Tab, service: Service) -> None:  # noqa: F811  # a fixture
    tab.open(f"http://127.0.0.1:{service.port}/", WIDE)
    tab.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.evil = 1'}))")
    assert tab.run("window.evil") is None
    assert tab.run("fetch('http://localhost:1/').then(() => 'went out', () => 'stayed')") == "stayed"
    refused = "Content Security Policy"
    tab.wait_for(
        lambda: tab.run("true") and sum(refused in message for message in tab.messages) >= 2, "the console's messages"
    )


def contrast(first: str, second: str) -> float:
    """By WCAG 2: from 1 to 21."""
    light, dark = sorted((luminance(color.strip()) for color in (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    levels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
