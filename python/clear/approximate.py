"""Neighbours that may be missed, on request only: candidates from lists, a graph or any index, measured exactly.

Every distance reported is the true one, in float64; only the choice of the rows may err. A graph needs faiss (the `ann`
extra).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, blocks
from clear._backend import Floats, Ints, get_backend
from clear._lists import Centres, Lists, train_centres
from clear._progress import Progress, track
from clear._search import Base
from clear._stored import StoredRows
from clear.errors import need

__all__ = ["Approximate", "ApproximateSearch", "SearchIndex", "as_approximate", "describe", "share_found"]

Rows = npt.NDArray[np.float32]
LINKS = 32
"""Of a node of the graph."""


class SearchIndex(Protocol):
    """What a brought index must have: `search(x, k)` gives (distances, row numbers of the base), -1 for none."""

    def search(self, x: Rows, k: int, /) -> tuple[Any, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximate:
    """How candidates are found; the same for every number of threads.

    "ivf": k-means centres cut the rows of each class into lists. Queries that share their nearest centre (of the class
    asked about, or of any where all are asked about) are a group, and search the `probes` lists of a class whose
    centres are nearest to it. In a scan or a probe, where a hull of another label matters only if it is the nearest,
    `far_probes` lists are searched of the classes that are none of the four nearest to the group. "hnsw": a graph of
    faiss for each class, built by one thread. Or an index with `search(x, k)` over the same rows.
    """

    method: Literal["ivf", "hnsw"] | SearchIndex = "ivf"
    lists: int | None = None
    """Of a class. Default: 2 sqrt(rows), of at least 128 rows each on average."""
    probes: int = 64
    far_probes: int | None = None
    """Default: a quarter of `probes`."""
    candidates: int | None = None
    """Taken from a graph or a brought index before they are measured. Default: 2 k + 32."""
    seed: int = 0
    """Of the sample that trains the centres."""

    def far(self) -> int:
        """Lists of a far class that are searched."""
        return max(1, self.probes // 4) if self.far_probes is None else self.far_probes


class Engine(Protocol):
    """Candidates among the rows it was built from, best first."""

    def search(self, queries: Rows, k: int, exclude: Ints, threads: int) -> tuple[Floats, Ints]: ...


def as_approximate(value: Approximate | str | None) -> Approximate | None:
    """Return the settings that a user's `approximate` stands for, or raise ValueError."""
    how = Approximate(method=value) if isinstance(value, str) else value  # type: ignore[arg-type]
    if how is None:
        return None
    if not isinstance(how, Approximate):
        raise TypeError(f'approximate is {how!r}: want "ivf", "hnsw", Approximate(...) or None')
    if not (isinstance(how.method, str) and how.method in ("ivf", "hnsw")) and not hasattr(how.method, "search"):
        raise ValueError(f'approximate="{how.method}": want "ivf", "hnsw" or an index with search(x, k)')
    for name, least in (
        ("lists", how.lists),
        ("probes", how.probes),
        ("far_probes", how.far_probes),
        ("candidates", how.candidates),
    ):
        if least is not None:
            as_count(least, name)
    as_count(how.seed, "seed", low=0)
    return how


def describe(how: Approximate) -> dict[str, Any]:
    """The settings as plain data."""
    names = ("method", "lists", "probes", "far_probes", "candidates", "seed")
    return {name: getattr(how, name) for name in names}


class ApproximateSearch:
    """Lists of all classes, or a graph or brought index for each, built when first needed."""

    def __init__(self, how: Approximate, base: Base, centres: Centres | None = None, *, first_class: int = 0) -> None:
        self.how, self.base = how, base
        self._first = first_class  # what the centres call class 0 of the base
        self._engines: dict[int, Engine] = {}
        self._centres = centres
        self._lists: Lists | None = None
        self._whole: ApproximateSearch | None = None

    def subset(self, base: Base) -> ApproximateSearch:
        """The same with fewer rows; lists are shared when most of their rows are left."""
        part = ApproximateSearch(self.how, base, self._centres, first_class=self._first)
        assert base.found is not None  # noqa: S101 - a subset says which
        if 2 * int(base.found.sum()) >= int(self.base.class_sizes().sum()):
            part._whole = self
        return part

    def search(
        self,
        queries: StoredRows,
        k: int,
        exclude: Ints,
        within: Ints,
        threads: int,
        progress: Progress = False,
        groups: Ints | None = None,
        far: int | None = None,
    ) -> tuple[Floats, Ints]:
        """Search, for each query, the class in `within`, or all rows (-1).

        `groups` (m,): else the nearest centres of the class searched. `far`: lists searched where these are far away.
        """
        distances, indices = _empty((len(queries), k), self.base.metric)
        with track(progress, "neighbors", len(queries), "queries") as advance:
            for label in np.unique(within):
                asked = np.flatnonzero(within == label)
                for part in blocks(len(asked), 4 * queries.values.shape[1] + 16 * k):
                    chosen = asked[part]
                    known = None if groups is None else groups[chosen]
                    found = self._find(
                        queries.take(chosen).widen(), k, exclude[chosen], int(label), threads, known, far
                    )
                    distances[chosen], indices[chosen] = found
                advance(len(asked))
        return distances, indices

    def search_by_class(
        self,
        queries: StoredRows,
        k: int,
        exclude: Ints,
        without: Ints,
        threads: int,
        progress: Progress = False,
        groups: Ints | None = None,
    ) -> tuple[Floats, Ints]:
        """Search every class for each query, but the one in `without`.

        `groups` (m,): of the queries, where classes far from these may be searched in fewer lists.
        """
        far = None if groups is None else self.how.far()
        distances, indices = _empty((len(queries), self.base.n_classes, k), self.base.metric)
        if groups is None and self.how.method == "ivf":
            groups = self.centres(threads).groups(queries.widen(), threads)
        for label in range(self.base.n_classes):
            asked = np.flatnonzero(without != label)
            within = np.full(len(asked), label, np.int64)
            known = None if groups is None else groups[asked]
            found = self.search(queries.take(asked), k, exclude[asked], within, threads, progress, known, far)
            distances[asked, label], indices[asked, label] = found
        return distances, indices

    def centres(self, threads: int) -> Centres:
        """Centres of the lists, trained when first asked for."""
        if self._whole is not None:
            return self._whole.centres(threads)
        if self._centres is None:
            self._centres = train_centres(self.base, self.how.lists, self.how.seed, threads)
        return self._centres

    def lists(self, threads: int) -> Lists:
        """The lists, packed when first asked for."""
        if self._lists is None:
            if self._whole is not None:
                self._lists = self._whole.lists(threads).subset(self.base)
            else:
                self._lists = Lists(self.base, self.centres(threads), self.how.probes, threads, self._first)
        return self._lists

    def _find(
        self,
        queries: Rows,
        k: int,
        exclude: Ints,
        label: int,
        threads: int,
        groups: Ints | None,
        far: int | None,
    ) -> tuple[Floats, Ints]:
        if self.how.method == "ivf":
            lists = self.lists(threads)
            if groups is None:
                groups = lists.own_groups(queries, label, threads)
            return lists.search(queries, k, exclude, groups, label, threads, far)
        return self._engine(label).search(queries, k, exclude, threads)

    def _engine(self, label: int) -> Engine:
        if label not in self._engines:
            base = self.base
            if label >= 0:
                assert base.labels is not None or label == 0  # noqa: S101 - `within` was checked against the classes
                mine = base.labels == label if base.labels is not None else np.ones(len(base.stored), np.bool_)
                base = base.subset(mine)
            self._engines[label] = build_engine(self.how, base)
        return self._engines[label]


def build_engine(how: Approximate, base: Base) -> Engine:
    """Build the graph of the rows of `base` that may be found, or take the brought index; labels play no part."""
    base = replace(base, labels=None, n_classes=1)
    if not isinstance(how.method, str):
        return _Brought(how, base, how.method, None)
    return _Brought(how, base, *_build_graph(need("faiss", extra="ann"), base))


def share_found(found: Ints, wanted: Ints) -> float:
    """Recall: the share of the rows in `wanted` (m, ..., k) that are in `found`; absent rows (-1) do not count."""
    if not (wanted >= 0).any():
        return 1.0
    pairs = zip(found.reshape(-1, found.shape[-1]), wanted.reshape(-1, wanted.shape[-1]), strict=True)
    hits = sum(int(np.isin(want[want >= 0], got).sum()) for got, want in pairs)
    return hits / int((wanted >= 0).sum())


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
    with _one_thread(faiss):  # several would link it differently each time
        for part in blocks(len(rows), 4 * width):
            values = _take(base, rows[part])
            graph.add(_unit(values) if base.metric == "cosine" else values)
    return graph, rows


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


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
