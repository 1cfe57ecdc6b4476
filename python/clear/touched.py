"""Which hulls of old samples new rows change, and what they are then."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._progress import Progress, tracked
from clear.collapse import Wrap, count_peeled, distances, measure, nearest_other
from clear.config import SCAN_SCALE
from clear.kept import New
from clear.prepare import Ints, Rows
from clear.reference import Reference
from clear.work import Arrays

__all__ = ["PAIR_BYTES", "TOUCHED", "SearchedPart", "find_touched", "measure_part"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
PAIR_BYTES = 64 << 20
"""Working memory of some touched hulls."""
TOUCHED = "touched samples"


class Part(Protocol):
    """Hulls of some old samples among all rows, asked about by their positions in the part; see `KeptPart`."""

    place: slice
    """Of the distinct samples."""

    def own(self, at: Ints) -> Wrap: ...
    def pairs(self, touched: Mask) -> tuple[Ints, Ints]: ...
    def members(self, at: Ints, labels: Ints) -> Ints: ...
    def nearest_other(self, at: Ints) -> tuple[Floats, Ints]: ...


class SearchedPart:
    """All old samples of a scan that kept no neighbours: they are searched again."""

    def __init__(self, reference: Reference, before: Reference, progress: Progress) -> None:
        self.place, self._reference, self._units = slice(0, len(before.units)), reference, before.units
        self._progress = progress

    def own(self, at: Ints) -> Wrap:
        rows, points, labels = self._samples(at)
        options: dict[str, Any] = {"exclude": rows, "others": False, "progress": self._progress, "stage": TOUCHED}
        return measure(self._reference, points, labels, (SCAN_SCALE,), **options)

    def pairs(self, touched: Mask) -> tuple[Ints, Ints]:
        label, at = np.nonzero(touched.T)  # one class after another, as they are packed
        return at, label

    def members(self, at: Ints, labels: Ints) -> Ints:
        _, points, _ = self._samples(at)
        return self._reference.nearest(points, labels, self._reference.config.hull_size, core=True)

    def nearest_other(self, at: Ints) -> tuple[Floats, Ints]:
        _, points, labels = self._samples(at)
        return nearest_other(self._reference, points, labels)[:2]

    def _samples(self, at: Ints) -> tuple[Ints, Rows, Ints]:
        rows = self._units[at]
        return rows, self._reference.rows[rows], self._reference.labels[rows]


def find_touched(
    reference: Reference, before: Reference, reach: Arrays, new: New, progress: Progress
) -> tuple[Mask, Mask]:
    """Which old samples see a new row in their own hulls, (m,), and in those of other labels, (m, classes).

    reach: `Recorder.reach` of them.
    """
    old, threads = before.units, reference.threads
    own, others = np.empty(len(old), np.bool_), np.empty((len(old), reference.n_classes), np.bool_)
    parts = blocks(len(old), 4 * reference.rows.shape[1] + 16 * reference.n_classes)
    for block in tracked(parts, progress, "near new samples"):
        rows = old[block]
        points, labels = reference.rows[rows], reference.labels[rows]
        mates = new.all.search(points, k=1, within=labels, threads=threads).distances[:, 0]
        nearer = new.core.search_by_class(points, k=1, threads=threads).distances[:, :, 0] < reach["reach"][block]
        at = np.arange(len(rows))
        peeled, now = (count_peeled(r.class_sizes, labels, rows, SCAN_SCALE) for r in (before, reference))
        own[block] = (mates < reach["own_reach"][block]) | nearer[at, labels] | (peeled != now)
        nearer[at, labels] = False
        others[block] = nearer
    return own, others


def measure_part(
    reference: Reference, part: Part, own: Mask, others: Mask, wrap: Wrap, progress: Progress = False
) -> None:
    """Measure the hulls of old samples among all rows that a new row has changed: where `own` (m,), of their label;
    where `others` (m, classes), of another one."""
    at = np.flatnonzero(own)
    if len(at):
        found, to = part.own(at), part.place.start + at
        wrap.pocket[0][to], wrap.own[0][to], wrap.own_size[0][to] = found.pocket[0], found.own[0], found.own_size[0]
        wrap.mates[to] = found.mates
    _measure_others(reference, part, others, wrap.other[part.place], wrap.other_label[part.place], progress)


def _measure_others(
    reference: Reference,
    part: Part,
    touched: Mask,
    other: Floats,
    other_label: npt.NDArray[np.int32],
    progress: Progress,
) -> None:
    """Measure the touched hulls of other labels; where the nearest one has got farther, those of all labels."""
    at = np.arange(len(touched))
    best, best_label = _nearest_touched(reference, part, touched, other, progress)
    same = (best == other) & (best_label == other_label)
    moved = touched[at, other_label] & (best >= other) & ~same
    nearer = (best < other) | ((best == other) & (best_label < other_label))
    other[nearer], other_label[nearer] = best[nearer], best_label[nearer]
    again = np.flatnonzero(moved)
    width, size = reference.rows.shape[1], reference.config.hull_size
    parts = blocks(len(again), 4 * width + 24 * size * reference.n_classes, budget=PAIR_BYTES)
    for block in tracked(parts, progress, "hulls of other labels"):
        other[again[block]], other_label[again[block]] = part.nearest_other(again[block])


def _nearest_touched(
    reference: Reference, part: Part, touched: Mask, other: Floats, progress: Progress
) -> tuple[Floats, Ints]:
    """Distance and label of the nearest touched hull of each sample; inf where all, if any, lie beyond `other`."""
    at, label = part.pairs(touched)
    apart, units = np.empty(len(at)), reference.units[part.place]
    size, width = reference.config.hull_size, reference.rows.shape[1]
    for block in tracked(blocks(len(at), 4 * width + 24 * size, budget=PAIR_BYTES), progress, "touched hulls"):
        members, points = part.members(at[block], label[block]), reference.rows[units[at[block]]]
        apart[block] = distances(reference, points, members, beyond=other[at[block]])
    best, best_label = np.full(len(touched), np.inf), np.full(len(touched), reference.n_classes)
    order = np.lexsort((label, apart, at))
    first = order[np.flatnonzero(np.diff(at[order], prepend=-1))]
    best[at[first]], best_label[at[first]] = apart[first], label[first]
    return best, best_label
