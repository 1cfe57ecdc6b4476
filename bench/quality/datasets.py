"""The data sets: images that the extractor learns from (`known`), and images that it has never seen (`fresh`)."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import clear

FASHION = Path("/usr/share/datasets/fashion-mnist")


class Absent(Exception):
    """The data are not on this machine; the message says where they come from."""


@dataclass(frozen=True)
class Pictures:
    """Images and labels."""

    images: np.ndarray
    """uint8 (n, h, w, c)."""
    labels: np.ndarray
    """int64 (n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, rows: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """float32 (n, c, h, w) in [0, 1]."""
        return torch.from_numpy(np.ascontiguousarray(self.images[rows])).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Sizes:
    """How a data set is cut for one seed."""

    per_class: int
    """Training images of each class, poisons included."""
    own: int
    """The user's clean samples, for review and plain fine-tuning."""
    clean: int
    """Unseen inputs that must not be flagged."""
    epsilon: float = 0.1
    """Largest change of a pixel by an attacker, of the grey range."""
    poisons: int = 5
    """For each target, where the attack does not say."""
    nearest: bool = False
    """The wrong class is that of the target's nearest neighbour among the others, not one drawn at random."""


@dataclass(frozen=True)
class Data:
    name: str
    load_known: Callable[[], Pictures]
    load_fresh: Callable[[], Pictures]
    sizes: Sizes
    classes: int = 10

    @cached_property
    def known(self) -> Pictures:
        return self.load_known()

    @cached_property
    def fresh(self) -> Pictures:
        return self.load_fresh()


@dataclass(frozen=True)
class Split:
    """Disjoint rows of the fresh images, for one seed."""

    train: np.ndarray
    own: np.ndarray
    clean: np.ndarray
    rest: np.ndarray
    """In random order: targets are taken from its front."""


def split(labels: np.ndarray, sizes: Sizes, seed: int) -> Split:
    order = np.random.default_rng(seed).permutation(len(labels))
    train = np.sort(np.concatenate([order[labels[order] == c][: sizes.per_class] for c in np.unique(labels)]))
    others = order[~np.isin(order, train)]
    own, clean, rest = np.split(others, [sizes.own, sizes.own + sizes.clean])
    return Split(train, np.sort(own), np.sort(clean), rest)


def digits() -> Data:
    """scikit-learn's 1,797 digits, enlarged to 32x32: 500 to learn from, the others fresh."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = torch.from_numpy(found.images)[:, None].float() / 16
    large = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
    images = (large.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    order = np.random.default_rng(12345).permutation(len(images))
    labels = found.target.astype(np.int64)
    known, fresh = (Pictures(images[rows], labels[rows]) for rows in np.split(order, [500]))
    return Data("digits", lambda: known, lambda: fresh, Sizes(per_class=50, own=300, clean=400, epsilon=0.2))


def fashion(folder: Path = FASHION) -> Data:
    """Fashion-MNIST: idx files, plain or gzipped."""

    def read(part: str, limit: int | None = None) -> Pictures:
        images = _idx(folder, f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28, 1)[:limit]
        return Pictures(images, _idx(folder, f"{part}-labels-idx1-ubyte", 8)[:limit].astype(np.int64))

    if not list(folder.glob("t10k-images-idx3-ubyte*")):
        raise Absent(f"no Fashion-MNIST in {folder}: install dataset-fashion-mnist (Debian), or give --fashion DIR")
    sizes = Sizes(per_class=100, own=2000, clean=2000, epsilon=0.2, poisons=10, nearest=True)
    return Data("fashion-mnist", lambda: read("train", 20_000), lambda: read("t10k"), sizes)


def _idx(folder: Path, name: str, header: int) -> np.ndarray:
    path = folder / name
    raw = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=header)


def cifar10(folder: Path | None) -> Data:
    """CIFAR-10 from Parquet, as Hugging Face writes images."""

    def read(part: str) -> Pictures:
        images = clear.open_images(folder / f"cifar10/{part}.parquet")
        return Pictures(np.stack([images.image(i) for i in range(len(images))]), np.asarray(images.labels))

    if folder is None or not (folder / "cifar10/test.parquet").exists():
        raise Absent(f"no cifar10/test.parquet in {folder}: give --data DIR (docs/evaluation.md says what it holds)")
    sizes = Sizes(per_class=100, own=2000, clean=2000)
    return Data("cifar10", lambda: read("train"), lambda: read("test"), sizes)
