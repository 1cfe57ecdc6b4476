"""Crowds: so many samples of one label around a point that the nearest mates can be peeled off and the label stays.

A crowd's own label goes on wrapping it, and a classifier learns it as a part of the class. So for this test a class is
stood in for by a few of its core rows (`far_rows`), of which a crowd is at most the share that it has of the class, and
the nearer half of these is peeled off:

    own      hull distance to the nearest of the farther half of the label's few rows
    K        log own - log pocket, less the lower quartile of the label
    crowded  mean of the ten largest robust standard scores of K among a sample and its ten nearest mates

Samples crowd where this stands out from all other labels, another label's few rows wrap them better than the farther
half of their own, and more of them hang together (among each other's mates) than a sample and those peeled off: a
smaller pocket is the ordinary test's, which tells its poisons from their neighbours. K and R of a crowd's samples are
those of this test, and all of them are certain: neither a classifier nor the mean of their class, which learned them,
is asked about them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks, forget
from clear._progress import Progress, track, tracked
from clear.budgets import verdict_bars
from clear.collapse import Wrap, distances, log_ratio, prove, vertices
from clear.config import SCAN_SCALE
from clear.pockets import label_excess, linked, mean_of_best, standard
from clear.prepare import Ints, Rows
from clear.reference import Reference, for_copies
from clear.results import HullEvidence
from clear.work import PIECE_ROWS, Work, cut

__all__ = ["STAGE", "Crowds", "far_distances", "far_evidence", "find_crowds", "nearest_far", "with_far"]

Floats = npt.NDArray[np.float64]

STAGE = "crowds"
WHOLE = 10
"""Of a sample and its mates: all but one."""
CLEARLY = 0.5
"""R of a crowd's sample: near-copies of clean samples crowd, too, but seldom where another label is so much nearer."""


class Crowds(NamedTuple):
    """Distinct samples that lie in crowds, and what was measured of them; all (m,)."""

    at: Ints
    """Positions in `reference.units`."""
    collapse: Floats
    reassignment: Floats
    suggested_label: Ints
    excess: Floats
    """How far the crowd of each stands above other labels, in their spreads."""


def far_distances(
    reference: Reference, points: Rows, labels: Ints, exclude: Ints, progress: Progress = False
) -> Floats:
    """Hull distance to the nearest of the farther half of the few rows of each point's label, float64 (m,).

    exclude int64 (m,): the training row that is the point itself, or -1. inf where the label has too few rows.
    """
    far, found = reference.far, np.empty(len(points))
    for block in tracked(blocks(len(points), 4 * points.shape[1] + 48 * far.size), progress, "crowds"):
        members = far.own(points[block], labels[block], exclude[block], reference.threads)
        found[block] = distances(reference, points[block], members)
    return found


def nearest_far(reference: Reference, points: Rows, labels: Ints) -> tuple[Floats, Ints, Ints]:
    """Distance (m,), label (m,) and vertices (m, size) of the nearest hull of few rows of another label."""
    m, size = len(points), reference.far.size
    members = reference.far.others(points, labels, reference.threads)
    owner = np.repeat(np.arange(m), members.shape[1])
    apart = distances(reference, points, members.reshape(-1, size), owner).reshape(m, -1)
    label, at = apart.argmin(axis=1), np.arange(m)
    return apart[at, label], label, members[at, label]


def find_crowds(reference: Reference, wrap: Wrap) -> Crowds:
    """The crowds of a training set, one label after another; `wrap` holds the distinct samples (`with_far`)."""
    units, labels, own = reference.units, reference.labels[reference.units], wrap.far
    assert own is not None  # noqa: S101 - measured by the caller
    measured = log_ratio(own, wrap.pocket[0])
    crowded = _crowded(reference, measured, wrap.mates)
    found, bars = [_nothing()], verdict_bars(reference.config.false_alarms, len(units))
    while True:
        top, excess = label_excess(crowded, labels)
        if not np.nanmax(excess, initial=-np.inf) > bars.does:
            break
        at = np.flatnonzero((labels == top) & (excess > bars.may))
        crowded[at] = np.nan  # seen: a crowd, or near-copies
        distance, label, _ = nearest_far(reference, reference.rows[units[at]], labels[at])
        reassignment = log_ratio(own[at], distance)
        kept = np.flatnonzero(reassignment > CLEARLY)
        kept = kept[_many(units[at[kept]], wrap.mates[at[kept]])]
        if len(kept):
            at = at[kept]
            height = np.full(len(at), excess[at].max())
            found.append(Crowds(at, measured[at], reassignment[kept], label[kept], height))
    return Crowds(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _many(rows: Ints, mates: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Whether more of the rows (ascending) hang together with each than a sample and what is peeled off."""
    if len(rows) <= SCAN_SCALE.mates + 1:
        return np.zeros(len(rows), np.bool_)
    position = np.minimum(np.searchsorted(rows, mates), len(rows) - 1)
    group = linked(np.where(rows[position] == mates, position, -1))
    many: npt.NDArray[np.bool_] = np.bincount(group)[group] > SCAN_SCALE.mates + 1
    return many


def _crowded(reference: Reference, measured: Floats, mates: npt.NDArray[np.integer[Any]]) -> Floats:
    """Mean standard score of K of each distinct sample and its mates, (units,); every label from its own quartile."""
    labels = reference.labels[reference.units]
    levelled = measured.copy()
    for label in range(reference.n_classes):
        mine = labels == label
        if not np.isnan(levelled[mine]).all():
            levelled[mine] -= np.nanquantile(levelled[mine], 0.25)
    scores = for_copies(reference, standard(levelled, out=levelled))
    return mean_of_best(scores, mates, WHOLE, own=reference.units)


def _nothing() -> Crowds:
    none, whole = np.empty(0), np.empty(0, np.int64)
    return Crowds(whole, none, none, whole, none)


def with_far(
    reference: Reference,
    wrap: Wrap,
    *,
    work: Work | None = None,
    piece_rows: int = PIECE_ROWS,
    progress: Progress = False,
) -> Wrap:
    """The hulls of all distinct samples with `far_distances`; with `work` these are stored, too. Time O(n width)."""
    count = len(reference.units)
    found, pieces = np.empty(count), cut(count, piece_rows)
    with track(progress, STAGE, count) as advance:
        for piece, part in enumerate(pieces):
            arrays = None if work is None else work.load(STAGE, piece)
            if arrays is None:
                if work is not None:
                    work.check_time(STAGE, piece, len(pieces))
                rows = reference.units[part.start : part.stop]
                far = far_distances(reference, reference.rows[rows], reference.labels[rows], rows)
                arrays = {"far": far}
                if work is not None:
                    work.save(STAGE, piece, arrays)
                forget(reference.rows)
            found[part.start : part.stop] = arrays["far"]
            advance(len(part))
    return replace(wrap, far=found)


def far_evidence(reference: Reference, points: Rows, labels: Ints, exclude: Ints) -> list[tuple[HullEvidence, ...]]:
    """`collapse.evidence` of points in a crowd: pocket, farther half of their label, nearest few rows of another."""
    if len(points) == 0:
        return []
    _, ((pocket, _),) = vertices(reference, points, labels, exclude, (SCAN_SCALE,))
    own = reference.far.own(points, labels, exclude, reference.threads)
    _, other_label, other = nearest_far(reference, points, labels)
    return prove(reference, points, (("pocket", pocket, labels), ("own", own, labels), ("other", other, other_label)))
