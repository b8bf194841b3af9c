"""What a search has come to: its ranking, its table, and an interval that is right also where nothing differs."""

import csv
import io
import math
import random
from statistics import StatisticsError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from backdrop.tuning.results import COLUMNS, Comparison, Search, Trial, compare, dump_trials, ranked

DICES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def against(best: list[float], preset: list[float]) -> Comparison:
    return compare("007-cosine", "000-own", range(len(best)), best, preset)


@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 3), (5, 2), (8, 8)])
@pytest.mark.parametrize("ratio", [1, 30])
def test_the_interval_is_welchs(first: int, second: int, ratio: int) -> None:
    chance = random.Random(first + ratio)
    best = [chance.gauss(0.98, 0.001) for _ in range(first)]
    preset = [chance.gauss(0.979, 0.001 * ratio) for _ in range(second)]
    found, result = against(best, preset), stats.ttest_ind(best, preset, equal_var=False)
    expected = result.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert (found.low > 0 or found.high < 0) == (result.pvalue < 0.05)
    assert found.difference == pytest.approx(sum(best) / first - sum(preset) / second)


@given(DICES, DICES)
def test_swapping_the_two_negates_the_interval(best: list[float], preset: list[float]) -> None:
    found, swapped = against(best, preset), against(preset, best)
    assert (found.low, found.difference, found.high) == (-swapped.high, -swapped.difference, -swapped.low)
    assert found.low <= found.difference <= found.high


def test_an_interval_widens_with_doubt() -> None:
    calm, wild = against([0.98, 0.981], [0.97, 0.971]), against([0.97, 0.991], [0.96, 0.981])
    assert calm.difference == pytest.approx(wild.difference)
    assert calm.low > 0 > wild.low


def test_where_nothing_differs_the_interval_is_the_difference() -> None:
    same, better = against([0.9, 0.9], [0.9, 0.9]), against([0.9, 0.9], [0.8, 0.8])
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    assert better.low == better.high == better.difference == pytest.approx(0.1)
    assert "differ by less than the noise" in same.sentence
    assert "beats" in better.sentence


def test_equal_values_on_one_side_leave_the_others_interval() -> None:
    preset = [0.8, 0.82, 0.83]
    found, alone = against([0.9, 0.9, 0.9], preset), stats.ttest_1samp(preset, 0.9).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((0.9 - alone.high, 0.9 - alone.low))


def test_nearly_equal_values_are_compared_too() -> None:
    close = math.nextafter(0.9, 1)
    comparison = against([0.9, close], [0.9, 0.9])
    assert 0 < comparison.high < 1e-14
    assert comparison.low < 0


def test_one_seed_says_nothing_of_the_noise() -> None:
    with pytest.raises(StatisticsError, match="two data points"):
        against([0.9], [0.8])


@pytest.mark.parametrize(
    ("best", "preset", "words"),
    [
        ([0.98, 0.981], [0.97, 0.971], "007-cosine beats 000-own by more than the noise: +0.01000 Dice (+0.0"),
        ([0.97, 0.971], [0.98, 0.981], "007-cosine is worse than 000-own by more than the noise: -0.01000 Dice (-0.0"),
        ([0.97, 0.99], [0.96, 0.98], "007-cosine and 000-own differ by less than the noise: +0.01000"),
    ],
)
def test_the_sentence_says_whether_it_exceeds_the_noise(best: list[float], preset: list[float], words: str) -> None:
    sentence = against(best, preset).sentence
    assert sentence.startswith(words)
    assert sentence.endswith("2 seeds each)")


def test_only_what_finished_is_ranked_the_best_first_and_the_earlier_of_equals() -> None:
    trials = [
        Trial(name="005-step", family="step", dice=0.97, status="finished"),
        Trial(name="004-cosine", family="cosine", dice=0.99, status="stopped"),
        Trial(name="003-step", family="step", dice=0.99, status="failed"),
        Trial(name="002-step", family="step", dice=0.99),
        Trial(name="001-tail", family="tail", status="finished"),
        Trial(name="000-own", family="preset", dice=0.97, status="finished"),
        Trial(name="006-tail", family="tail", dice=0.0, status="finished"),
        Trial(name="007-tail", family="tail", dice=0.98, status="finished"),
    ]
    assert [trial.name for trial in ranked(trials)] == ["007-tail", "000-own", "005-step", "006-tail"]
    assert [trial.name for trial in trials if trial.preset] == ["000-own"]
    assert ranked(trials[:0]) == []


TRIALS = (
    Trial(name="000-own", family="preset", dices=(0.5, 0.75), dice=0.75, seconds=12.34, status="finished"),
    Trial(name="001-cosine", family="cosine", values={"lr": 0.1 + 0.2, "final": 1e-6}, dices=(0.5,), status="stopped"),
    Trial(name="002-cycle", family="cycle", values={"lr": 2, "shape": '1e-3, "ü"'}, error='a\nb, "c"', status="failed"),
)


def test_the_table_reads_back() -> None:
    data = dump_trials(TRIALS)
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert [row["name"] for row in rows] == [trial.name for trial in TRIALS]
    for row, trial in zip(rows, TRIALS, strict=True):
        assert tuple(row) == (*COLUMNS, "final", "lr", "shape", "error")
        assert (row["family"], row["status"], row["error"]) == (trial.family, trial.status, trial.error)
        assert (row["preset"] == "1", int(row["epochs"])) == (trial.preset, len(trial.dices))
        assert (float(row["dice"]) if row["dice"] else None) == trial.dice
        assert float(row["seconds"]) == pytest.approx(trial.seconds, abs=0.05)
        for name in ("lr", "final", "shape"):
            assert row[name] == str(trial.values.get(name, ""))
    assert float(rows[1]["lr"]) == 0.1 + 0.2
    assert dump_trials(TRIALS) == data


def test_no_trial_is_a_table_too() -> None:
    assert dump_trials([]) == b"name,family,preset,status,dice,epochs,seconds,error\n"


def test_an_error_that_is_no_text_can_be_written() -> None:
    trial = Trial(name="000-own", family="preset", error=b"no \xff.png".decode(errors="surrogateescape"))
    assert b"no ?.png" in dump_trials([trial])
    assert Trial.model_validate_json(trial.model_dump_json()) == trial


def test_a_search_reads_back_words_that_look_like_numbers_too() -> None:
    trial = Trial(name="000-cycle", family="cycle", values={"shape": "1e-3", "lr": 3})
    search = Search(
        recipe="tiny",
        space="wide",
        data="sha256:abc",
        folds=(0, 1),
        budget_epochs=2,
        epochs=5,
        trials=(*TRIALS, trial),
        comparison=against([0.98, 0.981], [0.97, 0.971]),
        chosen="000-own",
    )
    assert Search.model_validate_json(search.model_dump_json()) == search
    assert search.trial("000-cycle").values == {"shape": "1e-3", "lr": 3.0}
