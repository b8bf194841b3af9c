"""Shares of `predict`, and `merge`, which makes of them what one run makes."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backdrop.cli.app import app
from backdrop.common import places, s3, storage
from backdrop.common.errors import BackdropError, ConfigError, DataError, MemberError, StorageError
from backdrop.common.outputs import INVENTORY, output_folder
from backdrop.common.text import dump_table
from backdrop.data import photographs
from backdrop.data.photographs import Shard, parse_shard
from backdrop.inference import batch
from backdrop.inference.compose import PictureOptions
from backdrop.inference.ensemble import EnsembleModel
from backdrop.inference.submission import open_submission
from backdrop.steps import predict as predicting
from backdrop.steps.merge import PHOTOGRAPHS, RECORD, find_photographs, merge, read_photographs
from backdrop.steps.predict import Format, PredictRecord, ShardRecord, predict
from tests.conftest import draw_pair
from tests.steps.test_cutouts import tree
from tests.steps.test_predict import members, model, photos, spoil, table, write_rule  # noqa: F401  # fixtures, too

OWN = {RECORD, PHOTOGRAPHS}  # what only a merge writes
CHUNK = 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch, photographs):
        monkeypatch.setattr(module, "CHUNK", CHUNK)


def shares(photos: Path, members: list[str], root: Path, count: int, format: Format = "cutout") -> list[str]:  # noqa: A002, F811
    for number in range(1, count + 1):
        predict(Shard(str(photos), number, count), str(root / f"{number}"), members, format=format)
    return [str(root / f"{number}") for number in range(1, count + 1)]


def results(folder: Path) -> dict[str, bytes]:
    return {
        name: data for name, data in tree(folder).items() if name not in {*OWN, predicting.RECORD, predicting.DOUBTFUL}
    }


def test_shares_tell_their_dice_as_one_run_does(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    model: EnsembleModel,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = write_rule(model, tmp_path / "known.yaml")
    predict(str(photos), str(tmp_path / "whole"), members, ensemble=config)
    parts = [str(tmp_path / f"{number}") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        predict(Shard(str(photos), number, 2), part, members, ensemble=config)
    for _ in range(2):  # what was merged before is replaced
        merge(parts, str(tmp_path / "merged"))
        assert results(tmp_path / "merged") == results(tmp_path / "whole")


@pytest.mark.parametrize("format", ["cutout", "mask", "rle", "submission"])
def test_shares_together_are_one_run(photos: Path, members: list[str], tmp_path: Path, format: Format) -> None:  # noqa: A002, F811
    reasons = spoil(photos)
    (photos / "back\\slash_01.jpg").write_bytes((photos / "car0_01.jpg").read_bytes())  # no output can have it
    (photos / "shop").mkdir()
    shutil.copy(photos / "car0_01.jpg", photos / "shop" / "car.jpg")
    for _ in range(2):  # the second replaces the first
        whole = predict(str(photos), str(tmp_path / "whole"), members, format=format)
    parts = shares(photos, members, tmp_path, 3, format)
    random.Random(0).shuffle(parts)
    record = merge(parts, str(tmp_path / "merged"))
    assert (record.images, record.new, record.failed) == (whole.images, whole.images, whole.failed) == (15, 15, 4)
    assert results(tmp_path / "merged") == results(tmp_path / "whole")
    rows = table(tmp_path / "merged" / PHOTOGRAPHS)[1:]
    assert {row[0]: row[3] for row in rows if row[3]} == reasons
    assert {row[2] for row in rows} == {whole.model}
    again = tree(tmp_path / "merged")
    merge(sorted(parts), str(tmp_path / "merged"))
    assert tree(tmp_path / "merged") == again


def test_a_folder_may_have_fewer_photographs_than_shares(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    predict(str(photos), str(tmp_path / "whole"), members)
    merge(shares(photos, members, tmp_path, 5), str(tmp_path / "merged"))
    assert results(tmp_path / "merged") == results(tmp_path / "whole")


def test_what_is_missing_or_foreign_is_named(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    out, parts = str(tmp_path / "out"), shares(photos, members, tmp_path, 3, "mask")
    with pytest.raises(DataError, match=r"Share 2/3 is missing\. Run its"):
        merge([parts[0], parts[2]], out)
    with pytest.raises(DataError, match=r"/again and .*/1 are both share 1"):
        merge([*parts, str(shutil.copytree(parts[0], tmp_path / "again"))], out)
    others: list[tuple[str, str, list[str], Format, type[BackdropError]]] = [
        ("model", "were made by different models", members[:1], "mask", MemberError),
        ("alpha", "are shares of different runs", members, "alpha", DataError),
        ("more", "are shares of different runs", members, "mask", DataError),
    ]
    for name, message, chosen, kind, error in others:
        if name == "more":
            draw_pair(tmp_path / "new", "another_01", 99)
        predict(Shard(str(photos), 2, 3), str(tmp_path / name), chosen, format=kind)
        with pytest.raises(error, match=message):
            merge([parts[0], str(tmp_path / name), parts[2]], out)
    with pytest.raises(ConfigError, match="/2/ is one of the shares"):
        merge(parts, f"{parts[1]}/")
    predict(str(photos), str(tmp_path / "all"), members, format="mask")
    with pytest.raises(DataError, match="is not a share"):
        merge([str(tmp_path / "all")], out)
    with pytest.raises(BackdropError, match=r"has no predict\.json"):
        merge([str(photos)], out)
    assert not list(Path(out).glob("*"))


def test_new_results_are_added_to_earlier_ones(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    kinds: list[Format] = ["cutout", "rle"]
    for kind in kinds:
        out, later = tmp_path / f"merged-{kind}", f"later-{kind}_01"
        merge(shares(photos, members, tmp_path / kind, 2, kind), str(out))
        draw_pair(tmp_path / "new", later, 80)
        predict(Shard(str(photos), 1, 1, (f"{later}.jpg",)), str(tmp_path / "only" / kind), members, format=kind)
        record = merge([str(tmp_path / "only" / kind)], str(out))
        names = {path.name for path in photos.iterdir()}
        assert (record.new, record.images) == (1, len(names))
        assert {row[0] for row in table(out / PHOTOGRAPHS)[1:]} == names
        predict(str(photos), str(tmp_path / f"whole-{kind}"), members, format=kind)
        assert results(out).keys() == results(tmp_path / f"whole-{kind}").keys()


@pytest.mark.parametrize("format", ["cutout", "mask", "rle"])
def test_a_photograph_that_fails_now_has_no_result_any_more(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    model: EnsembleModel,  # noqa: F811
    tmp_path: Path,
    format: Format,  # noqa: A002
) -> None:
    config, out = write_rule(model, tmp_path / "known.yaml"), str(tmp_path / "merged")
    first, second, *rest = sorted(photos.glob("*.jpg"))
    for path in rest:
        path.unlink()
    for number in range(2):
        part = str(tmp_path / f"part-{number}")
        predict(Shard(str(photos), 1, 1), part, members, ensemble=config, format=format)
        merge([part], out)
        first.write_bytes(b"no photograph")
        second.rename(second.with_suffix(".png"))  # its result keeps its name
        second = second.with_suffix(".png")
    predict(str(photos), str(tmp_path / "whole"), members, ensemble=config, format=format)
    assert results(Path(out)) == results(tmp_path / "whole")
    assert [row[0] for row in table(Path(out, PHOTOGRAPHS))[1:]] == [first.name, second.name]


def test_results_of_another_kind_take_the_place_of_earlier_ones(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "merged"
    merge(shares(photos, members, tmp_path / "png", 2), str(out))
    (out / "mine.txt").write_text("mine")
    options = PictureOptions("webp")
    predict(Shard(str(photos), 1, 1), str(tmp_path / "webp"), members, options=options)
    merge([str(tmp_path / "webp")], str(out))
    assert {path.suffix for path in out.iterdir() if path.suffix in (".png", ".webp")} == {".webp"}
    assert (out / "mine.txt").read_text() == "mine"


def test_a_share_replaces_no_other(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    for _ in range(2):  # but itself
        predict(Shard(str(photos), 1, 2), str(out), members)
    before = tree(out)
    for other in (Shard(str(photos), 2, 2), Shard(str(photos), 1, 3)):
        with pytest.raises(StorageError, match=f"{out} has the results of share 1/2. Name another place"):
            predict(other, str(out), members)
    assert tree(out) == before
    predict(str(photos), str(out), members)  # has the share's results, too


def test_a_share_is_one_of_one_folder(photos: Path, tmp_path: Path) -> None:  # noqa: F811
    assert parse_shard("2/4", [str(photos)]) == Shard(str(photos), 2, 4)
    assert parse_shard("4/4", ["s3://bucket/cars"]) == Shard("s3://bucket/cars", 4, 4)
    for text in ("0/4", "5/4", "2", "a/b", "2/4/6", ""):
        with pytest.raises(ConfigError, match="is not a share"):
            parse_shard(text, [str(photos)])
    for inputs in ([str(photos), str(photos)], [str(photos / "car0_01.jpg")], [str(photos / "*.jpg")]):
        with pytest.raises(ConfigError, match="shares the photographs of one folder"):
            parse_shard("1/2", inputs)


def test_a_share_in_s3_copies_only_its_own_photographs(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in photos.iterdir():
        s3.write(f"{bucket}/shop/{path.name}", path.read_bytes())
    copied: list[str] = []
    download = s3.download

    def noted(address: str, entries: list[tuple[str, int, str]], target: Path) -> None:
        copied.extend(name for name, *_ in entries)
        download(address, entries, target)

    monkeypatch.setattr(s3, "download", noted)
    for number in (1, 2):
        predict(Shard(f"{bucket}/shop", number, 2), f"{bucket}/parts/{number}", members)
    assert sorted(copied) == sorted(path.name for path in photos.iterdir())
    merge([f"{bucket}/parts/1", f"{bucket}/parts/2"], f"{bucket}/out")
    predict(str(photos), str(tmp_path / "whole"), members)
    for name, data in results(tmp_path / "whole").items():
        assert s3.read(f"{bucket}/out/{name}") == data


def test_a_slash_at_the_end_of_an_address_changes_nothing(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    bucket: str,
) -> None:
    out, parts = f"{bucket}/out/", [f"{bucket}/parts/{number}/" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        predict(Shard(str(photos), number, 2), part, members, format="rle")
    with pytest.raises(StorageError, match="has the results of share 1/2"):
        predict(Shard(str(photos), 2, 2), parts[0], members, format="rle")
    before = merge(parts, out)
    assert read_photographs(out, before.style).keys() == {path.name for path in photos.iterdir()}
    draw_pair(tmp_path / "new", "later_01", 80)
    predict(Shard(str(photos), 1, 1, ("later_01.jpg",)), f"{bucket}/more/", members, format="rle")
    after = merge([f"{bucket}/more/"], out)
    assert (after.new, after.images) == (1, before.images + 1)  # earlier results stay
    assert len(s3.read(f"{bucket}/out/masks.csv").splitlines()) == 1 + after.images


KILLED = """
import sys
from backdrop.data import photographs
from backdrop.inference import batch
from backdrop.steps.merge import merge
photographs.CHUNK = batch.CHUNK = 4
merge(sys.argv[2:], sys.argv[1])
"""


def test_a_merge_that_is_killed_can_be_run_again(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    parts, chance = shares(photos, members, tmp_path, 2), random.Random(0)
    merge(parts, str(tmp_path / "whole"))
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), *parts]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "killed").exists():
            pass
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.wait()
    merge(parts, str(tmp_path / "killed"))
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


class Kill(BaseException):
    """What ends a merge."""


@pytest.mark.parametrize(("place", "stride"), [("disk", 1), pytest.param("s3", 7, marks=pytest.mark.thorough)])
def test_a_merge_killed_at_any_change_loses_no_earlier_result(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    bucket: str,
    place: str,
    stride: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second merge ends after 0, `stride`, … changes, until it makes no more; the next makes up for it."""
    parts = shares(photos, members, tmp_path, 2, "rle")
    earlier = {path.name for path in photos.iterdir()}
    draw_pair(tmp_path / "new", "later_01", 80)
    predict(Shard(str(photos), 1, 1, ("later_01.jpg",)), str(tmp_path / "3"), members, format="rle")
    kind, left = (places._Folder, places._Bucket)[place == "s3"], sys.maxsize

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def act(self: object, *values: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Kill
            change(self, *values)

        return act

    for name in ("write", "copy", "remove"):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name)))

    def out(name: str) -> str:
        return f"{bucket}/{name}" if place == "s3" else str(tmp_path / "out" / name)

    def content(name: str) -> dict[str, bytes]:
        return {path: data for path, data in tree(storage.local_folder(out(name))).items() if path != INVENTORY}

    style = merge(parts, out("once")).style
    merge([str(tmp_path / "3")], out("once"))
    changes = 0
    while True:
        left = sys.maxsize
        merge(parts, out(f"{changes}"))
        left = changes
        try:
            merge([str(tmp_path / "3")], out(f"{changes}"))
            break
        except Kill:
            left = sys.maxsize
        assert find_photographs(out(f"{changes}"), style).keys() >= earlier
        merge([str(tmp_path / "3")], out(f"{changes}"))
        assert content(f"{changes}") == content("once")
        changes += stride
    assert changes > 10


def test_commands(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    (photos / "broken.jpg").write_bytes(b"")
    named = [word for member in members for word in ("--members", member)]
    for number, code in ((1, 1), (2, 0), (3, 0)):  # the first share has the broken one
        given = ["predict", str(photos), "--shard", f"{number}/3", "--out", str(tmp_path / f"{number}"), *named]
        assert CliRunner().invoke(app, given).exit_code == code
    parts = [str(tmp_path / f"{number}") for number in (1, 2, 3)]
    done = CliRunner().invoke(app, ["merge", *parts, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"{tmp_path}/out: cut-outs of 10 photographs, 11 new",
        f"1 photograph failed: see {tmp_path}/out/failed.csv",
    ]
    assert json.loads((tmp_path / "out" / RECORD).read_bytes())["images"] == 11


# Merges shares twice, and prints by how many MB the process grew.
MERGE = """
import sys
from pathlib import Path
from backdrop.steps.merge import merge
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
out, small, *large = sys.argv[1:]
merge([small], f"{out}-small")
before = peak()
for _ in range(2):
    merge(large, out)
print(peak() - before)
"""


def write_share(folder: Path, format: Format, number: int, count: int, runs: int) -> str:  # noqa: A002
    """A share of 20 photographs whose masks have that many runs."""
    names = tuple(f"car{number}{i:02}_01.jpg" for i in range(20))
    shard = ShardRecord(number=number, count=count, listing="", style=format, names=names)
    record = PredictRecord(model="m", format=format, images=20, failed=0, passed_over=(), shard=shard)
    with output_folder(folder, predicting.STEP, predicting.RECORD) as target:
        rle = " ".join(map(str, range(10**6, 10**6 + 2 * runs)))
        if format == "submission":
            with open_submission(target / predicting.SUBMISSION) as write:
                for name in names:
                    write(name, rle)
        else:
            rows = ([name.removesuffix(".jpg"), 1, 1, rle] for name in names)
            (target / predicting.RUNS).write_bytes(dump_table(predicting.RUNS_HEAD, rows))
        (target / predicting.RECORD).write_text(record.model_dump_json(), encoding="utf-8")
    return str(folder)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel isn't Linux")
@pytest.mark.parametrize("format", ["rle", pytest.param("submission", marks=pytest.mark.thorough)])
def test_tables_may_be_larger_than_the_memory(format: Format, tmp_path: Path) -> None:  # noqa: A002
    small = write_share(tmp_path / "small", format, 1, 1, 1)
    large = [write_share(tmp_path / f"{number}", format, number, 4, 50_000) for number in range(1, 5)]
    command = [sys.executable, "-c", MERGE, str(tmp_path / "out"), small, *large]
    grown = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert grown < 30  # all rows take 64 MB


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"stem,height,width,rle\na,1,1\n", "line 2 has 3 columns, not 4"),
        (b"image,reason\n", "its columns are not stem,height,width,rle"),
        (b"", "its columns are not stem"),
        (b'stem,height,width,rle\n"a,1,1,1 1\n', "line 2: unexpected end of data"),
        (b"stem,height,width,rle\n\xff,1,1,\n", "codec can't decode"),
    ],
)
def test_a_damaged_table_is_named(written: bytes, reason: str, tmp_path: Path) -> None:
    share = write_share(tmp_path / "share", "rle", 1, 1, 1)
    record = Path(share, predicting.RECORD).read_bytes()
    with output_folder(share, predicting.STEP, predicting.RECORD) as target:
        (target / predicting.RUNS).write_bytes(written)
        (target / predicting.RECORD).write_bytes(record)
    with pytest.raises(DataError, match=rf"share/masks\.csv is damaged \(.*{reason}"):
        merge([share], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
