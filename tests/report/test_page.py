"""The report: what it says, that it needs nothing else, and that its pictures show what is wrong."""

import base64
import math
import random
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backdrop.common.errors import GateError
from backdrop.config import Gate
from backdrop.evaluation.examples import Difference, Doubtful, Example, choose_different, choose_typical, choose_worst
from backdrop.evaluation.gate import Slice, Verdict, judge
from backdrop.evaluation.metrics import summarize
from backdrop.evaluation.outline import Measures
from backdrop.evaluation.pictures import (
    MISSING,
    PANE,
    STRIP,
    SURPLUS,
    TALLEST,
    TRUE,
    curves,
    data_uri,
    difference_panel,
    panel,
)
from backdrop.evaluation.predicted_dice import Known, learn_and_measure
from backdrop.evaluation.quality import Details, describe
from backdrop.evaluation.records import Score
from backdrop.evaluation.review import Region
from backdrop.report import Gallery, MemberSummary, Report, Standing, render, with_verdict
from backdrop.report.charts import dice_scale, histogram, line_chart, positive_scale
from backdrop.report.page import prediction_text

STANDING = Standing(
    version="models:/cars/3", champion="models:/cars/2", rival="models:/cars/2", time="2026-01-31T12:00Z"
)
MEASURES = Measures(0.97, 0.9, 0.5, 0.6, 0.7, -0.25)
HISTORY = [{"epoch": i, "loss": 0.5 * 0.8**i, "dice": 1 - 0.2 * 0.7**i, "lr": 1e-3} for i in range(10)]
VOID = {"meta", "link", "img", "br", "line", "circle", "path", "rect", "polyline"}
Image = NDArray[np.uint8]


def scores(holdout: int = 12, views: tuple[str, ...] = ("01", "02"), name: str = "car") -> list[Score]:
    chance = random.Random(5)
    return [
        Score(f"{name}{i}_{view}", f"{name}{i}", view, 9, None if i < holdout else i % 2, 1 - dice, {"tiny": 1 - dice})
        for i in range(20)
        for view in views
        for dice in [chance.uniform(0.002, 0.02)]
    ]


def report(found: list[Score], worst: int = 2, history: list[dict[str, Any]] = HISTORY, name: str = "demo") -> Report:
    held = [score for score in found if score.fold is None]
    members = {f"tiny-{fold}": {score.image: score.dice for score in held} for fold in (0, 1)}
    evaluation = summarize(found, members, "m", "p")
    alone = evaluation.holdout.members
    summaries = [
        MemberSummary(member, i, 10, 9, 0.98765, alone[member].dice if held else None, 3725.0, history)
        for i, member in enumerate(members)
    ]
    picture = np.full((40, 60, 3), 90, np.uint8)
    shown = Gallery(worst=[Example(score, picture) for score in choose_worst(found, worst)])
    measures = {score.image: MEASURES for score in found[1:]}
    return Report(name, "sha256:abc", evaluation, found, measures, summaries, shown)


class Reader(HTMLParser):
    """Collects tags, addresses and text, and finds tags that don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        assert not any(key.startswith("on") for key, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_complete_and_shows_the_figures() -> None:
    given_report = report(scores())
    page = Reader(render(given_report))
    ensemble = given_report.evaluation.holdout.ensemble
    assert ensemble is not None
    assert ensemble.low is not None
    for word in (f"{ensemble.dice:.5f}", f"{ensemble.low:.5f} to {ensemble.high:.5f}, 12 objects", "0.98765"):
        assert word in page.text
    for word in ("Not judged yet", "tiny-0", "tiny-1", "1 h 02 min", "sha256:abc", "24 holdout images"):
        assert word in page.text
    assert page.tags.count("polyline") == 6
    assert page.tags.count("img") == 4
    assert "Worst holdout images" in page.text
    assert "Worst out-of-fold images" in page.text


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    html = render(report(scores()))
    page = Reader(html)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", html)
    assert all(address.startswith("data:") for address in page.addresses)
    assert "data:," in page.addresses
    assert "default-src 'none'" in html


def test_the_same_report_has_the_same_bytes() -> None:
    assert render(report(scores())) == render(report(scores()))


def test_names_are_escaped() -> None:
    evil = '<script>alert("x")</script><!-- /verdict -->'
    rows = scores(name=evil, views=("<b>", "&amp"))
    html = render(report(rows, name=evil))
    page = Reader(html)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 5
    judged = with_verdict(html, Verdict(outcome="rejected", reasons=(evil,), objects=3), STANDING)
    assert "script" not in Reader(judged).tags
    assert judged.endswith(html[-2000:])


def test_a_page_full_of_busy_pictures_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (412, 844, 3), dtype=np.uint8)
    plain = report(scores(views=("01", "02", "03")), worst=12)
    worst = [replace(image, panel=noise) for image in plain.gallery.worst]
    region = Region("shifted", 0.1, 9, (0, 0, 1, 1))
    doubts = [Doubtful(one.score, [region], noise) for one in worst[:4]]
    differences = [Difference(one.score, 0.5, noise) for one in worst[:6]]
    full = replace(plain, gallery=Gallery(worst, worst[:4], doubts, differences, "backdrop review"))
    assert len(worst) == 24
    html = render(full)
    assert 500_000 < len(html.encode()) < 1_950_000
    assert Reader(html).tags.count("img") == 24 + 4 + 4 + 6


def test_without_a_holdout_the_page_says_so() -> None:
    page = Reader(render(report(scores(holdout=0))))
    assert "There is no holdout" in page.text
    assert "Dice on the holdout" not in page.text
    assert "Worst holdout images" not in page.text
    assert "out-of-fold Dice" in page.text


@pytest.mark.parametrize(
    "history",
    [
        [],
        HISTORY[:1],
        [{"epoch": 0, "loss": math.nan, "dice": None, "lr": 0.0}],
        [{"epoch": i, "loss": -0.5 + i, "dice": 1.0, "lr": 1e-3} for i in range(3)],
    ],
)
def test_odd_histories_are_drawn_too(history: list[dict[str, Any]], tmp_path: Path) -> None:
    html = render(report(scores(), history=history))
    Reader(html)
    assert "nan" not in html.replace("data:image", "").split("<h2>Worst")[0]
    (tmp_path / "curves.png").write_bytes(curves(history))
    assert cv2.imread(str(tmp_path / "curves.png")) is not None


def test_many_views_show_the_worst() -> None:
    page = Reader(render(report(scores(views=tuple(f"v{i:02}" for i in range(60))))))
    assert "The 48 worst of 60 views" in page.text


def test_slices_are_shown_by_what_groups_images() -> None:
    rows = [
        replace(
            score, traits={"make": "ford" if index % 2 else "opel", "paint": "red", "brightness": f"0.{10 + index}"}
        )
        for index, score in enumerate(scores(holdout=14))
    ]
    page = Reader(render(report(rows)))
    section = page.text.split("By slice")[1]
    for words in ("holdout Dice", "ford", "dark", "0.90000", "-0.25"):
        assert words in section
    assert "crimson" not in section  # all images are alike
    assert section.index("dark") < section.index("medium", section.index("dark")) < section.rindex("bright")
    assert "out-of-fold Dice" in Reader(render(report(scores(holdout=2)))).text.split("By slice")[1]


@pytest.mark.parametrize("name", ["view", "area"])
def test_a_column_of_the_metadata_named_like_a_slice_adds_none(name: str) -> None:
    plain = scores(holdout=14)
    named = [replace(score, traits={name: str(index)}) for index, score in enumerate(plain)]
    assert render(report(named)) == render(report(plain))


def test_few_objects_are_marked() -> None:
    few = '<span class="few">'
    assert few in render(report(scores(holdout=11, views=("01",)))).split("By slice")[1]
    assert few not in render(report(scores(holdout=12, views=("01",)))).split("<h2>By slice")[1].split("mask area")[0]


def test_measures_and_calibration_are_shown() -> None:
    found, levels = scores(), np.zeros((2, 256), np.int64)
    levels[:, [3, 100, 250]] = [[90, 5, 2], [2, 5, 90]]
    given_report = report(found)
    quality = describe(found, {score.image: Details(MEASURES, levels, {}) for score in found})
    evaluation = given_report.evaluation.model_copy(update={"quality": quality})
    text = Reader(render(replace(given_report, evaluation=evaluation))).text
    assert "boundary IoU0.900000.90000 to 0.900000.000000.90000" in text
    assert "boundary error, px-0.25-0.25 to -0.250.000.25" in text
    assert "holdout: calibration error" in text
    assert f"{100 * 10 / 194:.2f} % of pixels are unsure, and {abs(1000 / 255 - 5) / 10:.4f} over these" in text
    assert "Calibration" not in Reader(render(given_report)).text


@pytest.mark.parametrize("held", [3, 9])
def test_the_predicted_dice_is_shown_with_what_can_be_accepted(held: int) -> None:
    shown = report(scores())
    folded, others = (
        [Known(f"{name}{i}", 1 - i / 99, 1 - i / 90) for i in range(n)] for name, n in (("a", 20), ("b", held))
    )
    learned = learn_and_measure(folded, others)
    page = render(replace(shown, evaluation=shown.evaluation.model_copy(update={"predicted_dice": learned})))
    text = escape(prediction_text(learned))
    assert f"<p>{text}</p>" in page
    assert ("holds for 90 % of objects never seen" in text) == (held == 9)
    assert ("and is" in text) == (held == 3)
    assert 'aria-label="risk and coverage"' in page
    assert learned.holdout
    for share, risk, limit in learned.holdout.risks:
        assert f"<title>{100 * share:.0f} %, predicted Dice from {limit:.4f}: {1 - risk:.4f} on average</title>" in page


def test_a_verdict_replaces_the_one_before_and_nothing_else() -> None:
    new = scores()
    old = [replace(score, dice=score.dice - 0.001) for score in new]
    blank = render(report(new))
    promoted = with_verdict(blank, judge(new, old, Gate()), STANDING)
    stays = with_verdict(promoted, judge(old, new, Gate()), STANDING)
    assert "Not judged yet" not in promoted
    assert "rose by 0.00100" in promoted
    assert "fell by 0.00100" in stays
    assert "rose by" not in stays
    assert "Rejected" in Reader(stays).text
    start, rest = blank.split("<!-- verdict -->")
    assert stays.startswith(start)
    assert stays.endswith(rest.split("<!-- /verdict -->")[1])
    assert with_verdict(stays, judge(new, old, Gate()), STANDING) == promoted


def test_a_verdict_shows_which_view_got_worse() -> None:
    good = Slice(slice="view", group="01", objects=12, difference=0.01, low=0.0, high=0.02, worse=False)
    lone = Slice(slice="view", group="02", objects=1, difference=-0.04, low=None, high=None, worse=False)
    bad = Slice(slice="view", group="03", objects=12, difference=-0.01, low=-0.02, high=-0.005, worse=True)
    changes = {"objects": 12, "difference": 0.001, "low": 0.0005, "high": 0.002}
    for slices, worse in (((good, lone), False), ((good, lone, bad), True)):
        verdict = Verdict(outcome="rejected", reasons=(), slices=slices, **changes)
        html = with_verdict(render(report(scores())), verdict, STANDING)
        Reader(html)
        assert ('<tr class="worse"><td>view 03</td>' in html) == worse == ("<details open>" in html)
        assert "-0.04000" in html


def test_a_verdict_shows_the_look_and_what_a_group_rejects_below() -> None:
    new = scores()
    verdict = judge(new, [replace(s, dice=s.dice - 0.001) for s in new], Gate(), 6)
    page = Reader(with_verdict(render(report(new)), verdict, STANDING))
    assert "Look 7 at this holdout needs p < 0.000804 and has p < 1e-9; the next needs p < 0.000625." in page.text
    views = len({score.view for score in new})
    assert f"Change by group (a group rejects below p = {0.05 / views:.2g})" in page.text


@pytest.mark.parametrize(
    ("outcome", "change", "difference", "words"),
    [
        ("promoted", {}, 0.1, "models:/cars/3 became the champion instead of models:/cars/2 on 2026-01-31 12:00 UTC. "
         "It was compared with models:/cars/2."),
        ("promoted", {"champion": None, "rival": None}, None, "models:/cars/3 became the champion on 2026-01-31 "
         "12:00 UTC. There was no champion to compare it with."),
        ("rejected", {}, 0.1, "models:/cars/3 was rejected on 2026-01-31 12:00 UTC; models:/cars/2 stays the champion. "
         "It was compared with models:/cars/2."),
        ("rejected", {"rival": "models:/b/4"}, None, "stays the champion. It couldn't be compared with models:/b/4."),
        ("unchanged", {}, None, "models:/cars/2 has been the champion since 2026-01-31 12:00 UTC, so models:/cars/3 "
         "wasn't judged yet."),
        ("unchanged", {"champion": "models:/cars/3"}, None, "models:/cars/3 has been the champion since 2026-01-31 "
         "12:00 UTC."),
        ("unchanged", {"is_held": True}, None, "models:/cars/2 has been held since 2026-01-31 12:00 UTC, so "
         "models:/cars/3 wasn't judged."),
    ],
)  # fmt: skip
def test_a_verdict_says_what_became_of_the_version(
    outcome: Any, change: dict[str, Any], difference: float | None, words: str
) -> None:
    verdict = Verdict(outcome=outcome, reasons=(), objects=12, difference=difference)
    page = Reader(with_verdict(render(report(scores())), verdict, STANDING.model_copy(update=change)))
    assert words in page.text
    assert ("Held: champion unchanged" in page.text) == bool(change.get("is_held"))
    assert all(address.startswith("data:") for address in page.addresses)


def test_a_verdict_links_the_version_in_mlflow() -> None:
    address = 'https://mlflow/#/models/cars/versions/3?a="b'
    verdict = Verdict(outcome="promoted", reasons=(), objects=12)
    page = Reader(with_verdict(render(report(scores())), verdict, STANDING.model_copy(update={"page": address})))
    assert page.addresses.count(address) == 1


def test_a_page_without_a_place_for_a_verdict_is_refused() -> None:
    with pytest.raises(GateError, match="no section for a verdict"):
        with_verdict("<html></html>", Verdict(outcome="rejected", reasons=(), objects=0), STANDING)


def test_the_worst_images_come_first_of_the_holdout() -> None:
    rows = scores()
    chosen = choose_worst(rows[::-1], 3)
    held = sorted((score.dice, score.image) for score in rows if score.fold is None)
    folded = sorted((score.dice, score.image) for score in rows if score.fold is not None)
    assert [(score.dice, score.image) for score in chosen] == held[:3] + folded[:3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 6))
def test_as_many_images_are_worse_than_the_typical_ones_as_are_better(
    dices: list[float], held: int, count: int
) -> None:
    rows = [Score(f"a{i}_1", f"a{i}", "1", 9, None if i < held else 0, dice, {}) for i, dice in enumerate(dices)]
    shown = choose_typical(rows, count)
    pool = [score for score in rows if score.fold is None] or rows
    rest = [score.dice for score in pool if score not in shown]
    assert len(shown) == min(count, len(pool))
    low, high = shown[0].dice, shown[-1].dice
    assert not [dice for dice in rest if low < dice < high]
    below = sum(score.dice <= low for score in pool if score not in shown)
    above = sum(score.dice >= high for score in pool if score not in shown)
    assert below + above >= len(rest)
    assert abs(below - above) <= 1 or rest.count(low) + rest.count(high) >= 1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12))
def test_the_images_where_the_champion_differs_most_are_shown(pairs: list[tuple[float, float]]) -> None:
    rows = [Score(f"a{i}_1", f"a{i}", "1", 9, None, new, {}) for i, (new, _) in enumerate(pairs)]
    shown = choose_different(rows, {f"a{i}_1": old for i, (_, old) in enumerate(pairs)}, 3)
    gaps = sorted((abs(new - old) for new, old in pairs if new != old), reverse=True)
    assert [abs(score.dice - old) for score, old in shown] == gaps[:3]


def test_the_champions_masks_may_be_missing() -> None:
    plain, picture = report(scores(), worst=0), np.full((40, 60, 3), 90, np.uint8)
    first, second = plain.scores[:2]
    gallery = Gallery(differences=[Difference(first, 0.25, picture), Difference(second, 0.5, None)])
    page = Reader(render(replace(plain, gallery=gallery)))
    assert page.tags.count("img") == 1
    assert f"{first.image} Dice {first.dice:.5f}, the champion's 0.25000 ({first.dice - 0.25:+.5f})" in page.text
    assert f"{second.image} Dice {second.dice:.5f}, the champion's 0.50000" in page.text
    assert "Champion against challenger" not in Reader(render(plain)).text


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_a_scale_keeps_the_order_and_all_values_inside(values: list[float]) -> None:
    scale = dice_scale(values)
    places = [scale.place(value, 0, 100) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    assert scale.place(scale.low, 0, 100) == 0
    assert scale.place(scale.high, 0, 100) == 100


def test_equal_steps_towards_one_are_equally_far() -> None:
    scale = dice_scale([0.8, 0.9999])
    first, second, third = (scale.place(dice, 0, 100) for dice in (0.9, 0.99, 0.999))
    assert second - first == pytest.approx(third - second)
    assert second - first > 20


def test_a_gap_splits_the_line_and_the_chosen_epoch_is_marked() -> None:
    values = [0.5, 0.4, math.nan, 0.3, 0.2]
    chart = line_chart(values, positive_scale(values), "loss", 4)
    assert chart.count("<polyline") == 2
    assert chart.count('class="chosen"') == 1
    assert 'class="chosen"' not in line_chart(values, positive_scale(values), "loss", 2)


def test_every_image_is_in_the_histogram() -> None:
    values = [0.9] * 30 + [0.95] * 15 + [0.999]
    bars = re.findall(r'class="bar".*?height="([\d.]+)"', histogram(values, dice_scale(values), ""))
    tallest, half, single = sorted(map(float, bars), reverse=True)
    assert len(bars) == 3
    assert half == pytest.approx(tallest / 2)
    assert single == pytest.approx(tallest / 30, abs=0.1)


def _photo(height: int = 427, width: int = 640) -> tuple[Image, NDArray[np.bool_]]:
    truth = np.zeros((height, width), bool)
    truth[height // 4 : height // 2, width // 4 : width // 2] = True
    return np.full((height, width, 3), 200, np.uint8), truth


def _pane(picture: Image, row: int, column: int) -> Image:
    """One pane without its caption."""
    height = (picture.shape[0] - 2) // 2 - STRIP
    top, left = row * (height + STRIP + 2), column * (PANE + 2)
    return picture[top : top + height, left : left + PANE]


def _share(pane: Image, color: tuple[int, int, int]) -> float:
    return float((np.abs(pane.astype(int) - color).max(-1) < 30).mean())


def test_the_panel_shows_photograph_truth_and_prediction() -> None:
    image, truth = _photo()
    image[truth] = (10, 200, 30)
    picture = panel(image, truth, np.where(truth, 0.5, 0.0))
    assert picture.shape == (2 * (187 + STRIP) + 2, 3 * PANE + 4, 3)
    assert picture.dtype == np.uint8
    assert _share(_pane(picture, 0, 0), (10, 200, 30)) == pytest.approx(truth.mean(), abs=0.01)
    assert _share(_pane(picture, 0, 1), (255, 255, 255)) == pytest.approx(truth.mean(), abs=0.01)
    assert _share(_pane(picture, 0, 2), (127, 127, 127)) == pytest.approx(truth.mean(), abs=0.01)


def test_missing_and_surplus_have_their_own_colors() -> None:
    image, truth = _photo()
    moved = np.roll(truth, 40, axis=1)
    for prediction in (moved, moved.astype(np.float32)):
        pane = _pane(panel(image, truth, prediction), 1, 0)
        missing, surplus = (np.abs(pane.astype(int) - color).max(-1) < 30 for color in (MISSING, SURPLUS))
        assert missing.mean() == pytest.approx((truth & ~moved).mean(), abs=0.01)
        assert surplus.mean() == pytest.approx((moved & ~truth).mean(), abs=0.01)
        assert np.argwhere(missing)[:, 1].max() < np.argwhere(surplus)[:, 1].min()


def test_the_champions_outline_and_the_challengers_have_their_own_colors_where_they_differ() -> None:
    image, truth = _photo()
    wide = truth.copy()
    wide[140:170, 315:345] = True  # the champion adds a bump at the right of the true mask
    picture = difference_panel(image, truth, truth, wide)
    assert picture.shape == (187 + STRIP, 2 * PANE + 2, 3)
    near = picture[:187, PANE + 2 :]
    assert _share(near, MISSING) > 0.001
    assert _share(near, SURPLUS) > 0.001
    assert _share(near, TRUE) > 0.001
    same = difference_panel(image, truth, truth, truth)[:187]
    assert _share(same, MISSING) == 0  # the challenger's is on top


def test_no_error_has_no_color() -> None:
    image, truth = _photo()
    picture = panel(image, truth, truth)
    assert all(_share(_pane(picture, 1, column), color) == 0 for column in (0, 2) for color in (MISSING, SURPLUS))


def test_a_fringe_one_pixel_wide_still_shows() -> None:
    image, truth = _photo(1280, 1918)
    thin = cv2.erode(truth.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    pane = _pane(panel(image, truth, thin), 1, 0).astype(int)
    assert ((pane[..., 0] - pane[..., 2]) > 60).sum() > 200


def test_the_close_up_is_where_most_errors_are() -> None:
    image, truth = _photo(400, 640)
    prediction = truth.copy()
    prediction[300:340, 500:560] = True  # larger than the next
    prediction[20:30, 20:30] = True
    image[320, 530] = (255, 0, 0)
    picture = panel(image, truth, prediction)
    assert _share(_pane(picture, 1, 2), SURPLUS) > 0.5
    assert _share(_pane(picture, 1, 1), (255, 0, 0)) > 0 == _share(_pane(picture, 1, 1), (0, 0, 255))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.integers(1, 500), st.randoms(use_true_random=False))
def test_any_size_makes_a_panel(height: int, width: int, chance: random.Random) -> None:
    image = np.full((height, width, 3), 40, np.uint8)
    rng = np.random.default_rng(chance.randrange(1000))
    truth, probability = rng.random((height, width)) > 0.5, rng.random((height, width))
    picture = panel(image, truth, probability)
    rows = min(TALLEST, max(1, round(PANE * height / width)))
    assert picture.shape == (2 * (rows + STRIP) + 2, 3 * PANE + 4, 3)


@pytest.mark.parametrize("limit", [10_000, 60_000, 10_000_000])
def test_an_address_keeps_within_its_limit_and_holds_the_picture(limit: int) -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[:, :, 0] = np.random.default_rng(0).integers(0, 256, (200, 300))
    address = data_uri(picture, limit)
    data = np.frombuffer(base64.b64decode(address.removeprefix("data:image/jpeg;base64,")), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert len(address) <= limit
    assert decoded is not None
    assert decoded[..., 2].mean() > 2 * decoded[..., 0].mean()  # red stays red


def test_an_axis_that_is_not_linear_says_so() -> None:
    text = Reader(render(report(scores()))).text
    assert all(f"{title}, log scale" in text for title in ("loss", "out-of-fold Dice", "learning rate"))
    negative = [{"epoch": i, "loss": -0.5 + i, "dice": 0.5, "lr": 1e-3} for i in range(3)]
    assert "loss, log scale" not in Reader(render(report(scores(), history=negative))).text


def test_curves_are_a_picture_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(curves(HISTORY))
    assert (tmp_path / "a.png").read_bytes() == curves(HISTORY)
    drawn = cv2.imread(str(tmp_path / "a.png"))
    assert drawn is not None
    assert drawn.shape[1] == 1200
    assert drawn.std() > 5
