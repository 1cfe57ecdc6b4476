"""A search cut into native calls, and the base into tiles where memory is short: signals and progress in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clear._backend import Floats, Index, Ints, get_backend, release_memory
from clear._progress import Progress, track
from clear._stored import StoredRows

__all__ = ["CALL_WORK", "Base", "Tile", "call_slices", "search_tiles"]

CALL_WORK = 1.5e10  # multiply-adds of a native call, per thread: a third of a second, so that Ctrl-C is heard
PACKING_BYTES = 160  # of a row while it is packed, beside its numbers
WORKING_BYTES = 8 << 20  # of buffers, beside those that grow with the queries
LEAST_MEMORY = 32 << 20

NativeSearch = Callable[["Tile", slice, Floats, Ints], None]


class Tile(NamedTuple):
    """Consecutive rows of the base, packed."""

    packed: Index
    start: int
    """The row of the base that is its row 0."""
    rows: int

    def own(self, ids: Ints) -> Ints:
        """Row numbers of the base as those of the tile; -1 for rows elsewhere."""
        return (
            ids
            if self.start == 0
            else np.where((ids >= self.start) & (ids < self.start + self.rows), ids - self.start, -1)
        )


@dataclass(frozen=True, slots=True)
class Base:
    """Rows to be searched, before they are packed."""

    stored: StoredRows
    labels: Ints | None
    found: npt.NDArray[np.bool_] | None
    """Which rows may be found, bool (n,); None for all."""
    n_classes: int
    metric: str
    device: str

    def pack(self, start: int, stop: int, *, lists: bool = False) -> Tile:
        """Pack rows [start, stop); `lists`: for `search_lists`."""
        stored = self.stored.pack(slice(start, stop))
        rows = np.arange(stop - start) if self.found is None else np.flatnonzero(self.found[start:stop])
        labels = np.zeros(len(rows), np.int64) if self.labels is None else self.labels[start:stop][rows]
        index = get_backend(self.device).build_index(
            stored.values, stored.storage, rows, labels, self.n_classes, self.metric, lists=lists
        )
        return Tile(index, start, stop - start)

    def subset(self, found: npt.NDArray[np.bool_]) -> Base:
        """The same with fewer rows."""
        return replace(self, found=found if self.found is None else found & self.found)

    def rows_of(self, label: int) -> Ints:
        """Rows of a class that may be found, ascending."""
        mine = np.ones(len(self.stored), np.bool_) if self.labels is None else self.labels == label
        return np.flatnonzero(mine if self.found is None else mine & self.found)

    def class_sizes(self) -> Ints:
        """Rows that may be found of each class, int64 (classes,)."""
        kept = slice(None) if self.found is None else self.found
        if self.labels is None:
            count = len(self.stored) if self.found is None else int(self.found.sum())
            return np.array([count] + [0] * (self.n_classes - 1), dtype=np.int64)
        return np.bincount(self.labels[kept], minlength=self.n_classes).astype(np.int64)

    def row_bytes(self) -> int:
        """Memory of a row that is packed: its panel, a copy where its precision asks for one, what packing needs."""
        width, size = int(self.stored.values.shape[1]), 4 if self.stored.storage == "float32" else 2
        copied = not (self.stored.values.flags.c_contiguous and self.stored.values.dtype.itemsize == size)
        return width * size * (2 if copied else 1) + PACKING_BYTES


def call_slices(work: Floats, most: int | None = None) -> Iterator[slice]:
    """Yield consecutive slices of equal work, about CALL_WORK each, and of at most `most` queries."""
    done = np.cumsum(work)
    total = float(done[-1]) if len(work) else 0.0
    if total <= CALL_WORK and (most is None or len(work) <= most):  # the usual case
        yield slice(0, len(work))
        return
    calls = max(1, min(len(work), math.ceil(total / CALL_WORK)))
    cuts = np.searchsorted(done, total / calls * np.arange(1, calls), side="right")
    edges = [0, *np.unique(cuts[(cuts > 0) & (cuts < len(work))]).tolist(), len(work)]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        step = max(1, stop - start) if most is None else most
        for first in range(start, max(stop, start + 1), step):
            yield slice(first, min(stop, first + step))


def search_tiles(
    tiles: Iterator[Tile],
    n_tiles: int,
    search: NativeSearch,
    shape: tuple[int, ...],
    work: Floats,
    *,
    most: int | None = None,
    largest: bool = False,
    progress: Progress = False,
) -> tuple[Floats, Ints]:
    """Search every tile for every query; the best of all tiles, in order, equal values by row number.

    `work`: multiply-adds of each query in a tile, over the threads. `largest`: the largest values are the best.
    """
    distances, indices = np.empty(shape), np.empty(shape, np.int64)
    with track(progress, "neighbors", shape[0] * n_tiles, "queries") as advance:
        for number, tile in enumerate(tiles):
            for part in call_slices(work, most):
                if number == 0:
                    search(tile, part, distances[part], indices[part])
                else:
                    found = np.empty_like(distances[part]), np.empty_like(indices[part])
                    search(tile, part, *found)
                    found[1][found[1] >= 0] += tile.start
                    _merge(distances[part], indices[part], *found, largest)
                advance(part.stop - part.start)
            if n_tiles > 1:
                del tile  # before the next one is packed
                release_memory()
    return distances, indices


def _merge(distances: Floats, indices: Ints, new_distances: Floats, new_indices: Ints, largest: bool) -> None:
    """Keep the best of both in place. Rows of later tiles have larger numbers, so a stable sort orders ties by row."""
    k = distances.shape[-1]
    both = np.concatenate([distances, new_distances], axis=-1)
    order = np.argsort(-both if largest else both, axis=-1, kind="stable")[..., :k]
    distances[...] = np.take_along_axis(both, order, axis=-1)
    indices[...] = np.take_along_axis(np.concatenate([indices, new_indices], axis=-1), order, axis=-1)
