"""A network's answer to a photograph: logits at the network's size, and the probability of any pixels from them.

On a CPU, pixels are computed in pieces that stay in its cache. A pixel's bits depend neither on the pieces nor on the
number of threads: torch's scalar code, which rounds a sigmoid differently, is left no element by any of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backdrop.config import Input, Tta

ALL = slice(None)
TILE = 32  # pixels; a side of the squares of which one can be decided as a whole
GRAIN = 2**15  # elements below which torch uses one thread
GPU_PIECE = 2**24  # logits that a GPU enlarges at a time


class Axis(NamedTuple):
    """Where the photograph's pixels of one axis lie between those of the logits; the last is repeated to whole tiles.

    Pixel i is `(1 - share[i]) * logits[before[i]] + share[i] * logits[after[i]]`; there is no share if all are zero.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    share: NDArray[np.float32] | None

    def tensors(self, places: "slice | Tensor", device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Some places of the axis, on a device."""
        share = None if self.share is None else torch.from_numpy(self.share)[places].to(device)
        before, after = (torch.from_numpy(each)[places].to(device) for each in (self.before, self.after))
        return before, after, share

    def spans(self, places: range) -> list[tuple[int, int]]:
        """The logits between which the pixels of each tile lie: the first, and the one after the last."""
        starts = range(places.start, places.stop, TILE)
        return [(int(self.before[i]), int(self.after[min(i + TILE, places.stop) - 1]) + 1) for i in starts]


@dataclass(frozen=True)
class Answer:
    """Networks' answers to one photograph, and the photograph's own size.

    The logits (N, K, h, w) are those of N networks for each of K test-time augmentations, or their mean if it can be
    taken before they are enlarged.
    """

    logits: Tensor
    height: int
    width: int
    spec: Input
    tta: Tta
    align_corners: bool

    @property
    def whole_width(self) -> int:
        """The photograph's width, rounded up to whole tiles."""
        return -(-self.width // TILE) * TILE

    def axes(self) -> tuple[Axis, Axis]:
        """The rows and the columns."""
        rows, columns = self.logits.shape[-2:]
        if self.spec.fit == "stretch":
            return (
                _stretched(rows, self.height, self.align_corners),
                _stretched(columns, self.width, self.align_corners),
            )
        reflect = self.spec.fit == "reflect"
        return _cropped(rows, self.height, reflect), _cropped(columns, self.width, reflect)

    @torch.inference_mode()
    def enlarged(self, rows: range, columns: slice | Tensor = ALL) -> Tensor:
        """Logits (N, K, n, m) of the photograph's own pixels: cropped if it was padded, else resized.

        Args:
            rows: some of its rows.
            columns: some of its columns, whole tiles. In the last tile, its last column stands for those that it lacks.
        """
        down, across = self.axes()
        logits, device = self.logits.flatten(0, 1), self.logits.device
        top, bottom = int(down.before[rows.start]), int(down.after[rows.stop - 1]) + 1
        source = logits[:, top:bottom]
        before, after, share = across.tensors(columns, device)
        lines = _columns(source, before)
        if share is not None:
            lines = _lerp(lines, _columns(source, after), share)
        before, after, share = down.tensors(slice(rows.start, rows.stop), device)
        values = lines.index_select(1, before - top)
        if share is not None:
            values = _lerp(values, lines.index_select(1, after - top), share[:, None])
        return values.view(*self.logits.shape[:2], *values.shape[1:])

    @torch.inference_mode()
    def probabilities(self, rows: range, columns: slice | Tensor = ALL) -> Tensor:
        """Each network's probability (N, n, m) float32, 0..1; rows and columns are as in `enlarged`."""
        return self._averaged(self.enlarged(rows, columns))

    @torch.inference_mode()
    def probability(self, rows: slice = ALL) -> Tensor:
        """The one network's probability (H, W) float32 at the photograph's own size, or only some of its rows."""
        start, stop, _ = rows.indices(self.height)
        probability = self.logits.new_empty(stop - start, self.width)
        for some, columns in self.pieces(range(start, stop)):
            part = self.probabilities(some, columns)[0]
            probability[some.start - start : some.stop - start, columns] = part[:, : self.width - columns.start]
        return probability

    def pieces(self, rows: range) -> Iterator[tuple[range, slice]]:
        """Some rows of the photograph, piece by piece: rows, and columns of whole tiles."""
        height = max(TILE, self.room(self.whole_width))
        width = self.room(height * TILE) * TILE
        for top in range(rows.start, rows.stop, height):
            for left in range(0, self.whole_width, width):
                yield range(top, min(top + height, rows.stop)), slice(left, min(left + width, self.whole_width))

    def room(self, pixels: int) -> int:
        """How many times pixels can be computed on at a time; at least once."""
        piece = GRAIN * max(2, torch.get_num_threads()) if self.logits.device.type == "cpu" else GPU_PIECE
        return max(1, piece // pixels // self.logits.shape[1])

    @torch.inference_mode()
    def bounds(self, rows: range) -> tuple[Tensor, Tensor]:
        """The least and the greatest probability (N, tiles, tiles) of each tile, up to rounding; NaN where a logit is.

        What is interpolated is never beyond the logits that it lies between.
        """
        down, across = self.axes()
        vertical, horizontal = down.spans(rows), across.spans(range(self.whole_width))
        low, high = self.logits, self.logits
        for dim, spans in ((2, vertical), (3, horizontal)):
            low = torch.stack([low.narrow(dim, start, stop - start).amin(dim) for start, stop in spans], dim)
            high = torch.stack([high.narrow(dim, start, stop - start).amax(dim) for start, stop in spans], dim)
        return self._averaged(low), self._averaged(high)

    def _averaged(self, values: Tensor) -> Tensor:
        """Probabilities (N, n, m) from logits (N, K, n, m), which are changed."""
        if values.shape[1] == 1:
            return _sigmoid(values[:, 0])
        if self.tta.average == "logits":
            return _sigmoid(values.mean(dim=1))
        return _sigmoid(values).mean(dim=1)


def together(answers: Sequence[Answer]) -> Answer:
    """Answers to one photograph of the same kind (see `kind`) as one."""
    return replace(answers[0], logits=torch.cat([answer.logits for answer in answers]))


def kind(answer: Answer) -> tuple[object, ...]:
    """What answers to one photograph must share to be computed on together."""
    return answer.logits.shape[1:], answer.spec, answer.tta, answer.align_corners


@lru_cache(maxsize=64)
def _stretched(old: int, new: int, align_corners: bool) -> Axis:
    """The axis of logits that are resized, by pixel centers unless corners are aligned.

    Places are rounded as in torch's own bilinear interpolation: its float32, with one rounding after multiply and add.
    """
    pixels = _whole(new).astype(np.float64)
    if align_corners:
        scale = np.float32(old - 1) / np.float32(max(1, new - 1))
        places = (float(scale) * pixels).astype(np.float32)
    else:
        scale = np.float32(old) / np.float32(new)
        places = (float(scale) * (pixels + 0.5) - 0.5).clip(0).astype(np.float32)
    before = np.minimum(places.astype(np.int64), old - 1)
    share = (places - before.astype(np.float32)).clip(0, 1)
    return Axis(before, np.minimum(before + 1, old - 1), share)


@lru_cache(maxsize=64)
def _cropped(old: int, new: int, reflect: bool) -> Axis:
    """The axis of logits of a padded photograph, which is in the middle if it was padded by reflection."""
    places = _whole(new) + ((old - new) // 2 if reflect else 0)
    return Axis(places, places, None)


def _whole(size: int) -> NDArray[np.int64]:
    """The places of an axis; the last is repeated to whole tiles."""
    return np.arange(-(-size // TILE) * TILE).clip(max=size - 1)


def _columns(values: Tensor, places: Tensor) -> Tensor:
    """Some columns of values (N, h, w); by numpy on a CPU, where torch takes seven times as long."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().take(places.numpy(), axis=2))
    return values.index_select(2, places)


def _sigmoid(values: Tensor) -> Tensor:
    """The sigmoid in place, in parts that torch splits among its threads by whole vectors."""
    if values.device.type != "cpu":
        return values.sigmoid_()
    flat = values.view(-1)
    even = len(flat) // GRAIN * GRAIN
    for part in (*torch.split(flat[:even], GRAIN * torch.get_num_threads()), flat[even:]):
        part.sigmoid_()
    return values


def _lerp(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    """Interpolates, rounding as torch's own interpolation does. It changes `after`."""
    return after.mul_(share).addcmul_(before, 1 - share)
