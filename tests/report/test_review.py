"""The gallery of doubtful labels: what it says, and that it needs nothing else."""

import base64
import hashlib
import re

import numpy as np

from backdrop.evaluation.review import Region
from backdrop.report.review import CARDS, Card, kinds_of, page_name, render_review
from tests.report.test_page import Reader

REGION = Region("missing part", 0.0123, 456, (1, 2, 3, 4))


def cards(count: int, name: str = "car") -> list[Card]:
    noise = np.random.default_rng(0).integers(0, 256, (302, 562, 3), dtype=np.uint8)
    regions = [REGION, Region("filled hole", 0.001, 30, (1, 2, 3, 4))]
    return [Card(f"{name}{i}_01", None if i % 2 else 3, regions, noise) for i in range(count)]


def test_a_page_shows_each_mask_and_runs_only_its_own_script() -> None:
    pages = render_review("photos", "sha256:abc", cards(2), 1234)
    assert list(pages) == ["index.html"]
    html = pages["index.html"]
    page = Reader(html.replace(" aria-current=page", ""))
    for words in ("1,234 masks compared, the 2 most doubtful shown", "car0_01", "fold 3", "holdout"):
        assert words in page.text
    assert page.text.count("missing part: 456 pixels, 1.23 %") == page.text.count("filled hole: 30 pixels") == 2
    assert not re.search(r"https?://|@import", html)
    assert all(address.startswith("data:") for address in page.addresses)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in html
    assert html.count("<script") == 1


def test_many_masks_make_pages_below_2_mb_that_link_to_each_other() -> None:
    pages = render_review("photos", "sha256:abc", cards(2 * CARDS + 1), 900)
    assert list(pages) == ["index.html", "page-2.html", "page-3.html"] == [page_name(n) for n in range(3)]
    for html in pages.values():
        assert len(html.encode()) < 2_000_000
        assert all(f'href="{name}"' in html for name in pages)
    assert [html.count('class="card"') for html in pages.values()] == [CARDS, CARDS, 1]
    keys = {re.search(r'data-key="(.*?)"', html)[1] for html in pages.values()}  # type: ignore[index]  # there is one
    assert len(keys) == 1
    assert keys != {re.search(r'data-key="(.*?)"', render_review("photos", "sha256:other", [], 1)["index.html"])[1]}  # type: ignore[index]


def test_no_doubt_is_a_page_too() -> None:
    text = Reader(render_review("photos", "sha256:abc", [], 1)["index.html"]).text
    assert "No mask is in doubt." in text
    assert "1 mask compared" in text


def test_names_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    html = render_review(evil, evil, cards(1, evil), 9)["index.html"]
    assert html.count("<script") == 1
    assert evil not in html


def test_kinds_are_counted_by_the_worst_region() -> None:
    hole = Region("filled hole", 0.1, 9, (0, 0, 1, 1))
    assert kinds_of({"a": [hole], "b": [REGION, hole], "c": [], "d": [hole, REGION]}) == {
        "filled hole": 2,
        "missing part": 1,
    }
