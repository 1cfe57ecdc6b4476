"""A few core rows of every class, drawn once: what a class is like away from a sample, however many crowd there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear.neighbors import NeighborIndex

__all__ = ["FAR_ROWS", "FarRows"]

Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FAR_ROWS = 100
"""Of each class, if it has as many."""
FEWEST = 16
"""Of a class that can be halved."""


class FarRows:
    """Core rows of every class, at most `FAR_ROWS`, drawn by the seed; what is nearest among them.

    rows (n, width) float32; labels int64 (n,); core: ascending numbers of the rows to draw from; size: rows in a hull.
    """

    def __init__(self, rows: Rows, labels: Ints, core: Ints, n_classes: int, size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        order = core[np.argsort(labels[core], kind="stable")]
        sizes = np.bincount(labels[core], minlength=n_classes)
        drawn = [
            np.sort(rng.choice(mine, min(FAR_ROWS, len(mine)), replace=False))
            for mine in np.split(order, np.cumsum(sizes)[:-1])
        ]
        self.size, self.peeled = size, np.minimum(sizes, FAR_ROWS) // 2
        self.peeled[2 * self.peeled < FEWEST] = FAR_ROWS  # more than there are: nothing is left
        self._drawn = np.sort(np.concatenate(drawn))
        self._index = NeighborIndex(rows[self._drawn], labels[self._drawn], n_classes=n_classes)

    def own(self, points: Rows, labels: Ints, exclude: Ints, threads: int) -> Ints:
        """The nearest `size` rows in the far half of those of each point's label, (m, size); -1 fills up."""
        found = np.full((len(points), self.size), -1)
        at = np.searchsorted(self._drawn, exclude).clip(max=len(self._drawn) - 1)
        itself = np.where(self._drawn[at] == exclude, at, -1)
        k = FAR_ROWS // 2 + self.size
        for block in blocks(len(points), 24 * k):
            near = np.full((block.stop - block.start, k + FAR_ROWS), -1)
            near[:, :k] = self._index.search_prepared(points[block], k, labels[block], itself[block], threads).indices
            columns = self.peeled[labels[block], None] + np.arange(self.size)
            found[block] = np.take_along_axis(near, columns, axis=1)
        return self._rows(found)

    def others(self, points: Rows, labels: Ints, threads: int) -> Ints:
        """The nearest `size` rows of every class but each point's label, (m, classes, size); for few points."""
        return self._rows(self._index.search_by_class(points, k=self.size, without=labels, threads=threads).indices)

    def _rows(self, found: Ints) -> Ints:
        return np.where(found >= 0, self._drawn[found], -1)
