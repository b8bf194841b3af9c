"""The page of a search: what it says, that it needs nothing else, and that its charts show what they should."""

import math
import random
import re
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.report import render_search
from backdrop.report.charts import Scale, short, value_scale
from backdrop.report.lines import ACROSS, LINE_HEIGHT, Line, chart, end_labels
from backdrop.tuning.results import Search, Trial, compare, ranked
from tests.report.test_page import Reader

FAMILIES = ("cosine", "step", "tail", "shapes")


def trial(index: int, epochs: int, folds: int, presets: int) -> Trial:
    """Presets, then every family in turn; every seventh is stopped, every eleventh fails."""
    chance = random.Random(index)
    family = "preset" if index < presets else FAMILIES[index % len(FAMILIES)]
    status = "stopped" if index % 7 == 6 else "failed" if index % 11 == 10 else "finished"
    values: dict[str, Any] = {"lr": 10 ** chance.uniform(-5, -2), "every": chance.randint(2, 9)}
    values |= {"shape": chance.choice(["saw", "wave"])} if family == "shapes" else {}
    top, count = chance.uniform(0.9, 0.98), epochs * folds if status == "finished" else (epochs + 1) // 2
    dices = [top - 0.5 / (1 + epoch % epochs) ** 2 for epoch in range(count if status != "failed" else 0)]
    return Trial(
        name=f"{index:03}-{'unet-scratch-faithful' if index < presets else family}",
        family=family,
        values={} if index < presets else values,
        lrs=tuple(10 ** chance.uniform(-6, -2) for _ in range(epochs)),
        dices=tuple(dices),
        dice=max(dices) if dices else None,
        seconds=61.0 * len(dices),
        status=status,
        error="out of memory" if status == "failed" else "",
    )


def make_search(count: int = 24, epochs: int = 8, folds: int = 1, presets: int = 2, **changes: Any) -> Search:
    trials = tuple(trial(index, epochs, folds, presets) for index in range(count))
    order = ranked(trials)
    best = next((one.name for one in order if not one.preset), None)
    preset = next((one.name for one in order if one.preset), None)
    seeds, dices = (101, 102, 103), ([0.982, 0.981, 0.983], [0.971, 0.972, 0.97])
    parts: dict[str, Any] = {"recipe": "tiny", "space": "wide", "data": "sha256:abc", "epochs": 40}
    parts |= {"folds": tuple(range(folds)), "budget_epochs": epochs, "trials": trials}
    parts |= {"comparison": compare(best, preset, seeds, *dices) if best and preset else None}
    return Search(**parts | {"chosen": order[0].name if order else ""} | changes)


def section(html: str, title: str) -> str:
    """What stands under a heading."""
    return html.split(f"<h2>{title}</h2>")[1].split("</section>")[0]


def lines(html: str, kind: str) -> dict[str, list[list[tuple[int, int]]]]:
    """The points of each line of a kind, run by run, by the name it says when pointed at."""
    drawn = re.findall(rf'<g class="{kind}"><title>(.*?)[ <].*?(?:d="(.*?)"|</g>)', html)
    return {name: [run_points(run) for run in path.split("M")[1:]] for name, path in drawn}


def run_points(run: str) -> list[tuple[int, int]]:
    numbers = [int(number) for number in re.findall(r"-?\d+", run)]
    steps = zip(numbers[::2], numbers[1::2], strict=True)
    return list(accumulate(steps, lambda point, step: (point[0] + step[0], point[1] + step[1])))


def test_the_page_is_complete_and_shows_the_figures() -> None:
    search = make_search()
    page, best = Reader(render_search(search)), ranked(search.trials)[0]
    assert search.comparison is not None
    finished = sum(trial.status == "finished" for trial in search.trials)
    assert f"24 trials ({finished} finished, 3 stopped, 2 failed)" in page.text
    for word in ("tiny", "space wide · fold 0 · at most 8 epochs per fold", "recipe's 40 epochs", "sha256:abc"):
        assert word in page.text
    for word in (search.comparison.sentence, "Beats the preset", "0.98200", "0.97100", "101", "out of memory"):
        assert word in page.text
    assert f"rank 1 of {finished} finished trials" in page.text
    assert f"{best.name} chosen" in page.text
    assert f"{best.dice:.5f}" in page.text


def test_every_trial_stands_in_the_table_by_its_rank() -> None:
    search = make_search()
    rows = re.findall(r"<tr><td>(\d*)</td><td>(.*?)[ <]", section(render_search(search), "Trials"))
    order = [trial.name for trial in ranked(search.trials)]
    assert [name for _, name in rows[: len(order)]] == order
    assert [rank for rank, _ in rows] == [*map(str, range(1, len(order) + 1)), *[""] * (24 - len(order))]
    assert {name for _, name in rows} == {trial.name for trial in search.trials}
    assert [search.trial(name).status for _, name in rows[len(order) :]] == ["stopped"] * 3 + ["failed"] * 2


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    html = render_search(make_search())
    page = Reader(html)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", html)
    assert page.addresses == ["data:,"]
    assert "default-src 'none'" in html


def test_the_same_search_has_the_same_bytes_also_from_a_file() -> None:
    search = make_search()
    assert render_search(search) == render_search(Search.model_validate_json(search.model_dump_json()))


def test_two_hundred_trials_with_long_errors_stay_small() -> None:
    search = make_search(200, 100, folds=3)
    broken = tuple(t.model_copy(update={"error": "x" * 100_000}) if t.error else t for t in search.trials)
    html = render_search(search.model_copy(update={"trials": broken}))
    assert 300_000 < len(html.encode()) < 1_500_000
    assert "xxx…" in html


def test_names_are_escaped() -> None:
    evil = '<script>alert("x")</script>&amp;'
    trials = tuple(
        trial.model_copy(
            update={
                "name": trial.name + evil,
                "family": trial.family if trial.preset else evil,
                "values": {evil: evil, **trial.values} if trial.values else {},
                "error": evil,
            }
        )
        for trial in make_search().trials
    )
    comparison = compare(trials[3].name, trials[0].name, (1, 2), (0.9, 0.8), (0.7, 0.75))
    search = make_search(
        trials=trials, comparison=comparison, chosen=trials[0].name, recipe=evil, space=evil, data=evil
    )
    page = Reader(render_search(search))
    assert "script" not in page.tags
    assert page.text.count(evil) > 4 * len(trials)


@pytest.mark.parametrize(
    ("best", "badge"),
    [
        ((0.98, 0.981), "Beats the preset"),
        ((0.97, 0.99), "Within the noise"),
        ((0.95, 0.951), "Worse than the preset"),
        ((0.96, 0.961), "Within the noise"),
    ],
)
def test_the_comparison_is_drawn_about_zero(best: tuple[float, float], badge: str) -> None:
    comparison = compare("007-step", "000-own", (1, 2), best, (0.96, 0.961))
    part = section(render_search(make_search(comparison=comparison)), "Best sampled schedule against best preset")
    assert f"{badge}</p>" in part
    ends = re.search(r'class="zero" x1="(.*?)%".*?class="span" x1="(.*?)%" x2="(.*?)%"', part)
    assert ends is not None
    zero, low, high = map(float, ends.groups())
    assert zero == 50
    assert (low > zero, high < zero) == (comparison.low > 0, comparison.high < 0)


def test_without_a_comparison_the_page_says_so() -> None:
    page = Reader(render_search(make_search(count=2)))
    assert "Not compared" in page.text
    assert "Sampled values" not in page.text


def test_where_all_failed_the_page_says_why() -> None:
    dead = {"status": "failed", "dice": None, "dices": (), "error": "no GPU"}
    trials = tuple(one.model_copy(update=dead) for one in make_search().trials)
    page = Reader(render_search(make_search(trials=trials, comparison=None, chosen="")))
    assert "No trial finished with a Dice" in page.text
    assert page.text.count("no GPU") == 24
    assert "Dice over epochs" not in page.text


@pytest.mark.parametrize(
    "search",
    [
        make_search(count=1, epochs=1),
        make_search(count=24, epochs=1),
        make_search(count=24, epochs=1, folds=12),
        make_search(count=0),
        make_search(trials=(Trial(name="a", family="b", lrs=(0.0, 1e-3), dices=(0.0, 1.0, 0.0), dice=1.0),)),
        make_search(trials=(Trial(name="a", family="b", values={"x": math.nan, "y": math.inf, "z": ""}, dice=0.5),)),
        make_search(chosen="gone", budget_epochs=2),
    ],
)
def test_odd_searches_are_drawn_too(search: Search) -> None:
    html = render_search(search)
    Reader(html)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', re.sub(r'aria-label="[^"]*"', "", html))


def test_the_schedules_are_the_presets_and_the_six_best_of_the_others() -> None:
    search = make_search()
    part = section(render_search(search), "Schedules")
    drawn = [trial.name for trial in ranked(search.trials) if not trial.preset][:6]
    shown = [trial for trial in ranked(search.trials) if trial.preset or trial.name in drawn]
    assert re.findall(r"<b>(.*?)</b>", part) == [trial.name for trial in shown]
    assert set(lines(part, "preset")) == {trial.name for trial in shown if trial.preset}
    assert set(lines(part, "best")) == set(lines(part, "ghost")) == {shown[0].name}
    points = lines(part, "best")[shown[0].name][0]
    heights = [-math.log(lr) for lr in shown[0].lrs]
    assert sorted(range(8), key=lambda epoch: points[epoch][1]) == sorted(range(8), key=lambda epoch: heights[epoch])


def test_every_trial_that_began_has_its_line_which_ends_where_it_was_stopped() -> None:
    search = make_search(folds=3)
    part = section(render_search(search), "Dice over epochs")
    stopped, best = lines(part, "stopped"), ranked(search.trials)[0].name
    drawn = {kind: lines(part, kind) for kind in ("stopped", "other", "preset", "best")}
    assert {name for kind in drawn.values() for name in kind} == {t.name for t in search.trials if t.dices}
    assert set(drawn["best"]) == {best}
    assert set(drawn["preset"]) == {trial.name for trial in search.trials if trial.preset}
    assert len(drawn["best"][best]) == 3
    for name, runs in stopped.items():
        assert runs[-1][-1][0] == pytest.approx(ACROSS * (len(search.trial(name).dices) - 0.5) / 24, abs=1)
    assert part.count('<g class="halt">') == len(stopped) == 3
    assert [name for name in re.findall(r'class="end .*?<text[^>]*>(.*?)</text>', part) if name == best]


def test_a_higher_dice_stands_higher() -> None:
    dices = (0.5, 0.9, 0.99, 0.95, 0.999)
    chosen = Trial(name="0-own", family="preset", dices=dices, dice=0.999, status="finished")
    html = render_search(make_search(trials=(chosen,), budget_epochs=5, comparison=None, chosen="0-own"))
    ((points,),) = lines(section(html, "Dice over epochs"), "best").values()
    assert sorted(range(5), key=lambda epoch: -points[epoch][1]) == sorted(range(5), key=lambda epoch: dices[epoch])


def test_each_family_shows_its_trials_and_colors_them_by_rank() -> None:
    search = make_search()
    part = section(render_search(search), "Sampled values")
    figures = re.findall(r"<figure><figcaption><b>(.*?)</b>(.*?)</figure>", part, re.DOTALL)
    assert {family for family, _ in figures} == set(FAMILIES)
    order, kinds = ranked(search.trials), ("best", *(f"fifth-{fifth}" for fifth in range(1, 6)))
    for family, figure in figures:
        drawn = {name for kind in (*kinds, "stopped") for name in lines(figure, kind)}
        assert drawn == {trial.name for trial in search.trials if trial.family == family}
        assert ("saw" in figure) == (family == "shapes")
    ranks = {trial.name: rank for rank, trial in enumerate(order)}
    placed = [[ranks[name] for name in lines(part, kind)] for kind in kinds]
    assert placed[0] == [0]
    assert all(max(better) < min(worse) for better, worse in pairwise(placed))


def test_what_was_not_drawn_leaves_a_gap() -> None:
    given_values = ({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 2.0, "c": 4.0, "d": 9.0})
    trials = tuple(
        Trial(name=str(i), family="step", values=values, dices=(0.9,), dice=0.9, status="finished")
        for i, values in enumerate(given_values)
    )
    part = section(render_search(make_search(trials=trials, comparison=None)), "Sampled values")
    # The second stands alone on its first axis, which is a dot, and runs from the third on.
    assert [[x for x, _ in run] for run in lines(part, "fifth-3")["1"]] == [[1000, 1500, 2000]]
    assert part.count("<circle") == 2


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=9))
def test_a_scale_of_values_shows_them_all_in_order(values: list[float]) -> None:
    scale = value_scale(values)
    places = [scale.place(value, 0, 100) for value in sorted(values)]
    assert places == sorted(places)
    assert scale.low <= min(values) <= max(values) <= scale.high
    assert any(scale.low <= tick <= scale.high for tick, _ in scale.ticks)


def test_values_over_a_decade_are_spread_by_their_powers() -> None:
    wide, narrow = value_scale([1e-5, 1e-3]), value_scale([2, 4, 6])
    assert wide.place(1e-4, 0, 100) == pytest.approx(50, abs=1)
    assert narrow.place(4, 0, 100) == 50
    assert [text for _, text in narrow.ticks[:2]] == ["2", "6"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00012345, "1.23e-4"),
        (1e-6, "1e-6"),
        (-2e-5, "-2e-5"),
        (0.0123456, "0.0123"),
        (0, "0"),
        (12, "12"),
        (1234, "1234"),
        (1e300, "1e300"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value, 3) == text


@given(st.lists(st.floats(0, 300), min_size=1, max_size=30))
def test_names_beside_a_chart_never_overlap_nor_leave_it(heights: list[float]) -> None:
    html = end_labels([((1.0, y), f"n{i}", "best") for i, y in enumerate(heights)], 300)
    names = re.findall(r'<text x="14" y="([-\d.]+)">(n\d+)', html)
    places = [float(y) - 3.5 for y, _ in names]
    assert all(after - before >= LINE_HEIGHT - 0.2 for before, after in pairwise(places))
    assert min(places) >= -0.1
    assert max(places) <= 300.1
    assert {name for _, name in names} == {f"n{i}" for i in range(min(len(heights), 21))}


def test_a_path_comes_back_to_its_points() -> None:
    chance = random.Random(3)
    points = [(i / 400, chance.uniform(0, 100)) for i in range(401)]
    html = chart([Line("other", "it", [points])], 100, "a chart")
    ((found,),) = lines(html, "other").values()
    for (x, y), (across, up) in zip(points, found, strict=True):
        assert (across / ACROSS, up / 4) == (pytest.approx(x, abs=0.0003), pytest.approx(y, abs=0.13))


def test_a_scale_of_one_value_puts_it_in_the_middle() -> None:
    assert value_scale([3.0]).place(3.0, 0, 10) == 5
    assert Scale(0, 0, float, ()).place(0, 0, 10) == 5
