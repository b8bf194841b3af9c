"""What members add, on the page: complete, small with many members, and a figure whose numbers can be read."""

import random
import re
from dataclasses import replace

import pytest

from backdrop.evaluation.records import Contribution, Estimate, Evaluation, RecipeSet, Spread
from backdrop.report import render
from backdrop.report.contributions import contributions_section
from tests.report.test_page import Reader, report, scores

PLAIN = report(scores())


def contribution(part: str, name: str, added: float, objects: int = 12) -> Contribution:
    ends = (None, None) if objects == 1 else (added - 1e-4, added + 1e-4)
    return Contribution(
        part=part,
        name=name,
        cost=2_500_000_000,
        without=Estimate(dice=0.99, objects=objects),
        added=Spread(mean=added, low=ends[0], high=ends[1]),
    )


def judged(members: int, recipes: int = 3) -> Evaluation:
    names = [f"recipe-{number}" for number in range(recipes)]
    oof = [contribution("oof", name, 1e-4 * index) for index, name in enumerate(names)]
    held = [contribution("holdout", f"member-{index}", 1e-4 * index, 12) for index in range(members)]
    chance = random.Random(members)
    sets = [
        RecipeSet(
            recipes=tuple(names[: size + 1]),
            cost=10 ** (7 + 3 * size // recipes) + size,
            dice=Estimate(dice=0.99 + 0.001 * size - 0.0001 * chance.random(), objects=9),
            best=size != 1,
        )
        for size in range(recipes)
    ]
    return PLAIN.evaluation.model_copy(update={"contributions": (*oof, *held), "sets": tuple(sets)})


def test_each_recipe_and_member_has_a_row_and_what_adds_most_comes_first() -> None:
    page = Reader(render(replace(PLAIN, evaluation=judged(6))))
    assert "script" not in page.tags
    assert "What members add" in page.text
    assert "details" not in page.tags
    places = [page.text.index(f"member-{index}") for index in range(6)]
    assert places == sorted(places, reverse=True)
    for word in ("2.5 G", "+0.00050", "+0.00040 to +0.00060", "recipe, out of fold", "all", "recipe-0"):
        assert word in page.text


@pytest.mark.parametrize("members", [1, 2, 49])
def test_many_members_are_folded_away_and_stay_small(members: int) -> None:
    html = contributions_section(judged(members, recipes=9))
    Reader(html)
    assert ("<details>" in html) == (members == 49)
    assert len(html.encode()) < 50_000
    assert html.count("member-") == members
    # No two numbers of the figure cover each other.
    (figure,) = re.findall(r"<figure>(.*?)</figure>", html, re.DOTALL)
    written = re.findall(r"</title><circle[^>]*/><text x=\"([\d.]+)\" y=\"([\d.]+)\"", figure)
    assert len(written) >= 3
    for index, (x, y) in enumerate(written):
        for other, above in written[:index]:
            assert abs(float(x) - float(other)) >= 12 or abs(float(y) - float(above)) >= 10


@pytest.mark.parametrize(
    ("recipes", "names"),
    [
        (1, ["recipe-0"]),
        (2, ["recipe-0", "recipe-0 + recipe-1"]),
        (4, ["recipe-0", "recipe-0 + recipe-1", "recipe-0 + recipe-1 + recipe-2", "all"]),
        (5, ["recipe-0", "recipe-0 + recipe-1", "recipe-0 + recipe-1 + recipe-2", "all but recipe-4", "all"]),
    ],
)
def test_a_set_is_named_by_what_is_shorter(recipes: int, names: list[str]) -> None:
    html = contributions_section(judged(2, recipes))
    assert sorted(re.findall(r"<title>(.*?): [\d.]+</title>", html)) == sorted(names)


def test_little_is_said_of_few_objects_and_nothing_of_no_members() -> None:
    one = PLAIN.evaluation.model_copy(update={"contributions": (contribution("holdout", "lonely", 0.1, 1),)})
    html = contributions_section(one)
    assert '<span class="few">+0.10000</span>' in html
    assert "<figure>" not in html
    assert contributions_section(PLAIN.evaluation) == ""
    assert "What members add" not in render(PLAIN)


def test_names_are_escaped() -> None:
    evil = "<script>"
    sets = [RecipeSet(recipes=(evil,), cost=1, dice=Estimate(dice=0.9, objects=1), best=True)]
    found = PLAIN.evaluation.model_copy(
        update={"contributions": (contribution("oof", evil, 0.1),), "sets": tuple(sets)}
    )
    page = Reader(contributions_section(found))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 3
