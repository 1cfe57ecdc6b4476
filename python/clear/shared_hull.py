"""Distances of many points to one large convex hull, and membership, each answer with its proof over all vertices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_float32, as_threads
from clear._backend import get_backend
from clear.hull import HullResult, _as_eps

__all__ = ["SharedHull", "SharedHullResult"]


@dataclass(frozen=True, slots=True, repr=False)
class SharedHullResult(HullResult):
    """Answers about m points and one hull; fields as in `HullResult`, with the weights of a few members each.

    `weights` is float64 (m, K) and `weights[i] @ vertices[members[i]]` the point of the hull that proves `upper[i]`
    (weights of absent members are 0); `directions[i]` proves `lower[i]` over all vertices.
    """

    members: npt.NDArray[np.int64] | None
    """Rows of the vertices that carry weight, ascending, int64 (m, K) with K <= d + 1 as a rule; -1 where absent.
    None without certificates."""

    def __repr__(self) -> str:
        return "Shared" + HullResult.__repr__(self)


class SharedHull:
    """One convex hull of up to millions of vertices, packed once, to ask about many points.

    Parameters
    ----------
    vertices : array of float, shape (n, d)
        The rows that span the hull, finite; dtypes as in `NeighborIndex`. There may be none (n = 0). A reference is
        kept: do not change them.
    device : str
        "auto" or "cpu".
    threads : int, optional
        Used by `solve`. Default: the cores this process may use.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, values that are not finite (with row numbers).

    Notes
    -----
    Column generation (Gilmore and Gomory 1961) around Wolfe's minimum-norm point: a hull of few vertices gives the
    direction, one float32 matrix product for the batch prices all n vertices along it (samples of them first), those
    with the lowest slopes join, those without weight leave. The lowest slope of all, measured in float64, is the
    proof. Every row within a proven rounding margin is measured, so proofs do not depend on float32.

    Cost: about n d multiplications for a point clearly outside in "decide" mode, a few times that for one nearer or
    measured; a point inside mostly needs a sample of the vertices only. On top, small hulls of at most a few hundred
    vertices. Memory: one packed float32 copy of the vertices and tens of MB for the points in work; nothing m x n.

    Examples
    --------
    >>> import numpy as np, clear
    >>> rng = np.random.default_rng(0)
    >>> vertices = rng.standard_normal((20000, 8)).astype(np.float32)
    >>> hull = clear.SharedHull(vertices)
    >>> hull
    SharedHull(20000 vertices, 8 features)
    >>> result = hull.solve(np.array([[0.5] * 8, [5.0] * 8], dtype=np.float32))
    >>> result
    SharedHullResult(2 problems, inside: 1, outside: 1, undecided: 0, invalid: 0)
    >>> members = result.members[1][result.members[1] >= 0]
    >>> clear.check_hull(
    ...     vertices[members], [5.0] * 8, weights=result.weights[1, : len(members)], upper=result.upper[1]
    ... )
    []
    >>> clear.check_hull(vertices, [5.0] * 8, direction=result.directions[1], lower=result.lower[1])
    []
    """

    def __init__(self, vertices: Any, *, device: str = "auto", threads: int | None = None) -> None:
        self._threads = as_threads(threads)
        self._hull = get_backend(device).build_hull(as_float32(as_features(vertices, "vertices")))

    def __len__(self) -> int:
        return len(self._hull)

    def __repr__(self) -> str:
        return f"SharedHull({len(self)} vertices, {self._hull.dimension} features)"

    @property
    def radius(self) -> float:
        """RMS distance of the vertices from their centroid; the default eps is 1e-5 of it."""
        return self._hull.radius

    def solve(
        self,
        points: Any,
        *,
        mode: Literal["distance", "decide"] = "distance",
        eps: Any = None,
        relative_tolerance: float = 1e-4,
        certificates: bool = True,
    ) -> SharedHullResult:
        """Bound the distance of points to the hull, with a proof over all vertices for every answer.

        Parameters
        ----------
        points : array of float, shape (m, d)
            Queries; dtypes as in `NeighborIndex`.
        mode, relative_tolerance, certificates
            As in `solve_hulls`.
        eps : float or array of float, shape (m,), optional
            Distance up to which a point counts as inside, feature units. Default: 1e-5 of `radius`. Raised to what
            float32 coordinates can mean (4 * 2**-24 * largest norm) when it is below.

        Returns
        -------
        SharedHullResult
            Statuses, bounds and tolerances as `solve_hulls` gives them for the hull of all vertices. Points with nan or
            inf are INVALID; a hull without vertices is OUTSIDE at distance inf.

        Raises
        ------
        TypeError, ValueError
            Wrong dtypes or shapes, eps or relative_tolerance out of range.

        Notes
        -----
        The answers are equal (==) for every number of threads and any order or number of points. UNDECIDED is possible
        only when the distance is within 5 % of eps (in practice: equal up to rounding).

        `clear.check.check_hull` verifies a proof: `upper` on the members, `lower` on all vertices, or on one part of
        them after another (docs/hulls.md has the loop).
        """
        queries = as_float32(as_features(points, "points", width=self._hull.dimension, finite=False))
        if mode not in ("distance", "decide"):
            raise ValueError(f'mode is {mode!r}: want "distance" or "decide"')
        if not 0 < relative_tolerance < 1:
            raise ValueError(f"relative_tolerance is {relative_tolerance}: want a number between 0 and 1")
        status, lower, upper, used, directions, first, count, flat_members, flat_weights = self._hull.solve(
            queries,
            _as_eps(eps, len(queries)),
            mode == "decide",
            float(relative_tolerance),
            certificates,
            self._threads,
        )
        if not certificates:
            return SharedHullResult(status, lower, upper, used, None, None, None)
        members = _pad(flat_members, first, count, -1)
        weights = _pad(flat_weights, first, count, 0.0)
        return SharedHullResult(status, lower, upper, used, weights, directions, members)


def _pad(flat: npt.NDArray[Any], first: npt.NDArray[np.int64], count: npt.NDArray[np.int64], absent: Any) -> Any:
    """Rows flat[first : first + count], one below the other, filled up with `absent`."""
    columns = np.arange(int(count.max(initial=0)))
    present = columns < count[:, None]
    padded = np.full(present.shape, absent, dtype=flat.dtype)
    padded[present] = flat[(first[:, None] + columns)[present]]
    return padded
