"""What `metadata.csv` says of objects, for the gate's slices."""

from pathlib import Path

import pytest

from backdrop.common import s3
from backdrop.common.errors import DataError
from backdrop.config import Ensemble, Gate
from backdrop.config.records import dump_yaml
from backdrop.data.metadata import find_metadata, read_license, read_metadata
from backdrop.steps.check import check


def written(folder: Path, text: str) -> Path:
    (folder / "metadata.csv").write_text(text)
    return folder


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["id", "object"])
def test_columns_are_read_by_object(first: str, separator: str, tmp_path: Path) -> None:
    lines = [f"{first},year,make", "car0,2001,ford", "car1,,opel", "car2,2003,"]
    folder = written(tmp_path, "\n".join(lines).replace(",", separator))
    assert read_metadata(folder, ["year"]) == {"car0": {"year": "2001"}, "car1": {}, "car2": {"year": "2003"}}
    assert read_metadata(folder, ["make", "year"])["car0"] == {"make": "ford", "year": "2001"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("above", ["", "\n", ",,\n"])
@pytest.mark.parametrize("separator", [",", ", ", ";", "\t"])
def test_what_editors_leave_in_a_table_says_nothing(
    separator: str, above: str, newline: str, encoding: str, tmp_path: Path
) -> None:
    """Spaces, empty lines, byte order marks, and accents composed or not."""
    lines = ["object,Mu\u0308nze,make", "Škoda1,2001,Škoda", "", "car1,,opel", ""]
    table = (above + newline.join(lines)).replace(",", separator)
    (tmp_path / "metadata.csv").write_bytes(table.encode(encoding))
    expected = {"Škoda1": {"Münze": "2001", "make": "Škoda"}, "car1": {"make": "opel"}}
    assert read_metadata(tmp_path, None) == read_metadata(tmp_path, ["Münze", "make"]) == expected


@pytest.mark.parametrize(
    "content", [b"", b"file_name,text\na.jpg,red\n", "id,make\ncar0,Citroën\n".encode("latin-1"), b"id,make\ncar0\n"]
)
def test_a_table_that_nothing_depends_on_stops_nothing_and_is_told(content: bytes, data: Path) -> None:
    (data / "metadata.csv").write_bytes(content)
    known, fault = find_metadata(data)
    assert (known, fault.startswith(f"{data}/metadata.csv is damaged (")) == ({}, True)
    report = check(str(data))
    assert report.errors == []
    assert [one.error().what for one in report.faults] == [f"{fault}, so reports have no slices by it"]


def test_without_columns_no_file_is_needed(tmp_path: Path) -> None:
    assert read_metadata(tmp_path, []) == {}
    assert read_metadata(tmp_path, None) == {}


def test_all_columns_can_be_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "id,year,make\ncar0,2001,ford\ncar1,,opel\n")
    assert read_metadata(folder, None) == {"car0": {"year": "2001", "make": "ford"}, "car1": {"make": "opel"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "metadata.csv is missing, but gate.slices names make"),
        ("id,year\ncar0,2001\n", "no column make. Let gate.slices name one of year"),
        ("car,make\ncar0,ford\n", "is damaged"),
        ("id,make\ncar0\n", "is damaged"),
        ("id,make\ncar0,ford\ncar0,opel\n", "lists object car0 twice"),
    ],
)
def test_what_cannot_be_used_is_named(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        written(tmp_path, text)
    with pytest.raises(DataError, match=r"metadata\.csv") as caught:
        read_metadata(tmp_path, ["make"])
    assert words in str(caught.value)


def test_check_finds_a_slice_that_the_dataset_cannot_have(data: Path, tmp_path: Path) -> None:
    ensemble = Ensemble.model_validate(
        {"name": "sliced", "folds": {"count": 2}, "members": [{"recipe": "tiny"}], "gate": Gate(slices=("make",))}
    )
    path = tmp_path / "sliced.yaml"
    path.write_text(dump_yaml(ensemble))
    (fault,) = check(str(data), [str(path)]).errors
    assert fault.file.endswith("metadata.csv")
    assert "doesn't suit ensemble sliced" in fault.what
    written(data, "id,make\ncar0,ford\n")
    assert check(str(data), [str(path)]).errors == []


def test_a_license_is_found_below_a_prefix_with_or_without_a_slash(bucket: str) -> None:
    s3.write(f"{bucket}/cars/LICENSE", b"\n# CC BY 4.0\n")
    assert read_license(f"{bucket}/cars") == read_license(f"{bucket}/cars/") == "CC BY 4.0"
