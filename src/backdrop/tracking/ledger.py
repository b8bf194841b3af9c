"""A registered model's history as a chain of entries, and the state that follows from it.

Each entry holds the sha256 of the entry before it. The tracking server numbers the entries; of several that follow the
same entry, the one with the lowest number counts, and the others are void. So of any number of writers exactly one
wins, without a lock, and a changed or missing entry is found.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import Field, ValidationError

from backdrop.common.errors import TrackingError
from backdrop.common.storage import sha256
from backdrop.config.records import Record
from backdrop.evaluation.gate import Verdict

Event = Literal["registered", "promoted", "rejected", "rolled back", "held", "released"]
Outcome = Literal["registered", "promoted", "rejected", "replaced", "rolled back"]
BEGINNING = ""  # the digest before the first entry


class Entry(Record):
    """Something that happened to a registered model.

    Attributes:
        event: what happened; it is a decision about the champion unless it is `registered`.
        version: the version that it is about.
        champion: the champion before it; None if there was none.
        reason: given by a person, or by the gate in a few words.
        evaluation: the id of the run with the version's scores.
        holdout: names the holdout of a comparison. A holdout that grows keeps its name.
        digests: sha256 of what it rests on, such as `ensemble`, `data` and `scores`. `files`, of a `registered` entry,
            is that of the list of the version's files.
        verdict: the gate's, with the slices of the largest loss, at most 100; None if a person decided.
        actor: the person or machine that wrote it.
        time: when, in ISO 8601 with the offset from UTC, by the writer's clock.
        token: a random word that its writer recognizes it by.
        previous: the digest of the entry before.
    """

    event: Event
    version: int
    champion: int | None = None
    reason: str = ""
    evaluation: str = ""
    holdout: str = ""
    digests: dict[str, str] = Field(default_factory=dict)
    verdict: Verdict | None = None
    actor: str = ""
    time: str = ""
    token: str = ""
    previous: str = BEGINNING


@dataclass(frozen=True)
class Line:
    """An entry as the server has it: its number, its text (None if it has none), and the digest stored beside it."""

    number: int
    text: str | None
    digest: str | None


@dataclass(frozen=True)
class Link:
    """A valid entry with its digest."""

    digest: str
    entry: Entry


@dataclass(frozen=True)
class State:
    """What holds after the entries of a chain.

    Attributes:
        champion: the version in use; None if there is none yet.
        changes: the entries that changed the champion, in order.
        nomination: the last `registered` entry, which the gate judges next; None if there is none.
        hold: the entry since which only people change the champion; None if it isn't held.
        registered: the last `registered` entry of each version.
        outcomes: what became of each version: the champion's is `promoted`, and that of one that nobody has judged yet
            `registered`.
        decided: the entry that each version's outcome follows from.
        judged: the entries with a verdict, in order; those of a model that was deleted with version 0.
    """

    champion: int | None = None
    changes: tuple[Entry, ...] = ()
    nomination: Entry | None = None
    hold: Entry | None = None
    registered: Mapping[int, Entry] = field(default_factory=dict)
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    decided: Mapping[int, Entry] = field(default_factory=dict)
    judged: tuple[Entry, ...] = ()

    @property
    def challenger(self) -> int | None:
        """The nominated version, unless it is the champion."""
        nominated = self.nomination.version if self.nomination else None
        return None if nominated == self.champion else nominated

    @property
    def previous(self) -> int | None:
        """The champion before the present one."""
        return self.changes[-1].champion if self.changes else None

    def champion_at(self, when: datetime) -> int | None:
        """The champion at a time; None if there was none.

        Raises:
            TrackingError: if the writers' clocks differed, so that a change before that time follows one after it.
        """
        made = [datetime.fromisoformat(entry.time) <= when for entry in self.changes]
        if made != sorted(made, reverse=True):
            what = f"Who was champion at {when:%Y-%m-%d %H:%M} can't be told: the writers' clocks differed"
            raise TrackingError(what, "Choose a version from `backdrop history`")
        return self.changes[sum(made) - 1].version if any(made) else None

    def decision(self, version: int, evaluation: str, champion: int | None) -> Entry | None:
        """The gate's last decision about a version, on this evaluation, against this champion; None if none."""
        asked = (version, evaluation, champion)
        made = [entry for entry in self.judged if (entry.version, entry.evaluation, entry.champion) == asked]
        return made[-1] if made else None

    def looks(self, holdout: str) -> int:
        """How often two models were compared on a holdout; the same comparison counts once."""
        compared = [entry for entry in self.judged if entry.verdict and entry.verdict.look]
        return len({(e.version, e.evaluation, e.champion) for e in compared if e.holdout == holdout})

    def after(self, entry: Entry) -> "State":
        """The state after one more entry.

        If it registers another ensemble under a number that was given before, the model was deleted, and MLflow counts
        its versions from 1 again: nothing holds that was said of them, except the comparisons on a holdout.
        """
        known = self.registered.get(entry.version) if entry.event == "registered" else None
        if known and known.digests.get("ensemble") != entry.digests.get("ensemble"):
            judged = tuple(one.model_copy(update={"version": 0}) for one in self.judged)
            return State(judged=judged).after(entry)
        changed = dict(self.__dict__)
        if entry.event == "registered":
            changed["nomination"] = entry
            changed["registered"] = {**self.registered, entry.version: entry}
        if entry.event in ("promoted", "rolled back"):
            changed["champion"] = entry.version
            changed["changes"] = (*self.changes, entry)
        if entry.event in ("rolled back", "held"):
            changed["hold"] = entry
        if entry.event == "released":
            changed["hold"] = None
        if entry.verdict:
            changed["judged"] = (*self.judged, entry)
        outcomes = self._outcomes(entry)
        changed["outcomes"] = {**self.outcomes, **outcomes}
        changed["decided"] = {**self.decided, **dict.fromkeys(outcomes, entry)}
        return State(**changed)

    def _outcomes(self, entry: Entry) -> dict[int, Outcome]:
        """The outcomes that an entry changes."""
        if entry.event == "registered" and entry.version not in self.outcomes:
            return {entry.version: "registered"}
        if entry.event == "rejected":
            return {entry.version: "rejected"}
        if entry.event not in ("promoted", "rolled back"):
            return {}
        gone: Outcome = "replaced" if entry.event == "promoted" else "rolled back"
        return {**({entry.champion: gone} if entry.champion else {}), entry.version: "promoted"}


@dataclass(frozen=True)
class Chain:
    """A model's valid entries, and what is wrong with the chain."""

    links: tuple[Link, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The digest that the next entry must hold."""
        return self.links[-1].digest if self.links else BEGINNING

    @property
    def state(self) -> State:
        """What holds after all valid entries."""
        state = State()
        for link in self.links:
            state = state.after(link.entry)
        return state

    def upto(self, tokens: Iterable[str]) -> "Chain | None":
        """The chain as far as the valid entry with one of these tokens; None if there is none."""
        wanted = set(tokens)
        ends = (number for number, link in enumerate(self.links, start=1) if link.entry.token in wanted)
        end = next(ends, None)
        return Chain(self.links[:end]) if end else None


def chain(lines: Iterable[Line], anchor: str = BEGINNING) -> Chain:
    """Follows a model's entries from the first one.

    Args:
        lines: the entries.
        anchor: the digest of an entry that must be among them, kept elsewhere; by default none.

    Returns:
        The chain. An entry whose predecessor isn't the last valid one is void; one whose predecessor never existed
        shows that an entry was changed or deleted, as does a digest that doesn't match.
    """
    links: list[Link] = []
    faults: list[str] = []
    digests = {BEGINNING}
    expected = 1
    for line in sorted(lines, key=lambda line: line.number):
        if line.number != expected:
            faults.append(f"entry {expected} was deleted")
        expected = line.number + 1
        entry = _parse(line)
        if entry is None:
            faults.append(f"entry {line.number} was changed")
        elif entry.previous == (links[-1].digest if links else BEGINNING):
            links.append(Link(str(line.digest), entry))
            digests.add(str(line.digest))
        elif entry.previous not in digests:  # else it is void
            faults.append(f"entry {line.number} follows an entry that isn't there")
    if anchor not in digests:
        faults.append("the last entries were deleted or changed")
    return Chain(tuple(links), tuple(faults))


def _parse(line: Line) -> Entry | None:
    """The entry, if it is what its writer wrote."""
    if line.text is None or sha256(line.text.encode()) != line.digest:
        return None
    try:
        return Entry.model_validate_json(line.text)
    except ValidationError:
        return None
