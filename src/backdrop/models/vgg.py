"""VGG-11 encoder (Simonyan and Zisserman 2014, arXiv:1409.1556) whose state dict has torchvision's keys."""

from torch import Tensor, nn

# Of each group: channels as a multiple of the first group's, and number of convolutions.
MULTIPLES = (1, 2, 4, 8, 8)
CONVOLUTIONS = (1, 1, 2, 2, 2)


class Vgg11(nn.Module):
    """VGG-11 without batch norm, last pooling and classifier.

    Args:
        width: channels of the first group; torchvision's is 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.channels = tuple(width * multiple for multiple in MULTIPLES)
        layers: list[nn.Module] = []
        low = 3
        for high, convolutions in zip(self.channels, CONVOLUTIONS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(low, high, 3, padding=1), nn.ReLU(inplace=True)]
                low = high
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each group's last features of (B, 3, H, W), at 1, 1/2, 1/4, 1/8 and 1/16 of its size."""
        features = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features.append(x)
            x = layer(x)
        return [*features, x]
