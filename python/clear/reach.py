"""What further rows would change of a sample's hulls: kept with these, so that new samples can join the scan.

Always how near a row must be, for every class; on demand the rows themselves that the hulls were chosen from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from clear.class_index import ClassIndex, Run
from clear.neighbors import Neighbors
from clear.prepare import Ints, Rows, row_type
from clear.work import Arrays

__all__ = ["KEPT", "MATES", "OTHERS", "POOL", "Found", "Recorder", "Replay", "farthest"]

Reach = npt.NDArray[np.float32]

MATES, POOL, OTHERS = KEPT = "near_mates", "near_pool", "near_others"
"""Row numbers, nearest first, -1 where absent: of the label; of its core; of the core of every class of the run."""


class Found(NamedTuple):
    """The nearest rows of some samples; (m, k), (m, k) and (m, classes, k)."""

    mates: Neighbors
    """Of their label."""
    pool: Neighbors
    """Of its core."""
    others: Neighbors
    """Of the core of every other label."""


class Recorder:
    """An index that notes the farthest row of each answer, in the order of the samples asked about.

    labels (m,): those of the samples; rows: how many the training set has; given, the answers' rows are noted, too.
    """

    def __init__(self, index: ClassIndex, labels: Ints, rows: int | None = None) -> None:
        self._index, self.run = index, index.run
        self._rows, self._labels = rows, labels
        self._mine = np.flatnonzero((labels >= self.run[0]) & (labels < self.run[1]))
        self._done = dict.fromkeys(KEPT, 0)
        self._reach: Arrays = {}
        self._kept: Arrays = {}

    def own(self, points: Rows, labels: Ints, k: int, exclude: Ints | None, *, core: bool = False) -> Neighbors:
        found = self._index.own(points, labels, k, exclude, core=core)
        return self._note(POOL if core else MATES, found, len(self._mine))

    def others(self, points: Rows, labels: Ints, k: int, groups: Ints | None) -> Neighbors:
        return self._note(OTHERS, self._index.others(points, labels, k, groups), len(self._labels))

    def as_index(self) -> ClassIndex:
        """Itself, for who asks an index."""
        return cast("ClassIndex", self)

    def reach(self) -> Arrays:
        """Of the core rows of each class of the run, (m, classes of the run), and of all rows of the label (mine,).

        Under their own label stand the core rows that may be left when mates are peeled off.
        """
        mine, of_core = self._mine, self._reach[OTHERS]
        if len(mine):
            of_core[mine, self._labels[mine] - self.run[0]] = self._reach[POOL]
        return {"reach": of_core, "own_reach": self._reach.get(MATES, np.empty(0, np.float32))}

    def kept(self) -> Arrays:
        """`KEPT`, where they are noted: (mine, k), (mine, k) and (m, classes of the run, k)."""
        if self._rows is None:
            return {}
        return {name: self._kept.get(name, np.empty((0, 0), row_type(self._rows))) for name in KEPT}

    def _note(self, name: str, found: Neighbors, count: int) -> Neighbors:
        """Enter an answer, one of several about `count` samples, behind those before."""
        part = slice(self._done[name], self._done[name] + len(found.indices))
        self._done[name] = part.stop
        shape = found.indices.shape[1:]
        if name not in self._reach:
            self._reach[name] = np.empty((count, *shape[:-1]), np.float32)
        self._reach[name][part] = farthest(found)
        if self._rows is not None:
            if name not in self._kept:
                self._kept[name] = np.empty((count, *shape), row_type(self._rows))
            self._kept[name][part] = found.indices
        return found


class Replay:
    """An index whose answers are known: they are given out in the order of the samples that are asked about."""

    def __init__(self, run: Run, found: Mapping[str, Neighbors]) -> None:
        """found: by the names of `KEPT`; what is not there is not asked for."""
        self.run, self._found = run, found
        self._given = dict.fromkeys(found, 0)

    def own(self, points: Rows, _labels: Ints, _k: int, _exclude: Ints, *, core: bool = False) -> Neighbors:
        return self._next(POOL if core else MATES, len(points))

    def others(self, points: Rows, _labels: Ints, _k: int, _groups: Ints | None) -> Neighbors:
        return self._next(OTHERS, len(points))

    def as_index(self) -> ClassIndex:
        """Itself, for who asks an index."""
        return cast("ClassIndex", self)

    def _next(self, name: str, count: int) -> Neighbors:
        part = slice(self._given[name], self._given[name] + count)
        self._given[name] = part.stop
        distances, indices = self._found[name]
        return Neighbors(distances[part], indices[part])


def farthest(found: Neighbors) -> Reach:
    """Distances of the last rows; float32 values that are not below these."""
    values = found.distances[..., -1]
    rounded = values.astype(np.float32)
    return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
