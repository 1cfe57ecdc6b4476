"""Other people's solvers on hull problems, one problem at a time from Python, as a user would call them.

Each takes vertices float64 (k, d), a point and eps, and returns 1 inside, 0 outside or -1 undecided. A
quadratic programme gives weights; they are judged like ours: inside when |weights @ v - z| <= eps, outside
when the direction of that residual separates by more than eps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Array = npt.NDArray[Any]
RIDGE = 1e-11  # relative, where a solver wants a definite matrix


def judge(w: Array, weights: Array | None, eps: float) -> int:
    """Decide by the proof that weights give; w = vertices - point."""
    if weights is None or not np.isfinite(weights).all():
        return -1
    weights = np.maximum(weights, 0)
    p = weights / max(weights.sum(), 1e-300) @ w
    length = np.linalg.norm(p)
    if length <= eps:
        return 1
    return 0 if (w @ p).min() > eps * length else -1


def solve_nnls(v: Array, z: Array, eps: float) -> int:
    """scipy.optimize.nnls with a row for the sum of the weights."""
    w = v - z
    x, _ = nnls(np.vstack([w.T, np.ones(len(w))]), np.r_[np.zeros(w.shape[1]), 1.0], maxiter=20000)
    return judge(w, x, eps)


def solve_highs(v: Array, z: Array, eps: float) -> int:
    """Feasibility of a linear programme (HiGHS): exact equality, no notion of eps."""
    import highspy

    k, d = v.shape
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = k, d + 1
    model.col_cost_ = np.zeros(k)
    model.col_lower_, model.col_upper_ = np.zeros(k), np.full(k, highspy.kHighsInf)
    model.row_lower_ = model.row_upper_ = np.r_[z, 1.0]
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.arange(k + 1) * (d + 1)
    model.a_matrix_.index_ = np.tile(np.arange(d + 1), k)
    model.a_matrix_.value_ = np.hstack([v, np.ones((k, 1))]).ravel()
    solver = highspy.Highs()
    solver.silent()
    solver.passModel(model)
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kOptimal:
        return 1
    return 0 if status == highspy.HighsModelStatus.kInfeasible else -1


def solve_daqp(v: Array, z: Array, eps: float) -> int:
    """min x'Gx / 2 with sum x = 1, x >= 0 (DAQP)."""
    import daqp

    w, k = v - z, len(v)
    gram = w @ w.T
    gram[np.diag_indices(k)] += RIDGE * gram.diagonal().max()
    upper, lower = np.r_[np.full(k, 1e30), 1.0], np.r_[np.zeros(k), 1.0]
    sense = np.r_[np.zeros(k, np.int32), np.int32(5)].astype(np.int32)
    try:
        x, _, flag, _ = daqp.solve(gram, np.zeros(k), np.ones((1, k)), upper, lower, sense)
    except Exception:  # noqa: BLE001 - a peer that fails is counted as undecided
        return -1
    return judge(w, x if flag > 0 else None, eps)


def solve_piqp(v: Array, z: Array, eps: float) -> int:
    """The same programme (PIQP, dense, 1e-9)."""
    import piqp

    w, k = v - z, len(v)
    gram = w @ w.T
    scale = gram.diagonal().max()
    solver = piqp.DenseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = 1e-12
    solver.setup(gram / scale, np.zeros(k), np.ones((1, k)), np.ones(1), None, None, None, np.zeros(k), None)
    solver.solve()
    return judge(w, np.asarray(solver.result.x), eps)


def solve_quadprog(v: Array, z: Array, eps: float) -> int:
    """The same programme (quadprog, Goldfarb-Idnani)."""
    import quadprog

    w, k = v - z, len(v)
    gram = w @ w.T
    gram[np.diag_indices(k)] += RIDGE * gram.diagonal().max()
    constraints = np.hstack([np.ones((k, 1)), np.eye(k)])
    try:
        x = quadprog.solve_qp(gram, np.zeros(k), constraints, np.r_[1.0, np.zeros(k)], 1)[0]
    except ValueError:
        return -1
    return judge(w, x, eps)


PEERS = {
    "highs": solve_highs,
    "nnls": solve_nnls,
    "daqp": solve_daqp,
    "piqp": solve_piqp,
    "quadprog": solve_quadprog,
}
