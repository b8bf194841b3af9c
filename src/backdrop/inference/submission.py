"""Kaggle's submission file of the Carvana challenge: `img,rle_mask` rows, gzipped."""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from backdrop.common import storage
from backdrop.common.errors import DataError
from backdrop.common.words import count

HEADER = ["img", "rle_mask"]
LEVEL = 6  # of compression: 9 takes far longer for the same size
SHOWN = 3  # names that an error repeats


@contextmanager
def open_submission(path: Path) -> Iterator[Callable[[str, str], object]]:
    """Opens a new submission; yields what writes a row: an image's file name, and its mask run-length encoded.

    The same rows have the same bytes: the file tells neither time nor name.
    """
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(HEADER)
        yield lambda image, rle: rows.writerow([image, rle])


def read_names(address: str) -> set[str]:
    """The images that a submission names: a CSV file as it is, gzipped, or zipped as Kaggle hands it out.

    Raises:
        StorageError: if it can't be read.
        DataError: if it is no submission.
    """
    wrong = DataError(f"{address} is no submission of img,rle_mask rows", "Name Kaggle's sample_submission.csv")
    try:
        rows = list(csv.reader(io.StringIO(_unpack(storage.read_bytes(address)).decode("utf-8-sig"), newline="")))
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise wrong from error
    if rows[:1] != [HEADER] or any(len(row) != len(HEADER) for row in rows):
        raise wrong
    return {image for image, _ in rows[1:]}


def check_names(images: Collection[str], sample: str) -> None:
    """Makes sure that a sample submission names just these images.

    Raises:
        StorageError: if the sample can't be read.
        DataError: if it is no submission, or names others.
    """
    given, wanted = set(images), read_names(sample)
    if missing := wanted - given:
        what = f"{sample} names {count(len(missing), 'image')} that you don't have: {_first(missing)}"
        raise DataError(what, "Copy all photographs of the test set into one folder, and name that")
    if surplus := given - wanted:
        what = f"{sample} doesn't name {len(surplus)} of the images: {_first(surplus)}"
        raise DataError(what, "Remove them, or name the sample submission that belongs to these images")


def _first(names: set[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (" …" if len(names) > SHOWN else "")


def _unpack(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(archive.namelist()[0])
    return data
