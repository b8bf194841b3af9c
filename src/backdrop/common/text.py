"""Reads text files, JSON and CSV tables as editors and spreadsheets save them, and writes tables.

What is read may start with a byte order mark, end lines as Windows does, and separate values with semicolons or tabs.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

SEPARATORS = (",", ";", "\t")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks

csv.field_size_limit(2**31 - 1)  # a large mask's run lengths have more than the 131,072 characters that Python takes


def decode(data: bytes) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 with a byte order mark; lines end in `\n`.

    Raises:
        ValueError: if it is neither.
    """
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it isn't UTF-8 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: if it isn't JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def may_begin(data: bytes, head: bytes) -> bool:
    """Whether a file begins with a head, or with a part of it because its writer was killed."""
    return data[: len(head)] == head[: len(data)]


def split_title(text: str) -> tuple[str, str]:
    """The title line above a table, without the separators and quotes that a spreadsheet adds, and the table."""
    title, _, table = text.partition("\n")
    return title.rstrip(" " + "".join(SEPARATORS)).strip('"'), table


def read_table(
    text: str, columns: Sequence[str], more: bool = False, line: int = 1
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV table, and its rows with their line numbers; empty rows are skipped.

    Args:
        text: the table.
        columns: the names that the header must have, in this order.
        more: whether other columns may follow.
        line: the header's line number in its file.

    Raises:
        ValueError: if the columns are others, or a row isn't as long as the header.
    """
    fault = ""
    for separator in SEPARATORS:
        rows = csv.reader(_lines(text), delimiter=separator, strict=True)
        matches = False
        try:
            header = _trimmed(next((row for row in rows if "".join(row).strip()), []))
            matches = header[: len(columns)] == list(columns) and (more or len(header) == len(columns))
            if matches:
                return header, [
                    (rows.line_num + line - 1, _fitted(row, header, rows.line_num + line - 1))
                    for row in rows
                    if any(row)
                ]
        except csv.Error as error:
            found = f"line {rows.line_num + line - 1}: {error}"
            if matches:
                raise ValueError(found) from error
            fault = fault or found  # a header in quotes is an error until its own separator is tried
    raise ValueError(fault or f"its columns are not {','.join(columns)}{',…' if more else ''}")


def dump_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """A CSV table in UTF-8, with its header; equal rows give equal bytes."""
    data = io.BytesIO()
    with io.TextIOWrapper(data, encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        table.flush()
        return data.getvalue()


def _lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends, one at a time: Python's own stream takes four bytes for each character."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _trimmed(row: list[str]) -> list[str]:
    """The row without empty values at its end, which a spreadsheet adds."""
    while row and not row[-1]:
        row = row[:-1]
    return row


def _fitted(row: list[str], header: list[str], line: int) -> list[str]:
    if len(row) < len(header) or any(row[len(header) :]):
        raise ValueError(f"line {line} has {len(row)} columns, not {len(header)}")
    return row[: len(header)]
