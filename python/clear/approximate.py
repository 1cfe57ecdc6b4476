"""Neighbours that may be missed, on request only: candidates from lists, a graph or any index, measured exactly.

Every distance reported is the true one, in float64; only the choice of the rows may err. Needs faiss (the `ann` extra),
except for an index of the caller's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._backend import Floats, Ints, get_backend
from clear._progress import Progress, track
from clear._search import Base, Tile
from clear._stored import StoredRows
from clear.errors import need

__all__ = ["Approximate", "ApproximateSearch", "SearchIndex", "share_found"]

Rows = npt.NDArray[np.float32]
TRAINING_ROWS = 64
"""Rows a list that train its centre."""
LINKS = 32
"""Of a node of the graph."""
PAIR_BYTES = 64 << 20


class SearchIndex(Protocol):
    """What a brought index must have: `search(x, k)` gives (distances, row numbers of the base), -1 for none."""

    def search(self, x: Rows, k: int, /) -> tuple[Any, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximate:
    """How candidates are found.

    "ivf": k-means centres (trained by faiss) cut the base into lists; the exact kernel searches the nearest `probes`
    lists of each query, list by list. "hnsw": a graph of faiss. Or an index with `search(x, k)` over the same rows.
    """

    method: Literal["ivf", "hnsw"] | SearchIndex = "ivf"
    lists: int | None = None
    """Default: 4 sqrt(n)."""
    probes: int = 16
    candidates: int | None = None
    """Taken from a graph or a brought index before they are measured. Default: 2 k + 32."""
    seed: int = 0


class Engine(Protocol):
    """Candidates among the rows it was built from, best first."""

    def search(self, queries: Rows, k: int, exclude: Ints, threads: int) -> tuple[Floats, Ints]: ...


class ApproximateSearch:
    """Engines over a base, one for all rows and one for each class, built when first needed."""

    def __init__(self, how: Approximate, base: Base) -> None:
        if not (isinstance(how.method, str) and how.method in ("ivf", "hnsw")) and not hasattr(how.method, "search"):
            raise ValueError(f'approximate="{how.method}": want "ivf", "hnsw" or an index with search(x, k)')
        self.how, self.base = how, base
        self._engines: dict[int, Engine] = {}

    def search(
        self, queries: StoredRows, k: int, exclude: Ints, within: Ints, threads: int, progress: Progress
    ) -> tuple[Floats, Ints]:
        """Search, for each query, the class in `within`, or all rows (-1)."""
        distances, indices = _empty((len(queries), k), self.base.metric)
        with track(progress, "neighbors", len(queries), "queries") as advance:
            for label in np.unique(within):
                asked = np.flatnonzero(within == label)
                rows = queries.take(asked).widen()
                found = self._engine(int(label), threads).search(rows, k, exclude[asked], threads)
                distances[asked], indices[asked] = found
                advance(len(asked))
        return distances, indices

    def search_by_class(
        self, queries: StoredRows, k: int, exclude: Ints, without: Ints, threads: int, progress: Progress
    ) -> tuple[Floats, Ints]:
        """Search every class for each query, but the one in `without`."""
        distances, indices = _empty((len(queries), self.base.n_classes, k), self.base.metric)
        for label in range(self.base.n_classes):
            asked = np.flatnonzero(without != label)
            rows = queries.take(asked)
            within = np.full(len(asked), label, np.int64)
            found = self.search(rows, k, exclude[asked], within, threads, progress)
            distances[asked, label], indices[asked, label] = found
        return distances, indices

    def _engine(self, label: int, threads: int) -> Engine:
        if label not in self._engines:
            base = self.base
            if label >= 0:
                assert base.labels is not None or label == 0  # noqa: S101 - `within` was checked against the classes
                mine = base.labels == label if base.labels is not None else np.ones(len(base.stored), np.bool_)
                base = base.subset(mine)
            self._engines[label] = build_engine(self.how, base, threads)
        return self._engines[label]


def build_engine(how: Approximate, base: Base, threads: int) -> Engine:
    """Build the engine for the rows of `base` that may be found; labels play no part."""
    base = replace(base, labels=None, n_classes=1)
    if not isinstance(how.method, str):
        return _Brought(how, base, how.method, None)
    faiss = need("faiss", extra="ann")
    if how.method == "hnsw":
        return _Brought(how, base, *_build_graph(faiss, base))
    return _Lists(how, base, faiss, threads)


def share_found(found: Ints, wanted: Ints) -> float:
    """Recall: the share of the rows in `wanted` (m, ..., k) that are in `found`; absent rows (-1) do not count."""
    if not (wanted >= 0).any():
        return 1.0
    pairs = zip(found.reshape(-1, found.shape[-1]), wanted.reshape(-1, wanted.shape[-1]), strict=True)
    hits = sum(int(np.isin(want[want >= 0], got).sum()) for got, want in pairs)
    return hits / int((wanted >= 0).sum())


class _Lists:
    """Inverted lists as the classes of an exact index: all queries of a list are searched together."""

    def __init__(self, how: Approximate, base: Base, faiss: Any, threads: int) -> None:
        rows = _rows_of(base)
        self.base, self.probes = base, how.probes
        if not len(rows):
            self.lists = 0
            return
        lists = how.lists or max(1, min(len(rows) // 8, round(4 * math.sqrt(len(rows)))))
        centres = _train(faiss, base, rows, lists, how.seed)
        near = "euclidean" if base.metric == "inner_product" else base.metric
        assigner = _pack_centres(centres, base, near)
        assigned = np.zeros(len(base.stored), np.int64)
        for part in blocks(len(rows), 4 * centres.shape[1]):
            assigned[rows[part]] = _nearest(assigner, _take(base, rows[part]), 1, threads)[:, 0]
        self.centres = _pack_centres(centres, base, base.metric)
        self.packed = replace(base, labels=assigned, n_classes=len(centres)).pack(0, len(base.stored))
        self.lists = len(centres)

    def search(self, queries: Rows, k: int, exclude: Ints, threads: int) -> tuple[Floats, Ints]:
        """Search the lists whose centres are nearest, and merge."""
        distances, indices = _empty((len(queries), k), self.base.metric)
        probes = min(self.probes, self.lists)
        if not probes:
            return distances, indices
        for part in blocks(len(queries), probes * (4 * queries.shape[1] + 32 * k), budget=PAIR_BYTES):
            lists = _nearest(self.centres, queries[part], probes, threads)
            pairs = np.repeat(np.arange(part.start, part.stop), probes)
            found = np.empty((len(pairs), k)), np.empty((len(pairs), k), np.int64)
            self.packed.packed.search(queries[pairs], exclude[pairs], lists.ravel(), threads, *found)
            shape = (part.stop - part.start, probes * k)
            distances[part], indices[part] = _best(
                found[0].reshape(shape), found[1].reshape(shape), k, self.base.metric
            )
        return distances, indices


class _Brought:
    """A graph, or an index of the caller's: its candidates are measured again."""

    def __init__(self, how: Approximate, base: Base, index: SearchIndex, rows: Ints | None) -> None:
        self.how, self.base, self.index, self.rows = how, base, index, rows
        self.stored = base.stored.pack()
        self.allowed = base.found

    def search(self, queries: Rows, k: int, exclude: Ints, threads: int) -> tuple[Floats, Ints]:
        """Measure the candidates, drop those that may not be returned, keep the best k."""
        wanted = max(k, self.how.candidates or 2 * k + 32)
        asked = _unit(queries) if self.rows is not None and self.base.metric == "cosine" else queries
        _, found = self.index.search(asked, wanted)
        ids = np.ascontiguousarray(found, dtype=np.int64)
        if ids.ndim != 2 or len(ids) != len(queries) or (ids >= len(self.base.stored)).any():
            raise ValueError(
                "approximate: the index gave row numbers that are not those of the base: want (m, k) below n"
            )
        if self.rows is not None:
            ids = np.append(self.rows, -1)[ids]  # -1 stays -1
        elif self.allowed is not None:
            ids = np.where((ids >= 0) & self.allowed[ids], ids, -1)
        ids[ids == exclude[:, None]] = -1
        distances = np.empty(ids.shape)
        measure = get_backend(self.base.device).measure_candidates
        measure(queries, self.stored.values, self.stored.storage, self.base.metric, ids, threads, distances)
        return _best(distances, ids, k, self.base.metric)


def _build_graph(faiss: Any, base: Base) -> tuple[SearchIndex, Ints]:
    rows = _rows_of(base)
    width = base.stored.values.shape[1]
    kind = faiss.METRIC_L2 if base.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    graph = faiss.IndexHNSWFlat(width, LINKS, kind)
    graph.hnsw.efSearch = 128
    for part in blocks(len(rows), 4 * width):
        values = _take(base, rows[part])
        graph.add(_unit(values) if base.metric == "cosine" else values)
    return graph, rows


def _train(faiss: Any, base: Base, rows: Ints, lists: int, seed: int) -> Rows:
    """Centres of k-means, (lists, width) float32; unit rows for the cosine."""
    most = min(len(rows), max(lists, TRAINING_ROWS * lists))
    sample = _take(base, np.sort(np.random.default_rng(seed).choice(rows, most, replace=False)))
    sample = _unit(sample) if base.metric == "cosine" else sample
    lists = max(1, min(lists, most))
    kmeans = faiss.Kmeans(sample.shape[1], lists, niter=10, seed=seed, min_points_per_centroid=1)
    kmeans.train(sample)
    return np.ascontiguousarray(kmeans.centroids)


def _pack_centres(centres: Rows, base: Base, metric: str) -> Tile:
    return Base(StoredRows(centres, False), None, None, 1, metric, base.device).pack(0, len(centres))


def _nearest(tile: Tile, queries: Rows, k: int, threads: int) -> Ints:
    nobody = np.full(len(queries), -1, np.int64)
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    tile.packed.search(queries, nobody, nobody, threads, distances, indices)
    return indices


def _rows_of(base: Base) -> Ints:
    return np.arange(len(base.stored)) if base.found is None else np.flatnonzero(base.found)


def _take(base: Base, rows: Ints) -> Rows:
    return base.stored.take(rows).widen()


def _unit(rows: Rows) -> Rows:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-300), dtype=np.float32)


def _empty(shape: tuple[int, ...], metric: str) -> tuple[Floats, Ints]:
    return np.full(shape, -np.inf if metric == "inner_product" else np.inf), np.full(shape, -1, np.int64)


def _best(distances: Floats, indices: Ints, k: int, metric: str) -> tuple[Floats, Ints]:
    """The best k by (distance, row); a row that was found twice counts once."""
    keys = -distances if metric == "inner_product" else distances
    keys = np.where(indices < 0, np.inf, keys)
    order = np.lexsort((indices, keys), axis=-1)
    rows = np.take_along_axis(indices, order, axis=-1)
    again = np.zeros(rows.shape, np.bool_)
    again[:, 1:] = rows[:, 1:] == rows[:, :-1]
    order = np.take_along_axis(order, np.argsort(again | (rows < 0), axis=-1, kind="stable"), axis=-1)
    best = _empty((len(indices), k), metric)
    count = min(k, indices.shape[1])
    best[0][:, :count] = np.take_along_axis(distances, order, axis=-1)[:, :count]
    best[1][:, :count] = np.take_along_axis(indices, order, axis=-1)[:, :count]
    return best
