"""Several networks of one kind that answer as one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class SnapshotEnsemble(nn.Module):
    """The mean of its networks' logits; its state dict has their weights under `networks.0.`, `networks.1.` and so on.

    Args:
        networks: they map (B, 3, H, W) to logits (B, 1, H, W).
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.stride = getattr(self.networks[0], "stride", 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        return torch.stack([network(x) for network in self.networks]).mean(dim=0)
