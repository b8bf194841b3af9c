"""The records of a search: a file per trial, replaced after each epoch. A killed search resumes from them.

Ray's own state consists of pickles, breaks if the driver dies while it is written, and lacks the scheduler's part.
These files hold everything that can't be derived again.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from backdrop.common import storage
from backdrop.common.errors import ConfigError, StorageError
from backdrop.common.places import REMEDY
from backdrop.common.progress import log
from backdrop.common.text import may_begin, parse_json
from backdrop.config import Recipe
from backdrop.config.records import Record, parse
from backdrop.training.lr_schedules import learning_rate
from backdrop.tuning.results import Status, Trial

RECORD = re.compile(r"\d{3,}-[^/]*\.json")


class Row(Record):
    """An epoch of a trial on one fold; `seconds` is its duration, `time_ms` when it ended (Unix time)."""

    fold: int
    epoch: int
    lr: float
    loss: float | None
    dice: float
    seconds: float
    time_ms: int


class Entry(Record):
    """A trial's record.

    `params` are the sampler's raw values, `values` the same as shown to users, `override` the keys that the trial sets
    in the recipe. `rows` are its epochs, one fold after another.
    """

    name: str
    family: str
    params: dict[str, int | float | str] = Field(default_factory=dict)
    values: dict[str, int | float | str] = Field(default_factory=dict)
    override: dict[str, Any]
    rows: tuple[Row, ...] = ()
    status: Status = "running"
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has finished or was stopped; a failed trial is tried again."""
        return self.status in ("finished", "stopped")


class TrialStore:
    """The trials of one phase of a search, in a folder or below an `s3://` prefix.

    Each record begins with the search's key. No inventory lists them: they change with every epoch, and a killed search
    must not lose one.
    """

    def __init__(self, address: str, search: str) -> None:
        self.address = address
        self._head = f'{{\n "search": "{search}",'.encode()

    def require(self) -> None:
        """Makes sure, before the search, that all records are of this search.

        Raises:
            StorageError: if one isn't, or S3 doesn't answer.
        """
        for name in self._names():
            self.read(name)

    def read(self, name: str) -> Entry | None:
        """The trial of that name; None if it hasn't started, or its file is damaged, which is logged and kept.

        Raises:
            StorageError: if it's another search's or somebody else's, or S3 doesn't answer.
        """
        path = self._path(name)
        if not storage.exists(path):
            return None
        data = storage.read_bytes(path)
        if not may_begin(data, self._head):
            raise StorageError(f"{path} isn't a record of this search", REMEDY)
        try:
            entry = parse(Entry, parse_json(b"{" + data.removeprefix(self._head)), path)
        except (ValueError, ConfigError):
            entry = None
        if entry is None or entry.name != name:  # it becomes a path
            log(f"{path} is damaged: the trial runs again. The file is kept as {storage.set_aside(path)}")
            return None
        return entry

    def find(self, index: int) -> Entry | None:
        """The trial of that number; None if it hasn't started."""
        name = next((name for name in self._names() if number(name) == index), None)
        return self.read(name) if name else None

    def write(self, entry: Entry) -> None:
        """Writes a trial's current state.

        Raises:
            StorageError: if it can't be written.
        """
        data = self._head + entry.model_dump_json(indent=1).encode().removeprefix(b"{")
        storage.write_bytes(self._path(entry.name), data)

    def folder(self, name: str) -> str:
        """The folder of a trial's checkpoints while it runs."""
        return f"{self.address}/{name}"

    def _names(self) -> list[str]:
        files = storage.list_files(self.address)
        return [name.removesuffix(".json") for name in files if RECORD.fullmatch(name)]

    def _path(self, name: str) -> str:
        return f"{self.address}/{name}.json"


def named(index: int, word: str) -> str:
    """A trial's name."""
    return f"{index:03}-{word}"


def number(name: str) -> int:
    """A trial's number, from its name."""
    return int(name.partition("-")[0])


def judged(rows: Sequence[Row]) -> float:
    """The best epoch's Dice so far, averaged over the folds that have started: the epoch that `train` would keep."""
    best: dict[int, float] = {}
    for row in rows:
        best[row.fold] = max(row.dice, best.get(row.fold, 0.0))
    return sum(best.values()) / len(best)


def as_row(fold: int, row: Mapping[str, Any]) -> Row:
    """A row of training's history."""
    dice = row["dice"]
    values = {name: row[name] for name in ("epoch", "lr", "loss", "seconds", "time_ms")}
    return Row(fold=fold, dice=dice if dice == dice else 0.0, **values)


def as_trial(entry: Entry, recipe: Recipe) -> Trial:
    """The trial as reports show it; `recipe` is the one it trained."""
    rows, first = entry.rows, [row.dice for row in entry.rows if row.fold == entry.rows[0].fold]
    return Trial(
        name=entry.name,
        family=entry.family,
        values=entry.values,
        lrs=tuple(learning_rate(recipe.schedule, recipe.epochs, e, _extended(first, e)) for e in range(recipe.epochs)),
        dices=tuple(row.dice for row in rows),
        dice=judged(rows) if rows else None,
        seconds=round(sum(row.seconds for row in rows), 1),
        status=entry.status,
        error=entry.error,
    )


def _extended(dices: Sequence[float], count: int) -> Sequence[float]:
    """The Dice of `count` epochs: the known ones, then made-up ones that rise with each epoch."""
    return [*dices, *range(1, 1 + count)][:count]
