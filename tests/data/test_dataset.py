import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from backdrop.common import outputs, storage
from backdrop.common.errors import DataError, StorageError
from backdrop.common.names import checked_name
from backdrop.data import dataset, listing
from backdrop.data.digests import content_digests
from backdrop.steps.check import check


def test_photographs_are_listed_by_object_and_view(data: Path) -> None:
    listed = dataset.open_dataset(data)
    assert list(listed.photos) == [f"car{i:02d}_{v:02d}" for i in range(6) for v in (1, 2)]
    photo = listed.photos["car03_02"]
    assert (photo.object, photo.view) == ("car03", "02")
    assert photo.mask == data / "train_masks" / "car03_02_mask.png"


def test_only_a_dataset_is_copied_from_its_prefix(bucket: str, data: Path) -> None:
    """What steps write beside it neither costs time nor makes the dataset be copied again."""
    storage.upload_folder(data, f"{bucket}/cars", "")
    first = dataset.open_dataset(f"{bucket}/cars")
    own = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    storage.write_bytes(f"{bucket}/cars/plan.csv", b"x")
    for name in ("members", "test/results"):
        with outputs.output_folder(f"{bucket}/cars/{name}", "predict", "key") as folder:
            for result in ("key", "train/a_01.jpg", "b_01.png"):
                (folder / result).parent.mkdir(exist_ok=True)
                (folder / result).write_bytes(b"x")
    again = dataset.open_dataset(f"{bucket}/cars")
    assert again == first
    assert set(storage.list_files(again.root, hidden=True)) == own


@given(st.binary(min_size=1, max_size=255).filter(lambda name: not {0, ord("/")} & {*name}))
@example(b"back\\slash_01.jpg")
@example(b"line\nbreak_01.jpg")
@example(b"\x7f_01.jpg")
@example(b"x" * 251 + b".jpg")
@example("é".encode() * 125 + b".jpg")
@example(b"01.jp\x01g")
def test_a_name_without_fault_is_one_that_outputs_can_have(name: bytes) -> None:
    path = Path(os.fsdecode(name))
    assert "\n" not in listing.printable(path)
    assume(path.name not in ("", ".", ".."))
    written = [path.name, f"{path.stem}.webp"]  # in tables, and as a result
    if listing.name_fault(path):
        with pytest.raises((StorageError, UnicodeEncodeError)):
            assert all(checked_name(each, "out").encode() for each in written)
    else:
        assert all(checked_name(each, "out").encode() for each in written)


@pytest.mark.parametrize("levels", [(0, 1), (0, 255)])
def test_palette_gifs_and_pngs_with_two_levels_give_the_same_mask(tmp_path: Path, levels: tuple[int, int]) -> None:
    truth = np.zeros((20, 30), bool)
    truth[5:15, 10:20] = True
    palette = Image.fromarray(truth.astype(np.uint8), mode=None).convert("P")
    palette.putpalette([0, 0, 0, levels[1], levels[1], levels[1]] + [0] * 750)
    palette.save(tmp_path / "a_mask.gif")
    cv2.imwrite(str(tmp_path / "a_mask.png"), np.where(truth, levels[1], levels[0]).astype(np.uint8))
    for name in ("a_mask.gif", "a_mask.png"):
        assert np.array_equal(dataset.read_mask(tmp_path / name), truth)


def test_images_are_rgb_and_turned_as_a_viewer_shows_them(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16, 0] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = dataset.read_image(tmp_path / "a.jpg")
    assert image.shape == (32, 16, 3)
    assert image[2, 8].tolist() == pytest.approx([250, 0, 0], abs=12)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    dataset.read_mask_file(path)
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"is truncated"):
            dataset.read_mask_file(path)


def test_bytes_that_are_no_image_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello"):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(DataError, match="not a readable image"):
            dataset.read_image(tmp_path / "a.jpg")


def test_a_file_that_changes_under_way_is_refused(data: Path) -> None:
    photo = dataset.open_dataset(data).photos["car00_01"]
    digests = content_digests([photo])
    dataset.read_pair(photo, digests)
    photo.image.write_bytes((data / "train" / "car01_01.jpg").read_bytes())
    with pytest.raises(DataError, match=r"car00_01\.jpg has changed"):
        dataset.read_pair(photo, digests)


def test_a_folder_that_is_not_a_dataset_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no photographs in train/\. Make a dataset of it by `backdrop import`, or"):
        dataset.open_dataset(tmp_path)
    with pytest.raises(StorageError, match="nowhere is not a folder"):
        dataset.open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("car0_01.cr2", ".cr2"), ("car0/01.jpg", "folder"), ("car\udcfc_01.jpg", "name isn't UTF-8")],
)
def test_where_every_photograph_is_passed_over_it_is_said(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "train" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"photograph")
    said = rf"no photographs in train/\. Make a dataset .* \(1 file passed over: {kind} \(1\)\)"
    with pytest.raises(DataError, match=said):
        dataset.open_dataset(tmp_path)


def test_who_names_the_photographs_folder_hears_that_it_is_the_one_above(
    data: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.upload_folder(data, f"{bucket}/cars", "")
    monkeypatch.chdir(data / "train")
    for folder in (data / "train", Path(), f"{bucket}/cars/train", f"{bucket}/cars/train/"):
        with pytest.raises(DataError, match=r"no photographs in train/\. Name the folder that it is in"):
            dataset.open_dataset(folder)


def test_names_and_twins_are_checked(data: Path) -> None:
    bad = data / "train" / "car.jpg"
    bad.write_bytes((data / "train" / "car00_01.jpg").read_bytes())
    with pytest.raises(DataError, match=r"car\.jpg isn't named <object>_<view>"):
        dataset.open_dataset(data)
    bad.rename(data / "train" / "car00_01.png")
    with pytest.raises(DataError, match="have one stem"):
        dataset.open_dataset(data)


def test_files_of_a_copy_are_named_by_their_addresses(bucket: str, data: Path) -> None:
    (data / "train_masks" / "car00_01_mask.png").unlink()
    (data / "train" / "car01_01.jpg").write_bytes(b"x")
    (data / "metadata.csv").write_text("id,color\na,red\na,red\n")
    storage.upload_folder(data, f"{bucket}/cars", "")
    for address in (f"{bucket}/cars", f"{bucket}/cars/"):
        report = check(address)
        told = {fault.file for fault in report.faults}
        assert told == {
            f"{bucket}/cars/{name}" for name in ("train/car00_01.jpg", "train/car01_01.jpg", "metadata.csv")
        }
        assert str(storage.cache_folder()) not in report.model_dump_json()
    with pytest.raises(DataError, match=rf"^{bucket}/cars/train/car01_01\.jpg is not a readable image"):
        content_digests(dataset.open_dataset(f"{bucket}/cars").photos.values())
