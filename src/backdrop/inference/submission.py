"""Kaggle's submission file for the Carvana challenge: `img,rle_mask` rows, gzipped."""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from backdrop.common import storage, text
from backdrop.common.errors import DataError
from backdrop.common.words import count
from backdrop.data.listing import normalized

HEADER = ["img", "rle_mask"]
LEVEL = 6  # of compression: 9 takes far longer for the same size
SHOWN = 3  # names that an error lists


@contextmanager
def pack(path: Path) -> Iterator[io.TextIOWrapper]:
    """Opens a new gzipped text file. Equal lines give equal bytes: the gzip header has neither time nor name."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text_file,
    ):
        yield text_file


@contextmanager
def open_submission(path: Path) -> Iterator[Callable[[str, str], object]]:
    """Opens a new submission; yields a function that writes a row: an image's name and its run-length encoded mask."""
    with pack(path) as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(HEADER)
        yield lambda image, rle: rows.writerow([image, rle])


def read_rows(address: str) -> list[tuple[str, str]]:
    """The images and run lengths of a submission: a CSV file, plain, gzipped, or zipped as Kaggle's download is.

    Raises:
        StorageError: if it can't be read.
        DataError: if it isn't a submission.
    """
    invalid = DataError(f"{address} is not a submission of img,rle_mask rows", "Use Kaggle's sample_submission.csv")
    try:
        _, rows = text.read_table(text.decode(_unpack(storage.read_bytes(address))), HEADER)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, ValueError, LookupError, RuntimeError) as error:
        raise invalid from error
    return [(image, rle) for _, (image, rle) in rows]


def check_names(images: Collection[str], sample: str) -> dict[str, str]:
    """Verifies that a sample submission names exactly these images.

    Returns:
        Each image's name as the sample writes it: accents may be composed in one and decomposed in the other.

    Raises:
        StorageError: if the sample can't be read.
        DataError: if it isn't a submission, or names other images.
    """
    actual = {normalized(image): image for image in images}
    expected = {normalized(image): image for image, _ in read_rows(sample)}
    if missing := {expected[name] for name in expected.keys() - actual.keys()}:
        what = f"{sample} names {count(len(missing), 'image')} that you don't have: {_first(missing)}"
        raise DataError(what, "Copy all photographs of the test set into one folder, and use that folder")
    if surplus := {actual[name] for name in actual.keys() - expected.keys()}:
        what = f"{sample} doesn't name {len(surplus)} of the images: {_first(surplus)}"
        raise DataError(what, "Remove them, or use the sample submission of these images")
    return {image: expected[name] for name, image in actual.items()}


def _first(names: set[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (" …" if len(names) > SHOWN else "")


def _unpack(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # it may be empty, or have a password
            return archive.read(archive.namelist()[0])
    return data
