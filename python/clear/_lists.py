"""Inverted lists: the rows of each class around centres, and for every group of queries the lists that are searched.

Everything is made by the exact kernel and sums of a fixed order, so that it is the same for every number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._progress import Progress, track
from clear._search import Base, Tile
from clear._stored import StoredRows

__all__ = ["NEAR_CLASSES", "Centres", "Lists", "default_lists", "train_centres"]

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LIST_ROWS = 128
"""Rows of a list, at least, on average."""
TRAINING_ROWS = 32
"""Rows a list that train its centre."""
ROUNDS = 6
"""Of k-means."""
NEAR_CLASSES = 4
"""Of a group of queries; of the others fewer lists are searched (measured: docs/real-runs.md)."""
PROBES_BYTES = 64 << 20
"""Of the lists to search that are remembered."""


@dataclass(frozen=True, slots=True)
class Centres:
    """Centres of the lists of all classes; queries whose nearest centre is the same are a group."""

    tile: Tile
    """The centres, packed, with the class of each."""
    rows: Rows
    owner: Ints
    """Class of each list, int64 (lists,)."""
    ranking: Tile
    """The centres again, packed for the metric that ranks lists for a group."""
    _probes: dict[tuple[int, int, int], Ints] = field(default_factory=dict)
    _near: list[Ints] = field(default_factory=list)

    def groups(self, queries: Rows, threads: int, within: Ints | None = None) -> Ints:
        """The nearest list of each query, of the class in `within` or of any."""
        anywhere = np.full(len(queries), -1, np.int64)
        return _nearest(self.tile, queries, 1, threads, anywhere if within is None else within)[:, 0]

    def probes(self, label: int, count: int, threads: int, far: int | None = None) -> Ints:
        """For each group the `count` nearest lists of a class (-1: as many for each class, of any), nearest first.

        int64 (lists, at most count). far: only so many, and then -1, where the class is none of `near_classes`.
        """
        key = label, count, -1 if far is None else far
        found = self._probes.get(key)
        if found is None:
            found = self._nearest_lists(label, count, threads)
            if far is not None:
                found[~(self.near_classes(threads) == label).any(axis=1), far:] = -1
            if sum(known.nbytes for known in self._probes.values()) + found.nbytes > PROBES_BYTES:
                self._probes.clear()
            self._probes[key] = found
        return found

    def near_classes(self, threads: int) -> Ints:
        """The classes whose nearest centres are nearest to each group: int64 (lists, NEAR_CLASSES), or all."""
        if not self._near:
            classes = self.tile.packed.n_classes
            near = np.empty((len(self.rows), min(NEAR_CLASSES, classes)), np.int64)
            for part in blocks(len(self.rows), 40 * classes):
                nobody = np.full(part.stop - part.start, -1, np.int64)
                distances, indices = np.empty((len(nobody), classes, 1)), np.empty((len(nobody), classes, 1), np.int64)
                self.tile.packed.search_by_class(self.rows[part], nobody, nobody, 1, threads, distances, indices)
                near[part] = np.argsort(distances[:, :, 0], axis=1, kind="stable")[:, : near.shape[1]]
            self._near.append(near)
        return self._near[0]

    def _nearest_lists(self, label: int, count: int, threads: int) -> Ints:
        of_class = np.bincount(self.owner)
        count = (
            min(count * len(of_class), len(self.rows))
            if label < 0
            else min(count, int(of_class[label]) if label < len(of_class) else 0)
        )
        return _nearest(self.ranking, self.rows, count, threads, np.full(len(self.rows), label))


def train_centres(base: Base, lists: int | None, seed: int, threads: int, progress: Progress = False) -> Centres:
    """k-means in every class, on a seeded sample of its rows."""
    parts, owner = [], []
    with track(progress, "lists", base.n_classes, "classes") as advance:
        for label in range(base.n_classes):
            mine = base.rows_of(label)
            count = lists or default_lists(len(mine))
            count = min(count, len(mine))
            if count:
                parts.append(_train(base, mine, count, np.random.default_rng((seed, label)), threads))
                owner += [label] * count
            advance(1)
    width = base.stored.values.shape[1]
    rows = np.ascontiguousarray(np.concatenate(parts)) if parts else np.empty((0, width), np.float32)
    labels = np.array(owner, dtype=np.int64)
    near = "euclidean" if base.metric == "inner_product" else base.metric
    tiles = [_pack(rows, labels, base.n_classes, metric, base.device) for metric in (near, base.metric)]
    return Centres(tiles[0], rows, labels, tiles[1])


def default_lists(rows: int) -> int:
    """Lists of a class of so many rows."""
    return max(1, min(rows // LIST_ROWS, round(2 * math.sqrt(rows))))


class Lists:
    """The rows of a base in the lists of their classes: all queries of a group search the same lists together."""

    def __init__(self, base: Base, centres: Centres, probes: int, threads: int, first_class: int = 0) -> None:
        self.base, self.centres, self.probes, self._first = base, centres, probes, first_class
        rows = np.arange(len(base.stored)) if base.found is None else np.flatnonzero(base.found)
        assigned = np.zeros(len(base.stored), np.int64)
        for part in blocks(len(rows), 4 * base.stored.values.shape[1]):
            labels = np.zeros(len(rows[part]), np.int64) if base.labels is None else base.labels[rows[part]]
            assigned[rows[part]] = centres.groups(base.stored.take(rows[part]).widen(), threads, labels + first_class)
        listed = replace(base, labels=assigned, n_classes=max(1, len(centres.rows)))
        self.packed = listed.pack(0, len(base.stored), lists=True).packed

    def subset(self, base: Base) -> Lists:
        """The same lists with the rows of `base` only, some of those here; shares what is packed."""
        part = object.__new__(Lists)
        part.base, part.centres, part.probes, part._first = base, self.centres, self.probes, self._first
        assert base.found is not None  # noqa: S101 - a subset says which
        part.packed = self.packed.subset(base.found.view(np.uint8))
        return part

    def own_groups(self, queries: Rows, label: int, threads: int) -> Ints:
        """The group of each query among the centres of a class (-1, or a class without rows: of all)."""
        there = label >= 0 and (self.centres.owner == label + self._first).any()
        within = np.full(len(queries), label + self._first if there else -1)
        return self.centres.groups(queries, threads, within)

    def search(
        self, queries: Rows, k: int, exclude: Ints, groups: Ints, label: int, threads: int, far: int | None = None
    ) -> tuple[Floats, Ints]:
        """The k nearest of the rows of a class (-1: all) in the lists of the groups of the queries.

        far: lists that are searched where the class is far from the group (`Centres.probes`).
        """
        shape = (len(queries), k)
        label = label if label < 0 else label + self._first
        if not (self.centres.owner == label).any() and not (label < 0 and len(self.centres.rows)):
            worst = -np.inf if self.base.metric == "inner_product" else np.inf
            return np.full(shape, worst), np.full(shape, -1, np.int64)
        distances, indices = np.empty(shape), np.empty(shape, np.int64)
        probes = self.centres.probes(label, self.probes, threads, far)
        self.packed.search_lists(
            queries, exclude, groups.astype(np.int64, copy=False), probes, threads, distances, indices
        )
        return distances, indices


def _train(base: Base, rows: Ints, lists: int, rng: np.random.Generator, threads: int) -> Rows:
    """Centres of k-means, (lists, width) float32; of unit rows for the cosine."""
    most = min(len(rows), TRAINING_ROWS * lists)
    sample = base.stored.take(np.sort(rng.choice(rows, most, replace=False))).widen()
    if base.metric == "cosine":
        norms = np.linalg.norm(sample.astype(np.float64), axis=1, keepdims=True)
        sample = np.asarray(sample / np.maximum(norms, 1e-300), dtype=np.float32)
    centres = sample[np.sort(rng.choice(most, lists, replace=False))]
    if lists == 1:
        return np.asarray(sample.mean(axis=0, dtype=np.float64, keepdims=True), dtype=np.float32)
    for _ in range(ROUNDS):
        tile = _pack(centres, np.zeros(lists, np.int64), 1, "euclidean", base.device)
        nearest = _nearest(tile, sample, 1, threads, np.full(most, -1))[:, 0]
        order = np.argsort(nearest, kind="stable")
        present, starts, counts = np.unique(nearest[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(sample[order].astype(np.float64), starts, axis=0)
        centres = centres.copy()  # a centre that nobody is nearest to stays
        centres[present] = sums / counts[:, None]
    return centres


def _pack(centres: Rows, owner: Ints, classes: int, metric: str, device: str) -> Tile:
    return Base(StoredRows(centres, False), owner, None, classes, metric, device).pack(0, len(centres))


def _nearest(tile: Tile, queries: Rows, k: int, threads: int, within: Ints) -> Ints:
    nobody = np.full(len(queries), -1, np.int64)
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    tile.packed.search(queries, nobody, within, threads, distances, indices)
    return indices
