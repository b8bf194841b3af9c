"""The contact sheet: what it shows of each kind of result."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from backdrop.data.rle import encode_rle
from backdrop.evaluation.pictures import pair
from backdrop.inference.batch import Cutout
from backdrop.inference.uncertainty import DiceRange
from backdrop.report.doubtful import PICTURE_BYTES, SHOWN, _result, render_doubtful, render_figure

PHOTO = np.full((40, 60, 3), (10, 20, 30), np.uint8)


def cutout(folder: Path, suffix: str, pixels: NDArray[np.uint8]) -> Cutout:
    assert cv2.imwrite(str(folder / f"a{suffix}"), pixels)
    return Cutout(image="a <b>.jpg", height=40, width=60, picture=f"a{suffix}", dice=DiceRange(0.9, 0.8, 1.0))


def test_a_transparent_picture_lies_on_gray_and_any_other_is_shown_as_it_is(tmp_path: Path) -> None:
    blue = np.zeros((40, 60, 4), np.uint8)
    blue[:, :30] = (250, 0, 0, 255)
    shown = _result(cutout(tmp_path, ".png", blue), tmp_path)
    assert shown[0, 0].tolist() == [0, 0, 250]
    assert shown[0, 59].tolist() == [200, 200, 200]
    plain = _result(cutout(tmp_path, ".jpg", np.full((40, 60, 3), (250, 0, 0), np.uint8)), tmp_path)
    assert plain[0, 0] == pytest.approx([0, 0, 250], abs=3)
    alpha = _result(cutout(tmp_path, ".png", np.full((40, 60), 77, np.uint8)), tmp_path)
    assert set(alpha.ravel()) == {77}
    mask = np.zeros((40, 60), bool)
    mask[3, 5] = True
    from_runs = _result(Cutout(image="a.jpg", height=40, width=60, rle=encode_rle(mask)), tmp_path)
    assert np.array_equal(from_runs == 255, np.repeat(mask[..., None], 3, axis=2))


@pytest.mark.parametrize("shape", [(40, 60), (400, 3), (3, 400), (1, 1)])
def test_both_panes_are_the_photograph_s_size(shape: tuple[int, int]) -> None:
    picture = pair(PHOTO, np.full((*shape, 3), 255, np.uint8))
    height, width = picture.shape[:2]
    assert abs(width / 2 / height - 60 / 40) < 0.03
    assert (picture[:, width // 2 + 2 :] == 255).any()


def test_the_page_stays_small_and_names_are_text(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1400, 3), dtype=np.uint8)
    one = cutout(tmp_path, ".png", noise)
    page = render_doubtful("digest", [render_figure(one, noise, tmp_path)] * SHOWN, 100_064)
    assert len(page) < min(2_000_000, SHOWN * (PICTURE_BYTES + 500) + 50_000)
    assert "<b>a &lt;b&gt;.jpg</b>" in page
    assert f"{SHOWN} of 100,064 photographs" in page
