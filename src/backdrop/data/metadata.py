"""What is known of the objects and the dataset: its `metadata.csv` and its license."""

from collections.abc import Sequence
from pathlib import Path

from backdrop.common import storage, text
from backdrop.common.errors import DataError, StorageError, shorten
from backdrop.data.listing import normalized, printable

METADATA = "metadata.csv"
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
NAMES = ("id", "object")  # the first column, as Kaggle calls it or as we do
EMPTY = '",;\t\n '  # what may be above its name
REMEDY = "Correct it, or gate.slices of the ensemble"


def read_metadata(root: Path, columns: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Each object's values in some columns of `metadata.csv`, without those that are empty.

    Args:
        root: the dataset's folder.
        columns: which; without any, the file isn't needed. None for all that there are, if there is a file.

    Raises:
        DataError: if the file or a column is missing, or it is damaged or lists an object twice.
    """
    path = root / METADATA
    file = printable(path)
    if not (path.is_file() if columns is None else columns):
        return {}
    if columns and not path.is_file():
        raise DataError(f"{file} is missing, but gate.slices names {columns[0]}", "Add it, or leave that slice out")
    try:
        header, rows = _read(text.decode(storage.read_bytes(path)))
    except ValueError as error:
        raise DataError(f"{file} is damaged ({shorten(error)})", REMEDY) from error
    columns = header[1:] if columns is None else columns
    for name in columns:
        if normalized(name) not in header:
            raise DataError(f"{file} has no column {name}", f"Let gate.slices name one of {', '.join(header[1:])}")
    found: dict[str, dict[str, str]] = {}
    for line, row in rows:
        key = normalized(row[0].strip())
        if key in found:
            raise DataError(f"{file} lists object {key} twice (line {line})", "Remove one of the lines")
        values = dict(zip(header, (value.strip() for value in row), strict=True))
        found[key] = {name: values[normalized(name)] for name in columns if values[normalized(name)]}
    return found


def find_metadata(root: Path) -> tuple[dict[str, dict[str, str]], str]:
    """What `metadata.csv` says of objects, where nothing depends on it, and why it can't be used, if it can't."""
    try:
        return read_metadata(root, None), ""
    except (DataError, StorageError) as error:
        return {}, error.what


def read_license(data: str) -> str:
    """The first line of the dataset's file `LICENSE`, `LICENSE.txt` or `LICENSE.md`; empty without one.

    Args:
        data: the dataset, a folder or `s3://` prefix.

    Raises:
        StorageError: if it can't be read.
    """
    for name in LICENSES:
        if storage.exists(address := storage.within(data, name)):
            words = storage.read_bytes(address).decode(errors="replace").split("\n")
            return next((line.strip(" #\r") for line in words if line.strip(" #\r")), "")
    return ""


def _read(table: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    first = next((name for name in NAMES if table.lstrip(EMPTY).startswith(name)), NAMES[0])
    header, rows = text.read_table(table, [first], more=True)
    return [normalized(name.strip()) for name in header], rows
