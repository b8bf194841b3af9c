"""A messy folder becomes a dataset."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.cli.output import import_text
from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, StorageError
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset, read_image, read_mask
from backdrop.data.folds import dump_plan, make_plan
from backdrop.data.importing.sources import find_sources
from backdrop.steps.check import check
from backdrop.steps.import_ import ImportOptions, ImportRecord, import_photos
from backdrop.steps.train import train
from tests.conftest import SMALL, another_user

HEIC = Path(__file__).parents[1] / "data" / "files" / "two-colors.heic"
PLAIN = ImportOptions()


def scene(seed: int, height: int = 40, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A photograph, and its mask."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    axes = (int(random.integers(width // 6, width // 3)), int(random.integers(height // 6, height // 3)))
    cv2.ellipse(mask, (width // 2 + seed % 5, height // 2), axes, 20, 0, 360, 1, -1)
    image = random.integers(180, 240, (height, width, 3)).astype(np.uint8)
    image[mask > 0] //= 3
    return image, mask > 0


def save(path: Path, image: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.dstack([image * mask[..., None], mask.astype(np.uint8) * 255])


def targets(record: ImportRecord) -> dict[str, str]:
    return {row.source: row.target or row.note for row in record.rows}


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Five products as a phone and a cut-out service leave them."""
    root = tmp_path / "phone"
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, product in enumerate(("red shoe", "blue shoe", "lamp", "Café", "hat")):
        for view in range(2):
            image, mask = scene(10 * number + view)
            stem = root / product / f"IMG_{2000 + 7 * number + view}"
            if product == "red shoe":
                save(stem.with_suffix(".JPG"), image, exif=turned, quality=95)
                save(stem.with_suffix(".png"), cut(np.rot90(image, -1), np.rot90(mask, -1)))
            elif product == "blue shoe":
                save(stem.with_suffix(".avif" if view else ".webp"), image, quality=95)
                save(stem.with_name(f"{stem.name}-mask.gif"), mask.astype(np.uint8) * 255)
            elif product == "lamp":
                save(stem.with_suffix(".png"), np.dstack([image, mask.astype(np.uint8) * 255]))
            elif product == "Café":
                save(stem.with_suffix(".jfif"), image, format="JPEG", exif=turned, quality=95)
                save(stem.with_name(f"{stem.name}_Mask.PNG"), mask)  # drawn on the photograph as it was unturned
            else:
                save(stem.with_suffix(".tif"), image)
                points = [[20, 10], [40, 10], [40, 30], [20, 30 + view]]
                drawn = {"shapes": [{"label": "hat", "points": points}], "imagePath": f"{stem.name}.tif"}
                stem.with_suffix(".json").write_text(json.dumps(drawn | {"imageWidth": 64, "imageHeight": 40}))
    (root / ".DS_Store").write_bytes(b"x")
    for name in ("red shoe/@eaDir/IMG_2000.JPG/SYNOPHOTO_THUMB_M.jpg", "#recycle/old/IMG_1.JPG"):  # a NAS's own
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes((root / "red shoe" / "IMG_2000.JPG").read_bytes())
    return root


def test_a_messy_folder_becomes_a_dataset_that_trains(messy: Path, tmp_path: Path) -> None:
    before = content(messy)
    record = import_photos(str(messy), str(tmp_path / "data"), PLAIN)
    assert record.left_out == []
    assert not record.missed
    assert content(messy) == before
    assert sorted(row.target for row in record.rows) == [
        *("train/Café_01.jpg", "train/Café_02.jpg", "train/blue-shoe_01.webp", "train/blue-shoe_02.avif"),
        *("train/hat_01.png", "train/hat_02.png", "train/lamp_01.png", "train/lamp_02.png"),
        *("train/red-shoe_01.jpg", "train/red-shoe_02.jpg"),
    ]
    report = check(str(tmp_path / "data"), ["tiny"])
    assert [fault for fault in report.faults if "differs in size" not in fault.what] == []
    for number, name in ((0, "red-shoe_01"), (30, "Café_01")):
        assert np.array_equal(
            read_mask(tmp_path / "data/train_masks" / f"{name}_mask.png"), np.rot90(scene(number)[1], -1)
        )
    assert (tmp_path / "data/train/red-shoe_01.jpg").read_bytes() == before["red shoe/IMG_2000.JPG"]
    assert np.array_equal(read_image(tmp_path / "data/train/lamp_01.png"), scene(20)[0])
    plan = tmp_path / "plan.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(tmp_path / "data"), Rule(2, 0.15, "area", 0))))
    member = train(str(tmp_path / "data"), str(plan), "tiny", 0, str(tmp_path / "m"), [*SMALL, "epochs=1"]).member
    assert member.epochs == 1


def test_the_same_folder_gives_the_same_bytes_and_may_be_imported_again(messy: Path, tmp_path: Path) -> None:
    import_photos(str(messy), str(tmp_path / "a"), PLAIN)
    first = content(tmp_path / "a")
    shutil.copytree(messy, tmp_path / "elsewhere")
    import_photos(str(tmp_path / "elsewhere"), str(tmp_path / "b"), PLAIN)
    assert content(tmp_path / "b") == first
    shutil.rmtree(messy / "hat")
    import_photos(str(messy), str(tmp_path / "a"), PLAIN)
    assert set(content(tmp_path / "a")) == {name for name in first if "hat" not in name}


def test_a_dry_run_says_all_and_writes_nothing(messy: Path, tmp_path: Path) -> None:
    record = import_photos(str(messy), str(tmp_path / "data"), PLAIN, dry_run=True)
    assert not (tmp_path / "data").exists()
    assert record == import_photos(str(messy), str(tmp_path / "data"), PLAIN)
    rows = list(csv.DictReader((tmp_path / "data" / "import.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["source"] for row in rows] == [row.source for row in record.rows]
    assert rows[-1]["mask_source"] == "red shoe/IMG_2001.png"


def test_what_is_not_ours_is_never_touched(messy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"exists and is not the output of an earlier run"):
        import_photos(str(messy), str(out), PLAIN)
    (out / "mine.txt").unlink()
    import_photos(str(messy), str(out), PLAIN)
    (out / "train" / "added_01.jpg").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"holds train/added_01\.jpg, which `backdrop import` didn't write"):
        import_photos(str(messy), str(out), PLAIN)
    assert (out / "train" / "added_01.jpg").read_bytes() == b"mine"
    for inside in (messy, messy / "data", messy.parent):
        with pytest.raises(StorageError, match="lie within each other"):
            import_photos(str(messy), str(inside), PLAIN)
    with pytest.raises(StorageError, match="address is empty"):
        import_photos(str(messy), "", PLAIN)


def test_what_check_says_of_masks_that_it_cannot_read_is_a_command_that_mends_them(tmp_path: Path) -> None:
    data, masks = tmp_path / "data", {}
    for number in range(6):
        image, mask = scene(number)
        stem = f"shoe{number // 2}_{number % 2}"
        save(data / "train" / f"{stem}.png", image)
        soft = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 1)
        kind = (soft, np.dstack([image, soft]), mask.astype(np.uint8) * 255)[number // 2]
        save(data / "train_masks" / f"{stem}_mask{'.tif' if number > 3 else '.png'}", kind)
        masks[stem] = mask if number > 3 else soft > 127
    command = "`backdrop import PHOTOS OUT --masks MASKS --threshold 128`"
    errors = [fault for fault in check(str(data)).faults if fault.level == "error"]
    assert len(errors) == 6
    assert all(command in fault.remedy for fault in errors)
    mended = {"PHOTOS": data / "train", "MASKS": data / "train_masks", "OUT": tmp_path / "out"}
    result = CliRunner().invoke(app.app, [str(mended.get(word, word)) for word in command.strip("`").split()[1:]])
    assert result.exit_code == 0
    photos = open_dataset(tmp_path / "out").photos
    assert {stem: read_mask(photo.mask).tolist() for stem, photo in photos.items() if photo.mask} == {
        stem: mask.tolist() for stem, mask in masks.items()
    }


def test_soft_masks_need_a_threshold(tmp_path: Path) -> None:
    for index in range(2):
        image, mask = scene(index)
        soft = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 1)
        save(tmp_path / "in" / f"shoe{index}_01.jpg", image)
        save(tmp_path / "in" / f"shoe{index}_01_mask.jpg", soft, quality=95)
        save(tmp_path / "in" / f"shoe{index}_02.jpg", image)
        save(tmp_path / "in" / f"shoe{index}_02.png", np.dstack([image, soft]))
    with pytest.raises(
        DataError, match=r"No photograph of .* can be taken: shoe0_01\.jpg .* levels, not two\. Set --thre"
    ):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    assert not (tmp_path / "out").exists()
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), ImportOptions(threshold=128))
    assert len(record.rows) == 4
    assert record.left_out == []
    for view in ("01", "02"):
        imported = read_mask(tmp_path / "out" / "train_masks" / f"shoe0_{view}_mask.png")
        assert np.mean(imported != scene(0)[1]) < 0.02
    for bad in (0, 256):
        with pytest.raises(ConfigError, match="isn't a level"):
            import_photos(str(tmp_path / "in"), str(tmp_path / "out"), ImportOptions(threshold=bad))


def test_masks_of_a_folder_of_their_own(tmp_path: Path) -> None:
    for product in ("a", "b"):
        for name in ("front", "back"):
            image, mask = scene(10 * ord(product) + len(name))
            save(tmp_path / "in" / "photos" / product / f"{name}.jpg", image)
            save(tmp_path / "in" / "masks" / product / f"{name}.png", mask)
    options = ImportOptions(masks=str(tmp_path / "in" / "masks"))
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), options)
    assert not record.missed
    assert sorted(row.mask for row in record.rows) == [
        f"train_masks/{stem}_mask.png" for stem in ("a_back", "a_front", "b_back", "b_front")
    ]
    assert check(str(tmp_path / "out")).errors == []
    save(tmp_path / "in" / "masks" / "c" / "front.png", scene(3)[1])
    record = import_photos(str(tmp_path / "in" / "photos"), str(tmp_path / "out"), options)
    assert [(Path(one.file).name, one.reason) for one in record.passed_over] == [
        ("front.png", "mask without a photograph")
    ]
    assert record.missed


def test_two_masks_of_one_photograph_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "in" / "front_1.jpg", scene(1)[0])
    for folder in ("x", "y"):
        save(tmp_path / "masks" / folder / "front_1.png", scene(1)[1])
    with pytest.raises(DataError, match=r"front_1\.jpg has several masks of its name: .*Lay the masks out in the same"):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), ImportOptions(masks=str(tmp_path / "masks")))


def test_one_mask_is_never_two_photographs(tmp_path: Path) -> None:
    for product in ("a", "b"):
        save(tmp_path / "in" / product / "front.jpg", scene(ord(product))[0])
    save(tmp_path / "masks" / "front.png", scene(1)[1])
    with pytest.raises(
        DataError, match=r"a/front\.jpg and b/front\.jpg would both have the mask .*front\.png\..*import a folder"
    ):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), ImportOptions(masks=str(tmp_path / "masks")))


def test_masks_in_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a_1.jpg", scene(1)[0])
    (tmp_path / "cvat.xml").write_text("")
    with pytest.raises(StorageError, match=r"cvat\.xml is neither a folder of masks nor JSON\. Export COCO or labelme"):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), ImportOptions(masks=str(tmp_path / "cvat.xml")))


@pytest.mark.parametrize("beside", [True, False])
def test_masks_of_a_coco_file(tmp_path: Path, beside: bool) -> None:
    images, annotations = [], []
    for index in range(3):
        save(tmp_path / "in" / f"p{index}" / "x.jpg", scene(index)[0])
        images.append({"id": index, "file_name": f"p{index}/x.jpg", "width": 64, "height": 40})
        annotations.append(
            {"image_id": index, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 20 + index, 5, 20]]}
        )
    file = tmp_path / ("in" if beside else ".") / "instances.json"
    categories = [{"id": 1, "name": "p"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations[:2], "categories": categories}))
    options = PLAIN if beside else ImportOptions(masks=str(file))
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), options)
    assert targets(record) == {"p0/x.jpg": "train/p0_x.jpg", "p1/x.jpg": "train/p1_x.jpg", "p2/x.jpg": "test/p2_x.jpg"}
    assert read_mask(tmp_path / "out" / "train_masks" / "p0_x_mask.png").sum() == 300


@pytest.mark.parametrize("name", ["", "/", "..", "p0/..", "..jpg"])
def test_annotations_that_name_no_file_are_of_no_photograph(tmp_path: Path, name: str) -> None:
    save(tmp_path / "in" / "p0" / "x.jpg", scene(0)[0])
    outline = {"label": "p", "points": [[5, 5], [25, 5], [25, 20]]}
    labelme = {"shapes": [outline], "imagePath": name, "imageWidth": 64, "imageHeight": 40}
    (tmp_path / "in" / "p0" / "y.json").write_text(json.dumps(labelme))
    image = {"id": 1, "file_name": name, "width": 64, "height": 40}
    drawn = {"image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 20]]}
    (tmp_path / "in" / "all.json").write_text(json.dumps({"images": [image], "annotations": [drawn]}))
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    assert targets(record) == {"p0/x.jpg": "test/p0_01.jpg"}
    assert sorted(Path(one.file).name for one in record.passed_over) == ["all.json", "y.json"]


def test_a_photograph_whose_folders_make_too_long_a_name_is_left_out(tmp_path: Path) -> None:
    long = f"{'shoes ' * 20}/{'summer ' * 20}"
    for name in (f"{long}/front.jpg", f"{long}/back.jpg", "hat/front.jpg"):
        save(tmp_path / "in" / name, scene(0)[0])
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    note = "would have too long a name by its folders: shorten theirs, or use --pattern"
    assert targets(record) == {
        "hat/front.jpg": "test/hat_front.jpg",
        f"{long}/back.jpg": note,
        f"{long}/front.jpg": note,
    }


def test_every_photograph_is_taken_or_says_why_not(tmp_path: Path) -> None:
    root = tmp_path / "in"
    image, mask = scene(0)
    for index, name in enumerate(("a/x", "a/y", "b/x", "b/y")):
        save(root / f"{name}.jpg", scene(index)[0])
        save(root / f"{name}_mask.png", mask)
    for name in ("a/x", "a/z", "c/z"):  # phones export some photographs twice
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(HEIC, root / f"{name}.heic")
    save(root / "d" / "cutout.png", cut(image, mask))
    save(root / "e" / "small.jpg", image)
    save(root / "e" / "small_mask.png", mask[:20])
    save(root / "f" / "x.jpg", image)
    whole = (root / "f" / "x.jpg").read_bytes()
    (root / "f" / "x.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "f" / "movie.mov").write_bytes(b"x")
    (root / "f" / "raw.dng").write_bytes(b"x")
    save(root / "g" / "lost_mask.png", mask)
    record = import_photos(str(root), str(tmp_path / "out"), PLAIN)
    assert targets(record) == {
        "a/x.jpg": "train/a_x.jpg",
        "a/y.jpg": "train/a_y.jpg",
        "a/z.heic": "has no mask, though other photographs of its object have",
        "b/x.jpg": "train/b_x.jpg",
        "b/y.jpg": "train/b_y.jpg",
        "c/z.heic": "test/c_z.jpg",
        "d/cutout.png": "d/cutout.png is cut out already. Put the photograph with its background beside it, "
        "or name its folder with --masks.",
        "e/small.jpg": "e/small_mask.png is 64x20, but its photograph is 64x40. Export both at one size.",
        "f/x.jpg": "f/x.jpg is truncated. Copy it again from where it came, or remove it.",
        "a/x.heic": "is the same photograph as a/x.jpg, by its name",
    }
    assert {(Path(one.file).name, one.photograph) for one in record.passed_over} == {
        ("movie.mov", False),
        ("raw.dng", True),
        ("lost_mask.png", True),
    }
    assert check(str(tmp_path / "out")).errors == []


def test_on_the_command_line(messy: Path, tmp_path: Path) -> None:
    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app.app, ["import", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.stdout

    out = tmp_path / "out"
    said = run(messy, out, "--dry-run")
    assert "lamp/IMG_2014.png" in said
    assert "train/lamp_01.png  alpha channel of lamp/IMG_2014.png" in said
    assert said.endswith(f"{out}: 10 photographs with masks, 0 without to test/, 0 left out (nothing was written)\n")
    (messy / "lamp" / "IMG_2014.png").write_bytes(b"")
    said = run(messy, out, code=1)
    assert "left out: lamp/IMG_2014.png: lamp/IMG_2014.png is not a readable image. Copy it again" in said
    assert json.loads(run(messy, out, "--json", code=1))["rows"][0]["target"].startswith("train/")


def test_an_empty_folder_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="has no photographs"):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    (tmp_path / "in" / "a.cr2").touch()
    with pytest.raises(DataError, match=r"has no photographs\..* \(1 file passed over: \.cr2 \(1\)\)"):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    with pytest.raises(StorageError, match=r"lost\.json is not a file"):
        import_photos(str(tmp_path / "in"), str(tmp_path / "out"), ImportOptions(masks=str(tmp_path / "lost.json")))


def test_from_s3_to_s3(bucket: str, messy: Path, tmp_path: Path) -> None:
    storage.upload_folder(messy, f"{bucket}/phone", "")
    import_photos(f"{bucket}/phone", f"{bucket}/data", PLAIN)
    import_photos(str(messy), str(tmp_path / "here"), PLAIN)
    assert content(storage.local_folder(f"{bucket}/data")) == content(tmp_path / "here")
    import_photos(str(messy), f"{bucket}/data", PLAIN)  # ours, so it is replaced
    storage.write_bytes(f"{bucket}/data/train/added_01.jpg", b"mine")
    with pytest.raises(StorageError, match=r"holds train/added_01\.jpg, which `backdrop import` didn't write"):
        import_photos(str(messy), f"{bucket}/data", PLAIN)
    assert storage.read_bytes(f"{bucket}/data/train/added_01.jpg") == b"mine"


def test_a_dataset_is_not_imported_without_its_masks(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    data, out = make_dataset(objects=2, views=2), tmp_path / "out"
    with pytest.raises(DataError, match=r"is laid out as a dataset already.* add --masks .*train_masks") as caught:
        import_photos(str(data), str(out), PLAIN)
    assert not out.exists()
    masks = caught.value.remedy.rpartition(" ")[2]
    record = import_photos(str(data), str(out), replace(PLAIN, masks=masks))  # the remedy works
    assert len(record.rows) == 4
    assert open_dataset(out).photos.keys() == open_dataset(data).photos.keys()
    assert all(photo.mask for photo in open_dataset(out).photos.values())
    with pytest.raises(DataError, match="is laid out as a dataset already"):  # its result is one, too
        import_photos(str(out), str(tmp_path / "again"), PLAIN)


def test_names_by_a_pattern(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    data = make_dataset(objects=2, views=2)
    for path in (data / "train").iterdir():
        name, view = path.stem.split("_")
        path.rename(path.with_name(f"{view} of {name}.jpg"))
        mask = data / "train_masks" / f"{name}_{view}_mask.png"
        mask.rename(mask.with_name(f"{view} of {name}.png"))
    options = ImportOptions(pattern=r"^(?P<view>\d+) of (?P<object>\w+)$", masks=str(data / "train_masks"))
    record = import_photos(str(data / "train"), str(tmp_path / "out"), options)
    assert sorted(row.target for row in record.rows) == [f"train/car0{i}_0{v}.jpg" for i in (0, 1) for v in (1, 2)]


def test_a_folder_that_may_not_be_read_is_not_left_out_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "a_1.jpg", scene(1)[0])
    save(tmp_path / "in" / "closed" / "b_1.jpg", scene(2)[0]).parent.chmod(0)
    monkeypatch.chdir(tmp_path / "in")
    with another_user(), pytest.raises(StorageError, match=r"closed can't be read \(Permission denied\)"):
        find_sources(Path(), None, ())
    Path("closed").chmod(0o755)
    with another_user():
        assert len(find_sources(Path(), None, ()).photos) == 2


@pytest.mark.parametrize(
    ("names", "doubt"),
    [
        (["IMG_0001", "IMG_0002"], "IMG_0001.jpg was read as object IMG, view 0001, and so all photographs are of one"),
        (["1_12", "2_34"], "1_12.jpg was read as object 1, view 12, and so no view occurs in two objects."),
        (["a_1", "b_1", "b_2"], ""),
        (["a_1"], ""),
    ],
)
def test_names_that_a_camera_gave_are_told(tmp_path: Path, names: list[str], doubt: str) -> None:
    for number, name in enumerate(names):
        save(tmp_path / "in" / f"{name}.jpg", scene(number)[0])
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    assert record.doubt.startswith(doubt)
    assert bool(record.doubt) == bool(doubt)
    assert record.doubt in import_text(record, "out", dry_run=False)


def test_masks_elsewhere_are_named_with_the_option_that_finds_them(tmp_path: Path) -> None:
    save(tmp_path / "in" / "photos" / "a_1.jpg", scene(1)[0])
    save(tmp_path / "in" / "masks" / "a_1_mask.png", scene(1)[1])
    record = import_photos(str(tmp_path / "in"), str(tmp_path / "out"), PLAIN)
    assert [one.reason for one in record.passed_over] == ["mask without a photograph beside it; see --masks"]
    options = ImportOptions(masks=str(tmp_path / "in" / "masks"))
    assert not import_photos(str(tmp_path / "in"), str(tmp_path / "out"), options).missed
