"""Pictures of what a network makes of four photographs of its own fold, while it trains."""

import math
import time
from collections.abc import Callable, Sequence

from torch import nn

from backdrop.common.devices import device, precision_of
from backdrop.common.errors import shorten
from backdrop.common.progress import log
from backdrop.config import Recipe
from backdrop.data.dataset import Dataset, Digests, read_pair
from backdrop.data.folds import Row
from backdrop.data.masks import Mask
from backdrop.evaluation.pictures import Image, panel
from backdrop.inference.predict import predict_all

PICTURES = 4
TIMES = 10  # how often in a training, at most
SHARE = 0.01  # of the time of training that may be spent, after the first ones

# Takes a picture: the photograph's name, the epoch, the panel (H, W, 3) RGB.
Show = Callable[[str, int, Image], None]


class LivePictures:
    """Draws the same photographs every few epochs, and hands their panels (see `pictures.panel`) on.

    It is called with the validated network and the epoch, counted from 0, and changes nothing of the training, which
    continues if it fails.

    Args:
        dataset: the photographs.
        rows: those of the fold that is left out.
        digests: sha256 of images and masks by stem.
        recipe: the network's recipe.
        show: takes the pictures.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[Row], digests: Digests, recipe: Recipe, show: Show) -> None:
        self._dataset, self._digests, self._recipe, self._show = dataset, digests, recipe, show
        self._rows = list(dict.fromkeys(rows[len(rows) * place // PICTURES] for place in range(PICTURES)))
        self._began, self._spent_s, self._last_s = time.monotonic(), 0.0, 0.0

    def __call__(self, network: nn.Module, epoch: int) -> None:
        """Draws the photographs if they are due."""
        began = time.monotonic()
        every = math.ceil(self._recipe.epochs / TIMES)
        if (epoch + 1) % every or self._spent_s + self._last_s > SHARE * (began - self._began):
            return
        try:
            for row in self._rows:
                self._show(row.image, epoch, self._draw(network, row))
        except Exception as error:  # whatever it is, the training needs no pictures
            log(f"The pictures of epoch {epoch + 1} were not drawn: {shorten(error)}")
        self._last_s = time.monotonic() - began
        self._spent_s += self._last_s

    def _draw(self, network: nn.Module, row: Row) -> Image:
        precision = precision_of(self._recipe.compute.precision, device())
        return draw(network, self._recipe, precision, *read_pair(self._dataset.photos[row.image], self._digests))


def draw(network: nn.Module, recipe: Recipe, precision: str, image: Image, truth: Mask) -> Image:
    """The panel (see `pictures.panel`) of what a network makes of a photograph.

    Args:
        network: in evaluation mode.
        recipe: the network's.
        precision: that it computes in.
        image: the photograph (H, W, 3) RGB.
        truth: its mask (H, W).
    """
    legacy = recipe.legacy.output_align_corners
    (probability,) = predict_all(network, [image], recipe.input, recipe.tta, legacy, precision)
    return panel(image, truth, probability.cpu().numpy())
