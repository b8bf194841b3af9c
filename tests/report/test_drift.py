"""The page about drift: what it says, escaped, and how large it can be."""

import numpy as np
import pytest

from backdrop.evaluation.drift import ALL, ANY, Comparison, Drift
from backdrop.evaluation.statistics import NAMES
from backdrop.report.drift import SHOWN, Unusual, moved_lines, render_drift, verdict_line


def found(difference: float, views: tuple[str, ...], **changes: object) -> Drift:
    p = 0.0001 if abs(difference) > 4 else 0.8
    columns = [*views, *([ALL] if len(views) > 1 else [])]
    return Drift.model_validate(
        {
            "verdict": "drift" if p < 0.05 else "no drift",
            "p": p,
            "alpha": 0.05,
            "limit": 4.0,
            "reference_objects": 60,
            "current_objects": 1,
            "views": views,
            "comparisons": [
                Comparison(statistic=name, view=view, reference=0.5, current=0.25, difference=difference, p=p)
                for name in NAMES
                for view in columns
            ],
            **changes,
        }
    )


def unusual(shape: tuple[int, int]) -> Unusual:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Unusual("a <b>.jpg", "border_red", -7.25, noise, np.ones(shape, bool))


def test_the_page_stays_small_and_names_are_text() -> None:
    views = tuple(f"<{i:02d}>" for i in range(40))
    page = render_drift("models:/cars/3", found(-6, views), ["1 photograph <x>"], [unusual((900, 1400))] * SHOWN)
    assert len(page) < 2_000_000
    assert "<b>a &lt;b&gt;.jpg</b>border red -7.2" in page
    assert "1 photograph &lt;x&gt;" in page
    assert "<00>" not in page
    assert page.count('circle class="mean"') == 40 * len(NAMES)
    assert page.count("<td>all 40 views</td>") == len(NAMES)
    assert "<script" not in page


@pytest.mark.parametrize("views", [("1", "2"), ("1",), (ANY,)])
def test_without_drift_nothing_moved(views: tuple[str, ...]) -> None:
    page = render_drift("models:/cars/3", found(1, views), [], [])
    assert "No drift" in page
    assert "What moved" not in page
    assert 'circle class="mean"' not in page


def test_lines_say_what_is_known() -> None:
    drifted = found(-6, ("1", "2"))
    assert verdict_line(drifted) == "drift: p = 0.0001 (an alarm up to 0.05), 1 object against 60 of the holdout"
    unclear = found(1, ("1",), verdict="unclear")
    assert verdict_line(unclear) == "too few objects to tell: 1 object against 60 of the holdout"
    assert "area lower in all 2 views: 0.25, was 0.5" in moved_lines(drifted)
    assert len(moved_lines(drifted)) == len(NAMES)


@pytest.mark.parametrize(
    ("views", "moved", "where"),
    [
        ((ANY,), (ANY,), "all photographs"),
        (("7",), ("7",), "view 7"),
        (("1", "2", "3"), ("2",), "view 2"),
        (("1", "2", "3"), ("3", "1", ALL), "views 1, 3"),
        (("1", "2", "3"), (ALL,), "all views together"),
        (tuple("12345678"), tuple("12345"), "5 of 8 views"),
    ],
)
def test_a_line_says_in_which_views(views: tuple[str, ...], moved: tuple[str, ...], where: str) -> None:
    comparisons = [
        Comparison(statistic="area", view=view, reference=1, current=2, difference=5, p=0.001) for view in moved
    ]
    assert moved_lines(found(5, views, comparisons=comparisons)) == [f"area higher in {where}: 2, was 1"]
