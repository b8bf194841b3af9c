import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backdrop.cli.output import check_text
from backdrop.common.errors import DataError, PlanError
from backdrop.data import validation
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.data.formats import decode_photo
from backdrop.data.listing import summarize
from backdrop.data.orientation import turn
from backdrop.data.validation import inspect
from backdrop.steps.check import CheckReport, check
from backdrop.steps.import_ import ImportOptions, import_photos
from backdrop.steps.split import split

TEN_BITS = Path(__file__).parent / "files" / "ten-bits.hif"  # HEIC of 4:2:2, as cameras write it


def told(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(fault.level, Path(fault.file).name, fault.what) for fault in report.faults]


def write_mask(data: Path, stem: str, mask: np.ndarray) -> None:
    cv2.imwrite(str(data / "train_masks" / f"{stem}_mask.png"), mask)


def test_a_good_dataset_has_no_faults(data: Path) -> None:
    report = check(str(data))
    assert (report.objects, report.images, report.views, report.sizes) == (6, 12, ("01", "02"), ("64x48",))
    assert report.faults == ()
    assert report.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (np.zeros((48, 64), np.uint8), "is empty"),
        (np.full((48, 64), 255, np.uint8), "is full"),
        (np.tile(np.arange(64, dtype=np.uint8), (48, 1)), "has 64 gray levels, not two"),
        (np.eye(40, 64, dtype=np.uint8) * 255, "is 64x40, but its photograph is 64x48"),
    ],
)
def test_a_bad_mask_is_an_error(data: Path, mask: np.ndarray, what: str) -> None:
    write_mask(data, "car02_01", mask)
    assert told(check(str(data))) == [("error", "car02_01_mask.png", what)]
    with pytest.raises(DataError, match=rf"car02_01_mask\.png {what}"):
        split(str(data), str(data.parent / "plan.csv"))


def test_a_photograph_of_two_objects_is_never_split(data: Path) -> None:
    """Else a fold would train on what another is judged on."""
    (data / "train" / "car03_01.jpg").write_bytes((data / "train" / "car04_01.jpg").read_bytes())
    with pytest.raises(DataError, match=r"car04_01\.jpg is the same photograph as .*car03_01\.jpg"):
        split(str(data), str(data.parent / "plan.csv"))
    (data / "train" / "car03_02.jpg").write_bytes((data / "train" / "car03_01.jpg").read_bytes())
    (data / "train" / "car04_01.jpg").unlink()
    (data / "train_masks" / "car04_01_mask.png").unlink()
    split(str(data), str(data.parent / "plan.csv"))


def test_all_faults_are_listed_at_once(data: Path) -> None:
    whole = (data / "train" / "car00_01.jpg").read_bytes()
    (data / "train" / "car00_01.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "train_masks" / "car01_01_mask.png").unlink()
    (data / "train" / "car02_01.jpg").unlink()
    (data / "train" / "car03_01.jpg").write_bytes((data / "train" / "car04_01.jpg").read_bytes())
    report = check(str(data))
    assert told(report) == [
        ("error", "car00_01.jpg", "is truncated"),
        ("error", "car01_01.jpg", "has no mask"),
        ("error", "car04_01.jpg", f"is the same photograph as {data}/train/car03_01.jpg"),
        ("error", "car02_01_mask.png", "is a mask without a photograph"),
        ("warning", "car02_02.jpg", "is of an object with 1 view, most have 2"),
    ]
    assert len(report.errors) == 4


def test_a_reencoded_photograph_of_another_object_is_a_warning(data: Path) -> None:
    image = cv2.GaussianBlur(cv2.imread(str(data / "train" / "car04_01.jpg")), (0, 0), 2)
    for stem, quality in (("car04_01", 95), ("car03_01", 70)):
        cv2.imwrite(str(data / "train" / f"{stem}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert told(check(str(data))) == [
        ("warning", "car04_01.jpg", f"looks like {data}/train/car03_01.jpg, another object's")
    ]


def test_of_photographs_that_look_alike_each_is_named_once_and_twenty_are_shown(
    make_dataset: Callable[..., Path],
) -> None:
    data = make_dataset(objects=36, views=1)
    for number in range(36):
        random = np.random.default_rng(number // 3)  # three objects each have one photograph
        image = cv2.GaussianBlur(random.integers(0, 255, (48, 64, 3), np.uint8), (0, 0), 3)
        image[0, 0] = number
        path = data / "train" / f"car{number:02}_01.jpg"
        shape = cv2.imread(str(path)).shape
        cv2.imwrite(str(path), cv2.resize(image, shape[1::-1]))
    report = check(str(data))
    assert told(report) == [
        (
            "warning",
            f"car{number:02}_01.jpg",
            f"looks like {data}/train/car{number // 3 * 3:02}_01.jpg, another object's",
        )
        for number in range(36)
        if number % 3
    ]
    assert "warning: … and 4 more like this" in check_text(report)


@pytest.mark.parametrize(("rows", "columns"), [(3, 7), (512, 2048)])
@pytest.mark.parametrize("spread", [0, 3, 60])
def test_near_duplicates_are_exactly_those_of_all_pairs(
    rows: int, columns: int, spread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(spread)
    base = random.normal(120, spread, (7, 32, 32, 3)) + 20 * random.normal(size=(7, 1, 1, 1))
    # Around the limit of 2, some nearer and some farther, by noise or by a uniform shift, and some equal.
    noise = random.normal(0, 1, (90, 32, 32, 3)) * random.uniform(1, 1.9, (90, 1, 1, 1))
    shift = random.uniform(-1.5, 1.5, (90, 1, 1, 1)) * (random.random((90, 1, 1, 1)) < 0.5)
    thumbnails = (base[random.integers(0, 7, 90)] + noise + shift).round().clip(0, 255).astype(np.uint8)
    thumbnails[[5, 80]] = thumbnails[33]
    distances = ((thumbnails[:, None].astype(np.int64) - thumbnails) ** 2).sum(axis=(2, 3, 4))
    objects, digests = random.integers(0, 60, 90).astype(str), random.integers(0, 80, 90).astype(str)
    apart = (objects[:, None] != objects) & (digests[:, None] != digests)
    near = (distances < 4 * 3072) & apart
    expected = [next((j for j in range(i) if near[i, j]), i) for i in range(90)]
    monkeypatch.setattr(validation, "ROWS", rows)
    monkeypatch.setattr(validation, "COLUMNS", columns)
    assert validation._first_alike(thumbnails, objects.tolist(), digests.tolist()) == expected
    assert 3 < sum(i != j for i, j in enumerate(expected)) < 90


def test_many_photographs_that_look_alike_are_compared_in_little_memory() -> None:
    """Such as those of small products on white: every one is a near duplicate of thousands."""
    count = 6000
    thumbnails = np.full((count, 32, 32, 3), 255, np.uint8)
    thumbnails[:, 0, 0] = np.random.default_rng(0).integers(200, 255, (count, 3))
    names = [str(number) for number in range(count)]
    tracemalloc.start()
    assert validation._first_alike(thumbnails, names, names) == [0] * count
    assert tracemalloc.get_traced_memory()[1] < 500e6  # all pairs would take 2 GB
    tracemalloc.stop()


def test_another_size_is_a_warning(data: Path) -> None:
    for folder, stem, flag in (("train", "car05_02.jpg", 1), ("train_masks", "car05_02_mask.png", 0)):
        image = cv2.imread(str(data / folder / stem), flag)
        cv2.imwrite(str(data / folder / stem), cv2.resize(image, (32, 24), interpolation=cv2.INTER_NEAREST))
    assert told(check(str(data))) == [("warning", "car05_02.jpg", "differs in size from most, which are 64x48")]


def words(report: CheckReport, level: str = "error") -> list[str]:
    return [f"{Path(fault.file).name} {fault.what}" for fault in report.faults if fault.level == level]


def repaint(data: Path, paint: Callable[[np.ndarray], np.ndarray]) -> None:
    """Every mask saved another way."""
    for path in (data / "train_masks").iterdir():
        cv2.imwrite(str(path), paint(cv2.imread(str(path), 0) > 0))


def test_masks_of_two_bright_levels_are_read_right_and_warned_of(data: Path) -> None:
    areas = [look.area for look in inspect(open_dataset(data)).looks]
    digest = check(str(data)).digest
    repaint(data, lambda mask: np.where(mask, 163, 120).astype(np.uint8))
    report = check(str(data))
    assert [look.area for look in inspect(open_dataset(data)).looks] == areas
    assert report.digest == digest
    assert report.errors == []
    assert {fault.what for fault in report.faults} == {
        "has levels 120 and 163, of which the brighter was taken for the product"
    }


def test_inverted_masks_are_warned_of(data: Path) -> None:
    repaint(data, lambda mask: np.where(mask, 0, 255).astype(np.uint8))
    report = check(str(data))
    assert report.errors == []
    assert {fault.what for fault in report.faults} == {"has a product that touches 100% of the border"}


BACK = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # from what a viewer shows to what is stored


@given(
    st.sampled_from(sorted(BACK)), st.integers(0, 2**32 - 1), st.sampled_from([".jpg", ".png", ".tiff"]), st.booleans()
)
def test_a_mask_of_the_stored_photograph_is_warned_of_although_its_size_is_right(
    orientation: int, seed: int, suffix: str, flat: bool
) -> None:
    random = np.random.default_rng(seed)
    corners = np.array([[20, 20], [170, 40 + random.integers(40)], [30 + random.integers(30), 180]], np.int32)
    mask = cv2.fillPoly(np.zeros((200, 200), np.uint8), [corners], 255)  # like none of its turned selves
    shown = np.where(mask[..., None] > 0, random.integers(0, 80, 3), random.integers(160, 250, 3))
    shown = (shown + random.integers(0, 6, (200, 200, 3))).astype(np.uint8) * (not flat)
    exif = Image.Exif()
    exif[0x0112] = orientation
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for name in ("train", "train_masks"):
            (data / name).mkdir()
        Image.fromarray(turn(shown, BACK[orientation])).save(data / "train" / f"a_01{suffix}", exif=exif)
        for right in (True, False):
            write_mask(data, "a_01", mask if right else turn(mask, BACK[orientation]))
            warned = [fault.what for fault in inspect(open_dataset(data)).faults if "as that is stored" in fault.what]
            assert bool(warned) == (not right and not flat)


def test_no_readable_photograph_is_a_line_each(data: Path) -> None:
    for path in (data / "train").iterdir():
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")
    report = check(str(data))
    assert {fault.what for fault in report.errors} == {"is a Git LFS pointer, not the image"}
    assert len(report.errors) == 12


def test_masks_in_other_formats_are_named(data: Path) -> None:
    masks = data / "train_masks"
    mask = cv2.imread(str(masks / "car00_01_mask.png"), 0)
    (masks / "car00_01_mask.png").unlink()
    cv2.imwrite(str(masks / "car00_01_mask.jpg"), mask)
    (masks / "car01_01_mask.png").rename(masks / "car01_01_MASK.PNG")
    (masks / "car02_01_mask.png").unlink()
    cv2.imwrite(str(masks / "car02_01_mask.bmp"), mask)
    report = check(str(data))
    assert words(report) == [
        "car00_01.jpg has no mask: car00_01_mask.jpg is there, but a mask must be PNG or GIF: JPEG blurs edges",
        "car02_01.jpg has no mask: car02_01_mask.bmp is there, but a mask must be PNG or GIF",
    ]
    assert words(report, "warning") == []
    assert "--threshold" in report.errors[0].remedy


def test_masks_by_other_names_are_named_beside_their_photographs(data: Path) -> None:
    masks = data / "train_masks"
    names = {"car00_01": "car00_01-mask.png", "car01_01": "CAR01_01.jpg.png", "car02_01": "car02_01_seg.bmp"}
    for stem, name in names.items():
        mask = cv2.imread(str(masks / f"{stem}_mask.png"), 0)
        (masks / f"{stem}_mask.png").unlink()
        cv2.imwrite(str(masks / name), mask)
    assert words(check(str(data))) == [
        "car00_01.jpg has no mask: car00_01-mask.png is there, but isn't named car00_01_mask.png",
        "car01_01.jpg has no mask: CAR01_01.jpg.png is there, but isn't named car01_01_mask.png",
        "car02_01.jpg has no mask: car02_01_seg.bmp is there, but a mask must be PNG or GIF",
    ]
    import_photos(str(data / "train"), str(data / "again"), ImportOptions(masks=str(masks)))  # the remedy helps
    assert check(str(data / "again")).errors == []


def test_names_are_faults_beside_the_others(data: Path) -> None:
    whole = (data / "train" / "car00_01.jpg").read_bytes()
    (data / "train" / "shoe.jpg").write_bytes(whole)
    (data / "train" / "_7.jpg").write_bytes(whole)
    (data / "train" / "car00_01.png").write_bytes(whole)
    for name in (os.fsdecode(b"caf\xe9_01.jpg"), "back\\slash_01.jpg", "line\nbreak_01.jpg", f"{'x' * 248}_01.jpg"):
        (data / "train" / name).write_bytes(whole)
    (data / "train_masks" / "car01_01_mask.png").unlink()
    report = check(str(data))
    assert words(report) == [
        "_7.jpg isn't named <object>_<view>",
        r"back\slash_01.jpg has a name that contains a backslash or a control character",
        r"caf\xe9_01.jpg has a name that isn't UTF-8",
        f"car00_01.jpg and {data}/train/car00_01.png have one stem",
        "car01_01.jpg has no mask",
        r"line\x0abreak_01.jpg has a name that contains a backslash or a control character",
        "shoe.jpg isn't named <object>_<view>",
        f"{'x' * 248}_01.jpg has a name that is too long",
    ]
    assert report.model_dump_json()
    with pytest.raises(DataError):
        open_dataset(data)


def test_names_in_test_are_label_s_business(data: Path) -> None:
    (data / "test").mkdir()
    (data / "test" / "new photo.jpg").write_bytes((data / "train" / "car00_01.jpg").read_bytes())
    report = check(str(data))
    assert report.faults == ()
    assert [(Path(one.file).name, one.reason) for one in report.passed_over] == [
        ("new photo.jpg", "isn't named <object>_<view>")
    ]
    assert open_dataset(data).unlabeled_faults[0].what == "isn't named <object>_<view>"


def test_composed_and_decomposed_accents_are_one_name(data: Path) -> None:
    composed, decomposed = "caf\u00e9_01", "cafe\u0301_01"
    (data / "train" / "car00_01.jpg").rename(data / "train" / f"{decomposed}.jpg")
    (data / "train_masks" / "car00_01_mask.png").rename(data / "train_masks" / f"{composed}_mask.png")
    assert open_dataset(data).photos[composed].mask is not None
    assert check(str(data)).errors == []
    (data / "train" / f"{composed}.png").write_bytes((data / "train" / "car00_02.jpg").read_bytes())
    with pytest.raises(DataError, match="have one stem"):
        open_dataset(data)


@pytest.mark.parametrize(
    ("rename", "what"),
    [
        (lambda n: f"DSC_{n:04}", "DSC_0000.jpg was read as object DSC, view 0000, and so all photographs are of one"),
        (
            lambda n: f"{n % 3}_IMG_12{n:04}",
            "0_IMG_120000.jpg was read as object 0_IMG, view 120000, and so no view occurs",
        ),
    ],
)
def test_names_that_a_camera_gave_are_warned_of(data: Path, rename: Callable[[int], str], what: str) -> None:
    for number, photo in enumerate(sorted((data / "train").iterdir())):
        (data / "train_masks" / f"{photo.stem}_mask.png").rename(data / "train_masks" / f"{rename(number)}_mask.png")
        photo.rename(photo.with_name(f"{rename(number)}.jpg"))
    report = check(str(data))
    assert [word for word in words(report, "warning") if word.startswith(what)] == words(report, "warning")
    assert len(report.faults) == 1


def test_every_file_is_taken_or_named(data: Path) -> None:
    train = data / "train"
    for name in ("car00_01.CR2", "car09_01.cr3", "notes.txt", ".hidden", "Thumbs.db"):
        (train / name).write_bytes(b"x")
    (train / "more" / "deep").mkdir(parents=True)
    (train / "more" / "deep" / "a_01.jpg").write_bytes(b"x")
    (train / "empty").mkdir()
    (train / "sock").symlink_to(train / "nowhere")
    os.mkfifo(train / "pipe")
    os.mkfifo(train / "car10_01.jpg")
    (train / "untitled").write_bytes((train / "car00_01.jpg").read_bytes())
    report = check(str(data))
    reasons = {Path(one.file).name: (one.reason, one.photograph) for one in report.passed_over}
    assert reasons == {
        "car00_01.CR2": (".cr2 files aren't read", False),  # beside its JPEG
        "car09_01.cr3": (".cr3 files aren't read", True),
        "notes.txt": (".txt files aren't read", False),
        "more": ("folder", True),
        "empty": ("folder", False),
        "sock": ("broken link", False),
        "pipe": ("not a regular file", False),
        "untitled": ("unnamed files aren't read", True),
    }
    assert [word for word in words(report, "warning") if "passed over" in word] == [
        "car09_01.cr3 is passed over (.cr3 files aren't read)",
        "more is passed over (folder)",
        "untitled is passed over (unnamed files aren't read)",
    ]
    assert words(report) == ["car10_01.jpg has no mask", "car10_01.jpg is not a regular file"]
    assert summarize(report.passed_over).startswith("8 files passed over: ")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPEG", ".webp", ".avif", ".tif", ".bmp"])
def test_other_formats_are_photographs_too(data: Path, suffix: str) -> None:
    path = data / "train" / "car00_01.jpg"
    image = Image.open(path)
    file_format = {".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF", ".bmp": "BMP"}.get(suffix, "JPEG")
    path.unlink()
    image.save(path.with_suffix(suffix), file_format)
    assert check(str(data)).faults == ()


def test_the_ten_bits_of_a_camera_are_a_photograph_too(data: Path) -> None:
    (data / "train" / "car00_01.jpg").unlink()
    shutil.copy(TEN_BITS, data / "train" / "car00_01.hif")
    assert check(str(data)).faults == ()
    image = decode_photo(TEN_BITS.read_bytes(), TEN_BITS)
    assert image[24, 10].tolist() == pytest.approx([30, 60, 220], abs=4)
    assert image[24, 50].tolist() == pytest.approx([200, 200, 200], abs=4)


def test_a_mask_saved_again_trains_nothing_again(data: Path, plan: Path) -> None:
    read = read_plan(plan)
    before = verify(read, open_dataset(data))
    repaint(data, lambda mask: mask.astype(np.uint8))
    assert verify(read, open_dataset(data)) == before
    write_mask(data, "car00_01", np.eye(48, 64, dtype=np.uint8))
    with pytest.raises(PlanError, match="was made for data"):
        verify(read, open_dataset(data))


def test_every_error_is_printed_and_few_warnings_of_a_kind(make_dataset: Callable[..., Path]) -> None:
    data = make_dataset(objects=13, views=2)
    for path in (data / "train").iterdir():
        path.write_bytes(b"")
    lines = check_text(check(str(data))).splitlines()
    assert (
        sum(line.endswith("is not a readable image. Copy it again from where it came, or remove it.") for line in lines)
        == 26
    )
    assert lines[-1] == "26 errors, 0 warnings"
    repaint(data := make_dataset(objects=13, views=2), lambda mask: np.where(mask, 200, 150).astype(np.uint8))
    lines = check_text(check(str(data))).splitlines()
    assert lines[-2:] == ["warning: … and 6 more like this", "0 errors, 26 warnings"]
