"""Post-processing operations of an ensemble, applied in its order.

Sizes are shares of the photograph: lengths as shares of its height, areas of its width times height. The winners' sizes
in pixels were for 1918x1280.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from backdrop.config.network import Share
from backdrop.config.records import Record

HEIGHT, AREA = 1280, 1918 * 1280  # of the winners' photographs


class _Interval(Record):
    """Probabilities from `low` to `high` are uncertain."""

    low: Share = 0.3
    high: Share = 0.8

    @model_validator(mode="after")
    def _in_order(self) -> "_Interval":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high}); write a lower low")
        return self


class BestMembers(_Interval):
    """If unconfidence exceeds `unconfidence_above`, uses only members of the recipes that are best on the view.

    `recipes` has their names by view, as chosen out of fold by `backdrop.evaluation.ablation.choose_best`. On other
    views all members are used. Recipes are compared, not members: the members of a recipe together predict every
    photograph, but one member only its own fold, and folds differ in difficulty.
    """

    kind: Literal["best_members"]
    unconfidence_above: Annotated[float, Field(ge=0)]
    recipes: Annotated[dict[str, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)]


class Threshold(Record):
    """The mask is p > `level`, instead of p > 0.5."""

    kind: Literal["threshold"]
    level: Share = 0.5


class FillHoles(Record):
    """Fills holes in the mask of at most `max_area` of the photograph's area (122 pixels of 1918x1280)."""

    kind: Literal["fill_holes"]
    max_area: Share = 5e-5


class DropSmall(Record):
    """Drops pieces below `min_area` of the photograph's area (122 pixels of 1918x1280), but keeps the largest."""

    kind: Literal["drop_small"]
    min_area: Share = 5e-5


class Hull(_Interval):
    """Adds, in each uncertain region (`low` <= p <= `high`), the convex hull of the largest piece above `level`.

    This fills ragged, spotted regions. A region is at least twice `strip` wide, so that the blur along outlines doesn't
    count, and has at least `min_area` of the photograph's area (4,000 pixels of 1918x1280).
    """

    kind: Literal["hull"]
    level: Share = 0.5
    strip: Share = 5 / HEIGHT
    min_area: Share = 4_000 / AREA


class UnreliableTop(_Interval):
    """The winners' rule for white vans in front of a white wall, whose roofs are uncertain (`low` < p < `high`).

    The uncertain region is eroded by `strip` at the top and bottom. If its largest piece in the upper half has more
    than `min_area` of the photograph's area (40,000 pixels), its bounding box is enlarged by `margin` (50 pixels) on
    all sides. In that box the mask becomes the convex hull of the largest piece of p > `level`.
    """

    kind: Literal["unreliable_top"]
    low: Share = 30 / 255
    high: Share = 210 / 255
    level: Share = 55 / 255
    strip: Share = 5 / HEIGHT
    min_area: Share = 40_000 / AREA
    margin: Share = 50 / HEIGHT


Operation = Annotated[
    BestMembers | Threshold | FillHoles | DropSmall | Hull | UnreliableTop, Field(discriminator="kind")
]


def _in_place(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Rejects an order in which one operation would undo another."""
    first = ("best_members", "threshold")
    kinds = [operation.kind for operation in operations]
    expected = [kind for kind in first if kind in kinds]
    if [kind for kind in kinds if kind in first] != expected or kinds[: len(expected)] != expected:
        raise ValueError("best_members must come first, then threshold, each at most once; move them to the start")
    return operations


Operations = Annotated[tuple[Operation, ...], AfterValidator(_in_place)]
