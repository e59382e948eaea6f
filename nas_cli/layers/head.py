"""What turns the last maps into logits, and the second opinion in the middle of a deep network."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """Global average pooling and a linear layer: (images, channels, any size) -> (images, classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


class AuxiliaryHead(nn.Module):
    """DARTS' auxiliary classifier (arXiv:1806.09055, code), for maps of any size from 2x2.

    The paper pools 8x8 maps (CIFAR-10) by 5 with stride 3 and 7x7 maps (ImageNet) by 5 with stride 2: two
    windows a side that span five eighths of the map each. That rule gives 2x2 maps for every size.
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        window = min(-(-5 * size // 8), size - 1)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(window, stride=size - window),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, num_classes),
        )

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.layers(maps)
        return logits
