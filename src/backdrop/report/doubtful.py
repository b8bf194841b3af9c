"""The contact sheet of a prediction: the photographs whose masks are probably the worst, on a page by itself."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from backdrop.common.words import count
from backdrop.data.rle import decode_rle
from backdrop.evaluation.pictures import Image, data_uri, pair
from backdrop.inference.batch import Cutout
from backdrop.report.parts import frame

SHOWN = 24
PICTURE_BYTES = 60_000  # limit of one picture, so that the page stays below 2 MB
BEHIND = 200  # the gray behind a transparent cut-out
ABOUT = """The Dice of each mask was predicted from how sure the networks are at its outline, and its interval from
objects that they had not trained on. <code>predictions.csv</code> has those of all photographs."""


def render_doubtful(model: str, figures: Sequence[str], photographs: int) -> str:
    """The page; the same figures give the same bytes.

    Args:
        model: the ensemble's digest.
        figures: at most `SHOWN`, as `render_figure` makes them, the most doubtful first.
        photographs: how many there are in all.
    """
    line = f"{len(figures)} of {count(photographs, 'photograph')}, the lowest predicted Dice first"
    body = f'<section><div class="gallery">{"".join(figures)}</div></section>'
    return frame("Doubtful photographs", "Predictions", f'<p class="counts">{line}</p>', body, ABOUT, ("model", model))


def render_figure(cutout: Cutout, photo: Image, folder: Path) -> str:
    """A photograph (H, W, 3) RGB beside what was made of it, with the Dice that its mask probably has.

    Args:
        cutout: what was made of it.
        photo: the photograph.
        folder: where the cut-out's picture is.
    """
    assert cutout.dice is not None
    name, (dice, low, high) = escape(cutout.image), cutout.dice
    picture = data_uri(pair(photo, _result(cutout, folder)), PICTURE_BYTES)
    words = f"<b>{name}</b>Dice about {dice:.4f}, {low:.4f} to {high:.4f}"
    return f'<figure><img alt="{name} and its cut-out" src="{picture}"><figcaption>{words}</figcaption></figure>'


def _result(cutout: Cutout, folder: Path) -> Image:
    """What was made of a photograph (H, W, 3) RGB: its picture, or its mask in white."""
    if not cutout.picture:
        mask = decode_rle(cutout.rle, cutout.height, cutout.width)
        return np.repeat(mask[..., None], 3, axis=2) * np.uint8(255)
    picture = np.asarray(cv2.imread(str(folder / cutout.picture), cv2.IMREAD_UNCHANGED), np.uint8)
    if picture.ndim == 2:
        return np.repeat(picture[..., None], 3, axis=2)
    colors = picture[..., 2::-1]
    if picture.shape[2] == 4:
        alpha = picture[..., 3:] / np.float32(255)
        colors = np.rint(alpha * colors + (1 - alpha) * BEHIND).astype(np.uint8)
    return np.ascontiguousarray(colors)
