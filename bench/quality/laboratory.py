"""What a unit starts from: an extractor, trained once, its features of all fresh images, and the split of a seed."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import clear
from bench.quality.architectures import ARCHITECTURES
from bench.quality.datasets import Absent, Data, Split, split
from clear.models import last_linear
from clear.training import device_of, fit, seeded

PUBLISHED = ("resnet20", "resnet32", "resnet44", "resnet56")
"""Networks whose CIFAR-10 weights lie in DIR/models."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    epochs: int
    learning_rate: float


EPOCHS = 60
"""Of a head."""
EXTRACTORS = {
    "digits": Recipe(12, 0.05),
    "digit-pairs": Recipe(10, 0.05),
    "fashion-mnist": Recipe(3, 0.05),
    "fashion-mnist-50k": Recipe(6, 0.05),
    "cifar10": Recipe(4, 0.05),
}
"""On the known images."""
FINE_TUNING = Recipe(8, 0.01)
SCRATCH = Recipe(30, 0.05)
"""Of whole victims, on the training set."""


class FromPixels(nn.Module):
    """A network behind its own normalisation: takes images in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(network.preprocess.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(network.preprocess.std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network((pixels - self.mean) / self.std)


@dataclass(frozen=True)
class Laboratory:
    """Everything that the targets of one unit share."""

    data: Data
    architecture: str
    extractor: nn.Module
    features: np.ndarray
    """Penultimate features of all fresh images, float32 (n, d)."""
    split: Split
    seed: int
    out: Path
    folder: Path | None

    @property
    def labels(self) -> np.ndarray:
        return self.data.fresh.labels

    def pixels(self, rows: Any) -> torch.Tensor:
        return self.data.fresh.pixels(np.atleast_1d(rows))


def open_laboratory(data: Data, architecture: str, seed: int, out: Path, folder: Path | None) -> Laboratory:
    """Load or train the extractor, load or extract the features, cut the data."""
    extractor = load_extractor(data, architecture, out, folder)
    path = out / "cache" / f"{data.images}-{architecture}-features.npy"
    if not path.exists():
        write_whole(path, lambda target: np.save(target, extract(extractor, data.fresh.pixels())))
    features = np.load(path)
    return Laboratory(
        data, architecture, extractor, features, split(data.fresh.labels, data.sizes, seed), seed, out, folder
    )


def load_extractor(data: Data, architecture: str, out: Path, folder: Path | None) -> nn.Module:
    """A published network, or one trained here on the known images; weights are kept in the cache."""
    if architecture in PUBLISHED:
        if data.name != "cifar10" or folder is None:
            raise Absent(f"{architecture} is a network for cifar10, from --data DIR")
        weights = folder / f"models/{architecture}-cifar10.safetensors"
        return FromPixels(clear.load_model(weights, architecture)).eval().to(data.device)
    network = new_network(data, architecture, seed=0)
    path = out / "cache" / f"{data.images}-{architecture}.safetensors"
    return trained_once(
        path, network, lambda: (data.known.pixels(), data.known.labels), EXTRACTORS[data.images], seed=0
    )


def new_network(data: Data, architecture: str, seed: int) -> nn.Module:
    """A small network as it is before training; in place of a published one, a small residual one."""
    channels, side = data.fresh.images.shape[3], data.fresh.images.shape[1]
    with seeded(seed):
        network = ARCHITECTURES.get(architecture, ARCHITECTURES["resnet"])(channels, side, data.classes)
    return network.to(data.device)


def start_of(lab: Laboratory, how: str, seed: int) -> tuple[nn.Module, Recipe]:
    """What a victim is trained from, and how."""
    if how == "scratch":
        return new_network(lab.data, lab.architecture, seed), SCRATCH
    return copy.deepcopy(lab.extractor), FINE_TUNING


def trained_once(
    path: Path,
    network: nn.Module,
    load: Callable[[], tuple[torch.Tensor, np.ndarray]],
    recipe: Recipe,
    seed: int,
    copies: np.ndarray | None = None,
) -> nn.Module:
    """The network, trained from where it starts on the images and labels that `load` gives; weights kept at `path`."""
    if not path.exists():
        options = {"epochs": recipe.epochs, "learning_rate": recipe.learning_rate, "seed": seed, "copies": copies}
        fit(network, *load(), **options)
        write_whole(path, lambda target: save_file(network.state_dict(), target))
    network.load_state_dict(load_file(path))
    return network.eval()


def extract(model: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Penultimate features, float32 (n, d)."""
    return clear.extract_features(model, (pixels, np.zeros(len(pixels), np.int64))).values


@torch.no_grad()
def probabilities(model: nn.Module, inputs: Any) -> np.ndarray:
    """Softmax outputs, float64 (n, classes), of a network on pixels or of a head on features."""
    model.eval()
    device, parts = device_of(model), torch.as_tensor(inputs).float().split(250)
    return torch.cat([model(part.to(device)).double().softmax(1).cpu() for part in parts]).numpy()


def new_head(width: int, classes: int, seed: int) -> nn.Linear:
    with seeded(seed):
        return nn.Linear(width, classes)


def train_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int,
    *,
    head: nn.Linear | None = None,
    epochs: int = EPOCHS,
) -> nn.Linear:
    """A linear layer on frozen features, a new one if none is given: Adam .1."""
    head = head or new_head(features.shape[1], classes, seed)
    inputs = torch.from_numpy(np.ascontiguousarray(features))
    fit(head, inputs, labels, epochs=epochs, learning_rate=0.1, seed=seed, optimizer="adam")
    return head


def with_head(extractor: nn.Module, head: nn.Linear) -> nn.Module:
    """The extractor with this head in place of its own."""
    model = copy.deepcopy(extractor)
    last_linear(model)[1].load_state_dict(head.state_dict())
    return model.eval()


def write_whole(path: Path, write: Any) -> None:
    """Write to a name of its own first: a killed run leaves no half-written file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    write(partial)
    partial.rename(path)
