"""ResNet encoders (He et al. 2015, arXiv:1512.03385) whose state dicts have torchvision's keys."""

from torch import Tensor, nn

# Basic blocks per stage.
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]  # torch's modules return Any


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Args:
        name: `resnet18` or `resnet34`.
        width: channels of the first stage; torchvision's is 64.
    """

    def __init__(self, name: str, width: int = 64) -> None:
        super().__init__()
        self.channels = tuple(width * 2**stage for stage in range(4))
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, self.channels[0], DEPTHS[name][0], stride=1)
        self.layer2 = _stage(self.channels[0], self.channels[1], DEPTHS[name][1], stride=2)
        self.layer3 = _stage(self.channels[1], self.channels[2], DEPTHS[name][2], stride=2)
        self.layer4 = _stage(self.channels[2], self.channels[3], DEPTHS[name][3], stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of (B, 3, H, W) at 1/4, 1/8, 1/16 and 1/32 of its size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(channels_in, channels_out, stride), *rest)
