"""Built-in networks. Importing this module imports torch: `load_model` does so when one is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from clear.images import Preprocess

__all__ = [
    "ARCHITECTURES",
    "CifarResNet",
    "DigitsCnn",
    "digits_cnn",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
]

CIFAR_PREPROCESS = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=(32, 32), channels=3)
DIGITS_PREPROCESS = Preprocess((0.5,), (0.5,), size=(8, 8), channels=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: subsampled, new channels zero (option A)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.padding = (width - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.padding:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet for 32x32 colour images (He et al. 2016, section 4.2): 6 * blocks + 2 layers, 64 penultimate features."""

    preprocess = CIFAR_PREPROCESS

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return torch.as_tensor(self.linear(x.mean(dim=(2, 3))))


def _stage(inputs: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))


class DigitsCnn(nn.Module):
    """Small net for 8x8 grey digits: two 3x3 convolutions, pooling, 64 penultimate features. Trains in seconds."""

    preprocess = DIGITS_PREPROCESS

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc = nn.Linear(64 * 4 * 4, 64)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        x = functional.relu(self.fc(functional.max_pool2d(x, 2).flatten(1)))
        return torch.as_tensor(self.linear(x))


def resnet20(num_classes: int = 10) -> CifarResNet:
    """Return a CIFAR ResNet-20 with random weights."""
    return CifarResNet(3, num_classes)


def resnet32(num_classes: int = 10) -> CifarResNet:
    """Return a CIFAR ResNet-32 with random weights."""
    return CifarResNet(5, num_classes)


def resnet44(num_classes: int = 10) -> CifarResNet:
    """Return a CIFAR ResNet-44 with random weights."""
    return CifarResNet(7, num_classes)


def resnet56(num_classes: int = 10) -> CifarResNet:
    """Return a CIFAR ResNet-56 with random weights."""
    return CifarResNet(9, num_classes)


def digits_cnn(num_classes: int = 10) -> DigitsCnn:
    """Return the small net for 8x8 digits with random weights."""
    return DigitsCnn(num_classes)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "digits_cnn": digits_cnn,
}
"""Built-in architectures by name."""
