"""What further rows would change of a sample's hulls: kept with these, so that new samples can join the scan.

Always how near a row must be, for every class; on demand the rows themselves that the hulls were chosen from.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from clear.class_index import ClassIndex, Run
from clear.neighbors import Neighbors
from clear.prepare import Ints, Numbers, Rows, row_type
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

    rows: how many rows the training set has; given, the answers' rows are noted, too.
    """

    def __init__(self, index: ClassIndex, rows: int | None = None) -> None:
        self._index, self.run = index, index.run
        self._rows = rows
        self._reach: dict[str, list[Reach]] = {name: [] for name in KEPT}
        self._kept: dict[str, list[Numbers]] = {name: [] for name in KEPT}

    def own(self, points: Rows, labels: Ints, k: int, exclude: Ints | None, *, core: bool = False) -> Neighbors:
        found = self._index.own(points, labels, k, exclude, core=core)
        return self._note(POOL if core else MATES, found)

    def others(self, points: Rows, labels: Ints, k: int, groups: Ints | None) -> Neighbors:
        return self._note(OTHERS, self._index.others(points, labels, k, groups))

    def as_index(self) -> ClassIndex:
        """Itself, for who asks an index."""
        return cast("ClassIndex", self)

    def reach(self, labels: Ints, mine: Ints) -> Arrays:
        """Of the core rows of each class of the run, (m, classes of the run), and of all rows of the label (mine,).

        labels (m,): those of the samples asked about; mine: which of them are of the run. Under their own label stand
        the core rows that may be left when mates are peeled off.
        """
        of_core = np.concatenate(self._reach[OTHERS])
        if len(mine):
            of_core[mine, labels[mine] - self.run[0]] = np.concatenate(self._reach[POOL])
        return {"reach": of_core, "own_reach": np.concatenate([np.empty(0, np.float32), *self._reach[MATES]])}

    def kept(self) -> Arrays:
        """`KEPT`, where they are noted: (mine, k), (mine, k) and (m, classes of the run, k)."""
        if self._rows is None:
            return {}
        return {name: np.concatenate(parts or [np.empty((0, 0), np.int32)]) for name, parts in self._kept.items()}

    def _note(self, name: str, found: Neighbors) -> Neighbors:
        self._reach[name].append(farthest(found))
        if self._rows is not None:
            self._kept[name].append(found.indices.astype(row_type(self._rows)))
        return found


class Replay:
    """An index whose answers are known: they are given out in the order of the samples that are asked about."""

    def __init__(self, run: Run, found: Found) -> None:
        self.run, self._found = run, found
        self._given = [0, 0, 0]

    def own(self, points: Rows, _labels: Ints, _k: int, _exclude: Ints, *, core: bool = False) -> Neighbors:
        return self._next(1 if core else 0, len(points))

    def others(self, points: Rows, _labels: Ints, _k: int, _groups: Ints | None) -> Neighbors:
        return self._next(2, len(points))

    def as_index(self) -> ClassIndex:
        """Itself, for who asks an index."""
        return cast("ClassIndex", self)

    def _next(self, which: int, count: int) -> Neighbors:
        part = slice(self._given[which], self._given[which] + count)
        self._given[which] = part.stop
        distances, indices = self._found[which]
        return Neighbors(distances[part], indices[part])


def farthest(found: Neighbors) -> Reach:
    """Distances of the last rows; float32 values that are not below these."""
    values = found.distances[..., -1]
    rounded = values.astype(np.float32)
    return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
