"""The data sets: images that the extractor learns from (`known`), and images that it has never seen (`fresh`)."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
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

    per_class: int | tuple[int, ...]
    """Training images of each class, poisons included; several sizes are dealt to the classes at random."""
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
    rare: int = 0
    """For every second target the wrong class is one of so many with the fewest training images."""
    clean_sets: int = 20
    """Training sets without poisons that are scanned."""


@dataclass(frozen=True)
class Data:
    name: str
    load_known: Callable[[], Pictures]
    load_fresh: Callable[[], Pictures]
    sizes: Sizes
    classes: int = 10
    same_images: str | None = None
    """The data set whose images these are, cut in another way: it has the extractors and their features."""
    device: str = "cpu"
    """Where networks that see the images run."""

    @property
    def images(self) -> str:
        return self.same_images or self.name

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
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    train = np.sort(draw(labels, sizes, order, seed))
    others = order[~np.isin(order, train)]
    if isinstance(sizes.per_class, tuple):
        others = rng.permutation(others)  # what large classes have left stands at the end of the order
    own, clean, rest = np.split(others, [sizes.own, sizes.own + sizes.clean])
    return Split(train, np.sort(own), np.sort(clean), rest)


def draw(labels: np.ndarray, sizes: Sizes, order: np.ndarray, seed: object) -> np.ndarray:
    """The first rows in this order of each class, as many as its share of the training set is."""
    classes = np.unique(labels)
    shares = np.broadcast_to(sizes.per_class, len(classes))
    if isinstance(sizes.per_class, tuple):
        shares = np.random.default_rng(seed).permutation(shares)
    return np.concatenate([order[labels[order] == c][:share] for c, share in zip(classes, shares, strict=True)])


def digits() -> Data:
    """scikit-learn's 1,797 digits, enlarged to 32x32: 500 to learn from, the others fresh."""
    grey, labels = _load_digits()
    images = _enlarge(grey)
    known, fresh = (Pictures(images[rows], labels[rows]) for rows in shuffled(len(images), 500))
    return Data("digits", lambda: known, lambda: fresh, Sizes(per_class=50, own=300, clean=400, epsilon=0.2))


def digit_pairs(known_pairs: int = 60, fresh_pairs: int = 85) -> Data:
    """Numbers of two digits, 100 classes: two of scikit-learn's digits side by side, enlarged to 32x32.

    Of each class so many pairs of 800 digits to learn from, and of the other 997 fresh ones. Within a class no two have
    their left or their right digit in common: an odd digit makes one odd sample of it.
    """
    known, fresh = shuffled(1797, 800)
    sizes = Sizes(per_class=50, own=1500, clean=1500, epsilon=0.2)
    return Data(
        "digit-pairs",
        lambda: _side_by_side(draw_pairs(known, known_pairs, seed=1)),
        lambda: _side_by_side(draw_pairs(fresh, fresh_pairs, seed=2)),
        sizes,
        classes=100,
    )


def draw_pairs(digit_rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Left and right digit of `count` pairs of each of 100 classes, as rows of load_digits, (100 count, 2)."""
    labels, rng = _load_digits()[1], np.random.default_rng(seed)
    of = [digit_rows[labels[digit_rows] == digit] for digit in range(10)]
    return np.concatenate(
        [
            np.stack([rng.choice(of[digit], count, replace=False) for digit in pair], axis=1)
            for pair in np.ndindex(10, 10)
        ]
    )


def _side_by_side(pairs: np.ndarray) -> Pictures:
    grey, labels = _load_digits()
    both = np.concatenate([grey[pairs[:, 0]], grey[pairs[:, 1]]], axis=2)
    return Pictures(_enlarge(both), labels[pairs] @ [10, 1])


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images / 16, found.target.astype(np.int64)


def shuffled(n: int, known: int) -> list[np.ndarray]:
    """Rows that the extractor learns from, and fresh ones."""
    return np.split(np.random.default_rng(12345).permutation(n), [known])


def _enlarge(grey: np.ndarray) -> np.ndarray:
    """uint8 (n, 32, 32, 1)."""
    small = torch.from_numpy(grey)[:, None].float()
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    return (large.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()


def fashion(folder: Path = FASHION) -> Data:
    """Fashion-MNIST: idx files, plain or gzipped."""
    _require_fashion(folder)
    sizes = Sizes(per_class=100, own=2000, clean=2000, epsilon=0.2, poisons=10, nearest=True)
    return Data("fashion-mnist", lambda: _read(folder, "train", 20_000), lambda: _read(folder, "t10k"), sizes)


RARE = tuple(round(400 * 0.03 ** (i / 9)) for i in range(10))
"""Class sizes that fall geometrically: 400, 271, ... 18, 12."""


def fashion_rare(folder: Path = FASHION) -> Data:
    """Fashion-MNIST with classes of very unequal size."""
    usual = fashion(folder)
    sizes = replace(usual.sizes, per_class=RARE, poisons=5, rare=4)
    return replace(usual, name="fashion-mnist-rare", sizes=sizes, same_images=usual.name)


def fashion_50k(folder: Path = FASHION) -> Data:
    """Fashion-MNIST the other way round: the network learns from the test images, 50,000 others are trained on."""
    _require_fashion(folder)
    sizes = Sizes(per_class=5000, own=2000, clean=2000, epsilon=0.2, nearest=True, clean_sets=3)
    return Data("fashion-mnist-50k", lambda: _read(folder, "t10k"), lambda: _read(folder, "train"), sizes)


def _require_fashion(folder: Path) -> None:
    if not list(folder.glob("t10k-images-idx3-ubyte*")):
        raise Absent(f"no Fashion-MNIST in {folder}: install dataset-fashion-mnist (Debian), or give --fashion DIR")


def _read(folder: Path, part: str, limit: int | None = None) -> Pictures:
    images = _idx(folder, f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28, 1)[:limit]
    return Pictures(images, _idx(folder, f"{part}-labels-idx1-ubyte", 8)[:limit].astype(np.int64))


def _idx(folder: Path, name: str, header: int) -> np.ndarray:
    path = folder / name
    raw = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=header).copy()  # writable, for torch


def cifar10(folder: Path | None) -> Data:
    """CIFAR-10 from Parquet, as Hugging Face writes images."""

    def read(part: str) -> Pictures:
        images = clear.open_images(folder / f"cifar10/{part}.parquet")
        return Pictures(np.stack([images.image(i) for i in range(len(images))]), np.asarray(images.labels))

    if folder is None or not (folder / "cifar10/test.parquet").exists():
        raise Absent(f"no cifar10/test.parquet in {folder}: give --data DIR (docs/evaluation.md says what it holds)")
    sizes = Sizes(per_class=100, own=2000, clean=2000)
    return Data("cifar10", lambda: read("train"), lambda: read("test"), sizes)
