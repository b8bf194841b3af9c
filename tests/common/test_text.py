"""Text as editors and spreadsheets save it, in each file that a command reads."""

import codecs
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common import storage, text
from backdrop.common.errors import ConfigError, PlanError, StorageError
from backdrop.config import find_recipe, shipped
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan
from backdrop.data.pseudo_labels import LABELS, Label, dump_labels, read_labels
from backdrop.evaluation.records import Score, dump_scores, read_scores
from backdrop.inference.submission import read_rows

TABLE = "name,size\nä,1\nb,2\n"


def padded(content: str) -> str:
    """As a spreadsheet saves a table below a title: every line as long as the longest."""
    width = max(line.count(",") for line in content.splitlines())
    return "".join(f"{line}{',' * (width - line.count(','))}\n" for line in content.splitlines())


def quoted(content: str, separator: str) -> str:
    """As a spreadsheet saves a table that is told to quote all texts."""
    rows = ([f'"{value}"' if value else "" for value in line.split(",")] for line in content.splitlines())
    return "".join(f"{separator.join(row)}\n" for row in rows)


# How a file may have been saved since the program wrote it.
SAVED: dict[str, Callable[[str], bytes]] = {
    "as it was": lambda content: content.encode(),
    "with a byte order mark": lambda content: codecs.BOM_UTF8 + content.encode(),
    "with Windows' line ends": lambda content: content.replace("\n", "\r\n").encode(),
    "as UTF-16": lambda content: content.encode("utf-16"),
    "with semicolons": lambda content: padded(content).replace(",", ";").encode(),
    "with tabs": lambda content: padded(content).replace(",", "\t").encode(),
    "with semicolons and quotes": lambda content: quoted(padded(content), ";").encode(),
    "with tabs and quotes": lambda content: quoted(padded(content), "\t").encode(),
    "with empty lines": lambda content: f"{content}\n,,\n".encode(),
}


# Names have no control characters, and a file that is read has no other line ends.
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2)))
def test_a_table_is_read_as_it_was_written(rows: list[list[str]]) -> None:
    read = text.read_table(text.dump_table(["name", "size"], rows).decode(), ["name", "size"])[1]
    assert [row for _, row in read] == rows


def test_a_large_table_is_in_memory_little_more_than_once() -> None:
    rows = [[f"{number}_01", f"{number} " * 50_000] for number in range(40)]  # as run lengths of masks
    table = text.dump_table(["name", "size"], rows).decode()
    tracemalloc.start()
    read = text.read_table(table, ["name", "size"])[1]
    reading = tracemalloc.get_traced_memory()[1]
    del read
    tracemalloc.reset_peak()
    text.dump_table(["name", "size"], rows)
    writing = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(reading, writing) < 2 * len(table)


@pytest.mark.parametrize("how", SAVED)
def test_every_table_is_read_however_it_was_saved(how: str, data: Path, plan: Path, tmp_path: Path) -> None:
    save = SAVED[how]
    assert text.read_table(text.decode(save(TABLE)), ["name", "size"])[1] == [(2, ["ä", "1"]), (3, ["b", "2"])]

    folds = read_plan(plan)
    plan.write_bytes(save(plan.read_text()))
    assert read_plan(plan) == folds

    (data / "test").mkdir()
    (data / "test" / "new_01.jpg").write_bytes((data / "train" / "car00_01.jpg").read_bytes())
    labels = dump_labels(folds, [Label("new_01", "new", 0, 0.001, True, "a", "b")])
    (tmp_path / LABELS).write_bytes(save(labels.decode()))
    assert read_labels(tmp_path, folds, open_dataset(data), 0).digests == {"new_01": ("a", "b")}

    scores = [Score("a_01", "a", "01", 10, None, 0.5, {"tiny": 0.5}), Score("b_01", "b", "01", 10, 0, 0.25, {})]
    (tmp_path / "images.csv").write_bytes(save(dump_scores(scores).decode()))
    assert read_scores(tmp_path / "images.csv") == scores

    (tmp_path / "sample.csv").write_bytes(save("img,rle_mask\na.jpg,1 1\nb.jpg,1 1\n"))
    assert read_rows(str(tmp_path / "sample.csv")) == [("a.jpg", "1 1"), ("b.jpg", "1 1")]


@pytest.mark.parametrize("how", ["with a byte order mark", "with Windows' line ends", "as UTF-16"])
def test_yaml_is_read_however_it_was_saved(how: str, tmp_path: Path) -> None:
    recipe = find_recipe("tiny")
    mine = tmp_path / "mine.yaml"

    mine.write_bytes(SAVED[how](shipped("recipes")["tiny"]))
    assert find_recipe(str(mine)) == recipe


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("name,size\na\n", "line 2 has 1 columns, not 2"),
        ("name,size\n\na,1,2\n", "line 3 has 3 columns, not 2"),
        ("name;length\na;1\n", "its columns are not name,size"),
        ('name,size\n"a,1\n', "line 2: unexpected end of data"),
        ("", "its columns are not name,size"),
    ],
)
def test_a_damaged_table_is_named_by_its_line(content: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        text.read_table(content, ["name", "size"])


def test_what_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.yaml can't be read \(it isn't UTF-8 text\)\. Save it as UTF-8"):
        find_recipe(str(path))
    with pytest.raises(PlanError, match=r"isn't a fold plan \(it isn't UTF-8 text\)"):
        read_plan(path)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.csv")
    with pytest.raises(StorageError, match="is not a regular file"):
        storage.read_bytes(tmp_path / "plan.csv")
    with pytest.raises(StorageError, match="is not a regular file"):
        storage.read_bytes("/dev/zero")


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [*a]",
        "\n".join(["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]),
    ],
)
def test_endless_anchors_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="repeats its anchors endlessly or too often"):
        find_recipe(str(path))


@pytest.mark.parametrize("content", ["a: 2026-13-45", "[" * 100_000, "a: !!python/object:os.system {}", "a: \0"])
def test_what_yaml_itself_stumbles_over_is_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="is not valid YAML"):
        find_recipe(str(path))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b""])
def test_what_is_no_json_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # its callers name the file
        text.parse_json(content)


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    """Root may rename a file over `/dev/null`."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device"):
        with pytest.raises(StorageError, match=f"{name} is not a regular file. Use another path"):
            storage.write_bytes(tmp_path / name, b"x")
    assert (tmp_path / "device").is_symlink()
