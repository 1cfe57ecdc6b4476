"""Slow, readable answers to hull questions, by libraries that share no code with ours."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog, nnls


def hull_distance(vertices, point) -> float:
    """Distance of a point to the hull of the rows: non-negative least squares, with a row for the sum."""
    w = np.asarray(vertices, dtype=float) - np.asarray(point, dtype=float)
    scale = np.abs(w).max()
    if scale == 0:
        return 0.0
    w = w / scale
    # min |W^T x|^2 + (sum x - 1)^2 over x >= 0 is reached at a multiple of the nearest point's weights.
    target = np.r_[np.zeros(w.shape[1]), 1.0]
    x, _ = nnls(np.vstack([w.T, np.ones(len(w))]), target, maxiter=50 * len(w) + 100)
    return float(np.linalg.norm(x / x.sum() @ w) * scale)


def is_inside(vertices, point) -> bool:
    """Whether a point is a convex combination of the rows: feasibility of a linear programme."""
    v = np.asarray(vertices, dtype=float)
    z = np.asarray(point, dtype=float)
    combine = np.vstack([v.T, np.ones(len(v))])
    return linprog(np.zeros(len(v)), A_eq=combine, b_eq=np.r_[z, 1.0], method="highs").status == 0
