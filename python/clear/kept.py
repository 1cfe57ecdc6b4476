"""The hulls of the samples of a finished scan when new rows have joined it, from the neighbours that it kept.

What was nearest stays so but for the new rows: these alone are searched, and entered where they are nearer. So a hull
costs its vertices, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clear._backend import get_backend
from clear.collapse import Wrap, empty_wrap, measure_run, nearest_of_run
from clear.config import SCAN_SCALE
from clear.neighbors import NeighborIndex, Neighbors, merge_neighbors
from clear.pieces import NEAR, Piece, all_classes, cut_pieces, stored_parts
from clear.prepare import Ints, Rows, row_type
from clear.reach import KEPT, MATES, OTHERS, POOL, Found, Replay, farthest
from clear.reference import Reference
from clear.work import Arrays, Work

__all__ = ["KeptNeighbors"]

FEW = 3
"""New rows that are looked for first: more are seldom near to one sample."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class KeptNeighbors:
    """Neighbours of the `before.units`, asked about by their positions there, ascending."""

    def __init__(self, reference: Reference, before: Reference, work: Work, new: NeighborIndex) -> None:
        self._reference, self._before, self._work = reference, before, work
        self._new, self._new_core = new, new.subset(reference.in_core)
        self._ranges = cut_pieces(len(before.units), work.piece_rows)
        self._read: tuple[int, Arrays] = -1, {}

    def parts(self) -> list[slice]:
        """Ranges of positions that are best asked about one after another."""
        return [slice(piece.start, piece.stop) for piece in self._ranges]

    def own(self, at: Ints) -> Wrap:
        """Pocket, own hulls and mates."""
        reference = self._reference
        wrap = empty_wrap(len(at), 1, len(reference.rows))
        for part, stored, of in self._stored(at):
            rows, points, labels = self._samples(at[part])
            mates, pool = self._enter_own(points, labels, stored[MATES][of], stored[POOL][of])
            known = Replay((0, reference.n_classes), Found(mates, pool, pool)).as_index()
            found = measure_run(
                reference, known, points, labels, (SCAN_SCALE,), exclude=rows, groups=None, others=False
            )
            wrap.pocket[0][part], wrap.own[0][part] = found.pocket[0], found.own[0]
            wrap.own_size[0][part], wrap.mates[part] = found.own_size[0], found.mates
        return wrap

    def pairs(self, touched: Mask) -> tuple[Ints, Ints]:
        """Position and label of what is touched, in the order that suits `members`."""
        at, label = np.nonzero(touched)
        return at, label

    def members(self, at: Ints, labels: Ints) -> Ints:
        """The core rows of a label that are nearest to each sample, (m, k)."""
        found = np.empty((len(at), self._reference.config.hull_size), np.int64)
        for part, stored, of in self._stored(at):
            _, points, _ = self._samples(at[part])
            found[part] = self._enter_class(points, labels[part], stored[OTHERS][of, labels[part]]).indices
        return found

    def nearest_other(self, at: Ints) -> tuple[Floats, Ints]:
        """Distance and label of the nearest hull of another label."""
        reference, distance, label = self._reference, np.empty(len(at)), np.empty(len(at), np.int64)
        for part, stored, of in self._stored(at):
            _, points, labels = self._samples(at[part])
            near = self._enter_others(points, labels, stored[OTHERS][of])
            known = Replay((0, reference.n_classes), Found(near, near, near)).as_index()
            distance[part], label[part], _ = nearest_of_run(reference, known, points, labels, None)
        return distance, label

    def entered(self, start: int, stop: int, own: Mask, others: Mask, reach: Arrays) -> Arrays:
        """`KEPT` of a range of samples, and `reach` of it, with the new rows entered where these touch: `own` (m,) the
        label itself, `others` (m, classes) another one."""
        parts = [(part, stored, of) for part, stored, of in self._stored(np.arange(start, stop))]
        kept = {name: np.concatenate([stored[name][of] for _, stored, of in parts]) for name in KEPT}
        reach = {name: values.copy() for name, values in reach.items()}
        number = row_type(len(self._reference.rows))
        kept = {name: rows.astype(number) for name, rows in kept.items()}
        at = np.flatnonzero(own)
        if len(at):
            _, points, labels = self._samples(start + at)
            mates, pool = self._enter_own(points, labels, kept[MATES][at], kept[POOL][at])
            kept[MATES][at], kept[POOL][at] = mates.indices, pool.indices
            reach["own_reach"][at], reach["reach"][at, labels] = farthest(mates), farthest(pool)
        at, label = np.nonzero(others)
        if len(at):
            _, points, _ = self._samples(start + at)
            found = self._enter_class(points, label, kept[OTHERS][at, label])
            kept[OTHERS][at, label], reach["reach"][at, label] = found.indices, farthest(found)
        return kept | reach

    def _samples(self, at: Ints) -> tuple[Ints, Rows, Ints]:
        rows = self._before.units[at]
        return rows, self._reference.rows[rows], self._reference.labels[rows]

    def _stored(self, at: Ints) -> Iterator[tuple[slice, Arrays, Ints]]:
        """Parts of positions, what is stored of the piece that each is in, and the places there."""
        number = at // self._work.piece_rows
        for piece in np.unique(number).tolist():
            part = slice(*np.searchsorted(number, [piece, piece + 1]).tolist())
            yield part, self._load(self._ranges[piece]), at[part] - self._ranges[piece].start

    def _load(self, whole: Piece) -> Arrays:
        if self._read[0] != whole.number:
            parts = stored_parts(self._before, self._work, whole, NEAR) or self._work.missing(NEAR, whole.number)
            self._read = whole.number, all_classes(self._before, parts, KEPT)
        return self._read[1]

    def _enter_own(self, points: Rows, labels: Ints, mates: Ints, pool: Ints) -> tuple[Neighbors, Neighbors]:
        return self._enter(self._new, points, labels, mates), self._enter(self._new_core, points, labels, pool)

    def _enter_class(self, points: Rows, labels: Ints, rows: Ints) -> Neighbors:
        return self._enter(self._new_core, points, labels, rows)

    def _enter_others(self, points: Rows, labels: Ints, rows: Ints) -> Neighbors:
        return self._enter(self._new_core, points, labels, rows)

    def _enter(self, new: NeighborIndex, points: Rows, labels: Ints, rows: Ints) -> Neighbors:
        """The nearest of rows that were known and of new ones, whose numbers are larger.

        rows: those of the labels, (m, k), or of every class but these, (m, classes, k).
        """
        flat = np.ascontiguousarray(rows.reshape(len(points), -1), np.int64)
        distances = np.empty(flat.shape)
        threads = self._reference.threads
        measure = get_backend().measure_candidates
        measure(points, self._reference.rows, "float32", "euclidean", flat, threads, distances)
        known = Neighbors(distances.reshape(rows.shape), flat.reshape(rows.shape))
        found = self._search(new, points, labels, rows, FEW)
        merged = merge_neighbors([known, found])
        more = np.flatnonzero(
            (found.distances[..., -1] < known.distances[..., -1]).reshape(len(points), -1).any(axis=1)
        )
        if len(more):  # seldom: more of the new rows are nearer than were asked for
            found = self._search(new, points[more], labels[more], rows[more], rows.shape[-1])
            part = merge_neighbors([Neighbors(known.distances[more], known.indices[more]), found])
            merged.distances[more], merged.indices[more] = part.distances, part.indices
        return merged

    def _search(self, new: NeighborIndex, points: Rows, labels: Ints, rows: Ints, k: int) -> Neighbors:
        threads = self._reference.threads
        if rows.ndim == 2:
            return new.search(points, k=k, within=labels, threads=threads)
        return new.search_by_class(points, k=k, without=labels, threads=threads)
