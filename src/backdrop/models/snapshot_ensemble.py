"""Several networks of the same architecture that predict as one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class SnapshotEnsemble(nn.Module):
    """The mean of several networks' logits; their weights are in the state dict under `networks.0.`, `networks.1.`, ….

    Args:
        networks: each maps (B, 3, H, W) to logits (B, 1, H, W).
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.stride = getattr(self.networks[0], "stride", 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        return torch.stack([network(x) for network in self.networks]).mean(dim=0)
