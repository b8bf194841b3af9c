"""One contract for every place where files lie: a folder of this machine, and S3."""

from pathlib import Path
from string import ascii_lowercase, digits

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backdrop.common import outputs, storage
from backdrop.common.errors import StorageError

PART = st.text(ascii_lowercase + digits + "-_ é", min_size=1, max_size=8).map(str.strip).filter(bool)
FILES = st.dictionaries(st.tuples(PART, PART).map("/".join), st.binary(max_size=200), min_size=1, max_size=5)
PROPERTY = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address below which nothing is."""
    return f"{request.getfixturevalue('bucket')}/root" if request.param == "s3" else str(tmp_path / "root")


def put_folder(address: str, files: dict[str, bytes], key_file: str = "key.json") -> None:
    with outputs.output_folder(address, "sample", key_file) as folder:
        for name, data in {**files, key_file: b"{}"}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def contents(address: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(f"{address}/{name}") for name in storage.list_files(address)}


def test_what_is_written_is_read_and_replaced(root: str) -> None:
    for data in (b"one", b"", b"three"):
        storage.write_bytes(f"{root}/deep/er/a.bin", data)
        assert storage.read_bytes(f"{root}/deep/er/a.bin") == data
    assert storage.list_files(root) == ["deep/er/a.bin"]


def test_only_files_exist(root: str) -> None:
    storage.write_bytes(f"{root}/deep/a", b"a")
    assert storage.exists(f"{root}/deep/a")
    for name in ("deep", "deep/", "deep/b", "nothing/at/all"):
        assert not storage.exists(f"{root}/{name}"), name


def test_names_are_sorted_and_end_at_the_folder(root: str) -> None:
    for name in ("b", "a/2", "a/1", "a.txt"):
        storage.write_bytes(f"{root}/x/{name}", b"")
    storage.write_bytes(f"{root}/xy", b"")
    assert storage.list_files(f"{root}/x") == ["a.txt", "a/1", "a/2", "b"]
    assert storage.list_files(f"{root}/x/a") == storage.list_files(f"{root}/x/a/") == ["1", "2"]
    assert storage.list_files(f"{root}/nothing") == []


def test_what_is_not_there_is_an_error_that_names_it(root: str) -> None:
    with pytest.raises(StorageError, match=r"root/nothing.*\.$"):
        storage.read_bytes(f"{root}/nothing")
    with pytest.raises(StorageError, match=r"root/none .*\.$"):
        storage.local_folder(f"{root}/none")


def test_an_output_folder_appears_whole_or_not_at_all(root: str) -> None:
    def half_way() -> None:
        with outputs.output_folder(f"{root}/out", "sample", "key.json") as folder:
            (folder / "a").write_bytes(b"a")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert storage.list_files(root) == []
    put_folder(f"{root}/out", {"a/b": b"ab"})
    assert contents(f"{root}/out") == {"a/b": b"ab", "key.json": b"{}"}


def test_a_folder_here_holds_the_same(root: str) -> None:
    put_folder(f"{root}/out", {"a/b": b"ab", "c": b"c"})
    folder = storage.local_folder(f"{root}/out")
    assert contents(str(folder)) == contents(f"{root}/out") == {"a/b": b"ab", "c": b"c", "key.json": b"{}"}
    assert storage.local_folder(f"{root}/out") == folder
    storage.write_bytes(f"{root}/out/c", b"new")
    assert (storage.local_folder(f"{root}/out") / "c").read_bytes() == b"new"


def test_a_removed_folder_is_gone_and_its_neighbor_is_not(root: str) -> None:
    for name in ("out", "out2"):
        put_folder(f"{root}/{name}", {"a": b"a"})
    outputs.remove(f"{root}/out")
    outputs.remove(f"{root}/out")  # it needn't be there
    assert storage.list_files(root) == ["out2/a", "out2/key.json"]


@PROPERTY
@given(files=FILES)
def test_any_folder_goes_there_and_back(root: str, files: dict[str, bytes]) -> None:
    put_folder(f"{root}/any", files)
    here = contents(str(storage.local_folder(f"{root}/any")))
    assert files.items() <= here.items()
    assert sorted({*files, "key.json"}) == storage.list_files(f"{root}/any")
    outputs.remove(f"{root}/any")
    assert storage.list_files(root) == []
