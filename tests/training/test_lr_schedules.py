from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.optim import lr_scheduler

from backdrop.config.schedule import Phase
from backdrop.training.lr_schedules import cycle_ends, learning_rate, learning_rates, lengths, locate


def make(*phases: dict[str, Any]) -> tuple[Phase, ...]:
    return TypeAdapter(tuple[Phase, ...]).validate_python(phases)


def as_listed(phases: tuple[Phase, ...]) -> list[float]:
    return learning_rates(phases, sum(phase.epochs for phase in phases))


def sgd(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def of_torch(scheduler: lr_scheduler.LRScheduler, epochs: int) -> list[float]:
    """The rate of every epoch of a scheduler that is stepped after each."""
    rates = [float(scheduler.optimizer.param_groups[0]["lr"])]
    for _ in range(epochs - 1):
        scheduler.optimizer.step()
        scheduler.step()
        rates.append(float(scheduler.optimizer.param_groups[0]["lr"]))
    return rates


# The winners' own schedules, word for word as their code and interview have them.


def test_the_schedule_of_linknet34() -> None:
    phases = make(
        {"kind": "constant", "epochs": 12, "lr": 1e-4},
        {"kind": "constant", "epochs": 11, "lr": 1e-5},
        {"kind": "cycle", "epochs": 17, "lrs": [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]},
    )
    round_ = [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    assert learning_rates(phases, 40) == [1e-4] * 12 + [1e-5] * 11 + round_ * 3 + [1e-4] * 2
    assert cycle_ends(phases, 40) == [11, 22, 27, 32, 39], "the last two epochs begin a round that never ends"


def test_the_schedule_of_the_unet_from_scratch() -> None:
    phases = make({"kind": "step", "epochs": 250, "lr": 0.005, "factor": 0.5, "every": 100})
    assert learning_rates(phases, 250) == [0.005] * 100 + [0.0025] * 100 + [0.00125] * 50


def test_the_schedule_of_the_vgg_unet_whole_and_in_its_two_stages() -> None:
    cycle = {"kind": "cycle", "lrs": [1e-4, 1e-5, 1e-6], "lengths": [10, 5, 5]}
    expected = ([1e-4] * 10 + [1e-5] * 5 + [1e-6] * 5) * 3
    whole = make({**cycle, "epochs": 60})
    assert learning_rates(whole, 60) == expected
    assert cycle_ends(whole, 60) == [19, 39, 59]
    heavy, last = {**cycle, "epochs": 15}, {"kind": "constant", "epochs": 5, "lr": 1e-6}
    assert learning_rates(make(heavy, last, {**cycle, "epochs": 40}), 60) == expected


def test_the_schedule_of_unet11_released() -> None:
    by_remainder = {0: 1e-4, 1: 1e-4, 2: 5e-5, 3: 5e-5, 4: 2.5e-5}
    expected = [by_remainder[e % 5] for e in range(1, 53)]
    phases = make({"kind": "cycle", "epochs": 52, "lrs": [1e-4, 5e-5, 5e-5, 2.5e-5, 1e-4]})
    assert learning_rates(phases, 52) == expected


def test_the_schedule_of_unet11_in_the_interview() -> None:
    phases = make(
        {"kind": "plateau", "epochs": 30, "lr": 1e-4, "factor": 0.5, "patience": 2},
        {"kind": "cycle", "epochs": 20, "lrs": [1e-6, 1e-5, 1e-4, 1e-5, 1e-6], "lengths": [2] * 5},
    )
    cyclic = [value for value in (1e-6, 1e-5, 1e-4, 1e-5, 1e-6) for _ in range(2)] * 2
    assert learning_rates(phases, 50) == [1e-4] * 30 + cyclic
    stuck = [0.9] * 50
    rates = [learning_rate(phases, 50, epoch, stuck[:epoch]) for epoch in range(50)]
    halvings = [1e-4 * 0.5**k for k in range(10) for _ in range(3)]
    assert rates == [1e-4, *halvings[:29], *cyclic], "the first Dice is a rise; then each third epoch halves"
    assert cycle_ends(phases, 50) == [29, 39, 49]


# Against torch's own schedulers.


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, float("nan")]), min_size=1, max_size=40),
    *(st.integers(1, 4), st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 3)),
)
def test_a_plateau_is_torchs(dices: list[float], patience: int, factor: float, before: int) -> None:
    theirs = lr_scheduler.ReduceLROnPlateau(sgd(), "max", factor, patience, threshold=0, eps=0)
    phases = make(
        *[{"kind": "constant", "epochs": before, "lr": 3.0}] * bool(before),
        {"kind": "plateau", "epochs": len(dices), "lr": 1.0, "factor": factor, "patience": patience},
    )
    epochs = before + len(dices)
    seen = [0.9] * before + dices
    for i, dice in enumerate(dices):
        rate = learning_rate(phases, epochs, before + i, seen[: before + i])
        assert rate == pytest.approx(theirs.optimizer.param_groups[0]["lr"])
        theirs.step(dice)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.9]))
def test_steps_are_torchs(epochs: int, every: int, factor: float) -> None:
    phases = make({"kind": "step", "epochs": epochs, "lr": 1.0, "factor": factor, "every": every})
    assert as_listed(phases) == pytest.approx(of_torch(lr_scheduler.StepLR(sgd(), every, factor), epochs))


@settings(deadline=None)
@given(st.integers(2, 30), st.sampled_from([1e-4, 0.5, 1.0, 3.0]))
def test_an_exponential_is_torchs(epochs: int, final: float) -> None:
    phases = make({"kind": "exponential", "epochs": epochs, "lr": 1.0, "final": final})
    expected = of_torch(lr_scheduler.ExponentialLR(sgd(), final ** (1 / (epochs - 1))), epochs)
    assert as_listed(phases) == pytest.approx(expected)
    assert expected[-1] == pytest.approx(final)


@settings(deadline=None)
@given(st.integers(2, 30))
def test_a_cosine_is_torchs(epochs: int) -> None:
    phases = make({"kind": "cosine", "epochs": epochs, "lr": 1.0, "final": 0.01})
    theirs = lr_scheduler.CosineAnnealingLR(sgd(), epochs - 1, eta_min=0.01)
    assert as_listed(phases) == pytest.approx(of_torch(theirs, epochs))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 3))
def test_restarts_are_torchs(epochs: int, cycle: int, growth: int) -> None:
    phases = make({"kind": "restarts", "epochs": epochs, "lr": 1.0, "final": 0.01, "cycle": cycle, "growth": growth})
    theirs = lr_scheduler.CosineAnnealingWarmRestarts(sgd(), cycle, growth, eta_min=0.01)
    assert as_listed(phases) == pytest.approx(of_torch(theirs, epochs))


@settings(deadline=None)
@given(st.integers(10, 60), st.sampled_from([0.13, 0.3, 0.5, 0.77, 1.0]))
def test_one_cycle_is_torchs(epochs: int, warmup: float) -> None:
    phases = make({"kind": "one_cycle", "epochs": epochs, "lr": 1.0, "start": 0.04, "final": 0.001, "warmup": warmup})
    options: dict[str, Any] = {"div_factor": 25, "final_div_factor": 40, "cycle_momentum": False}
    theirs = lr_scheduler.OneCycleLR(sgd(), 1.0, total_steps=epochs, pct_start=warmup, **options)
    assert as_listed(phases) == pytest.approx(of_torch(theirs, epochs))


def test_one_cycle_where_torch_divides_by_zero() -> None:
    def of(epochs: int, warmup: float) -> list[float]:
        phase = {"kind": "one_cycle", "epochs": epochs, "lr": 1.0, "start": 0.1, "final": 0.01, "warmup": warmup}
        return as_listed(make(phase))

    assert of(1, 0.3) == [1.0]
    assert of(3, 0) == pytest.approx([1.0, 0.505, 0.01])
    assert of(3, 1) == pytest.approx([0.1, 0.55, 1.0])
    assert of(3, 0.9)[2] == pytest.approx(0.01), "a peak just before the end"
    assert of(2, 0.5) == pytest.approx([1.0, 0.01])


# At another length.


def test_shapes_are_stretched() -> None:
    step = make({"kind": "step", "epochs": 250, "lr": 0.004, "factor": 0.5, "every": 100})
    assert learning_rates(step, 25) == [0.004] * 10 + [0.002] * 10 + [0.001] * 5
    assert learning_rates(step, 3) == [0.004, 0.002, 0.001]
    assert learning_rates(step, 500) == [0.004] * 200 + [0.002] * 200 + [0.001] * 100
    cosine = make({"kind": "cosine", "epochs": 9, "lr": 1.0, "final": 0.1})
    assert learning_rates(cosine, 3) == pytest.approx([1.0, 0.55, 0.1])
    fall = make({"kind": "exponential", "epochs": 9, "lr": 1.0, "final": 0.01})
    assert learning_rates(fall, 3) == pytest.approx([1.0, 0.1, 0.01])


def test_a_stretched_plateau_is_more_patient() -> None:
    phases = make({"kind": "plateau", "epochs": 30, "lr": 1.0, "patience": 2})
    for epochs, patience in ((15, 1), (5, 1), (30, 2), (60, 4)):
        rates = [learning_rate(phases, epochs, epoch, [0.5] * epoch) for epoch in range(epochs)]
        assert rates.count(1.0) == min(epochs, patience + 2), epochs


def test_a_stretched_cycle_keeps_whole_rounds_as_long_as_it_can() -> None:
    fives = make({"kind": "cycle", "epochs": 17, "lrs": [5.0, 4.0, 3.0, 2.0, 1.0]})
    round_ = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert learning_rates(fives, 15) == round_ * 3
    assert learning_rates(fives, 14) == [5, 4, 4, 3, 2, 2, 1] * 2
    assert learning_rates(fives, 10) == round_ * 2
    assert learning_rates(fives, 5) == round_
    assert learning_rates(fives, 30) == [value for value in round_ for _ in range(2)] * 3
    assert learning_rates(fives, 3) == [5, 3, 1]
    assert cycle_ends(fives, 30) == [9, 19, 29]
    assert cycle_ends(fives, 10) == [4, 9]
    twenties = make({"kind": "cycle", "epochs": 60, "lrs": [3.0, 2.0, 1.0], "lengths": [10, 5, 5]})
    assert learning_rates(twenties, 12) == [3, 3, 2, 1] * 3
    assert learning_rates(twenties, 9) == [3, 2, 1] * 3
    assert learning_rates(twenties, 6) == [3, 2, 1] * 2


def test_stretched_restarts_keep_whole_rounds_as_long_as_they_can() -> None:
    phases = make({"kind": "restarts", "epochs": 16, "lr": 1.0, "final": 0.1, "cycle": 2, "growth": 2})
    assert cycle_ends(phases, 16) == [1, 5, 15], "2, 4 and 8 epochs; two more begin a round of 16"
    halves = make({"kind": "restarts", "epochs": 26, "lr": 1.0, "final": 0.1, "cycle": 2, "growth": 1.5})
    assert cycle_ends(halves, 26) == [1, 4, 8, 15, 25], "2, 3, 4.5, 6.75 and 10.125 epochs, each rounded"
    assert cycle_ends(phases, 14) == [1, 5, 13]
    assert cycle_ends(phases, 28) == [3, 11, 27]
    assert cycle_ends(phases, 6) == [1, 3, 5]
    assert cycle_ends(phases, 4) == [1, 3]
    assert cycle_ends(phases, 1) == [0]
    assert learning_rates(phases, 4) == pytest.approx([1.0, 0.55] * 2)


RATES = st.floats(1e-7, 1)
KINDS: list[st.SearchStrategy[dict[str, Any]]] = [
    st.fixed_dictionaries({"kind": st.just("constant"), "lr": RATES}),
    st.fixed_dictionaries(
        {"kind": st.just("step"), "lr": RATES, "factor": st.floats(0.1, 0.9), "every": st.integers(1, 50)}
    ),
    st.fixed_dictionaries({"kind": st.sampled_from(["exponential", "cosine"]), "lr": RATES, "final": RATES}),
    st.fixed_dictionaries(
        {"kind": st.just("plateau"), "lr": RATES, "factor": st.floats(0.1, 0.9), "patience": st.integers(1, 9)}
    ),
    st.lists(st.tuples(RATES, st.integers(1, 6)), min_size=1, max_size=5).map(
        lambda pairs: {"kind": "cycle", "lrs": [p[0] for p in pairs], "lengths": [p[1] for p in pairs]}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("restarts"),
            "lr": RATES,
            "final": RATES,
            "cycle": st.integers(1, 40),
            "growth": st.floats(1, 1e6),
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("one_cycle"), "lr": RATES, "start": RATES, "final": RATES, "warmup": st.floats(0, 1)}
    ),
]
PHASES = st.lists(
    st.tuples(st.one_of(KINDS), st.integers(1, 40)).map(lambda pair: {**pair[0], "epochs": pair[1]}),
    min_size=1,
    max_size=4,
).map(lambda phases: make(*phases))


@settings(deadline=None)
@given(PHASES, st.integers(1, 90), st.data())
def test_any_phases_fill_any_length(phases: tuple[Phase, ...], epochs: int, data: st.DataObject) -> None:
    sizes = lengths(phases, epochs)
    assert sum(sizes) == epochs
    assert min(sizes) >= (epochs >= len(phases))
    dices = data.draw(st.lists(st.floats(0, 1), min_size=epochs, max_size=epochs))
    rates = [learning_rate(phases, epochs, epoch, dices[:epoch]) for epoch in range(epochs)]
    for epoch, value in enumerate(rates):
        index, start, length = locate(phases, epochs, epoch)
        assert start <= epoch < start + length == start + sizes[index]
        assert 0 < value <= max(_named(phases[index])) * (1 + 1e-9)
    assert learning_rates(phases, epochs) == [learning_rate(phases, epochs, i, range(i)) for i in range(epochs)]


@settings(deadline=None)
@given(PHASES, st.integers(1, 90))
def test_cycles_end_within_their_phase_and_one_with_it(phases: tuple[Phase, ...], epochs: int) -> None:
    ends = cycle_ends(phases, epochs)
    assert ends == sorted(set(ends))
    assert ends[-1] == epochs - 1
    for index, phase in enumerate(phases):
        inside = [end for end in ends if locate(phases, epochs, end)[0] == index]
        length = lengths(phases, epochs)[index]
        assert bool(inside) == bool(length)
        if length:
            assert inside[-1] == sum(lengths(phases, epochs)[: index + 1]) - 1
            assert len(inside) == 1 or phase.kind in ("cycle", "restarts")


@settings(deadline=None)
@given(PHASES)
def test_phases_that_add_up_are_as_they_are(phases: tuple[Phase, ...]) -> None:
    assert lengths(phases, sum(phase.epochs for phase in phases)) == [phase.epochs for phase in phases]
    alone = [value for phase in phases for value in as_listed((phase,))]
    assert as_listed(phases) == alone


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 90))
def test_no_rate_of_a_cycle_vanishes_while_there_is_an_epoch_for_each(
    parts: list[int], rounds: int, epochs: int
) -> None:
    rates = [float(i + 1) for i in range(len(parts))]
    phases = make({"kind": "cycle", "epochs": rounds * sum(parts), "lrs": rates, "lengths": parts})
    actual = learning_rates(phases, epochs)
    starts = [0, *(end + 1 for end in cycle_ends(phases, epochs))]
    assert len(starts) - 1 == max(1, min(rounds, epochs // len(parts)))
    for start, stop in pairwise(starts):
        assert actual[start:stop] == sorted(actual[start:stop])
        assert epochs < len(parts) or set(actual[start:stop]) == set(rates)


def _named(phase: Phase) -> list[float]:
    """Every rate that a phase names."""
    values = phase.model_dump()
    return [*values.get("lrs", ()), *(values[key] for key in ("lr", "start", "final") if key in values)]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"kind": "cycle", "epochs": 4, "lrs": [1, 2], "lengths": [3]}, "2 learning rates but 1 length;"),
        ({"kind": "restarts", "epochs": 4, "lr": 1, "final": 1, "cycle": 1, "growth": "inf"}, "finite"),
        ({"kind": "step", "epochs": 4, "lr": 1, "factor": 1, "every": 1}, "less than 1"),
        ({"kind": "constant", "epochs": 4, "lr": 0}, "greater than 0"),
    ],
)
def test_phases_that_cannot_be_are_refused(phase: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(phase)
