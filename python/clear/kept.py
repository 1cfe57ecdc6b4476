"""The hulls of the samples of a finished scan when new rows have joined it, from the neighbours that it kept.

What was nearest stays so but for the new rows: these alone are searched, and entered where they are nearer. So a hull
costs its vertices, however many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clear._backend import get_backend
from clear.collapse import Wrap, measure_run, nearest_of_run
from clear.config import SCAN_SCALE
from clear.crowd import STAGE as CROWDS
from clear.neighbors import NeighborIndex, Neighbors, merge_neighbors
from clear.pieces import NEAR, Piece, all_classes, cut_pieces, save_piece, stored_parts
from clear.prepare import Ints, Numbers, Rows, row_type
from clear.reach import KEPT, MATES, OTHERS, POOL, Replay, farthest
from clear.reference import Reference
from clear.work import Arrays, Work

__all__ = ["FurtherPieces", "New", "kept_parts"]

FEW = 3
"""New rows that are looked for first: more are seldom near to one sample."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def kept_parts(reference: Reference, before: Reference, work: Work, new: New, reach: Arrays) -> Iterator[KeptPart]:
    """The distinct samples of the finished scan, a piece after the other; reach: `Recorder.reach` of all of them."""
    for whole in cut_pieces(len(before.units), work.piece_rows):
        yield _read_part(reference, before, work, new, reach, whole)


def _read_part(reference: Reference, before: Reference, work: Work, new: New, reach: Arrays, whole: Piece) -> KeptPart:
    parts = stored_parts(before, work, whole, NEAR) or work.missing(NEAR, whole.number)
    place, number = slice(whole.start, whole.stop), row_type(len(reference.rows))
    kept = {name: rows.astype(number, copy=False) for name, rows in all_classes(before, parts, KEPT).items()}
    kept |= {name: values[place].copy() for name, values in reach.items()}
    return KeptPart(reference, before.units[place], place, kept, new)


class New(NamedTuple):
    """Indices of the new rows."""

    all: NeighborIndex
    core: NeighborIndex


class KeptPart:
    """Hulls of some samples, asked about by their positions in the part.

    `members` of all that are touched come before `nearest_other`, and everything before `kept`: `reach.KEPT` and
    `Recorder.reach` of the samples, with the new rows entered.
    """

    def __init__(self, reference: Reference, units: Ints, place: slice, kept: Arrays, new: New) -> None:
        self.place, self.kept = place, kept
        self._reference, self._units, self._new = reference, units, new

    def own(self, at: Ints) -> Wrap:
        """Pocket, own hulls and mates of samples whose label a new row touches."""
        reference, kept = self._reference, self.kept
        rows, points, labels = self._samples(at)
        mates = self._enter(self._new.all, points, labels, kept[MATES][at])
        pool = self._enter(self._new.core, points, labels, kept[POOL][at])
        kept[MATES][at], kept["own_reach"][at] = mates.indices, farthest(mates)
        kept[POOL][at], kept["reach"][at, labels] = pool.indices, farthest(pool)
        known = Replay((0, reference.n_classes), {MATES: mates, POOL: pool}).as_index()
        return measure_run(reference, known, points, labels, (SCAN_SCALE,), exclude=rows, groups=None, others=False)

    def pairs(self, touched: Mask) -> tuple[Ints, Ints]:
        """Position and label of what is touched, (m, classes), in the order that suits `members`."""
        at, label = np.nonzero(touched)
        return at, label

    def members(self, at: Ints, labels: Ints) -> Ints:
        """The core rows of a touched label that are nearest to each sample, (m, k)."""
        _, points, _ = self._samples(at)
        found = self._enter(self._new.core, points, labels, self.kept[OTHERS][at, labels])
        self.kept[OTHERS][at, labels], self.kept["reach"][at, labels] = found.indices, farthest(found)
        return found.indices

    def nearest_other(self, at: Ints) -> tuple[Floats, Ints]:
        """Distance and label of the nearest hull of another label."""
        _, points, labels = self._samples(at)
        near = self._measured(points, self.kept[OTHERS][at])
        known = Replay((0, self._reference.n_classes), {OTHERS: near}).as_index()
        return nearest_of_run(self._reference, known, points, labels, None)[:2]

    def _samples(self, at: Ints) -> tuple[Ints, Rows, Ints]:
        rows = self._units[at]
        return rows, self._reference.rows[rows], self._reference.labels[rows]

    def _measured(self, points: Rows, rows: Numbers) -> Neighbors:
        """Rows (m, ..., k) with their distances; inf where absent."""
        flat = np.ascontiguousarray(rows.reshape(len(points), math.prod(rows.shape[1:])), np.int64)
        distances = np.empty(flat.shape)
        measure = get_backend().measure_candidates
        measure(points, self._reference.rows, "float32", "euclidean", flat, self._reference.threads, distances)
        return Neighbors(distances.reshape(rows.shape), flat.reshape(rows.shape))

    def _enter(self, new: NeighborIndex, points: Rows, labels: Ints, rows: Numbers) -> Neighbors:
        """The nearest of known rows of the labels, (m, k), and of new ones, whose numbers are larger."""
        known, threads = self._measured(points, rows), self._reference.threads
        found = new.search(points, k=FEW, within=labels, threads=threads)
        merged = merge_neighbors([known, found])
        more = np.flatnonzero(found.distances[:, -1] < known.distances[:, -1])
        if len(more):
            found = new.search(points[more], k=rows.shape[1], within=labels[more], threads=threads)
            merged_more = merge_neighbors([Neighbors(known.distances[more], known.indices[more]), found])
            merged.distances[more], merged.indices[more] = merged_more
        return merged


class FurtherPieces:
    """Stores the pieces of a scan of all samples, as what they want beside hulls comes in, in their order."""

    def __init__(self, work: Work, reference: Reference, wrap: Wrap) -> None:
        self._work, self._wrap = work, wrap
        self._pieces = iter(cut_pieces(len(reference.units), work.piece_rows))
        self._next = next(self._pieces)
        self._held: Arrays = {}

    def add(self, arrays: Arrays) -> None:
        """`REACH` and `KEPT` of the next samples, whose hulls are measured."""
        held = {name: np.concatenate([self._held[name], new]) if self._held else new for name, new in arrays.items()}
        while (count := self._next.stop - self._next.start) <= len(held["own_reach"]):
            self._save(self._next, {name: values[:count] for name, values in held.items()})
            held = {name: values[count:] for name, values in held.items()}
            following = next(self._pieces, None)
            if following is None:
                return
            self._next = following
        self._held = held

    def _save(self, piece: Piece, arrays: Arrays) -> None:
        part, wrap = slice(piece.start, piece.stop), self._wrap
        assert wrap.far is not None  # noqa: S101 - measured
        single = {name: getattr(wrap, name)[0][part] for name in ("pocket", "own", "own_size")}
        whole = {name: getattr(wrap, name)[part] for name in ("other", "other_label", "mates")}
        save_piece(self._work, piece, arrays | single | whole)
        self._work.save(CROWDS, piece.number, {"far": wrap.far[part]})
