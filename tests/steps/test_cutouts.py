"""Cut-outs and alpha of `predict`, the inputs that it takes, and one photograph from standard input to output."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common import storage
from backdrop.common.errors import BackdropError, ConfigError, DataError, StorageError
from backdrop.common.outputs import output_folder
from backdrop.data.dataset import read_image, read_mask
from backdrop.data.listing import list_images
from backdrop.data.masks import Mask
from backdrop.data.photographs import find_photographs, list_names
from backdrop.inference import batch
from backdrop.inference.alpha import make_matte
from backdrop.inference.compose import PictureOptions, Pictures
from backdrop.inference.ensemble import EnsembleModel, Outcome, gather
from backdrop.steps.members import open_member
from backdrop.steps.predict import MERGED, OWN, predict, read_background
from tests.conftest import draw_pair
from tests.steps.test_predict import content, members, photos, spoil, table  # noqa: F401  # fixtures, too

RED = (200, 0, 0)


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def tree(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in storage.list_files(folder)}


def test_a_cut_out_is_the_matte_of_the_ensemble_s_mean(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    model = gather([open_member(address) for address in members], None)
    record = predict(str(photos), str(tmp_path / "out"), members)
    assert (record.format, record.images, record.failed) == ("cutout", 10, 0)
    predict(str(photos), str(tmp_path / "alpha"), members, format="alpha")
    predict(str(photos), str(tmp_path / "masks"), members, format="mask")
    options = PictureOptions("jpeg", RED, 5)
    predict(str(photos), str(tmp_path / "red"), members, options=options)
    for photo in photos.iterdir():
        image = read_image(photo)
        matte = make_matte(image, model.probability(image), model.mask(image))
        cut_out, alpha = (pixels(tmp_path / name / f"{photo.stem}.png") for name in ("out", "alpha"))
        expected = np.dstack([matte.colors, matte.alpha])  # a batch of one photograph differs in its last bits
        assert np.abs(cut_out.astype(int) - expected).max() <= 2
        assert np.array_equal(cut_out[..., 3], alpha)
        mask = read_mask(tmp_path / "masks" / f"{photo.stem}.png")
        assert matte.alpha[cv2.erode(mask.view(np.uint8), np.ones((11, 11))) > 0].min(initial=255) == 255
        red = pixels(tmp_path / "red" / f"{photo.stem}.jpg")
        _, _, width, height = cv2.boundingRect(matte.alpha)
        margin = round(max(width, height) * 0.05)
        assert red.shape == (height + 2 * margin, width + 2 * margin, 3)
        assert np.abs(red[0, 0].astype(int) - RED).max() < 20  # JPEG rings


def test_photographs_that_fail_are_reported(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    reasons = spoil(photos)
    record = predict(str(photos), str(tmp_path / "out"), members)
    assert (record.images, record.failed) == (14, 4)
    assert dict(table(tmp_path / "out" / "failed.csv")[1:]) == reasons
    assert len(list((tmp_path / "out").glob("*.png"))) == 10


def test_no_cut_out_has_one_photograph_s_mask_and_another_s_pixels(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    written, other = photos / "car3_01.jpg", (photos / "car0_01.jpg").read_bytes()  # of one size

    class Overtaken(EnsembleModel):
        def cut(self, outcome: Outcome, view: str) -> Mask:
            written.write_bytes(other)
            return super().cut(outcome, view)

    model = Overtaken(gather([open_member(address) for address in members], None).members, {})
    store = batch.PredictionStore(tmp_path / "store", Pictures("cutout"))
    cutouts = list(store.cut_out(model, find_photographs([str(photos)], [])[0]))
    failed = {one.image: one.failure for one in cutouts if one.failure}
    assert failed == {written.name: "has changed since it was first read. Run the step again."}
    assert sum(bool(one.picture) for one in cutouts) == 9


def test_a_picture_too_large_for_its_format_is_reported(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules["backdrop.inference.compose"].MAX_SIDE, "webp", 64)
    record = predict(str(photos), str(tmp_path / "out"), members, options=PictureOptions("webp"))
    assert (record.images, record.failed) == (10, 3)
    assert "is 70x30, and webp pictures have at most 64 pixels a side" in (tmp_path / "out/failed.csv").read_text()


KILLED = """
import os, random, signal, sys, threading
from backdrop.inference import batch
from backdrop.inference.compose import PictureOptions
from backdrop.steps.predict import predict
batch.CHUNK = 2
photos, out, calls, *members = sys.argv[1:]
real, left = batch.PredictionStore._draw, [int(calls)]
def draw(self, *given):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *given)
batch.PredictionStore._draw = draw
predict(photos, out, members, options=PictureOptions("webp", (200, 0, 0), 10))
"""


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_resume_with_the_same_bytes(
    kills: int,
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, chance = PictureOptions("webp", RED, 10), random.Random(0)
    predict(str(photos), str(tmp_path / "whole"), members[::-1], options=options)
    monkeypatch.setattr(batch, "CHUNK", 2)
    real, drawn = batch.PredictionStore._draw, []
    monkeypatch.setattr(batch.PredictionStore, "_draw", lambda *given: drawn.append(given[3].name) or real(*given))
    for kill in range(kills):
        out, calls = tmp_path / f"out{kill}", chance.randint(2, 9)
        command = [sys.executable, "-c", KILLED, photos, out, str(calls), *members]
        assert subprocess.run(command, env=os.environ, check=False).returncode == -9
        assert not out.exists()
        drawn.clear()
        predict(str(photos), str(out), members, options=options)
        assert len(drawn) == 10 - calls // 2 * 2
        assert not (tmp_path / f"out{kill}.partial").exists()
        assert content(out) == content(tmp_path / "whole")


def test_a_damaged_picture_and_other_options_are_not_reused(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, drawn = batch.PredictionStore._draw, []
    monkeypatch.setattr(batch.PredictionStore, "_draw", lambda *given: drawn.append(given[3].name) or real(*given))
    monkeypatch.setattr(batch.PredictionStore, "clear", lambda store: None)
    for options, count in (
        (PictureOptions(), 10),
        (PictureOptions(), 10),
        (PictureOptions(background=RED), 20),
        (PictureOptions(background=np.zeros((2, 2, 3), np.uint8)), 30),
        (PictureOptions(background=np.ones((2, 2, 3), np.uint8)), 40),
        (PictureOptions(crop=0), 50),
    ):
        predict(str(photos), str(tmp_path / "out"), members, options=options)
        assert len(drawn) == count
    picture = next((tmp_path / "out.partial").glob("*/car3_01.png"))
    picture.unlink()  # it may be linked into the output
    picture.write_bytes(b"damaged")
    for options in (PictureOptions(), PictureOptions(background=RED), PictureOptions(crop=0)):
        predict(str(photos), str(tmp_path / "out"), members, options=options)
    assert len(drawn) <= 60
    predict(str(photos), str(tmp_path / "whole"), members, options=PictureOptions(crop=0))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def names(*inputs: object, skipped: tuple[Path, ...] = ()) -> list[str]:
    return [source.name for source in find_photographs([str(one) for one in inputs], skipped)[0]]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Photographs in folders, with files that aren't."""
    root = tmp_path / "shop"
    others = (".hidden/c_01.jpg", ".d_01.jpg", "train_masks/a_01_mask.png", "blue/train_masks/deep/b_01_mask.png")
    others += ("blue/@eaDir/a_01.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/g_01.jpg", "$RECYCLE.BIN/h_01.jpg")
    for name in ("a_01.jpg", "blue/a_01.jpg", "blue/deep/b_01.PNG", "red/[x]_01.jpg", *others):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "blue" / "notes.txt").write_bytes(b"x")
    (root / "blue" / "e_01.cr2").write_bytes(b"x")
    (root / "link").symlink_to(root / "blue")
    for name, step in (("red", "sample"), ("done", "predict"), ("blue/member", "train")):
        (root / name / "samples").mkdir(parents=True)
        (root / name / "samples" / "f_01.png").write_bytes(b"x")
        (root / name / ".backdrop.json").write_text(json.dumps({"step": step, "key_file": "", "files": {}}))
    return root


def test_names_keep_the_relative_folder(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ["a_01.jpg", "blue/a_01.jpg", "blue/deep/b_01.PNG", "red/[x]_01.jpg", "red/samples/f_01.png"]
    assert names(shop) == everything
    assert names(shop, skipped=(shop / "blue",)) == ["a_01.jpg", *everything[3:]]
    assert names(shop / "blue", shop / "red") == ["[x]_01.jpg", "a_01.jpg", "deep/b_01.PNG", "samples/f_01.png"]
    assert names(shop / "red" / "[x]_01.jpg") == ["[x]_01.jpg"]
    assert names(shop / "*_01.jpg") == ["a_01.jpg"]
    assert names(shop / "*" / "*_01.jpg") == ["blue/a_01.jpg", "link/a_01.jpg", "red/[x]_01.jpg"]
    assert names(shop / "b*") == ["blue/a_01.jpg", "blue/deep/b_01.PNG"]
    assert names(shop / "blue" / "**") == ["a_01.jpg", "deep/b_01.PNG"]
    assert names(shop, shop) == everything
    assert names(shop / "train_masks") == names(shop / "train_masks" / "*") == ["a_01_mask.png"]
    assert names(shop / "bl*" / "train_masks") == ["blue/train_masks/deep/b_01_mask.png"]
    assert names(shop / "done") == names(shop / "blue" / "member") == ["samples/f_01.png"]
    for found in (names(shop / "*"), names(shop / "**"), names(shop / "**" / "*.*")):
        assert [name for name in found if not name.startswith("link/")] == everything
    monkeypatch.chdir(shop)
    assert names(".") == everything
    assert names("blue/*.jpg") == names("blue/a_01.jpg") == ["a_01.jpg"]
    assert names("blue/notes.txt") == ["notes.txt"]
    _, passed_over = find_photographs(["."], [])
    assert {one.file: one.photograph for one in passed_over} == {
        "blue/notes.txt": False,
        "blue/e_01.cr2": True,
        "blue/member": False,
        "blue/train_masks": False,
        "done": False,
        "link": True,
        "train_masks": False,
    }


def test_a_prefix_has_the_photographs_of_the_same_folder(bucket: str, shop: Path) -> None:
    storage.upload_folder(shop, f"{bucket}/shop", "a_01.jpg")
    everything = set(list_names(f"{bucket}/shop"))
    assert everything >= set(names(shop))
    assert everything - set(names(shop)) <= {"link/a_01.jpg", "link/deep/b_01.PNG"}  # S3 has no links
    assert list_names(f"{bucket}/shop/done") == ["samples/f_01.png"]


def test_what_is_not_searched_for_photographs_is_not_copied_from_a_prefix(bucket: str, shop: Path) -> None:
    (shop / "link").unlink()
    storage.upload_folder(shop, f"{bucket}/shop", "a_01.jpg")
    found, passed_over = find_photographs([f"{bucket}/shop"], ())
    assert [source.name for source in found] == names(shop)
    assert {one.file: one for one in passed_over} == {one.file: one for one in find_photographs([str(shop)], ())[1]}
    copies = {path.name for path in (storage.cache_folder() / "datasets").rglob("*") if path.is_file()}
    assert copies == {path.name for path in map(Path, names(shop))} | {"notes.txt", "e_01.cr2"}


def test_results_below_a_prefix_do_not_make_its_photographs_be_copied_again(bucket: str, shop: Path) -> None:
    def copies() -> list[Path]:
        return list((storage.cache_folder() / "datasets").iterdir())

    storage.upload_folder(shop / "red", f"{bucket}/shop", "")
    find_photographs([f"{bucket}/shop"], ())
    before = copies()
    with output_folder(f"{bucket}/shop/results", "predict", "key") as folder:
        (folder / "a_01.png").write_bytes(b"x")
        (folder / "key").write_bytes(b"x")
    _, passed_over = find_photographs([f"{bucket}/shop"], ())
    assert [(one.file, one.reason) for one in passed_over] == [("results", "results of `backdrop predict`")]
    assert copies() == before


@pytest.mark.parametrize("name", [*OWN, *MERGED, "PREDICT.json"])
def test_a_folder_named_like_a_table_of_the_results_is_refused_before_the_work(
    name: str,
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (photos / name).mkdir()
    (photos / name / "car9_01.jpg").write_bytes((photos / "car0_01.jpg").read_bytes())
    out = tmp_path / "out"
    monkeypatch.setattr(batch.PredictionStore, "cut_out", None)  # too late
    with pytest.raises(DataError, match=rf"{name}/car9_01.jpg lies in a folder that"):
        predict(str(photos), str(out), members, format="mask")
    assert not out.exists()


def test_a_file_in_the_place_of_unfinished_results_is_noticed_before_the_work(
    photos: Path,  # noqa: F811
    members: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "out.partial").write_text("mine")
    monkeypatch.setattr(batch.PredictionStore, "cut_out", None)
    with pytest.raises(StorageError, match=r"out\.partial is not a folder"):
        predict(str(photos), str(tmp_path / "out"), members)


def test_inputs_that_cannot_be_used(shop: Path) -> None:
    def refused(kind: type[BackdropError], message: str, *inputs: object) -> None:
        with pytest.raises(kind, match=message):
            names(*inputs)

    refused(DataError, r"shop/a_01\.jpg and .*blue/a_01\.jpg have one stem", shop / "a_01.jpg", shop / "blue")
    refused(StorageError, r"No file matches .*\*\.gif\. Check the pattern, and put it in quotes", shop / "*.gif")
    refused(StorageError, "nowhere doesn't exist", shop / "nowhere")
    refused(ConfigError, "- stands for one photograph on standard input", "-", shop)
    (shop / "empty").mkdir()
    refused(DataError, "empty has no photographs", shop / "empty")


def test_the_output_is_not_an_input(photos: Path, members: list[str], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(batch.PredictionStore, "clear", lambda _: None)  # what a killed run leaves is there, too
    for _ in range(2):
        record = predict(str(photos), str(photos / "cut"), members)
        assert record.images == 10
        assert not record.passed_over
    record = predict(str(photos), str(photos / "masks"), members, format="mask")
    assert record.images == 10
    assert [(one.file, one.reason) for one in record.passed_over] == [
        ("cut", "results of `backdrop predict`"),
        ("cut.partial", "unfinished results of `backdrop predict`"),
    ]


def test_inputs_and_outputs_in_s3(bucket: str, photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    storage.upload_folder(photos, f"{bucket}/shop/cars", "")
    (tmp_path / "other").mkdir()
    draw_pair(tmp_path / "other", "van_01", 7)
    van = tmp_path / "other" / "train" / "van_01.jpg"
    predict([f"{bucket}/shop", str(van)], f"{bucket}/cut", members)
    written = storage.local_folder(f"{bucket}/cut")
    assert len(list((written / "cars").glob("*.png"))) == 10
    assert (written / "van_01.png").is_file()
    predict([f"{bucket}/shop/cars/car0_01.jpg", str(van)], str(tmp_path / "one"), members)
    assert sorted(path.name for path in (tmp_path / "one").glob("*.png")) == ["car0_01.png", "van_01.png"]
    assert (tmp_path / "one" / "van_01.png").read_bytes() == (written / "van_01.png").read_bytes()
    with pytest.raises(StorageError, match="has no objects"):
        names(f"{bucket}/shop/vans")


def test_one_photograph_from_standard_input_to_output(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    photo = photos / "car2_01.jpg"
    command = [sys.executable, "-m", "backdrop", "predict", "-", "--members", *members]
    done = subprocess.run(command, input=photo.read_bytes(), capture_output=True, check=True)
    predict(str(photo), str(tmp_path / "out"), members)
    assert done.stdout == (tmp_path / "out" / "car2_01.png").read_bytes()
    failed = CliRunner().invoke(app.app, ["predict", "-", "--members", *members], input=b"no photograph")
    assert failed.stdout == ""
    assert str(failed.exception).startswith("The photograph is not a readable image")
    for closed in ("<&-", ">&-"):
        done = subprocess.run(["sh", "-c", f'exec "$0" "$@" {closed}', *command], capture_output=True, check=False)
        assert done.returncode == 2
        assert done.stderr.endswith(b"error: Standard input or output is closed. Connect both: <PHOTOGRAPH >PICTURE.\n")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app.app, [str(argument) for argument in arguments])
    return result.stdout or str(result.exception).removesuffix(".")


def test_on_the_command_line(photos: Path, members: list[str], tmp_path: Path) -> None:  # noqa: F811
    given, out = ("predict", *sorted(photos.iterdir())[:2], "--members", members[0]), tmp_path / "out"
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((40, 40, 3), (0, 0, 200), np.uint8))
    for background in ("#c80000", "rgb(200, 0, 0)", tmp_path / "wall.png"):
        said = run(*given, "--out", out, "--background", background, "--crop", "10", "--type", "png")
        assert said == f"{out}: cut-outs of 2 photographs\n"
        assert pixels(out / "car0_01.png")[0, 0].tolist() == [*RED]
    assert json.loads((out / "predict.json").read_text())["format"] == "cutout"
    assert run(*given) == "The folder for the results is missing. Name it with --out"
    assert "--type can't be gif" in run(*given, "--out", out, "--type", "gif")
    assert "The margin must be 0 to 50 percent, not 70" in run(*given, "--out", out, "--crop", "70")
    assert "redd is neither a color nor a file" in run(*given, "--out", out, "--background", "redd")
    no_use = run(*given, "--out", out, "--format", "mask", "--crop", "1")
    assert no_use == "--background, --crop and --type are of no use with --format mask. Leave them out"
    single = ("predict", "-", "--members", members[0])
    assert "The picture of - goes to standard output" in run(*single, "--out", out)
    assert "rle is not a picture" in run(*single, "--format", "rle")


def test_a_background_can_be_in_s3(bucket: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (3, 2), RED).save(data, "PNG")
    storage.write_bytes(f"{bucket}/wall.png", data.getvalue())
    wall = read_background(f"{bucket}/wall.png")
    assert isinstance(wall, np.ndarray)
    assert (wall == RED).all()


def test_other_commands_still_list_one_folder(shop: Path) -> None:
    assert [path.name for path in list_images(shop, {".jpg"}).images] == ["a_01.jpg"]
