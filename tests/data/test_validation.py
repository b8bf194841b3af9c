from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.steps.check import CheckReport, check


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


def test_all_faults_are_told_at_once(data: Path) -> None:
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
        ("warning", "car02_02.jpg", "is of an object with 1 views, most have 2"),
    ]
    assert len(report.errors) == 4


def test_a_reencoded_photograph_of_another_object_is_a_warning(data: Path) -> None:
    image = cv2.GaussianBlur(cv2.imread(str(data / "train" / "car04_01.jpg")), (0, 0), 2)
    for stem, quality in (("car04_01", 95), ("car03_01", 70)):
        cv2.imwrite(str(data / "train" / f"{stem}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert told(check(str(data))) == [
        ("warning", "car04_01.jpg", f"looks like {data}/train/car03_01.jpg, another object's")
    ]


def test_another_size_is_a_warning(data: Path) -> None:
    for folder, stem, flag in (("train", "car05_02.jpg", 1), ("train_masks", "car05_02_mask.png", 0)):
        image = cv2.imread(str(data / folder / stem), flag)
        cv2.imwrite(str(data / folder / stem), cv2.resize(image, (32, 24), interpolation=cv2.INTER_NEAREST))
    assert told(check(str(data))) == [("warning", "car05_02.jpg", "differs in size from most, which are 64x48")]
