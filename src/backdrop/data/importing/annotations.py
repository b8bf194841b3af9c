"""Masks from JSON: COCO (one file for many photographs) and labelme (one file beside each)."""

import base64
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.common.errors import DataError
from backdrop.data.dataset import read_file
from backdrop.data.formats import decode_levels, max_pixels
from backdrop.data.importing.shapes import decode_coco_rle, fill_circle, fill_polygon
from backdrop.data.listing import printable
from backdrop.data.mask_files import interpret
from backdrop.data.masks import Mask

COCO_KEYS, LABELME_KEYS = {"images", "annotations"}, {"shapes", "imagePath"}
IGNORED = {"_background_", "__ignore__"}  # labelme's own
BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class Outlines:
    """The shapes drawn on one photograph of a given size."""

    file: Path
    width: int
    height: int
    shapes: tuple[Mapping[str, Any], ...]
    kind: str

    def mask(self) -> Mask:
        """The union of the shapes (H, W).

        Raises:
            DataError: if a shape doesn't follow its format.
        """
        if min(self.width, self.height) < 1 or self.width * self.height > max_pixels():
            raise DataError(f"{printable(self.file)} says {self.width}x{self.height} pixels", "Correct its sizes")
        mask = np.zeros((self.height, self.width), bool)
        try:
            for shape in self.shapes:
                for part in (_coco_parts if self.kind == "coco" else _labelme_parts)(shape, self.height, self.width):
                    mask |= part
        except BROKEN as error:
            raise DataError(
                f"{printable(self.file)} has a shape that can't be drawn ({error})", "Export it again"
            ) from error
        return mask


def read_annotations(file: Path, labels: Collection[str] = ()) -> dict[str, Outlines]:
    """The shapes in a JSON file by the photograph's name in it; empty for other JSON files.

    Args:
        file: a COCO or a labelme file.
        labels: categories or labels to take; all if empty.

    Raises:
        DataError: if the file can't be read, isn't JSON, or doesn't follow its format.
    """
    with _parsed(file) as content:
        if content.keys() >= COCO_KEYS:
            return dict(_coco(file, content, frozenset(labels)))
        return dict(_labelme(file, content, frozenset(labels))) if content.keys() >= LABELME_KEYS else {}


def read_labels(file: Path) -> set[str]:
    """The categories or labels in a JSON file; empty for other JSON files.

    Raises:
        DataError: as `read_annotations`.
    """
    with _parsed(file) as content:
        if content.keys() >= COCO_KEYS:
            return {one["name"] for one in content.get("categories", ())}
        return {one["label"] for one in content["shapes"]} - IGNORED if content.keys() >= LABELME_KEYS else set()


@contextmanager
def _parsed(file: Path) -> Iterator[dict[str, Any]]:
    """A JSON file's object, empty if it is another value. What its content makes fail in the block is an error."""
    try:
        content = json.loads(read_file(file))
        yield content if isinstance(content, dict) else {}
    except (RecursionError, *BROKEN) as error:
        raise DataError(f"{printable(file)} isn't COCO's or labelme's JSON ({error})", "Export it again") from error


def _coco(file: Path, content: Mapping[str, Any], labels: frozenset[str]) -> Iterator[tuple[str, Outlines]]:
    names = {str(one["id"]): one["name"] for one in content.get("categories", ())}
    shapes: dict[str, list[Mapping[str, Any]]] = {}
    for one in content["annotations"]:
        if not labels or names.get(str(one.get("category_id"))) in labels:
            shapes.setdefault(str(one["image_id"]), []).append(one)
    photos: dict[str, str] = {}
    owners: dict[str, str] = {}
    for image in content["images"]:
        key, photo = str(image["id"]), _plain(image["file_name"])
        if photos.setdefault(key, photo) != photo or owners.setdefault(photo, key) != key:
            both = f"{photos[key]} and {photo} the id {key}" if photos[key] != photo else f"{photo} two ids"
            raise DataError(f"{printable(file)} gives {both}", "Give each photograph an id of its own")
        if key in shapes:
            if not image.get("width") or not image.get("height"):
                raise DataError(
                    f"{printable(file)} doesn't say how large {photo} is", "Export it with width and height"
                )
            size = int(image["width"]), int(image["height"])
            yield photo, Outlines(file, *size, tuple(shapes[key]), "coco")


def _labelme(file: Path, content: Mapping[str, Any], labels: frozenset[str]) -> Iterator[tuple[str, Outlines]]:
    shapes = [
        one for one in content["shapes"] if one["label"] not in IGNORED and (not labels or one["label"] in labels)
    ]
    if shapes:
        size = int(content["imageWidth"]), int(content["imageHeight"])
        yield _plain(content["imagePath"]), Outlines(file, *size, tuple(shapes), "labelme")


def _plain(name: str) -> str:
    """A path of the file, with slashes instead of backslashes."""
    return str(name).replace("\\", "/")


def _coco_parts(shape: Mapping[str, Any], height: int, width: int) -> Iterator[Mask]:
    drawn = shape.get("segmentation")
    if drawn is None:
        raise ValueError("a box without an outline")
    if isinstance(drawn, Mapping):
        rows, columns = drawn.get("size", (height, width))
        if (rows, columns) != (height, width):
            raise ValueError(f"its runs are of {columns}x{rows}")
        yield decode_coco_rle(drawn["counts"], height, width)
    else:
        yield from (fill_polygon(polygon, height, width) for polygon in drawn)


def _labelme_parts(shape: Mapping[str, Any], height: int, width: int) -> Iterable[Mask]:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "polygon":
        return [fill_polygon(points, height, width)]
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points
        return [fill_polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], height, width)]
    if kind == "circle":
        center, edge = points
        return [fill_circle(center, edge, height, width)]
    if kind == "mask":
        return [_pasted(shape, height, width)]
    raise ValueError(f"a {kind} has no inside")


def _pasted(shape: Mapping[str, Any], height: int, width: int) -> Mask:
    """A mask of labelme: a PNG of the rectangle between two points."""
    (x, y), _ = shape["points"]
    part = interpret(decode_levels(base64.b64decode(shape["mask"]), "its mask")).mask
    if part is None:
        raise ValueError("its mask has more than two levels")
    mask = np.zeros((height, width), bool)
    top, left = round(y), round(x)
    inside = part[: height - top, : width - left]
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask
