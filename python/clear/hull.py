"""Distances to convex hulls of small vertex sets, and membership, in batches, each answer with its proof."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_ids, as_threads, to_numpy
from clear._backend import Backend, get_backend
from clear._stored import StoredRows, as_stored

__all__ = ["HullResult", "HullStatus", "solve_hulls"]

CALL_SECONDS = 0.1
CALL_ELEMENTS = 1 << 22  # members times features of the first native call


class HullStatus(IntEnum):
    """What was proven about a point and a hull."""

    INSIDE = 0
    OUTSIDE = 1
    UNDECIDED = 2
    INVALID = 3


@dataclass(frozen=True, slots=True)
class HullResult:
    """Answers to s hull problems."""

    status: npt.NDArray[np.int8]
    """`HullStatus` of each problem, int8 (s,)."""
    lower: npt.NDArray[np.float64]
    """Proven lower bound of the distance, feature units, float64 (s,)."""
    upper: npt.NDArray[np.float64]
    """Proven upper bound of the distance: |weights @ vertices - point|, float64 (s,)."""
    eps: npt.NDArray[np.float64]
    """Distance up to which a point counts as inside, float64 (s,)."""
    weights: npt.NDArray[np.float64] | None
    """Convex weights of the members, float64 (s, k): the proof of `upper`. None without certificates."""
    directions: npt.NDArray[np.float64] | None
    """Directions u, float64 (s, d), with min u.(v - point) / |u| = `lower`: the proof of `lower`."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{s.name.lower()}: {int((self.status == s).sum())}" for s in HullStatus)
        return f"HullResult({len(self.status)} problems, {counts})"


def solve_hulls(
    points: Any,
    base: Any,
    members: Any = None,
    *,
    owner: Any = None,
    mode: Literal["distance", "decide"] = "distance",
    eps: Any = None,
    relative_tolerance: float = 1e-4,
    certificates: bool = True,
    device: str = "auto",
    threads: int | None = None,
) -> HullResult:
    """Bound the distance of points to convex hulls of rows of `base`, with a proof for every answer.

    Parameters
    ----------
    points : array of float, shape (m, d)
        Query points; dtypes as in `NeighborIndex`.
    base : array of float, shape (n, d)
        Rows that serve as vertices. float16 and bfloat16 are read where they are, and widened exactly.
        Without `members`, an array of shape (s, k, d): the vertices of each hull themselves.
    members : array of int, shape (s, k), optional
        Rows of `base` that span each hull, as a neighbour search returns them; -1 marks an absent vertex.
    owner : array of int, shape (s,), optional
        The point of each problem. Default: problem i asks about point i (then s = m).
    mode : {"distance", "decide"}
        "distance" bounds the distance to `relative_tolerance`; "decide" stops as soon as inside or outside is
        proven.
    eps : float or array of float, shape (s,), optional
        Distance up to which a point counts as inside, feature units. Default: 1e-5 of the RMS radius of the
        vertices. Raised to what float32 coordinates can mean (4 * 2**-24 * largest norm) when it is below.
    relative_tolerance : float
        Distance mode stops when upper - lower <= relative_tolerance * upper. Between 0 and 1; below about
        1e-15 (farthest / upper)**2, with the largest distance of a vertex, rounding in float64 decides what is
        reached.
    certificates : bool
        Whether to return weights and directions.
    device, threads
        As in `NeighborIndex`.

    Returns
    -------
    HullResult
        A hull without vertices is OUTSIDE at distance inf. Points or vertices with nan or inf are INVALID.

    Raises
    ------
    TypeError, ValueError
        Wrong dtypes or shapes, members or owners out of range.

    Notes
    -----
    Bounds are evaluated in float64 on the original rows, and the answers are equal (==) for every number of
    threads, order of problems and instruction set. `clear.check.check_hull` verifies them with NumPy alone.

    Small sets take pairwise steps on the Gram matrix, k <= d + 1 block principal pivoting (Judice and Pires
    1994), points deep inside many vertices the most even weights, everything else Wolfe's minimum-norm point
    (1976); whatever one leaves open goes to the next. Cost: about k**2 d / 2 multiplications and a few
    factorisations of k**3 / 6; a point clearly outside costs one reading of its vertices in "decide" mode. There,
    with `eps` given, float32 screens, and vertices rounded to 16-bit integers propose; what they say is used only
    where the rounding error is bounded or float64 has proven it. Memory: the outputs, and 8 k (d + 2 k) bytes for
    each thread.

    "decide" proves a side and no more: its bounds may be far apart. Neighbouring problems of one owner whose
    vertices are a part of another's, in the same order (the k nearest, the same without the nearest m), share
    the products of their vertices.

    UNDECIDED is possible only when the distance is within 5 % of eps (in practice: equal up to rounding).
    Distance mode goes below `relative_tolerance` where that is needed to tell inside from outside, and stops
    early when upper is below what float32 coordinates can mean.

    Examples
    --------
    >>> import numpy as np, clear
    >>> square = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
    >>> z = np.array([[0.5, 0.5], [2.0, 0.5]], dtype=np.float32)
    >>> result = clear.solve_hulls(z, square, [[0, 1, 2, 3]] * 2)
    >>> result
    HullResult(2 problems, inside: 1, outside: 1, undecided: 0, invalid: 0)
    >>> round(float(result.upper[1]), 3)
    1.0
    """
    if members is None:
        base, members = _explicit(base)
    vertices = as_stored(base, "base", finite=False).pack()
    queries = as_stored(points, "points", width=vertices.values.shape[1], finite=False).widen()
    chosen = to_numpy(members)
    if chosen.ndim != 2:
        raise ValueError(f"members has shape {chosen.shape}: want two dimensions (problems, vertices)")
    flat = as_ids(chosen.ravel(), chosen.size, "members", rows=len(vertices), optional=True)
    rows = flat.reshape(chosen.shape)
    if owner is None and len(rows) != len(queries):
        raise ValueError(f"members has {len(rows)} rows for {len(queries)} points: pass owner")
    owners = as_ids(np.arange(len(rows)) if owner is None else owner, len(rows), "owner", rows=len(queries))
    if mode not in ("distance", "decide"):
        raise ValueError(f'mode is {mode!r}: want "distance" or "decide"')
    if not 0 < relative_tolerance < 1:
        raise ValueError(f"relative_tolerance is {relative_tolerance}: want a number between 0 and 1")
    status, lower, upper, used, weights, directions = _solve_in_calls(
        get_backend(device),
        queries,
        vertices,
        owners,
        rows,
        _as_eps(eps, len(rows)),
        decide=mode == "decide",
        relative_tolerance=float(relative_tolerance),
        certificates=certificates,
        threads=as_threads(threads),
    )
    if not certificates:
        return HullResult(status, lower, upper, used, None, None)
    return HullResult(status, lower, upper, used, weights, directions)


def _solve_in_calls(
    backend: Backend,
    points: npt.NDArray[np.float32],
    base: StoredRows,
    owner: npt.NDArray[np.int64],
    members: npt.NDArray[np.int64],
    eps: npt.NDArray[np.float64],
    *,
    certificates: bool,
    **options: Any,
) -> list[npt.NDArray[Any]]:
    """Solve in native calls of about CALL_SECONDS, so that Ctrl-C works; cutting changes no answer."""
    s, k = members.shape
    d = base.values.shape[1]

    outputs = _outputs(s, k if certificates else 0, d if certificates else 0)
    start, step = 0, max(1, CALL_ELEMENTS // max(1, k * d))
    while start < s:
        part = slice(start, min(s, start + step))
        chosen = owner[part], members[part], eps[part]
        began = time.perf_counter()
        backend.solve_hulls(
            points, base.values, base.storage, *chosen, outputs=[output[part] for output in outputs], **options
        )
        seconds = time.perf_counter() - began
        start = part.stop
        step = max(1, min(4 * step, int(step * CALL_SECONDS / max(seconds, 1e-9))))
    return outputs


def _outputs(s: int, k: int, d: int) -> list[npt.NDArray[Any]]:
    """Room for answers, in the order of the fields of `HullResult`."""
    return [np.empty(s, np.int8), np.empty(s), np.empty(s), np.empty(s), np.empty((s, k)), np.empty((s, d))]


def _explicit(vertices: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    """Vertex sets (s, k, d) as one base (s * k, d) and the rows of each set."""
    if not hasattr(vertices, "reshape"):
        vertices = np.asarray(vertices)
    if len(vertices.shape) != 3:
        raise ValueError(
            f"base has shape {tuple(vertices.shape)}: want (problems, vertices, features), or pass members"
        )
    s, k, d = vertices.shape
    return vertices.reshape(s * k, d), np.arange(s * k).reshape(s, k)


def _as_eps(eps: Any, s: int) -> npt.NDArray[np.float64]:
    if eps is None:
        return np.empty(0)
    values = np.asarray(eps, dtype=np.float64)
    if values.shape not in ((), (s,)):
        raise ValueError(f"eps has shape {values.shape}: want one number, or ({s},), one for each problem")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError("eps holds a negative number, nan or inf: want distances of at least 0")
    return np.ascontiguousarray(np.broadcast_to(values, (s,)))
