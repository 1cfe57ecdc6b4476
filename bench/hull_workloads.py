"""Hull problems at stated positions, on rows that look like deep features. Deterministic; NumPy and SciPy.

hull_batch(d, k, position, batch)    the k nearest same-class rows of a held-out row, and a point
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

POSITIONS = ("in", "insp", "jin", "jout", "held", "far")
SHAPES = (
    (16, 64),
    (64, 16),
    (64, 64),
    (64, 128),
    (64, 256),
    (128, 64),
    (512, 16),
    (512, 64),
    (512, 256),
    (1024, 64),
)
CLASSES, ROWS, NOISE = 4, 12000, 0.05

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class HullBatch:
    """Problems of one shape and position."""

    vertices: Array
    """float32 (batch, k, d)"""
    points: Array
    """float32 (batch, d)"""
    eps: Array
    """float64 (batch,): 1e-5 of the RMS radius"""
    inside: Array
    """int (batch,): 1 inside, 0 outside, -1 unknown"""


@functools.lru_cache(maxsize=2)
def feature_pool(d: int) -> tuple[Array, Array]:
    """Return rows float32 (12000, d) and classes: a mean, low-rank factors of decaying spectrum, noise."""
    rng = np.random.default_rng(1000 + d)
    rank, decay = (min(16, d), 0.5) if d <= 64 else (128, 1.0)
    spectrum = (np.arange(rank) + 1.0) ** -decay
    spectrum /= np.linalg.norm(spectrum)
    labels = np.sort(rng.integers(0, CLASSES, ROWS))
    rows = NOISE / np.sqrt(d) * rng.standard_normal((ROWS, d))
    for c in range(CLASSES):
        mine = labels == c
        basis = np.linalg.qr(rng.standard_normal((d, rank)))[0]
        rows[mine] += rng.standard_normal(d) / np.sqrt(d)
        rows[mine] += (rng.standard_normal((int(mine.sum()), rank)) * spectrum) @ basis.T
    return rows.astype(np.float32), labels


def nearest_point(vertices: Array, point: Array) -> Array:
    """Project a point on the hull of the rows, by non-negative least squares."""
    w = vertices - point
    w = w / np.abs(w).max()
    x, _ = nnls(np.vstack([w.T, np.ones(len(w))]), np.r_[np.zeros(w.shape[1]), 1.0], maxiter=20000)
    return (x / x.sum()) @ vertices


def point_at(rng: np.random.Generator, v: Array, position: str) -> tuple[Array, int]:
    """Return a point relative to the hull of v float64 (k, d), and whether it is inside (-1: unknown).

    in: a mix of all rows; insp: of min(k, d) / 2 rows; jin: 1e-3 of the way from the boundary to the
    centroid; jout: 1e-3 radii out of the boundary, along its normal.
    """
    k, d = v.shape
    centre = v.mean(0)
    if position == "in":
        return rng.dirichlet(np.ones(k)) @ v, 1
    if position == "insp":
        size = max(2, min(k, d) // 2)
        return rng.dirichlet(np.ones(size)) @ v[rng.permutation(k)[:size]], 1
    beyond = centre + 6 * (rng.dirichlet(np.full(k, 0.3)) @ v - centre)
    foot = nearest_point(v, beyond)
    if position == "jin":
        return foot + 1e-3 * (centre - foot), 1
    radius = np.sqrt(((v - centre) ** 2).sum(1).mean())
    length = np.linalg.norm(beyond - foot)
    return foot + 1e-3 * radius * (beyond - foot) / max(length, 1e-300), 0 if length > 1e-3 * radius else -1


def hull_batch(d: int, k: int, position: str, batch: int = 12, *, seed: int = 0) -> HullBatch:
    """Draw problems; held is the held-out row itself, far a row of another class."""
    if position not in POSITIONS:
        raise ValueError(f"position={position!r}: want one of {POSITIONS}")
    rows, labels = feature_pool(d)
    rng = np.random.default_rng([d, k, seed])
    vertices, points = np.empty((batch, k, d), np.float32), np.empty((batch, d), np.float32)
    inside = np.full(batch, -1)
    for b in range(batch):
        held = rng.integers(ROWS)
        mates = np.flatnonzero(labels == labels[held])
        near = mates[np.argsort(((rows[mates] - rows[held]) ** 2).sum(1))[1 : k + 1]]
        vertices[b] = rows[rng.permutation(near)]
        if position == "held":
            points[b] = rows[held]
        elif position == "far":
            points[b], inside[b] = rows[rng.choice(np.flatnonzero(labels != labels[held]))], 0
        else:
            points[b], inside[b] = point_at(rng, vertices[b].astype(float), position)
    v = vertices.astype(float)
    radius = np.sqrt(((v - v.mean(1, keepdims=True)) ** 2).sum(2).mean(1))
    return HullBatch(vertices, points, 1e-5 * radius, inside)
