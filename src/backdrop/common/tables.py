"""Puts the rows of large CSV tables together on disk: a row's place is kept in memory, but not its values."""

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from backdrop.common.text import dump_table


class RowPlace(NamedTuple):
    """Where a row is: its place in the order of all, its table, and its first byte and the one after its last."""

    order: Any
    table: Path
    start: int
    end: int


def find_rows(table: Path, columns: Sequence[str], order: Callable[[list[str]], Any]) -> Iterator[RowPlace]:
    """The places of a table's rows.

    Args:
        table: as `text.dump_table` writes it.
        columns: its header.
        order: what a row is sorted by; None leaves it out.

    Raises:
        ValueError: if the columns are others, or a row isn't as long as the header.
        OSError: if it can't be read.
    """
    with table.open("rb") as file:
        rows = csv.reader((line.decode() for line in file), strict=True)  # takes no line before it needs it
        try:
            if next(rows, None) != list(columns):
                raise ValueError(f"its columns are not {','.join(columns)}")
            start = file.tell()
            for row in rows:
                end = file.tell()
                if len(row) != len(columns):
                    raise ValueError(f"line {rows.line_num} has {len(row)} columns, not {len(columns)}")
                if (key := order(row)) is not None:
                    yield RowPlace(key, table, start, end)
                start = end
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num}: {error}") from error


def copy_rows(rows: Iterable[RowPlace], columns: Sequence[str], write: Callable[[bytes], object]) -> None:
    """Writes rows as one table, with its header.

    Raises:
        OSError: if one can't be read or written.
    """
    write(dump_table(columns, []))
    with contextlib.ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for row in rows:
            if row.table not in files:
                files[row.table] = stack.enter_context(row.table.open("rb"))
            files[row.table].seek(row.start)
            write(files[row.table].read(row.end - row.start))
