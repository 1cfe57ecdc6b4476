"""Small networks of five families, for 28x28 and 32x32 images in [0, 1]; trained on a CPU in minutes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 256
"""Of the penultimate layer: a head on 64 features of so small a network cannot give one image another label."""


class Pixels(nn.Module):
    """Centre and scale: what every network does with images in [0, 1] first."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) * 4


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """x + f(x), with a projection where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class Dense(nn.Module):
    """Every layer sees the outputs of all before it."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(convolution(inputs + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Inverted(nn.Module):
    """Expand, filter each channel, project; no non-linearity at the end."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 3) -> None:
        super().__init__()
        wide = inputs * expand
        self.body = nn.Sequential(
            convolution(inputs, wide, 1),
            convolution(wide, wide, stride=stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


def _headed(body: list[nn.Module], width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(Pixels(), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def mlp(channels: int, side: int, classes: int) -> nn.Sequential:
    widths = [channels * side * side, 256, WIDTH]
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(Pixels(), nn.Flatten(), *layers, nn.Linear(WIDTH, classes))


def resnet(channels: int, side: int, classes: int) -> nn.Sequential:
    return _headed(
        [
            convolution(channels, 16, stride=2),
            Residual(16, 16, 1),
            Residual(16, 32, 2),
            Residual(32, 64, 2),
            convolution(64, WIDTH, 1),
        ],
        WIDTH,
        classes,
    )


def vgg(channels: int, side: int, classes: int) -> nn.Sequential:
    pool = nn.MaxPool2d(2)
    body = [convolution(channels, 16), pool, convolution(16, 32), pool, convolution(32, 64), convolution(64, WIDTH, 1)]
    return _headed(body, WIDTH, classes)


def densenet(channels: int, side: int, classes: int) -> nn.Sequential:
    half = nn.AvgPool2d(2)
    body = [convolution(channels, 16, stride=2), Dense(16, 12, 3), convolution(52, 32, 1), half, Dense(32, 12, 3)]
    return _headed([*body, convolution(68, WIDTH, 1)], WIDTH, classes)


def mobilenet(channels: int, side: int, classes: int) -> nn.Sequential:
    body = [convolution(channels, 16, stride=2), Inverted(16, 24, 1), Inverted(24, 32, 2), Inverted(32, 32, 1)]
    return _headed([*body, convolution(32, WIDTH, 1)], WIDTH, classes)


ARCHITECTURES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "mlp": mlp,
    "resnet": resnet,
    "vgg": vgg,
    "densenet": densenet,
    "mobilenet": mobilenet,
}
