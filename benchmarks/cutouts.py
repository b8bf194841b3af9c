"""What is wrong at the border of cut-outs: a hard mask, the networks' mean as alpha, PyMatting's closed form, and ours.

.venv/bin/python benchmarks/cutouts.py FOLDER    FOLDER keeps the photographs and members for the next run

Two members (`tiny`, 384x256) are trained on rendered cars at 768x512 and judged on four others. The renderer knows
which share of each pixel is the car, and in which color. The error is the mean absolute difference, 0..255, from that
car before a new background. PyMatting is a yardstick only: `pip install pymatting` to have it in the table.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.config.folds import Rule
from backdrop.data.dataset import read_image
from backdrop.data.folds import read_plan
from backdrop.data.masks import Mask, dice
from backdrop.data.synthetic import draw_car, object_name
from backdrop.data.synthetic.scene import render_layer
from backdrop.inference.alpha import Matte, band_width, make_matte
from backdrop.inference.ensemble import gather
from backdrop.inference.member import read_member
from backdrop.steps.sample import sample
from backdrop.steps.split import split
from backdrop.steps.train import train

SEED, CARS, VIEWS, WIDTH, HEIGHT = 1, 40, 6, 768, 512
SCHEDULE = "[{kind: constant, epochs: 1, lr: 2e-3}, {kind: cosine, epochs: 23, lr: 6e-3, final: 6e-5}]"
LEARN = ("input.size=384x256", "epochs=24", f"schedule={SCHEDULE}")
GOOD = 0.99  # Dice of a mask
PARTS = ("all of the border", "where the mask found it", "and its Dice is 0.99 or more")
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "red": (200, 0, 0)}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A photograph (H, W, 3), the mean and the mask (H, W), and the truth: the car times its share of each pixel."""

    photo: NDArray[np.uint8]
    mean: Floats
    mask: Mask
    car: Floats
    share: Floats

    def border(self, of: Mask) -> Mask:
        """The pixels as near to a mask's outline as alpha may be partial."""
        size = 2 * band_width(*of.shape) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        return np.asarray(cv2.dilate(of.view(np.uint8), disc) != cv2.erode(of.view(np.uint8), disc))


def scenes(folder: Path) -> Iterator[Scene]:
    """The photographs of cars that no member has seen."""
    data, plan = folder / "data", folder / "plan.csv"
    sample(str(data), CARS, VIEWS, f"{WIDTH}x{HEIGHT}", SEED)
    split(str(data), str(plan), Rule(3, 0.1, "area", 0))
    members = [train(str(data), str(plan), "tiny", fold, str(folder / f"m{fold}"), LEARN).address for fold in (0, 1)]
    model = gather([read_member(Path(member)) for member in members], None)
    held = {row.object for row in read_plan(plan).holdout}
    for index in (index for index in range(CARS) if object_name(SEED, index) in held):
        for view in range(1, VIEWS + 1):
            photo = read_image(data / "train" / f"{object_name(SEED, index)}_{view:02d}.jpg")
            _, car, share = render_layer(draw_car(SEED, index), view, VIEWS, WIDTH, HEIGHT, SEED)
            mean = model.probability(photo)
            yield Scene(photo, mean, mean > 0.5, car, share)


def closed_form(scene: Scene) -> tuple[Floats, Floats]:
    """PyMatting's alpha and colors; unknown is what may be partial in ours."""
    from pymatting import estimate_alpha_cf, estimate_foreground_ml

    unknown = scene.border(scene.mask)
    trimap = np.where(unknown, 0.5, scene.mask.astype(float))
    alpha = estimate_alpha_cf(scene.photo / 255, trimap)
    colors = estimate_foreground_ml(scene.photo / 255, alpha) * 255
    return alpha.astype(np.float32), np.asarray(colors, np.float32)


def ours(scene: Scene) -> tuple[Floats, Floats]:
    """Backdrop's alpha and colors."""
    matte: Matte = make_matte(scene.photo, scene.mean, scene.mask)
    return np.asarray(matte.alpha / 255, np.float32), matte.colors.astype(np.float32)


METHODS: dict[str, Callable[[Scene], tuple[Floats, Floats]]] = {
    "hard mask": lambda scene: (scene.mask.astype(np.float32), scene.photo.astype(np.float32)),
    "mean as alpha": lambda scene: (scene.mean, scene.photo.astype(np.float32)),
    "PyMatting, closed form": closed_form,
    "Backdrop": ours,
}


def differences(scene: Scene, alpha: Floats, colors: Floats, behind: dict[str, Any]) -> dict[str, Floats]:
    """The absolute difference (H, W) from the truth, before each background."""
    found, true = alpha[..., None], scene.share[..., None]
    return {
        name: np.abs(np.clip(scene.car + (1 - true) * ground, 0, 255) - (found * colors + (1 - found) * ground)).mean(
            -1
        )
        for name, ground in behind.items()
    }


def main() -> None:
    """Prints a table for the whole border, for the part of it that the masks have found, and for that of good masks."""
    cv2.setNumThreads(1)
    errors: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    scores = []
    picture, _, _ = render_layer(draw_car(SEED + 1, 0), 3, VIEWS, WIDTH, HEIGHT, SEED + 1)
    behind = {name: np.array(color) for name, color in COLORS.items()} | {"picture": picture.astype(np.float32)}
    for scene in scenes(Path(sys.argv[1])):
        scores.append(dice(scene.mask, scene.share >= 0.5))
        border = scene.border(scene.share >= 0.5)
        found = border & scene.border(scene.mask)
        parts = dict(zip(PARTS, (border, found, found)[: 3 if scores[-1] >= GOOD else 2], strict=False))
        for name, method in METHODS.items():
            start = time.process_time()
            try:
                result = method(scene)
            except ModuleNotFoundError:
                continue
            seconds[name].append(time.process_time() - start)
            wrong = differences(scene, *result, behind)
            for part, pixels in parts.items():
                errors[part, name].append({ground: float(each[pixels].mean()) for ground, each in wrong.items()})
    print(f"{len(scores)} photographs, Dice of the masks {np.mean(scores):.4f}; {sum(s >= GOOD for s in scores)} good")
    for part in PARTS:
        print(f"\n| {part} | {' | '.join(behind)} | mean | CPU ms |\n|{' --- |' * (len(behind) + 3)}")
        for name in (name for name in METHODS if (part, name) in errors):
            means = [np.mean([row[ground] for row in errors[part, name]]) for ground in behind]
            cells = [f"{value:.1f}" for value in (*means, np.mean(means))]
            print(f"| {name} | {' | '.join(cells)} | {1000 * np.mean(seconds[name]):.0f} |")


if __name__ == "__main__":
    main()
