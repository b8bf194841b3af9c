"""The chain of a model's history, and the state that follows from it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import TrackingError
from backdrop.common.storage import sha256
from backdrop.evaluation.gate import Verdict
from backdrop.tracking.ledger import Chain, Entry, Line, State, chain

START = datetime(2026, 1, 1, tzinfo=UTC)


def line(number: int, entry: Entry) -> Line:
    text = entry.model_dump_json()
    return Line(number, text, sha256(text.encode()))


def write(entries: list[Entry]) -> list[Line]:
    """The entries, each directly after the one before."""
    lines: list[Line] = []
    for number, entry in enumerate(entries, start=1):
        previous = lines[-1].digest or "" if lines else ""
        lines.append(line(number, entry.model_copy(update={"previous": previous})))
    return lines


def registered(version: int, run: str = "run") -> Entry:
    return Entry(event="registered", version=version, evaluation=run, digests={"ensemble": f"e{version}"})


def judged(version: int, champion: int | None, outcome: str, holdout: str = "h", run: str = "run") -> Entry:
    verdict = Verdict(outcome=outcome, reasons=(), objects=12, look=None if champion is None else 1)
    return Entry(
        event=outcome, version=version, champion=champion, evaluation=run, holdout=holdout, verdict=verdict, time="x"
    )


def rolled_back(version: int, champion: int) -> Entry:
    return Entry(event="rolled back", version=version, champion=champion, reason="halos")


def test_the_state_follows_from_the_entries() -> None:
    state = State()
    assert (state.champion, state.challenger, state.previous, state.hold) == (None, None, None, None)
    state = state.after(registered(1))
    assert (state.champion, state.challenger) == (None, 1)
    state = state.after(judged(1, None, "promoted"))
    assert (state.champion, state.challenger, state.previous) == (1, None, None)
    state = state.after(registered(2)).after(judged(2, 1, "rejected"))
    assert (state.champion, state.challenger) == (1, 2)
    assert state.decision(2, "run", 1) is not None
    assert state.decision(2, "another run", 1) is None
    state = state.after(registered(3)).after(judged(3, 1, "promoted"))
    assert (state.champion, state.previous, state.challenger) == (3, 1, None)
    state = state.after(rolled_back(1, 3))
    assert (state.champion, state.previous, state.challenger) == (1, 3, 3)
    assert state.hold is not None
    state = state.after(Entry(event="released", version=1, champion=1))
    assert state.hold is None
    assert {entry.digests["ensemble"]: version for version, entry in state.registered.items()} == {
        "e1": 1,
        "e2": 2,
        "e3": 3,
    }
    assert state.outcomes == {1: "promoted", 2: "rejected", 3: "rolled back"}


def test_a_look_is_a_comparison_and_counts_once() -> None:
    state = State()
    for entry in (
        judged(1, None, "promoted"),  # nothing to compare with
        judged(2, 1, "rejected"),
        judged(2, 1, "rejected"),  # the same again
        judged(2, 1, "rejected", run="on more photographs"),
        judged(3, 1, "promoted"),
        judged(4, 3, "rejected", holdout="another"),
    ):
        state = state.after(entry)
    assert (state.looks("h"), state.looks("another"), state.looks("new")) == (3, 1, 0)


def test_the_champion_at_a_time() -> None:
    state = State()
    for day, version in ((1, 1), (3, 2), (5, 1)):
        stamp = (START + timedelta(days=day)).isoformat()
        state = state.after(judged(version, state.champion, "promoted").model_copy(update={"time": stamp}))
    at = {day: state.champion_at(START + timedelta(days=day)) for day in range(7)}
    assert at == {0: None, 1: 1, 2: 1, 3: 2, 4: 2, 5: 1, 6: 1}
    late = (START + timedelta(days=2)).isoformat()  # by a clock that is days late
    state = state.after(judged(3, 1, "promoted").model_copy(update={"time": late}))
    for day in (2, 4):
        with pytest.raises(TrackingError, match=f"Who was champion at 2026-01-0{day + 1} 00:00 can't be told"):
            state.champion_at(START + timedelta(days=day))
    assert (state.champion_at(START + timedelta(days=1)), state.champion_at(START + timedelta(days=6))) == (1, 3)


ENTRIES = st.lists(st.integers(1, 9).map(registered), min_size=1, max_size=12)


@given(ENTRIES, st.data())
def test_whoever_comes_second_is_void(entries: list[Entry], data: st.DataObject) -> None:
    lines = write(entries)
    late = data.draw(st.integers(0, len(lines) - 1))
    loser = Entry(event="held", version=1, previous=lines[late - 1].digest or "" if late else "")
    place = data.draw(st.integers(late + 1, len(lines)))
    rows = [*lines[:place], loser, *lines[place:]]
    numbered = [
        line(number, row) if isinstance(row, Entry) else Line(number, row.text, row.digest)
        for number, row in enumerate(rows, start=1)
    ]
    chained = chain(numbered)
    assert [link.digest for link in chained.links] == [one.digest for one in numbered if one.number != place + 1]
    assert chained.faults == ()
    assert chained.state == chain(lines).state
    assert chained.head == chain(lines).head


@given(ENTRIES, st.data())
def test_every_changed_byte_is_found(entries: list[Entry], data: st.DataObject) -> None:
    lines = write(entries)
    which = data.draw(st.integers(0, len(lines) - 1))
    text = lines[which].text
    assert text is not None
    position = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != text[position]))
    changed = text[:position] + byte + text[position + 1 :]
    alone = [*lines[:which], Line(which + 1, changed, lines[which].digest), *lines[which + 1 :]]
    assert f"entry {which + 1} was changed" in chain(alone).faults
    # With a matching digest it is found by the entry after it, or by the anchor if it is the last.
    covered = [*lines[:which], Line(which + 1, changed, sha256(changed.encode())), *lines[which + 1 :]]
    assert chain(covered, anchor=lines[-1].digest or "").faults


@given(ENTRIES, st.data())
def test_every_missing_entry_is_found(entries: list[Entry], data: st.DataObject) -> None:
    lines = write(entries)
    gone = data.draw(st.integers(0, len(lines) - 1))
    assert chain([*lines[:gone], *lines[gone + 1 :]], anchor=lines[-1].digest or "").faults
    assert chain(lines, anchor=lines[gone].digest or "").faults == ()


def test_what_is_no_entry_is_found() -> None:
    lines = write([registered(1)])
    for text in (None, "", "{}", json.dumps({"event": "crowned", "version": 1})):
        stranger = Line(2, text, None if text is None else sha256(text.encode()))
        assert chain([*lines, stranger]).faults == ("entry 2 was changed",)
    assert chain([]) == Chain()


@pytest.mark.parametrize("tokens", [{"a"}, {"b", "c"}])
def test_a_writer_recognizes_its_entry(tokens: set[str]) -> None:
    lines = write([registered(1).model_copy(update={"token": "a"}), registered(2).model_copy(update={"token": "c"})])
    own = chain(lines).upto(tokens)
    assert own is not None
    assert own.links[-1].entry.token in tokens
    assert own.links == chain(lines).links[: len(own.links)]
    assert chain(lines).upto({"d"}) is None
