"""Masks from outlines."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backdrop.common.errors import DataError
from backdrop.data.importing.annotations import read_annotations
from backdrop.data.importing.shapes import decode_coco_rle, fill_polygon

POINT = st.tuples(st.floats(-5, 25), st.floats(-5, 25))


def inside(points: list[tuple[float, float]], x: float, y: float) -> bool:
    """By the even-odd rule, one edge after another."""
    odd = False
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 <= y) != (y2 <= y) and x1 + (y - y1) * (x2 - x1) / (y2 - y1) <= x:
            odd = not odd
    return odd


@given(st.lists(POINT, min_size=3, max_size=8))
def test_a_polygon_is_the_pixels_whose_centers_are_inside(points: list[tuple[float, float]]) -> None:
    slow = [[inside(points, x + 0.5, y + 0.5) for x in range(20)] for y in range(15)]
    assert np.array_equal(fill_polygon(points, 15, 20), np.array(slow))


def test_a_rectangle_has_its_own_area() -> None:
    mask = fill_polygon([2, 3, 7, 3, 7, 5, 2, 5], 8, 10)
    assert mask.sum() == 10
    assert mask[3:5, 2:7].all()


def packed(lengths: list[int]) -> str:
    """COCO's text of run lengths, as maskApi.c writes it."""
    text = ""
    for index, length in enumerate(lengths):
        number, more = length - (lengths[index - 2] if index > 2 else 0), True
        while more:
            part, number = number & 31, number >> 5
            more = number != (-1 if part & 16 else 0)
            text += chr((part | (32 if more else 0)) + 48)
    return text


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)))
def test_coco_s_run_lengths_round_trip(mask: np.ndarray) -> None:
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat.astype(int)) != 0)
    lengths = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    assert np.array_equal(decode_coco_rle(lengths, *mask.shape), mask)
    assert np.array_equal(decode_coco_rle(packed(lengths), *mask.shape), mask)
    with pytest.raises(ValueError, match="run lengths don't fit"):
        decode_coco_rle([*lengths, 1], *mask.shape)


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a\\b.jpg", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "shoe"}, {"id": 2, "name": "stand"}],
        "annotations": [{"image_id": 7, **one} for one in annotations],
    }


def test_coco_joins_the_annotations_of_a_photograph(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    left = {"category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [6, 0, 8, 0, 8, 2, 6, 2]]}
    right = {"category_id": 2, "segmentation": {"size": [10, 20], "counts": [0, 10, 190]}}
    file.write_text(json.dumps(coco(left, right)))
    assert list(read_annotations(file)) == ["a/b.jpg"]
    assert read_annotations(file)["a/b.jpg"].mask().sum() == 16 + 4 + 6
    assert read_annotations(file, ["shoe"])["a/b.jpg"].mask().sum() == 20
    assert read_annotations(file, ["hat"]) == {}


def test_coco_s_ids_may_be_text_but_each_photograph_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    content = coco({"category_id": "1", "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]})
    content["annotations"][0]["image_id"] = "7"
    other = {**content["images"][0], "id": 8, "file_name": "a\\c.jpg"}
    content["images"] += [content["images"][0], other]  # one twice is one
    file.write_text(json.dumps(content))
    assert read_annotations(file, ["shoe"])["a/b.jpg"].mask().sum() == 16
    for changed, what in (
        ({"id": 7}, r"gives a/b\.jpg and a/c\.jpg the id 7\. Give"),
        ({"file_name": "a/b.jpg"}, r"gives a/b\.jpg two ids\. Give"),
    ):
        file.write_text(json.dumps({**content, "images": [content["images"][0], {**other, **changed}]}))
        with pytest.raises(DataError, match=rf"all\.json {what}"):
            read_annotations(file)
    content["images"][0]["width"] = None
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"all\.json doesn't say how large a/b\.jpg is\. Export it with width"):
        read_annotations(file)


def test_labelme_s_shapes_are_drawn(tmp_path: Path) -> None:
    _, png = cv2.imencode(".png", np.array([[0, 1], [1, 1]], np.uint8))
    shapes = [
        {"label": "shoe", "shape_type": "polygon", "points": [[0, 0], [4, 0], [4, 4], [0, 4]]},
        {"label": "shoe", "shape_type": "rectangle", "points": [[18, 8], [16, 6]]},
        {"label": "_background_", "shape_type": "rectangle", "points": [[0, 0], [20, 10]]},
        {
            "label": "lace",
            "shape_type": "mask",
            "points": [[10, 5], [11, 6]],
            "mask": base64.b64encode(png.tobytes()).decode(),
        },
        {"label": "sole", "shape_type": "circle", "points": [[8, 2], [8, 3]]},
    ]
    file = tmp_path / "b.json"
    file.write_text(json.dumps({"shapes": shapes, "imagePath": "b.jpg", "imageWidth": 20, "imageHeight": 10}))
    assert read_annotations(file)["b.jpg"].mask().sum() == 16 + 4 + 3 + 4
    assert read_annotations(file, ["lace"])["b.jpg"].mask()[5:7, 10:12].tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"images": 3, "annotations": []}', '{"shapes": [1], "imagePath": 3}']
)
def test_broken_json_is_a_line_and_other_json_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    if text == "[1]":
        assert read_annotations(tmp_path / "x.json") == {}
    else:
        with pytest.raises(DataError, match=r"x\.json isn't COCO's or labelme's JSON"):
            read_annotations(tmp_path / "x.json")


def test_outlines_that_make_no_sense_are_a_line(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    for drawn in (
        None,
        [[1, 2, 3]],
        [[1, 2]],
        7,
        {"counts": [1], "size": [10, 20]},
        {"counts": "\x00", "size": [1, 1]},
    ):
        file.write_text(json.dumps(coco({"category_id": 1, "segmentation": drawn})))
        with pytest.raises(DataError, match=r"all\.json has a shape that can't be drawn"):
            read_annotations(file)["a/b.jpg"].mask()
    bomb = coco({"category_id": 1, "segmentation": []})
    for side in (10**6, -10):
        bomb["images"][0] |= {"width": side, "height": side}
        file.write_text(json.dumps(bomb))
        with pytest.raises(DataError, match=f"{side}x{side} pixels"):
            read_annotations(file)["a/b.jpg"].mask()
