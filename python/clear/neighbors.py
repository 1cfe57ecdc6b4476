"""Exact nearest neighbours, plain and per class: features in, (distances, row numbers) out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_ids, as_labels, as_threads
from clear._backend import get_backend
from clear._stored import StoredRows, as_stored

__all__ = ["NeighborIndex", "Neighbors", "find_neighbors"]

Metric = Literal["euclidean", "cosine", "inner_product"]
MAX_K = 4096
CALL_WORK = 1.5e10  # multiply-adds of a native call, per thread: a third of a second, so that Ctrl-C is heard

Ints = npt.NDArray[np.int64]


class Neighbors(NamedTuple):
    """Nearest rows, nearest first; equal distances are ordered by row number."""

    distances: npt.NDArray[np.float64]
    """float64, (m, k) or (m, classes, k); +inf where there is no row. Euclidean: in feature units. Cosine: 1 - cos.
    Inner product: the products themselves, largest first, and -inf where there is no row."""
    indices: npt.NDArray[np.int64]
    """int64, the same shape; row numbers of the base; -1 where there is no row (as `solve_hulls` expects)."""

    def __repr__(self) -> str:
        return f"Neighbors(distances={self.distances.shape} float64, indices={self.indices.shape} int64)"


class NeighborIndex:
    """Rows packed once for exact nearest-neighbour search, plain or within classes.

    Parameters
    ----------
    base : array of float, shape (n, d)
        Rows to search, NumPy or torch. float32 is used as it is; float16 and bfloat16 (torch, ml_dtypes) are kept
        in 16 bits and widened exactly where they are used; float64 is rounded to float32. Must be finite, and must
        not change while the index is in use.
    labels : array of int, shape (n,), optional
        Class of each row, from 0. Default: one class.
    rows : array of int, shape (r,), optional
        The rows that may be found (for example a trusted core). Results keep the numbering of `base`.
    n_classes : int, optional
        Default: the largest label + 1.
    metric : {"euclidean", "cosine", "inner_product"}
        What "nearest" means. "cosine": the distance 1 - cos, in [0, 2], computed in float64 from the rows as they are,
        as 1 - x.v / sqrt(x.x * v.v); a row of zeros is at distance 1 from every row, itself included.
        "inner_product": the k rows v with the largest x.v, which is reported in place of a distance.
    device : str
        "cpu" or "auto".

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, values that are not finite (with row numbers), labels or rows out of range.

    Notes
    -----
    Memory: one packed copy of the searchable rows in the precision of `base`, 12 bytes a row (20 for the cosine), and a
    reference to `base`. float32 scores propose
    every row within a proven rounding bound of the k-th best; distances (or products) are measured in float64 with a
    fixed order of summation, so results are the same for every number of threads, tile size and instruction set.
    Rows that float32 cannot tell apart (many at one distance) cost time, never correctness.

    Examples
    --------
    >>> import numpy as np, clear
    >>> x = np.array([[0.0], [1.0], [3.0], [7.0]], dtype=np.float32)
    >>> index = clear.NeighborIndex(x, labels=np.array([0, 1, 0, 1]))
    >>> index.search(x, k=1, exclude=np.arange(4)).indices.ravel().tolist()
    [1, 0, 1, 2]
    >>> index.search_by_class(x[:1], k=1).indices.tolist()
    [[[0], [1]]]
    """

    def __init__(
        self,
        base: Any,
        labels: Any = None,
        *,
        rows: Any = None,
        n_classes: int | None = None,
        metric: Metric = "euclidean",
        device: str = "auto",
    ) -> None:
        if metric not in get_args(Metric):
            raise ValueError(f'metric="{metric}": want "euclidean", "cosine" or "inner_product"')
        stored = as_stored(base, "base").pack()
        n = len(stored)
        n_classes = None if n_classes is None else as_count(n_classes, "n_classes")
        picked = np.arange(n) if rows is None else _as_rows(rows, n)
        of_row = np.zeros(n, np.int64) if labels is None else as_labels(labels, n, classes=n_classes)
        classes = n_classes if n_classes is not None else int(of_row.max(initial=0)) + 1
        self._base = stored
        self._index = get_backend(device).build_index(
            stored.values, stored.storage, picked, of_row[picked], classes, metric
        )
        self.n_rows = len(picked)
        self.metric = metric

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self._index.n_classes

    @property
    def class_sizes(self) -> npt.NDArray[np.int64]:
        """Searchable rows of each class, int64 (classes,)."""
        return np.array([self._index.class_size(c) for c in range(self.n_classes)], dtype=np.int64)

    def search(
        self, queries: Any, *, k: int, exclude: Any = None, within: Any = None, threads: int | None = None
    ) -> Neighbors:
        """Find the k nearest rows for every query, exactly.

        Parameters
        ----------
        queries : array of float, shape (m, d)
        k : int
            Neighbours per query. Where fewer rows are admissible, the tail is (+inf, -1).
        exclude : array of int, shape (m,), optional
            A row of the base that must not be returned, -1 for none (a sample is excluded by its number,
            never by "the first column").
        within : array of int, shape (m,), optional
            The class to search for each query, -1 for all.
        threads : int, optional
            Default: the cores this process may use.

        Returns
        -------
        Neighbors
            (m, k). Time O(m n d).
        """
        rows, skip, k = self._check(queries, k, exclude)
        classes = np.full(len(rows), -1, np.int64)
        if within is not None:
            classes = as_ids(within, len(rows), "within", rows=self.n_classes, optional=True)
        cores = as_threads(threads)
        sizes = np.append(self.class_sizes, self.n_rows)  # the last is that of class -1: all
        return _in_calls(
            lambda part: self._index.search(rows.widen(part), skip[part], classes[part], k, cores),
            sizes[classes] * (self._index.dimension / cores),
        )

    def search_by_class(self, queries: Any, *, k: int, exclude: Any = None, threads: int | None = None) -> Neighbors:
        """Find the k nearest rows of every class, exactly; see `search`. Returns (m, classes, k)."""
        rows, skip, k = self._check(queries, k, exclude)
        cores = as_threads(threads)
        return _in_calls(
            lambda part: self._index.search_by_class(rows.widen(part), skip[part], k, cores),
            np.full(len(rows), self.n_rows * (self._index.dimension / cores)),
        )

    def _check(self, queries: Any, k: int, exclude: Any) -> tuple[StoredRows, Ints, int]:
        rows = as_stored(queries, "queries", width=self._index.dimension)
        skip = as_ids(exclude, len(rows), "exclude", rows=len(self._base), optional=True)
        return rows, skip, as_count(k, "k", high=MAX_K)


def find_neighbors(
    queries: Any,
    base: Any = None,
    *,
    k: int,
    exclude: Any = None,
    metric: Metric = "euclidean",
    device: str = "auto",
    threads: int | None = None,
) -> Neighbors:
    """Find the k nearest rows of `base` for every row of `queries`, exactly.

    Parameters
    ----------
    queries : array of float, shape (m, d)
        As `NeighborIndex` takes them.
    base : array of float, shape (n, d), optional
        Rows to search. Default: `queries`; a row is then never its own neighbour.
    k : int
        Neighbours per query, at most the number of admissible rows.
    exclude : array of int, shape (m,), optional
        For each query, the row of `base` that must not be returned; -1 for none.
    metric, device, threads
        As in `NeighborIndex`.

    Returns
    -------
    Neighbors
        (m, k), nearest first, equal distances by row number.

    Raises
    ------
    ValueError
        `k` is larger than the number of admissible rows, or as `NeighborIndex`.

    Examples
    --------
    >>> import numpy as np, clear
    >>> x = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]], dtype=np.float32)
    >>> clear.find_neighbors(x, k=1)
    Neighbors(distances=(3, 1) float64, indices=(3, 1) int64)
    """
    own = base is None
    if own and exclude is None:
        exclude = np.arange(len(queries))
    index = NeighborIndex(queries if own else base, metric=metric, device=device)
    admissible = index.n_rows - (exclude is not None)
    as_count(k, "k", high=max(admissible, 0), why=" (the rows that may be returned)")
    return index.search(queries, k=k, exclude=exclude, threads=threads)


def _in_calls(
    search: Callable[[slice], tuple[npt.NDArray[np.float64], Ints]], work: npt.NDArray[np.float64]
) -> Neighbors:
    """Search in as many native calls as the work of the queries asks for: signals are heard between."""
    parts = list(_call_slices(work))
    first = search(parts[0])
    if len(parts) == 1:
        return Neighbors(*first)
    distances, indices = (np.empty((len(work), *found.shape[1:]), found.dtype) for found in first)
    distances[parts[0]], indices[parts[0]] = first
    for part in parts[1:]:
        distances[part], indices[part] = search(part)
    return Neighbors(distances, indices)


def _call_slices(work: npt.NDArray[np.float64]) -> Iterator[slice]:
    """Yield consecutive slices of equal work, about CALL_WORK each."""
    done = np.cumsum(work)
    total = float(done[-1]) if len(work) else 0.0
    calls = max(1, min(len(work), math.ceil(total / CALL_WORK)))
    cuts = np.searchsorted(done, total / calls * np.arange(1, calls), side="right")
    edges = [0, *np.unique(cuts[(cuts > 0) & (cuts < len(work))]).tolist(), len(work)]
    yield from map(slice, edges[:-1], edges[1:])


def _as_rows(rows: Any, n: int) -> npt.NDArray[np.int64]:
    picked = np.asarray(rows)
    if picked.dtype == np.bool_:
        if picked.shape != (n,):
            raise ValueError(f"rows is a mask of shape {picked.shape}: want ({n},)")
        return np.flatnonzero(picked)
    return np.unique(as_ids(picked, len(picked), "rows", rows=n))
