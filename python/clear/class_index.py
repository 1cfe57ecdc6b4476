"""The rows of some consecutive classes, packed together: what a large scan has in memory at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clear._lists import Centres
from clear._search import Base
from clear._stored import StoredRows
from clear.approximate import Approximate, ApproximateSearch
from clear.neighbors import NeighborIndex, Neighbors

__all__ = ["RUN_BYTES", "ClassIndex", "Run", "base_of", "class_runs", "packed_bytes"]

Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Run = tuple[int, int]
"""Classes [first, stop)."""

RUN_BYTES = 64 << 20
"""Packed rows of a run, unless one class alone has more."""


def packed_bytes(width: int) -> int:
    """What a row takes in a packed index."""
    return 4 * width + 16


def class_runs(sizes: Ints, width: int, *, parts: int = 1) -> list[Run]:
    """Cut the classes into consecutive runs, a class each at least; packed rows take at most `RUN_BYTES` / parts."""
    runs: list[Run] = []
    first, held = 0, 0
    for label, size in enumerate(sizes.tolist()):
        if label > first and (held + size) * packed_bytes(width) * parts > RUN_BYTES:
            runs.append((first, label))
            first, held = label, 0
        held += size
    return [*runs, (first, len(sizes))]


def base_of(rows: Rows, labels: Ints, found: npt.NDArray[np.bool_], run: Run) -> Base:
    """The rows of a run that may be found, with labels from 0."""
    mine = found & (labels >= run[0]) & (labels < run[1])
    numbers = labels - run[0]
    numbers *= mine  # 0 elsewhere
    return Base(StoredRows(rows, False), numbers, mine, run[1] - run[0], "euclidean", "auto")


class ClassIndex:
    """All distinct rows of a run of classes, and those of them in the core; classes keep their numbers."""

    def __init__(
        self,
        rows: Rows,
        labels: Ints,
        distinct: npt.NDArray[np.bool_],
        in_core: npt.NDArray[np.bool_],
        run: Run,
        how: Approximate | None,
        centres: Centres | None,
        threads: int,
    ) -> None:
        self.run, self.threads = run, threads
        base = base_of(rows, labels, distinct, run)
        self.lists: ApproximateSearch | None = None
        if how is not None:
            self.lists = ApproximateSearch(how, base, centres, first_class=run[0])
            self.core_lists = self.lists.subset(base.subset(in_core))
            return
        self.all = NeighborIndex(rows, base.labels, rows=base.found, n_classes=base.n_classes)
        self.core = self.all.subset(in_core)

    def own(self, points: Rows, labels: Ints, k: int, exclude: Ints | None, *, core: bool = False) -> Neighbors:
        """The nearest k rows, or core rows, of each point's label, one of the run."""
        within, skip = labels - self.run[0], np.full(len(points), -1) if exclude is None else exclude
        if self.lists is None:
            return (self.core if core else self.all).search_prepared(points, k, within, skip, self.threads)
        lists = self.core_lists if core else self.lists
        return Neighbors(*lists.search(StoredRows(points, False), k, skip, within, self.threads))

    def others(self, points: Rows, labels: Ints, k: int, groups: Ints | None) -> Neighbors:
        """The nearest k core rows of every class of the run but each point's label; (m, classes of the run, k).

        groups (m,): those of the points where lists are searched (`Centres.groups`), else None.
        """
        inside = (labels >= self.run[0]) & (labels < self.run[1])
        without = np.where(inside, labels - self.run[0], -1)
        if self.lists is None:
            return self.core.search_by_class(points, k=k, without=without, threads=self.threads)
        skip = np.full(len(points), -1)
        stored = StoredRows(points, False)
        return Neighbors(*self.core_lists.search_by_class(stored, k, skip, without, self.threads, groups=groups))
