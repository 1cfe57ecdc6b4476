"""Small synthetic training sets with and without planted pockets, shared by the tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Planted(NamedTuple):
    values: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    poisons: npt.NDArray[np.int64]
    target: npt.NDArray[np.float32]
    target_label: int


def make_classes(
    seed: int = 0, classes: int = 5, per_class: int = 80, d: int = 16, separation: float = 3.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Gaussian classes in random order."""
    rng = np.random.default_rng(seed)
    centres = separation * rng.normal(size=(classes, d))
    labels = rng.permutation(np.repeat(np.arange(classes), per_class))
    return (centres[labels] + rng.normal(size=(len(labels), d))).astype(np.float32), labels


def make_pocket(seed: int = 0, poisons: int = 6, tightness: float = 0.15, **shape: int) -> Planted:
    """Move some samples of label 0 next to a new point of class 1, as feature collision does."""
    values, labels = make_classes(seed, **shape)
    rng = np.random.default_rng(seed + 1000)
    of_one = np.flatnonzero(labels == 1)
    pair = values[rng.choice(of_one, 2, replace=False)]
    target = pair.mean(axis=0)
    rows = rng.choice(np.flatnonzero(labels == 0), poisons, replace=False)
    values[rows] = target + tightness * rng.normal(size=(poisons, values.shape[1]))
    return Planted(values, labels, np.sort(rows), target.astype(np.float32), 1)
