"""Exact nearest neighbours, plain and per class: features in, (distances, row numbers) out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_ids, as_labels, as_threads
from clear._progress import Progress
from clear._search import CALL_WORK, LEAST_MEMORY, WORKING_BYTES, Base, NativeSearch, Tile, search_tiles
from clear._stored import StoredRows, as_stored
from clear.approximate import Approximate, ApproximateSearch, as_approximate, share_found

__all__ = ["NeighborIndex", "Neighbors", "find_neighbors", "merge_neighbors"]

Metric = Literal["euclidean", "cosine", "inner_product"]
MAX_K = 4096

Floats = npt.NDArray[np.float64]
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
    max_memory : int, optional
        Bytes that the index and its searches may use, results included, beside `base` and the queries; at least 32 MiB.
        Where the packed rows would take more than a third of it, they are packed in tiles, anew at each search: for a
        base that is a memory map larger than memory.
    approximate : {"ivf", "hnsw"} or Approximate, optional
        Find candidates by inverted lists, a graph, or an index of your own (`Approximate`), and measure them exactly:
        rows may be missed, distances are true. See `recall`. A graph needs faiss. Default: exact.
    device : str
        "cpu" or "auto".

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, values that are not finite (with row numbers), labels or rows out of range.

    Notes
    -----
    Memory: one packed copy of the searchable rows, 2 bytes a number (4 where rows are too much alike for that), 12
    bytes a row (20 for the cosine), and a reference to `base`. Scores propose every row within a proven rounding bound
    of the k-th best, from 16-bit integers (float32 where these are too coarse); distances (or products) are measured
    in float64 from the rows as they are, with a
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
        max_memory: int | None = None,
        approximate: Approximate | Literal["ivf", "hnsw"] | None = None,
        device: str = "auto",
    ) -> None:
        if metric not in get_args(Metric):
            raise ValueError(f'metric="{metric}": want "euclidean", "cosine" or "inner_product"')
        stored = as_stored(base, "base")
        n = len(stored)
        n_classes = None if n_classes is None else as_count(n_classes, "n_classes")
        found = None if rows is None else _as_mask(rows, n)
        of_row = None if labels is None else as_labels(labels, n, classes=n_classes)
        if n_classes is None:
            n_classes = 1 if of_row is None else int(of_row.max(initial=0)) + 1
        self.metric: Metric = metric
        self.max_memory = None if max_memory is None else as_count(max_memory, "max_memory", low=LEAST_MEMORY)
        how, base_rows = as_approximate(approximate), Base(stored, of_row, found, n_classes, metric, device)
        self._set_base(base_rows, None if how is None else ApproximateSearch(how, base_rows))

    def _set_base(self, base: Base, how: ApproximateSearch | None, tile: Tile | None = None) -> None:
        """Pack the rows (or take them packed), unless they have to be packed in tiles, at each search."""
        self._approximate = how
        self._base = base
        self._sizes = base.class_sizes()
        self.n_rows = int(self._sizes.sum())
        n = len(base.stored)
        self._tile_rows = max(n, 1)
        if self.max_memory is not None:
            self._tile_rows = min(self._tile_rows, self.max_memory // 3 // base.row_bytes())
            if self._tile_rows < 1:
                raise ValueError(f"max_memory is {self.max_memory}: want at least {3 * base.row_bytes()} for one row")
        self._tile = tile
        if tile is None and how is None and self._tile_rows >= n:
            self._tile = base.pack(0, n)

    def subset(self, rows: Any) -> NeighborIndex:
        """Return an index of those rows only that are also in `rows` (a mask or row numbers of the base).

        It shares the packed rows: 4 bytes a row of memory, and the time of a search of this index, less the blocks of
        48 rows of a class that have no row left. For a small part of the rows an index of their own is faster.
        """
        found = _as_mask(rows, len(self._base.stored))
        part = object.__new__(NeighborIndex)
        part.metric, part.max_memory = self.metric, self.max_memory
        tile = self._tile and self._tile._replace(packed=self._tile.packed.subset(found.view(np.uint8)))
        base = self._base.subset(found)
        part._set_base(base, None if self._approximate is None else self._approximate.subset(base), tile)
        return part

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self._base.n_classes

    @property
    def class_sizes(self) -> npt.NDArray[np.int64]:
        """Searchable rows of each class, int64 (classes,)."""
        return self._sizes.copy()

    def search(
        self,
        queries: Any,
        *,
        k: int,
        exclude: Any = None,
        within: Any = None,
        threads: int | None = None,
        progress: Progress = False,
    ) -> Neighbors:
        """Find the k nearest rows for every query, exactly.

        Parameters
        ----------
        queries : array of float, shape (m, d)
            NumPy, a memory map or torch, in any precision that the base may have; read in blocks.
        k : int
            Neighbours per query, at most 4096. Where fewer rows are admissible, the tail is (+inf, -1).
        exclude : array of int, shape (m,), optional
            A row of the base that must not be returned, -1 for none (a sample is excluded by its number,
            never by "the first column").
        within : array of int, shape (m,), optional
            The class to search for each query, -1 for all.
        threads : int, optional
            Default: the cores this process may use.
        progress : bool or callable
            True: a bar on standard error. Callable: called as f(stage, done, total).

        Returns
        -------
        Neighbors
            (m, k). Time O(m n d).

        Raises
        ------
        ValueError
            Also where the results do not fit in `max_memory`.
        """
        rows, skip, k = self._check(queries, k, exclude)
        classes = np.full(len(rows), -1, np.int64)
        if within is not None:
            classes = as_ids(within, len(rows), "within", rows=self.n_classes, optional=True)
        return self._search(rows, k, skip, classes, as_threads(threads), progress)

    def search_prepared(
        self, points: npt.NDArray[np.float32], k: int, within: Ints, exclude: Ints, threads: int
    ) -> Neighbors:
        """`search` for float32 rows in C order that are finite, and numbers that are in range: nothing is checked.

        Checks take longer than the search for one point, as a guard is asked about.
        """
        width = points.shape[1]
        if self._tile is None or len(points) * self.n_rows * width > CALL_WORK * threads:
            return self._search(StoredRows(points, False), k, exclude, within, threads, False)
        shape = (len(points), k)
        found = Neighbors(np.empty(shape), np.empty(shape, np.int64))
        self._tile.packed.search(points, exclude, within, threads, *found)
        return found

    def _search(self, rows: StoredRows, k: int, skip: Ints, classes: Ints, cores: int, progress: Progress) -> Neighbors:
        if self._approximate is not None:
            return Neighbors(*self._approximate.search(rows, k, skip, classes, cores, progress))

        def search(tile: Tile, part: slice, distances: Floats, indices: Ints) -> None:
            tile.packed.search(rows.widen(part), tile.own(skip[part]), classes[part], cores, distances, indices)

        sizes = np.append(self._sizes, self.n_rows)  # the last is that of class -1: all
        return self._run(search, (len(rows), k), sizes[classes] / cores, progress)

    def search_by_class(
        self,
        queries: Any,
        *,
        k: int,
        exclude: Any = None,
        without: Any = None,
        threads: int | None = None,
        progress: Progress = False,
    ) -> Neighbors:
        """Find the k nearest rows of every class, exactly; see `search`. Returns (m, classes, k).

        `without`, int (m,): for each query a class (its own, say) that stays empty; -1 for none.
        """
        rows, skip, k = self._check(queries, k, exclude)
        left_out = as_ids(without, len(rows), "without", rows=self.n_classes, optional=True)
        cores = as_threads(threads)
        if self._approximate is not None:
            return Neighbors(*self._approximate.search_by_class(rows, k, skip, left_out, cores, progress))

        def search(tile: Tile, part: slice, distances: Floats, indices: Ints) -> None:
            found = (rows.widen(part), tile.own(skip[part]), left_out[part], k, cores, distances, indices)
            tile.packed.search_by_class(*found)

        shape = (len(rows), self.n_classes, k)
        return self._run(search, shape, np.full(len(rows), self.n_rows / cores), progress)

    def recall(
        self,
        queries: Any,
        *,
        k: int,
        exclude: Any = None,
        sample: int = 1000,
        seed: int = 0,
        threads: int | None = None,
    ) -> float:
        """Measure the share of the true k nearest rows that `search` returns, on a random sample of the queries.

        1 for an exact index, at no cost; for an approximate one the sample is searched exactly, which packs the rows.
        """
        rows, skip, k = self._check(queries, k, exclude)
        if self._approximate is None:
            return 1.0
        count = min(len(rows), as_count(sample, "sample"))
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
        asked = rows.take(chosen).widen()
        exact = object.__new__(NeighborIndex)
        exact.metric, exact.max_memory = self.metric, self.max_memory
        exact._set_base(self._base, None)
        wanted = exact.search(asked, k=k, exclude=skip[chosen], threads=threads)
        return share_found(self.search(asked, k=k, exclude=skip[chosen], threads=threads).indices, wanted.indices)

    def _check(self, queries: Any, k: int, exclude: Any) -> tuple[StoredRows, Ints, int]:
        rows = as_stored(queries, "queries", width=self._base.stored.values.shape[1])
        skip = as_ids(exclude, len(rows), "exclude", rows=len(self._base.stored), optional=True)
        return rows, skip, as_count(k, "k", high=MAX_K)

    def _run(self, search: NativeSearch, shape: tuple[int, ...], rows: Floats, progress: Progress) -> Neighbors:
        """Search all tiles; `rows`: how many each query is held against, over the threads."""
        n, width = self._base.stored.values.shape
        starts = range(0, max(n, 1), self._tile_rows)
        most = None
        if self.max_memory is not None:
            of_query = math.prod(shape[1:]) * 16
            left = (
                self.max_memory - min(n, self._tile_rows) * self._base.row_bytes() - shape[0] * of_query - WORKING_BYTES
            )
            most = left // (4 * width + 6 * of_query)
            if most < 1 and shape[0] > 0:
                size = shape[0] * of_query >> 20
                raise ValueError(f"results take {size} MiB, too much for max_memory: search fewer queries at a time")
        tiles = (self._tile or self._base.pack(start, min(n, start + self._tile_rows)) for start in starts)
        largest = self.metric == "inner_product"
        work = rows * (width / len(starts))
        found = search_tiles(tiles, len(starts), search, shape, work, most=most, largest=largest, progress=progress)
        return Neighbors(*found)


def find_neighbors(
    queries: Any,
    base: Any = None,
    *,
    k: int,
    exclude: Any = None,
    metric: Metric = "euclidean",
    max_memory: int | None = None,
    approximate: Approximate | Literal["ivf", "hnsw"] | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = False,
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
    metric, max_memory, approximate, device, threads, progress
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
    rows = queries if own else base
    index = NeighborIndex(rows, metric=metric, max_memory=max_memory, approximate=approximate, device=device)
    admissible = index.n_rows - (exclude is not None)
    as_count(k, "k", high=max(admissible, 0), why=" (the rows that may be returned)")
    return index.search(queries, k=k, exclude=exclude, threads=threads, progress=progress)


def merge_neighbors(parts: Sequence[Neighbors]) -> Neighbors:
    """The nearest of the answers of several bases, as many as the first has.

    The parts come in the order of their row numbers, so that equal distances are ordered by these. Not for inner
    products.
    """
    distances = np.concatenate([part.distances for part in parts], axis=-1)
    indices = np.concatenate([part.indices for part in parts], axis=-1)
    order = np.argsort(distances, axis=-1, kind="stable")[..., : parts[0].indices.shape[-1]]
    return Neighbors(np.take_along_axis(distances, order, axis=-1), np.take_along_axis(indices, order, axis=-1))


def _as_mask(rows: Any, n: int) -> npt.NDArray[np.bool_]:
    picked = np.asarray(rows)
    if picked.dtype == np.bool_:
        if picked.shape != (n,):
            raise ValueError(f"rows is a mask of shape {picked.shape}: want ({n},)")
        return np.ascontiguousarray(picked)
    mask = np.zeros(n, np.bool_)
    mask[as_ids(picked, len(picked), "rows", rows=n)] = True
    return mask
