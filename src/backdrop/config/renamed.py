"""Keys that had another name before 0.1.0, so that an older YAML is refused with the name that it should use."""

from collections.abc import Mapping, Sequence
from typing import Any

# By the key alone, or with the key or the kind that it stands below.
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
    """What to write instead of a key, or None if it never was one.

    Args:
        key: the key.
        siblings: the mapping that it is in.
        path: where that mapping is.
    """
    kind = siblings.get("kind") if isinstance(siblings, Mapping) else None
    parent = next((part for part in reversed(path) if isinstance(part, str)), None)
    names = [f"{kind}.{key}", f"{parent}.{key}", key]
    return next((RENAMED[name] for name in names if name in RENAMED), None)
