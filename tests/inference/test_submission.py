import csv
import gzip
import io
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import DataError
from backdrop.data.listing import normalized
from backdrop.data.rle import encode_rle
from backdrop.inference.submission import check_names, open_submission, read_rows

SAMPLE = "img,rle_mask\na_01.jpg,1 1\na_02.jpg,1 1\n"
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)


def put(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def zipped(text: str) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("sample_submission.csv", text)
        return file.getvalue()


def test_a_submission_is_what_kaggle_asks_for_and_tells_no_time(tmp_path: Path) -> None:
    for name in ("one.csv.gz", "two.csv.gz"):
        with open_submission(tmp_path / name) as write:
            write("a_01.jpg", "1 2 8 1")
            write("a_02.jpg", "")
    data = (tmp_path / "one.csv.gz").read_bytes()
    assert gzip.decompress(data) == b"img,rle_mask\na_01.jpg,1 2 8 1\na_02.jpg,\n"
    assert data == (tmp_path / "two.csv.gz").read_bytes()
    assert data[4:8] == bytes(4)  # RFC 1952: when the file was made; zero says nothing
    assert not data[3]  # no name of the file either


@given(st.dictionaries(NAMES, st.sampled_from(["", "1 2", "3 4 9 1"])))
def test_every_name_survives(tmp_path_factory: pytest.TempPathFactory, masks: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("any") / "s.csv.gz"
    with open_submission(path) as write:
        for image, rle in masks.items():
            write(image, rle)
    assert read_rows(str(path)) == list(masks.items())
    rows = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline=""))
    assert [tuple(row) for row in rows][1:] == list(masks.items())


def test_the_runs_of_a_large_ragged_mask_are_read_as_they_were_written(tmp_path: Path) -> None:
    runs = encode_rle(np.indices((500, 500)).sum(axis=0) % 2 > 0)
    assert len(runs) > 2**17  # characters, which is the most that Python's csv takes unless it's told otherwise
    with open_submission(tmp_path / "s.csv.gz") as write:
        write("a_01.jpg", runs)
    assert read_rows(str(tmp_path / "s.csv.gz")) == [("a_01.jpg", runs)]


def test_a_sample_is_read_as_kaggle_hands_it_out(tmp_path: Path) -> None:
    plain = SAMPLE.replace("\n", "\r\n").encode("utf-8-sig")
    for data in (SAMPLE.encode(), plain, gzip.compress(SAMPLE.encode()), zipped(SAMPLE)):
        assert {image for image, _ in read_rows(put(tmp_path / "sample", data))} == {"a_01.jpg", "a_02.jpg"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"img,mask\na,1\n",
        b"img,rle_mask\na,1,2\n",
        b"\xff\xd8\xff",
        gzip.compress(SAMPLE.encode(), mtime=0)[:-9],
        gzip.compress(SAMPLE.encode(), mtime=0)[:12] + b"\xff" * 20,
        zipped(SAMPLE)[:-9],
        b"PK\5\6" + bytes(18),  # an archive of nothing
        zipped(SAMPLE).replace(b"\x14\0\0\0", b"\x14\0\1\0"),  # its file is encrypted
    ],
)
def test_what_is_no_submission_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"sample is not a submission of img,rle_mask rows\. Use Kaggle's"):
        read_rows(put(tmp_path / "sample", data))


@given(st.sets(NAMES.map(normalized), min_size=1))
def test_names_are_those_of_the_sample_however_their_accents_are_written(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    sample = tmp_path_factory.mktemp("any") / "s.csv.gz"
    forms = [(unicodedata.normalize("NFD", name), name) for name in sorted(names | {"Škoda_01.jpg"})]
    for pairs in (forms, [pair[::-1] for pair in forms]):
        ours, theirs = zip(*pairs, strict=True)
        with open_submission(sample) as write:
            for name in theirs:
                write(name, "1 1")
        assert check_names(ours, str(sample)) == dict(zip(ours, theirs, strict=True))


def test_other_images_than_the_sample_names_are_named(tmp_path: Path) -> None:
    sample = put(tmp_path / "s.csv", SAMPLE.encode())
    check_names(["a_02.jpg", "a_01.jpg"], sample)
    with pytest.raises(DataError, match=r"s\.csv names 1 image that you don't have: a_01\.jpg\. "):
        check_names(["a_02.jpg"], sample)
    with pytest.raises(DataError, match=r"s\.csv doesn't name 4 of the images: b0, b1, b2 …\. "):
        check_names(["a_02.jpg", "a_01.jpg", *(f"b{n}" for n in range(4))], sample)
