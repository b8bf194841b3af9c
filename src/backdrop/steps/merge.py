"""`merge`: one output from the shares that several `predict` made, and from what was merged there before."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from backdrop.common import storage, text
from backdrop.common.errors import ConfigError, DataError, MemberError, shorten
from backdrop.common.lock import hold
from backdrop.common.outputs import Claim, Files, inspect, is_output
from backdrop.common.places import checked_address
from backdrop.common.progress import progress, working
from backdrop.config.records import Record, parse
from backdrop.inference.compose import SUFFIXES
from backdrop.inference.submission import open_submission, read_rows
from backdrop.steps import predict

STEP = "merge"
RECORD, PHOTOGRAPHS = predict.MERGED
REMEDY = "Remove its folder, and run the command again"
HEAD = ["image", "version", "model", "failure"]


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
        found = [_read(part) for part in parts]
        first = _check(found)
        style, chosen = first.shard.style, first.record.format
        earlier = {} if chosen == "submission" else read_photographs(out, style)
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
        failed = [[name, row.failure] for name, row in sorted(rows.items()) if row.failure]
        tables = (
            _tables(found, chosen, out if earlier else None, again)
            | _dices(found, out if earlier else None, again)
            | ({predict.FAILED: text.dump_table(predict.FAILED_HEAD, failed)} if failed else {})
            | {
                PHOTOGRAPHS: text.dump_table(HEAD, ([name, *vars(row).values()] for name, row in sorted(rows.items()))),
                RECORD: (record.model_dump_json(indent=1) + "\n").encode(),
            }
        )
        claim = Claim(out, STEP, RECORD, tables)
        if earlier:
            gone = [predict.stem(name) for name, row in new.items() if row.failure]
            claim.remove([f"{stem}{suffix}" for stem in gone for suffix in SUFFIXES.values()])
        else:
            claim.clear()
        _write(claim, found, tables)
    return record


def _write(claim: Claim, parts: Sequence[Part], tables: Mapping[str, bytes]) -> None:
    """Writes the shares' files and the tables."""
    with progress("merging shares", len(parts)) as advance:
        for part in parts:
            claim.add(part.folder, {name: part.files[name] for name in part.files.keys() - {*predict.OWN}})
            advance()
    claim.remove({*predict.OWN} - tables.keys())
    claim.write(tables)
    claim.seal()


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
        raise DataError(f"{address} is damaged ({shorten(error)})", REMEDY) from error
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


def _tables(parts: Sequence[Part], chosen: predict.Format, out: str | None, again: Collection[str]) -> dict[str, bytes]:
    """The table of a format that has one, its rows in the order in which one run would write them.

    Those at `out` come first, without the photographs that come `again`, which may have failed now.
    """
    if chosen == "submission":
        rows = sorted(row for part in parts for row in read_rows(str(part.folder / predict.SUBMISSION)))
        with TemporaryDirectory() as folder:
            with open_submission(Path(folder, predict.SUBMISSION)) as write:
                for image, rle in rows:
                    write(image, rle)
            return {predict.SUBMISSION: Path(folder, predict.SUBMISSION).read_bytes()}
    if chosen == "rle":
        head = predict.RUNS_HEAD
        runs = [row for row in _present(out, predict.RUNS, head) if row[0] not in again]
        runs += (row for part in parts for row in _rows(part.folder / predict.RUNS, head))
        ordered = sorted(runs, key=lambda row: f"{row[0]}.")
        return {predict.RUNS: text.dump_table(head, ordered)}
    return {}


def _dices(parts: Sequence[Part], out: str | None, again: Collection[str]) -> dict[str, bytes]:
    """The table of predicted Dice, if there is one; as in `_tables`."""
    head = predict.DICES_HEAD
    rows = [row for row in _present(out, predict.DICES, head) if predict.stem(row[0]) not in again]
    rows += (row for part in parts for row in _present(part.folder, predict.DICES, head))
    return {predict.DICES: text.dump_table(head, predict.sort_dices(rows))} if rows else {}


def _present(folder: str | Path | None, name: str, head: Sequence[str]) -> list[list[str]]:
    """The rows of a table in a folder or below a prefix; none without one."""
    return _rows(f"{folder}/{name}", head) if folder and storage.exists(f"{folder}/{name}") else []


def _rows(address: str | Path, head: Sequence[str]) -> list[list[str]]:
    """The rows of a table that we wrote, without its head."""
    try:
        return [row for _, row in text.read_table(text.decode(storage.read_bytes(address)), head)[1]]
    except ValueError as error:
        raise DataError(f"{address} is damaged ({error})", REMEDY) from error
