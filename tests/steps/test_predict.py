import csv
import gzip
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common import storage
from backdrop.common.errors import BackdropError, ConfigError, DataError, MemberError, StorageError
from backdrop.common.outputs import INVENTORY
from backdrop.config import Ensemble, PredictedDice, find_recipe
from backdrop.config.folds import Rule
from backdrop.config.records import dump_yaml, parse
from backdrop.data.dataset import open_dataset, read_image, read_mask
from backdrop.data.folds import dump_plan, make_plan
from backdrop.data.masks import Mask
from backdrop.data.photographs import Source
from backdrop.data.rle import decode_rle, encode_rle
from backdrop.inference import batch
from backdrop.inference.answer import ALL
from backdrop.inference.batch import Cutout, ahead, cut_out, keep_networks
from backdrop.inference.ensemble import EnsembleModel, Outcome, Photograph, gather
from backdrop.inference.mean import Mean
from backdrop.inference.predict import BATCH
from backdrop.steps.members import open_member
from backdrop.steps.predict import Format, predict
from backdrop.steps.train import train
from tests.conftest import SMALL, draw_pair
from tests.data.test_rle import runs_by_hand
from tests.tracking.workspace import write_member

# Enough for a network to find what is dark on a light ground.
LEARN = (*SMALL, "epochs=8", "ema=null", "augmentation=[]", "schedule=[{kind: constant, epochs: 8, lr: 3e-2}]")
SIZES = [(48, 64), (40, 40), (30, 70)]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two trained members."""
    root = tmp_path_factory.mktemp("trained")
    for index in range(6):
        draw_pair(root / "data", f"car{index}_01", index)
    (root / "plan.csv").write_bytes(dump_plan(make_plan(open_dataset(root / "data"), Rule(2, 0.0, "area", 0))))
    places = [str(root / "data"), str(root / "plan.csv"), "tiny"]
    return [train(*places, fold, str(root / f"m{fold}"), LEARN).address for fold in (0, 1)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photographs of three sizes."""
    for index in range(10):
        draw_pair(tmp_path / "new", f"car{index}_01", 50 + index, SIZES[index % 3])
    return tmp_path / "new" / "train"


@pytest.fixture
def model(members: list[str]) -> EnsembleModel:
    return gather([open_member(address) for address in members], None)


def header_of(width: int, height: int) -> bytes:
    """A PNG file that promises more than it holds."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def spoil(photos: Path) -> dict[str, str]:
    """Adds photographs that can't be read; the reasons that shall be told, by name."""
    whole = (photos / "car0_01.jpg").read_bytes()
    broken = {
        "car3_02.jpg": (whole[: len(whole) // 2], "is truncated. Copy it again from where it came, or remove it."),
        "car4_02.PNG": (
            header_of(60_000, 60_000),
            "has 60000x60000 pixels, more than the 300,000,000 that are decoded. "
            "Scale it down, or set BACKDROP_MAX_PIXELS.",
        ),
        "car5_02.jpeg": (b"", "is not a readable image. Copy it again from where it came, or remove it."),
    }
    for name, (data, _) in broken.items():
        (photos / name).write_bytes(data)
    (photos / "car6_02.jpg").mkdir()
    folder = {"car6_02.jpg": "can't be read (Is a directory). Check the file."}
    return {name: reason for name, (_, reason) in broken.items()} | folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != INVENTORY}


def table(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.reader(text.splitlines()))


def by_hand(photo: Path, model: EnsembleModel, level: float = 0.5) -> Mask:
    """Where the members' mean, taken in float64, exceeds a level."""
    image = read_image(photo)
    alone = [gather([member], None).probability(image).astype(np.float64) for member in model.members]
    return np.asarray(np.mean(alone, axis=0) > level)


def test_each_photograph_gets_its_mask_at_its_own_size(
    photos: Path, members: list[str], model: EnsembleModel, tmp_path: Path
) -> None:
    record = predict(str(photos), str(tmp_path / "out"), members, format="mask")
    assert (record.images, record.failed, record.model) == (10, 0, model.digest())
    written = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert written == record.model_dump(mode="json", exclude_none=True)
    assert len(content(tmp_path / "out")) == 11
    for photo in photos.iterdir():
        written = tmp_path / "out" / f"{photo.stem}.png"
        expected = by_hand(photo, model)
        assert 0.05 < expected.mean() < 0.9
        assert np.array_equal(read_mask(written), expected)
        assert written.read_bytes()[24] == 1  # PNG's header: bits of a pixel
        assert set(np.unique(cv2.imread(str(written), cv2.IMREAD_UNCHANGED))) == {0, 255}


RULE = PredictedDice(intercept=-0.2, slope=0.9, spread=0.5)


def write_rule(model: EnsembleModel, path: Path) -> str:
    """An ensemble's YAML with what `evaluate` learned about its Dice."""
    values = {"name": "known", "members": [{"recipe": model.members[0].recipe}], "predicted_dice": RULE}
    path.write_text(dump_yaml(parse(Ensemble, values, "known")))
    return str(path)


@pytest.mark.parametrize("format", ["cutout", "rle"])
def test_the_dice_of_each_mask_is_predicted_the_most_doubtful_first(
    photos: Path,
    members: list[str],
    model: EnsembleModel,
    tmp_path: Path,
    format: Format,  # noqa: A002
) -> None:
    config = write_rule(model, tmp_path / "known.yaml")
    predict(str(photos), str(tmp_path / "out"), members, ensemble=config, format=format)
    head, *rows = table(tmp_path / "out" / "predictions.csv")
    assert head == ["image", "dice", "low", "high"]
    by_hand = {}
    for photo in photos.iterdir():
        probability = model.probability(read_image(photo)).astype(np.float64)
        inside, total = probability[probability > 0.5].sum(), probability.sum() + (probability > 0.5).sum()
        error = -0.2 + 0.9 * np.log(1.0001 - 2 * inside / total)
        by_hand[photo.name] = [1.0001 - np.exp(error + shift) for shift in (0, 0.5, -0.5)]
    assert {name: [float(value) for value in values] for name, *values in rows} == {
        name: pytest.approx(np.clip(values, 0, 1), abs=2e-3) for name, values in by_hand.items()
    }
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    page = (tmp_path / "out" / "doubtful.html").read_text()
    assert re.findall(r"<b>(.+?)</b>Dice about ([\d.]+), ([\d.]+) to ([\d.]+)", page) == [tuple(row) for row in rows]
    assert page.count("data:image/jpeg;base64,") == len(rows)
    assert "http:" not in page
    predict(str(photos), str(tmp_path / "plain"), members, format=format)
    assert not {"predictions.csv", "doubtful.html"} & {path.name for path in (tmp_path / "plain").iterdir()}


def test_an_ensemble_s_post_processing_is_part_of_it(
    photos: Path, members: list[str], model: EnsembleModel, tmp_path: Path
) -> None:
    parts, levels = [{"recipe": model.members[0].recipe}], (0.3, 0.7)
    for level in levels:
        values = {"name": "strict", "members": parts, "postprocessing": [{"kind": "threshold", "level": level}]}
        (tmp_path / f"{level}.yaml").write_text(dump_yaml(parse(Ensemble, values, "strict")))
        predict(str(photos), str(tmp_path / "out"), members, ensemble=str(tmp_path / f"{level}.yaml"), format="mask")
        for photo in photos.iterdir():
            mask = read_mask(tmp_path / "out" / f"{photo.stem}.png")
            assert np.array_equal(mask, by_hand(photo, model, level))
    assert any(
        (by_hand(photo, model, levels[0]) != by_hand(photo, model, levels[1])).any() for photo in photos.iterdir()
    )


def test_all_formats_say_the_same(photos: Path, members: list[str], tmp_path: Path) -> None:
    for kind in ("mask", "rle", "submission"):
        predict(str(photos), str(tmp_path / kind), members, format=kind)
    names = sorted(photo.name for photo in photos.iterdir())
    masks = {name: read_mask(tmp_path / "mask" / f"{Path(name).stem}.png") for name in names}
    submission = table(tmp_path / "submission" / "submission.csv.gz")
    assert submission == [["img", "rle_mask"], *([name, runs_by_hand(masks[name])] for name in names)]
    runs = table(tmp_path / "rle" / "masks.csv")
    assert runs[0] == ["stem", "height", "width", "rle"]
    assert [stem for stem, *_ in runs[1:]] == [Path(name).stem for name in names]
    for name, (_, height, width, rle) in zip(names, runs[1:], strict=True):
        assert np.array_equal(decode_rle(rle, int(height), int(width)), masks[name])


def test_memory_changes_nothing(
    photos: Path, members: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(photos)
    outs = []
    for name, pixels, kept in (("much", 2**30, 2**30), ("little", 1, 0)):
        monkeypatch.setattr(batch, "PIXELS", pixels)
        monkeypatch.setattr(batch, "MAX_CACHED", kept)
        predict(str(photos), str(tmp_path / name), members[:: 1 if kept else -1], format="submission")
        outs.append(content(tmp_path / name))
    assert outs[0] == outs[1]


def test_memory_is_bounded(photos: Path, model: EnsembleModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(EnsembleModel):
        def means(self, photos: Sequence[Photograph], rows: slice = ALL) -> list[Mean]:
            seen.append([photo.pixels for photo in photos])
            return super().means(photos, rows)

    watched = Watched(model.members, model.recipe_weights)
    for pixels in (1, 22_000, 2**30):
        monkeypatch.setattr(batch, "PIXELS", pixels)
        seen.clear()
        assert len(cut_out(watched, [Source(path, path.name) for path in sorted(photos.iterdir())])) == 10
        assert all(sum(chunk) <= pixels or len(chunk) <= BATCH for chunk in seen)
        assert all(len(chunk) % BATCH == 0 for chunk in seen[:-1])
        assert [len(chunk) for chunk in seen] == {1: [4, 4, 2], 22_000: [8, 2], 2**30: [10]}[pixels]


def test_networks_are_kept_while_there_is_room(model: EnsembleModel, monkeypatch: pytest.MonkeyPatch) -> None:
    size = max((member.folder / "weights.safetensors").stat().st_size for member in model.members)
    for room, kept in ((0, [False, False]), (size, [True, False]), (2 * size, [True, True])):
        monkeypatch.setattr(batch, "MAX_CACHED", room)
        model_in_memory = keep_networks(model)
        assert [member.network() is member.network() for member in model_in_memory.members] == kept
        assert model_in_memory.digest() == model.digest()


@pytest.mark.parametrize("large", [False, True])
def test_the_next_is_made_while_one_is_used_unless_it_is_large(large: bool) -> None:
    made: SimpleQueue[int] = SimpleQueue()

    def make() -> Iterator[int]:
        for number in range(1, 5):
            made.put(number)
            yield number
        raise DataError("a.jpg is damaged", "Replace it")

    items = ahead(make(), lambda _: large)
    for number in range(1, 5):
        assert next(items) == number
        if large:
            assert [made.get() for _ in range(made.qsize())] == [number]
        elif number < 4:
            assert {made.get(timeout=60) for _ in range(2 if number == 1 else 1)} >= {number + 1}
    with pytest.raises(DataError, match="damaged"):
        next(items)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_the_order_of_members_nor_what_stays_in_memory_changes_a_bit(
    photos: Path, tmp_path: Path, precision: str
) -> None:
    recipe = find_recipe("tiny", [*SMALL, f"compute.precision={precision}"])
    members = [open_member(str(write_member(tmp_path / f"m{n}", recipe, f"{n}" * 64, n))) for n in range(3)]
    sources = [Source(path, path.name) for path in sorted(photos.iterdir())]

    def finish(source: Source, outcome: Outcome, mask: Mask) -> Cutout:
        assert outcome.probability is not None
        return Cutout(image=source.name, rle=encode_rle(mask), digest=storage.sha256(outcome.probability.tobytes()))

    models = [EnsembleModel(tuple(members), {}), EnsembleModel(tuple(members[::-1]), {})]
    results = [cut_out(model, sources, finish) for one in models for model in (one, keep_networks(one))]
    assert len({cutout.digest for cutout in results[0]}) == 10
    assert all(result == results[0] for result in results)


def test_photographs_that_cannot_be_read_are_reported_and_the_others_predicted(
    photos: Path, members: list[str], tmp_path: Path
) -> None:
    reasons = spoil(photos)
    record = predict(str(photos), str(tmp_path / "png"), members, format="mask")
    assert (record.images, record.failed) == (14, 4)
    failed = table(tmp_path / "png" / "failed.csv")
    assert failed == [["image", "reason"], *([name, reasons[name]] for name in sorted(reasons))]
    assert len(list((tmp_path / "png").glob("*.png"))) == 10
    predict(str(photos), str(tmp_path / "all"), members, format="submission")
    rows = dict(table(tmp_path / "all" / "submission.csv.gz"))
    assert len(rows) == 15
    assert {name for name, rle in rows.items() if not rle} == set(reasons)
    assert (tmp_path / "all" / "failed.csv").read_bytes() == (tmp_path / "png" / "failed.csv").read_bytes()


def test_a_photograph_that_does_not_fit_a_recipe_is_reported(photos: Path, tmp_path: Path) -> None:
    recipe = find_recipe("tiny", ["input.size=64x48", "input.fit=pad", "network.width=2", "network.depth=1"])
    member = write_member(tmp_path / "member", recipe, "k" * 64, 0)
    record = predict(str(photos), str(tmp_path / "out"), [str(member)], format="mask")
    assert record.failed == 3
    reason = "is 70x30 and doesn't fit into input.size 64x48 of recipe tiny. Scale it down."
    assert table(tmp_path / "out" / "failed.csv")[1:] == [[f"car{n}_01.jpg", reason] for n in (2, 5, 8)]


KILLED = """
import os, signal, sys
from backdrop.inference import batch
from backdrop.steps.predict import predict
batch.CHUNK, real, calls = 4, batch.cut_out, []
def cut_out(model, photos, finish):
    calls.append(photos)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(model, photos, finish)
batch.cut_out = cut_out
predict(sys.argv[1], sys.argv[2], sys.argv[3:], format="mask")
"""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the photographs that networks see, few by few."""
    real, seen = batch.cut_out, []

    def cut_out(model: EnsembleModel, photos: Sequence[Source], finish: batch.Finish) -> list[batch.Cutout]:
        seen.append([photo.name for photo in photos])
        return real(model, photos, finish)

    monkeypatch.setattr(batch, "CHUNK", 4)
    monkeypatch.setattr(batch, "cut_out", cut_out)
    return seen


def test_a_killed_run_resumes(photos: Path, members: list[str], tmp_path: Path, watch: list[list[str]]) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    done = subprocess.run([sys.executable, "-c", KILLED, photos, out, *members], env=os.environ, check=False)
    assert done.returncode == -9
    assert not out.exists()
    parts = sorted(partial.iterdir())
    assert len(parts) == 2
    predict(str(photos), str(out), members, format="mask")
    assert watch == [["car8_01.jpg", "car9_01.jpg"]]
    assert not partial.exists()
    predict(str(photos), str(tmp_path / "whole"), members, format="mask")
    assert content(out) == content(tmp_path / "whole")


def test_only_the_same_work_is_resumed(
    photos: Path, members: list[str], tmp_path: Path, watch: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    monkeypatch.setattr(batch.PredictionStore, "clear", lambda store: None)
    predict(str(photos), str(out), members, format="mask")
    assert len(watch) == len(list(partial.iterdir())) == 3
    predict(str(photos), str(out), members, format="rle")
    assert len(watch) == 3
    (photos / "car5_01.jpg").write_bytes((photos / "car0_01.jpg").read_bytes())
    predict(str(photos), str(out), members, format="mask")
    assert [few[0] for few in watch[3:]] == ["car4_01.jpg"]
    predict(str(photos), str(out), members[:1], format="mask")
    assert len(watch) == 7
    for part in partial.iterdir():
        part.write_bytes(part.read_bytes()[:-5])
    predict(str(photos), str(out), members[:1], format="mask")
    assert len(watch) == 10


def refused(kind: type[BackdropError], message: str, *given: object, **options: object) -> None:
    with pytest.raises(kind, match=message):
        predict(*given, **options)  # type: ignore[arg-type]  # wrong on purpose


def test_what_makes_no_sense_is_refused_before_anything_is_written(
    photos: Path, members: list[str], tmp_path: Path
) -> None:
    images, out, champion = str(photos), str(tmp_path / "new" / "out"), "models:/cars@champion"
    (tmp_path / "twice").mkdir()
    for name in ("a_01.jpg", "a_01.png", "notes.txt", ".hidden.jpg"):
        (tmp_path / "twice" / name).write_bytes(b"")
    (tmp_path / "sample.csv").write_text("img,rle_mask\ncar0_01.jpg,1 1\nlost_01.jpg,1 1\n")
    sample = str(tmp_path / "sample.csv")
    refused(MemberError, "Either members or a model must be named", images, out)
    refused(MemberError, "Either members or a model must be named", images, out, members, champion)
    refused(ConfigError, "@champion has its own ensemble", images, out, [], champion, "tiny")
    refused(MemberError, "is not a finished member", images, out, [images])
    (tmp_path / "none").mkdir()
    refused(DataError, "none has no photographs. Name the folder", str(tmp_path / "none"), out, members)
    refused(DataError, r"a_01\.jpg and .*a_01\.png have one stem", str(tmp_path / "twice"), out, members)
    refused(StorageError, "nowhere doesn't exist", str(tmp_path / "nowhere"), out, members)
    refused(ConfigError, "no use without --format submission", images, out, members, sample_submission=sample)
    given = {"format": "submission", "sample_submission": sample}
    refused(DataError, r"sample\.csv names 1 image that you don't have: lost_01\.jpg", images, out, members, **given)
    refused(StorageError, "train exists and is not the output of an earlier run", images, images, members)
    assert sorted(path.name for path in photos.parent.iterdir()) == ["train", "train_masks"]
    assert len(list(photos.iterdir())) == 10


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output or result.exception
    return result.stdout


def test_on_the_command_line(photos: Path, members: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("predict", photos, "--out", out, "--format", "mask", "--members", *members)
    assert run(*command) == f"{out}: masks of 10 photographs\n"
    alone = ("predict", photos, "--out", tmp_path / "alone", "--members", members[0])
    run(*alone)
    first, both = (json.loads((folder / "predict.json").read_text())["model"] for folder in (tmp_path / "alone", out))
    assert first != both
    spoil(photos)
    assert f"4 photographs failed: see {out}/failed.csv" in run(*command, code=1)
    said = run(*command, "--format", "submission", code=1)
    assert "4 photographs failed; the submission has empty masks for them: see" in said
    assert not list(out.glob("*.png"))
    result = CliRunner().invoke(app.app, [*map(str, command), "--format", "submision"])
    assert str(result.exception) == "--format can't be submision. Did you mean submission?"


def test_photographs_without_a_product_are_counted(
    photos: Path, members: list[str], model: EnsembleModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(photos)
    for level in (0.0, 0.5, 1.0):
        values = {
            "name": "x",
            "members": [{"recipe": model.members[0].recipe}],
            "postprocessing": [{"kind": "threshold", "level": level}],
        }
        (tmp_path / "x.yaml").write_text(dump_yaml(parse(Ensemble, values, "x")))
        known: dict[str, list[tuple[str, str]]] = {}
        formats: tuple[Format, ...] = ("rle", "mask", "alpha", "cutout")
        for format in formats:  # noqa: A001  # the parameter's name
            predict(str(photos), str(tmp_path / "out"), members, ensemble=str(tmp_path / "x.yaml"), format=format)
            said = capsys.readouterr().err
            known[format] = re.findall(r"No product was found in (\d+) photographs?, such as (\S+)", said)
            if format == "rle":
                empty = [f"{name}.jpg" for name, *_, rle in table(tmp_path / "out" / "masks.csv")[1:] if not rle]
        assert known == dict.fromkeys(formats, [(str(len(empty)), empty[0])] if empty else [])
    assert len(empty) == 10


def test_the_command_names_the_page_of_doubtful_photographs(
    photos: Path, members: list[str], model: EnsembleModel, tmp_path: Path
) -> None:
    out, config = tmp_path / "out", write_rule(model, tmp_path / "known.yaml")
    said = run("predict", photos, "--out", out, "--ensemble", config, "--members", *members)
    assert said == f"{out}: cut-outs of 10 photographs\nthe most doubtful: {out}/doubtful.html\n"


def test_what_is_passed_over_is_named_and_counts(photos: Path, members: list[str], tmp_path: Path) -> None:
    for name in ("car0_01.CR2", "notes.txt"):  # a raw file beside its JPEG is no loss
        (photos / name).write_bytes(b"x")
    os.mkfifo(photos / "pipe")
    command = ("predict", photos, "--out", tmp_path / "out", "--format", "mask", "--members", members[0])
    said = run(*command)
    assert "3 files passed over: .cr2 (1), .txt (1), not a regular file (1)\n" in said
    assert "  notes.txt (.txt files aren't read)\n" in said
    (photos / "new.jxl").write_bytes(b"x")
    os.mkfifo(photos / "car9_09.jpg")
    photo = Image.open(photos / "car1_01.jpg")
    for name in ("a.webp", "b.tif", "c.jfif"):
        photo.save(photos / name, "JPEG" if name == "c.jfif" else None)
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes((photos / "car1_01.jpg").read_bytes())
    said = run(*command, code=1)
    assert f"{tmp_path / 'out'}: masks of 13 photographs\n1 photograph failed" in said
    assert "  new.jxl (.jxl files aren't read)\n" in said
    assert "  caf\\xe9.jpg (name isn't UTF-8)\n" in said
    assert table(tmp_path / "out" / "failed.csv")[1:] == [["car9_09.jpg", "is not a regular file. Remove it."]]
    passed_over = json.loads((tmp_path / "out" / "predict.json").read_text())["passed_over"]
    assert {one["file"] for one in passed_over if one["photograph"]} == {"new.jxl", "caf\\xe9.jpg"}


def test_photographs_and_masks_can_live_in_s3(
    bucket: str,
    photos: Path,
    members: list[str],
    tmp_path: Path,
) -> None:
    storage.upload_folder(photos, f"{bucket}/cars/test", "")
    predict(f"{bucket}/cars/test", f"{bucket}/masks", members, format="mask")
    predict(str(photos), str(tmp_path / "here"), members, format="mask")
    written = storage.local_folder(f"{bucket}/masks")
    assert content(written) == content(tmp_path / "here")
    assert not (tmp_path / "cache" / "predicting").exists()
