"""How near a further row must be to change a sample's hulls: kept with them, so that new samples can join the scan."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from clear.class_index import ClassIndex
from clear.neighbors import Neighbors
from clear.prepare import Ints, Rows

__all__ = ["Recorder"]

Reach = npt.NDArray[np.float32]


class Recorder:
    """An index that notes the distance of the farthest row of each answer, in the order of the samples asked about."""

    def __init__(self, index: ClassIndex) -> None:
        self._index, self.run = index, index.run
        self._mates: list[Reach] = []
        self._pool: list[Reach] = []
        self._others: list[Reach] = []

    def own(self, points: Rows, labels: Ints, k: int, exclude: Ints | None, *, core: bool = False) -> Neighbors:
        found = self._index.own(points, labels, k, exclude, core=core)
        (self._pool if core else self._mates).append(round_up(found.distances[:, -1]))
        return found

    def others(self, points: Rows, labels: Ints, k: int, groups: Ints | None) -> Neighbors:
        found = self._index.others(points, labels, k, groups)
        self._others.append(round_up(found.distances[:, :, -1]))
        return found

    def as_index(self) -> ClassIndex:
        """Itself, for who asks an index."""
        return cast("ClassIndex", self)

    def reach(self, labels: Ints, mine: Ints) -> tuple[Reach, Reach]:
        """Of the core rows of each class of the run, (m, classes of the run), and of all rows of the label (mine,).

        labels (m,): those of the samples asked about; mine: which of them are of the run. Under their own label stand
        the core rows that may be left when mates are peeled off.
        """
        of_core = np.concatenate(self._others)
        mates = np.concatenate([np.empty(0, np.float32), *self._mates])
        of_core[mine, labels[mine] - self.run[0]] = np.concatenate([np.empty(0, np.float32), *self._pool])
        return of_core, mates


def round_up(values: npt.NDArray[np.float64]) -> Reach:
    """float32 values that are not below these."""
    rounded = values.astype(np.float32)
    return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
