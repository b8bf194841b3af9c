"""What may be done to an ensemble's answer after the mean, in the order in which it names it.

Sizes are shares of the photograph: lengths of its height, areas of its width times height. What the winners gave in
pixels was for 1918x1280.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from backdrop.config.network import Share
from backdrop.config.records import Record

HEIGHT, AREA = 1280, 1918 * 1280  # of the winners' photographs


class _Interval(Record):
    """From `low` to `high` a probability is in doubt."""

    low: Share = 0.3
    high: Share = 0.8

    @model_validator(mode="after")
    def _in_order(self) -> "_Interval":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high}); write a smaller low")
        return self


class BestMembers(_Interval):
    """Where unconfidence exceeds `unconfidence_above`, only members of the recipes that did best on such a view answer.

    `recipes` holds their names by view, as `backdrop.evaluation.ablation.choose_best` finds them out of fold. On a view
    that isn't there all members answer. Recipes, not single members, are compared: a recipe's members have together
    judged every photograph, single ones only their own fold's, and one fold is easier than another.
    """

    kind: Literal["best_members"]
    unconfidence_above: Annotated[float, Field(ge=0)]
    recipes: Annotated[dict[str, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)]


class Threshold(Record):
    """The mask is where p > `level`; without it, where p > 0.5."""

    kind: Literal["threshold"]
    level: Share = 0.5


class FillHoles(Record):
    """Fills holes in the mask of at most `max_area` of the photograph's area (122 pixels of 1918x1280)."""

    kind: Literal["fill_holes"]
    max_area: Share = 5e-5


class DropSmall(Record):
    """Drops pieces below `min_area` of the photograph's area (up to 122 pixels of 1918x1280), never the largest."""

    kind: Literal["drop_small"]
    min_area: Share = 5e-5


class Hull(_Interval):
    """Adds the convex hull of each region of doubt (`low` <= p <= `high`), or of its largest piece above `level`.

    So a ragged, spotted region becomes one whole. What is narrower than twice `strip` is no region, or the blur along
    every outline would be one; a region has at least `min_area` of the photograph's area (4,000 pixels of 1918x1280).
    """

    kind: Literal["hull"]
    level: Share = 0.5
    strip: Share = 5 / HEIGHT
    min_area: Share = 4_000 / AREA


class UnreliableTop(_Interval):
    """The winners' rule for white vans before a white wall, whose roofs are in doubt (`low` < p < `high`).

    The doubt loses `strip` at its top and its bottom; its largest region in the upper half, if it has more than
    `min_area` of the photograph's area (40,000 pixels), lies in a box, enlarged by `margin` (50 pixels) to all sides as
    far as the photograph goes. In that box the mask becomes the convex hull of the largest piece of p > `level`.
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
    """Refuses an order in which one operation would undo another."""
    first = ("best_members", "threshold")
    kinds = [operation.kind for operation in operations]
    wanted = [kind for kind in first if kind in kinds]
    if [kind for kind in kinds if kind in first] != wanted or kinds[: len(wanted)] != wanted:
        raise ValueError(
            "best_members comes first, then threshold, each at most once; they'd undo what is before them: move them"
        )
    return operations


Operations = Annotated[tuple[Operation, ...], AfterValidator(_in_place)]
