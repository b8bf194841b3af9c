"""Keys that were renamed before 0.1.0, so that the error for an older YAML shows the new name."""

from collections.abc import Mapping, Sequence
from typing import Any

# By key, or by the parent key or `kind` and the key.
RENAMED = {
    "rate": "lr",
    "rates": "lrs",
    "optimiser": "optimizer",
    "normalise": "normalize",
    "network.name": "kind",
    "loss.name": "kind",
    "optimizer.name": "kind",
    "network.widest": "max_channels",
    "erase.most": "max_count",
    "fill_holes.most": "max_area",
    "drop_small.least": "min_area",
    "hull.least": "min_area",
    "unreliable_top.least": "min_area",
    "best_members.above": "unconfidence_above",
    "gray.where": "region",
    "accumulate.batches": "accumulate: 4 for four batches",
    "initialization": "legacy.initialization: torch_0_2",
    "initialisation": "legacy.initialization: torch_0_2",
    "loss.clamped": "legacy.clamp_dice",
    "accumulate.reduce": "legacy.sum_gradients",
    "optimizer.forgetful": "legacy.reset_each_epoch",
    "affine.hard": "legacy.hard_masks",
    "network.align_corners": "legacy.upsample_align_corners",
    "input.align_corners": "legacy.output_align_corners",
}


def new_name(key: str, siblings: Any, path: Sequence[str | int]) -> str | None:
    """The new name of a key, or None if it wasn't renamed.

    Args:
        key: the key.
        siblings: the mapping that has the key.
        path: the path of that mapping.
    """
    kind = siblings.get("kind") if isinstance(siblings, Mapping) else None
    parent = next((part for part in reversed(path) if isinstance(part, str)), None)
    names = [f"{kind}.{key}", f"{parent}.{key}", key]
    return next((RENAMED[name] for name in names if name in RENAMED), None)
