"""`merge`: one output from the shares that several `predict` made, and from what was merged there before."""

import gzip
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backdrop.common import storage, text
from backdrop.common.errors import ConfigError, DataError, MemberError, shorten
from backdrop.common.lock import hold
from backdrop.common.outputs import Claim, Files, entries, inspect, is_output
from backdrop.common.places import checked_address
from backdrop.common.progress import progress, working
from backdrop.common.tables import RowPlace, copy_rows, find_rows
from backdrop.config.records import Record, parse
from backdrop.inference.compose import SUFFIXES
from backdrop.inference.submission import HEADER, pack
from backdrop.steps import predict

STEP = "merge"
RECORD, PHOTOGRAPHS = predict.MERGED
NEXT = "merging"  # the folder where all tables and the record are complete before they take their places
REMEDY = "Remove its folder, and run the command again"
HEAD = ["image", "version", "model", "failure"]

Order = Callable[[list[str]], Any]


class MergeRecord(Record):
    """`merge.json`: the format and style of all results, and the numbers of all photographs, new and failed ones.

    `photographs.csv` beside it has a row for each photograph: its version (of the file, if a pipeline merged), the
    digest of the ensemble that predicted it, and why it failed, if it did.
    """

    format: predict.Format
    style: str
    images: int
    new: int
    failed: int


@dataclass(frozen=True)
class Row:
    """A photograph in `photographs.csv`."""

    version: str
    model: str
    failure: str


@dataclass(frozen=True)
class Part:
    """A share's finished output: its folder, here, its record and its files."""

    address: str
    folder: Path
    record: predict.PredictRecord
    shard: predict.ShardRecord
    files: Files

    def rows(self, versions: Mapping[str, str]) -> dict[str, Row]:
        """Its photographs' rows, by name."""
        path = self.folder / predict.FAILED
        failures = {row[0]: row[1] for row in _rows(path, predict.FAILED_HEAD)} if path.is_file() else {}
        return {
            name: Row(versions.get(name, ""), self.record.model, failures.get(name, "")) for name in self.shard.names
        }


@working("merging")
def merge(parts: Sequence[str], out: str, versions: Mapping[str, str] | None = None) -> MergeRecord:
    """Puts the results of all shares together, and with those of earlier merges.

    A submission is written as a whole; other results are added to what is at `out`.

    Args:
        parts: addresses of the outputs of `predict --shard`, all of one run.
        out: the folder or `s3://` prefix to write.
        versions: of the photographs' files, by name, so that a later run knows which are new.

    Raises:
        ConfigError: if `out` is one of the shares.
        DataError: if a share is missing, is there twice, or is of another run.
        MemberError: if the shares were made by different models.
        StorageError: if something can't be read, something else is at `out`, or it can't be written.
    """
    out = checked_address(out)
    if storage.absolute(out).rstrip("/") in {storage.absolute(part).rstrip("/") for part in parts}:
        raise ConfigError(f"{out} is one of the shares", "Use another --out")
    with hold(out, STEP):
        if _is_unfinished(out):
            _finish(out)
        found = [_read(part) for part in parts]
        first = _check(found)
        style, chosen = first.shard.style, first.record.format
        earlier = {} if chosen == "submission" else read_photographs(out, style)
        before = storage.local_folder(out, {predict.RUNS, predict.DICES}) if earlier else None
        new: dict[str, Row] = {}
        for part in found:
            new |= part.rows(versions or {})
        again = set(map(predict.stem, new))
        rows = {name: row for name, row in earlier.items() if predict.stem(name) not in again} | new
        record = MergeRecord(
            format=chosen,
            style=style,
            images=len(rows),
            new=len(new),
            failed=sum(bool(row.failure) for row in rows.values()),
        )
        with TemporaryDirectory() as scratch:
            folder = Path(scratch, NEXT)
            folder.mkdir()
            _write_tables(folder, found, chosen, before, again)
            _write_rows(folder, rows)
            (folder / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
            tables = entries(folder)
            claim = Claim(out, STEP, RECORD, tables)
            if earlier:
                gone = [predict.stem(name) for name, row in new.items() if row.failure]
                claim.remove([f"{stem}{suffix}" for stem in gone for suffix in SUFFIXES.values()])
            else:
                claim.clear()
            _write(claim, found, folder, tables)
    return record


def _write(claim: Claim, parts: Sequence[Part], folder: Path, tables: Files) -> None:
    """Writes the shares' files and the tables; a merge that is killed meanwhile is finished by the next."""
    with progress("merging shares", len(parts)) as advance:
        for part in parts:
            claim.add(part.folder, {name: part.files[name] for name in part.files.keys() - {*predict.OWN}})
            advance()
    claim.add(folder.parent, {f"{NEXT}/{name}": entry for name, entry in tables.items() if name != RECORD})
    claim.add(folder.parent, {f"{NEXT}/{RECORD}": tables[RECORD]})
    _put_in_place(claim, folder, tables)


def _put_in_place(claim: Claim, folder: Path, tables: Files) -> None:
    """Replaces the earlier tables by those of a folder, which are also in `NEXT`, and ends the merge."""
    claim.remove({*predict.OWN} - tables.keys() | {RECORD})
    claim.add(folder, {name: entry for name, entry in tables.items() if name != RECORD})
    claim.add(folder, {RECORD: tables[RECORD]})
    claim.remove({f"{NEXT}/{RECORD}"})  # first: with it, the tables that are left would be taken for all
    claim.remove({f"{NEXT}/{name}" for name in (*predict.OWN, PHOTOGRAPHS)})
    claim.seal()


def _is_unfinished(out: str) -> bool:
    """Whether a merge was killed when its tables were complete, but not all in their places."""
    return is_output(out) and storage.exists(storage.within(out, f"{NEXT}/{RECORD}"))


def _finish(out: str) -> None:
    """Ends the merge that was killed."""
    names = [f"{NEXT}/{name}" for name in (*predict.OWN, PHOTOGRAPHS, RECORD)]
    folder = storage.local_folder(out, names) / NEXT
    _put_in_place(Claim(out, STEP, RECORD), folder, entries(folder))


def find_photographs(out: str, style: str) -> dict[str, Row]:
    """The photographs whose results of that style are at `out`, by name, after a merge that was killed is finished.

    Raises:
        DataError: as `read_photographs`.
        StorageError: if they can't be read, or the merge can't be finished.
    """
    if _is_unfinished(out):
        with hold(out, STEP):
            _finish(out)
    return read_photographs(out, style)


def read_photographs(out: str, style: str) -> dict[str, Row]:
    """The photographs whose results of that style are at `out`, by name; none if nothing was merged there.

    Raises:
        DataError: if their record or table is damaged.
        StorageError: if they can't be read.
    """
    address = storage.within(out, RECORD)
    if not is_output(out) or not storage.exists(address):
        return {}
    try:
        record = parse(MergeRecord, text.parse_json(storage.read_bytes(address)), address)
    except (ValueError, ConfigError) as error:
        raise _damaged(address, error) from error
    if record.style != style:
        return {}
    rows = _rows(storage.within(out, PHOTOGRAPHS), HEAD)
    return {name: Row(version, model, failure) for name, version, model, failure in rows}


def _read(address: str) -> Part:
    folder = storage.local_folder(address)
    record = predict.find_record(address)
    inventory = inspect(address, predict.STEP) if record else None
    if inventory is None or record is None:
        raise DataError(f"{address} has no {predict.RECORD}", "Run its `backdrop predict --shard` again")
    if record.shard is None:
        raise DataError(f"{address} is not a share", "Make it with `backdrop predict --shard`")
    return Part(address, folder, record, record.shard, inventory.files)


def _check(parts: Sequence[Part]) -> Part:
    """The first share, if all belong together and none is missing."""
    if not parts:
        raise DataError("There are no shares to merge", "Name the outputs of `backdrop predict --shard`")
    first = parts[0]
    seen: dict[int, Part] = {}
    for part in parts:
        number, count = part.shard.number, part.shard.count
        if (count, part.shard.listing, part.shard.style) != (first.shard.count, first.shard.listing, first.shard.style):
            what = f"{part.address} and {first.address} are shares of different runs"
            raise DataError(what, "Predict all shares of the same photographs with the same options")
        if part.record.model != first.record.model:
            what = f"{part.address} and {first.address} were made by different models"
            raise MemberError(what, "Predict all shares with the same version, such as models:/NAME/7")
        if seen.setdefault(number, part) is not part:
            raise DataError(f"{part.address} and {seen[number].address} are both share {number}", "Leave one out")
    missing = [f"{number}/{first.shard.count}" for number in range(1, first.shard.count + 1) if number not in seen]
    if missing:
        raise DataError(f"Share {', '.join(missing)} is missing", "Run its `backdrop predict --shard`, and merge again")
    return first


def _write_tables(
    folder: Path, parts: Sequence[Part], chosen: predict.Format, earlier: Path | None, again: Collection[str]
) -> None:
    """Writes the tables of the shares into a folder, rows in the order in which one run would write them.

    Those of an `earlier` merge are among them, without the photographs that come `again`, which may have failed now.
    """

    def merged(name: str, head: Sequence[str], order: Order, stem: Callable[[str], str]) -> list[RowPlace]:
        def of_earlier(row: list[str]) -> Any:
            return None if stem(row[0]) in again else order(row)

        tables = [(part.folder / name, order) for part in parts] + ([(earlier / name, of_earlier)] if earlier else [])
        return sorted(row for path, key in tables if path.is_file() for row in _places(path, head, key))

    if chosen == "submission":
        _write_submission(folder, parts)
    if chosen == "rle":
        runs = merged(predict.RUNS, predict.RUNS_HEAD, lambda row: f"{row[0]}.", str)
        _write_table(folder / predict.RUNS, predict.RUNS_HEAD, runs)
    if dices := merged(predict.DICES, predict.DICES_HEAD, predict.doubt, predict.stem):
        _write_table(folder / predict.DICES, predict.DICES_HEAD, dices)


def _write_submission(folder: Path, parts: Sequence[Part]) -> None:
    with TemporaryDirectory() as scratch:
        rows: list[RowPlace] = []
        for number, part in enumerate(parts):
            plain = Path(scratch, str(number))
            with gzip.open(part.folder / predict.SUBMISSION) as packed, plain.open("wb") as file:
                shutil.copyfileobj(packed, file)
            rows += _places(plain, HEADER, lambda row: row[0])
        with pack(folder / predict.SUBMISSION) as target:
            copy_rows(sorted(rows), HEADER, lambda row: target.write(row.decode()))


def _write_table(path: Path, head: Sequence[str], rows: Sequence[RowPlace]) -> None:
    with path.open("wb") as file:
        copy_rows(rows, head, file.write)


def _write_rows(folder: Path, rows: Mapping[str, Row]) -> None:
    """Writes the table of all photographs, and that of those that failed, if any did."""
    ordered = sorted(rows.items())
    (folder / PHOTOGRAPHS).write_bytes(text.dump_table(HEAD, ([name, *vars(row).values()] for name, row in ordered)))
    failed = [[name, row.failure] for name, row in ordered if row.failure]
    if failed:
        (folder / predict.FAILED).write_bytes(text.dump_table(predict.FAILED_HEAD, failed))


def _places(path: Path, head: Sequence[str], order: Order) -> Iterator[RowPlace]:
    try:
        yield from find_rows(path, head, order)
    except ValueError as error:
        raise _damaged(path, error) from error


def _rows(address: str | Path, head: Sequence[str]) -> list[list[str]]:
    """The rows of a table that we wrote, without its head."""
    try:
        return [row for _, row in text.read_table(text.decode(storage.read_bytes(address)), head)[1]]
    except ValueError as error:
        raise _damaged(address, error) from error


def _damaged(address: str | Path, error: Exception) -> DataError:
    return DataError(f"{address} is damaged ({shorten(error)})", REMEDY)
