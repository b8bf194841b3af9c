"""Annotations that fit no photograph, and labels that fit no annotation."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backdrop.common.errors import BackdropError, ConfigError, DataError
from backdrop.common.outputs import output_folder
from backdrop.data.importing.sources import find_sources
from backdrop.data.listing import PassedOver


def save_photos(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((40, 64, 3), np.uint8))


def coco(*names: str) -> str:
    images = [{"id": place, "file_name": name, "width": 64, "height": 40} for place, name in enumerate(names)]
    drawn = [
        {"image_id": place, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 20]]} for place in range(len(names))
    ]
    return json.dumps({"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "shoe"}]})


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("upload-a_1.jpg", "upload-b_1.jpg"), ["coco.json"]),
        (("upload-a_1.jpg", "b_1.jpg"), []),  # a part of the photographs that the file is about
    ],
)
def test_a_coco_file_of_other_photographs_is_told(tmp_path: Path, names: tuple[str, ...], told: list[str]) -> None:
    save_photos(tmp_path / "in", "a_1.jpg", "b_1.jpg")
    (tmp_path / "in" / "coco.json").write_text(coco(*names))
    sources = find_sources(tmp_path / "in", None, ())
    assert [Path(one.file).name for one in sources.passed_over if one.photograph] == told
    assert sum(photo.mask is not None for photo in sources.photos) == 1 - len(told)


@pytest.mark.parametrize(
    ("masks", "labels", "error", "what"),
    [
        ("coco.json", ("sho",), ConfigError, r"^--label sho is in no COCO or labelme file\. Did you mean shoe\?$"),
        ("coco.json", ("shoe", "hat"), ConfigError, r"^--label hat is in no COCO .*\. Use one of shoe\.$"),
        (None, ("shoe",), ConfigError, r"^--label shoe is in no COCO .*\. Name the file with --masks\.$"),
        ("tasks.json", (), DataError, r"tasks\.json has no outlines\. Export them as COCO or labelme\.$"),
    ],
)
def test_a_label_or_a_file_of_masks_that_says_nothing_is_refused(
    tmp_path: Path, masks: str | None, labels: tuple[str, ...], error: type[BackdropError], what: str
) -> None:
    save_photos(tmp_path / "in", "a_1.jpg")
    (tmp_path / "coco.json").write_text(coco("a_1.jpg"))
    tasks: list[dict[str, Any]] = [{"id": 1, "data": {"image": "a_1.jpg"}}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(error, match=what):
        find_sources(tmp_path / "in", masks and tmp_path / masks, labels)


@pytest.mark.parametrize("named", [False, True])
def test_results_of_commands_are_neither_photographs_nor_masks_unless_they_are_named(
    tmp_path: Path, named: bool
) -> None:
    save_photos(tmp_path / "in", "a_1.jpg")
    mask = np.zeros((40, 64), np.uint8)
    mask[10:20] = 255
    results = tmp_path / "in" / "results"
    with output_folder(results, "predict", "a_1.png") as folder:
        cv2.imwrite(str(folder / "a_1.png"), mask)
    sources = find_sources(tmp_path / "in", results if named else None, ())
    assert [(photo.file.name, photo.mask) for photo in sources.photos] == [
        ("a_1.jpg", results / "a_1.png" if named else None)
    ]
    assert [one for one in sources.passed_over if one.photograph] == []
    told = PassedOver(file=str(results), reason="results of `backdrop predict`")
    assert (told in sources.passed_over) is not named


@pytest.mark.parametrize("name", ["a_1.png", "a_1_mask.png", "A_1-Matte.PNG", "a_1.jpg.png", "a_1.jpg_mask.png"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_mask_is_found_by_its_photograph_s_name(tmp_path: Path, name: str, beside: bool) -> None:
    save_photos(tmp_path / "in", "a_1.jpg", "b_1.jpg")
    folder = tmp_path / ("in" if beside else "masks")
    folder.mkdir(exist_ok=True)
    mask = np.zeros((40, 64), np.uint8)
    mask[10:20] = 255
    cv2.imwrite(str(folder / name), mask)
    sources = find_sources(tmp_path / "in", None if beside else folder, ())
    assert {photo.file.name: photo.mask for photo in sources.photos} == {"a_1.jpg": folder / name, "b_1.jpg": None}
