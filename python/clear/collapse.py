"""The collapse test: how tightly a handful of mates wraps a sample, and what wraps it once they are peeled off.

For a sample x of label a (docs/how-it-works.md has the reasons and the measurements):

    pocket   hull distance of x to its nearest mates (samples of label a)
    own      hull distance to the nearest core samples of label a that are not mates
    other    hull distance to the nearest core samples of label c, for every c != a; the smallest gives c*
    K = log own - log pocket     collapse: large when a handful wraps x and the label vanishes without them
    R = log own - log other      reassignment: large when another label then wraps x
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._progress import Progress, track
from clear.config import Scale
from clear.hull import HullResult, solve_hulls
from clear.neighbors import Neighbors
from clear.prepare import Ints, Reference, Rows
from clear.results import HullEvidence

__all__ = ["Wrap", "collapse", "evidence", "measure", "reassignment"]

Floats = npt.NDArray[np.float64]

FLOOR = 1e-6
"""Added to hull distances (of unit rows) before the logarithm."""
NEAREST_MATES = 10
"""Mates that are kept: a sample's score is supported by theirs (`pockets.group_scores`, `suspicion.mate_support`)."""
BLOCK_BYTES = 64 << 20
"""Working memory of one block of samples; the number of classes only changes how many samples a block has."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """Hull distances of m samples; one entry per scale in `pocket`, `own` and `own_size`."""

    pocket: list[Floats]
    """float64 (m,), unit-row distance; inf without mates."""
    own: list[Floats]
    """float64 (m,); inf when no core sample is left after peeling."""
    own_size: list[Ints]
    """Vertices behind `own`, int64 (m,)."""
    other: Floats
    """float64 (m,): distance to the nearest other hull; nan when not asked for."""
    other_label: Ints
    """int64 (m,): whose hull that is; -1 when not asked for."""
    mates: Ints
    """int64 (m, NEAREST_MATES): the nearest rows of the label, nearest first; -1 where there are fewer."""


def collapse(wrap: Wrap, scale: int) -> Floats:
    """K of one scale, float64 (m,); nan where a label is too small to be peeled."""
    return _log_ratio(wrap.own[scale], wrap.pocket[scale])


def reassignment(wrap: Wrap, scale: int) -> Floats:
    """R of one scale, float64 (m,)."""
    return _log_ratio(wrap.own[scale], wrap.other)


def _log_ratio(numerator: Floats, denominator: Floats) -> Floats:
    usable = np.isfinite(numerator) & np.isfinite(denominator)
    ratio = np.full(len(numerator), np.nan)
    ratio[usable] = np.log(numerator[usable] + FLOOR) - np.log(denominator[usable] + FLOOR)
    return ratio


def measure(
    reference: Reference,
    points: Rows,
    labels: Ints,
    scales: tuple[Scale, ...],
    *,
    exclude: Ints | None = None,
    others: bool = True,
    progress: Progress = False,
    stage: str = "hulls",
) -> Wrap:
    """Measure pocket, own and other hull distances of prepared points.

    points (m, width) float32 unit rows; labels int64 (m,) the label each is held against; exclude int64 (m,) the
    training row that is the sample itself.
    Time O(m n width) for the neighbours plus m * (classes + scales) small hulls.
    """
    m = len(points)
    nothing = np.full(m, np.nan)
    wrap = Wrap(
        [nothing.copy() for _ in scales],
        [nothing.copy() for _ in scales],
        [np.zeros(m, np.int64) for _ in scales],
        nothing,
        np.full(m, -1),
        np.full((m, NEAREST_MATES), -1),
    )
    size = reference.config.hull_size
    row_bytes = 16 * (size + max(s.mates for s in scales)) + (24 * size * reference.n_classes if others else 0)
    with track(progress, stage, m) as advance:
        for block in blocks(m, row_bytes + 4 * points.shape[1], budget=BLOCK_BYTES):
            skip = np.full(block.stop - block.start, -1) if exclude is None else exclude[block]
            _measure_block(reference, points[block], labels[block], skip, scales, others, wrap, block)
            advance(block.stop - block.start)
    return wrap


def _measure_block(
    reference: Reference,
    points: Rows,
    labels: Ints,
    exclude: Ints,
    scales: tuple[Scale, ...],
    others: bool,
    wrap: Wrap,
    block: slice,
) -> None:
    """Fill `wrap` for one block."""
    mates, hulls = vertices(reference, points, labels, exclude, scales)
    wrap.mates[block] = mates[:, :NEAREST_MATES]
    for i, (pocket, own) in enumerate(hulls):
        wrap.pocket[i][block] = _distances(reference, points, pocket)
        wrap.own[i][block] = _distances(reference, points, own)
        wrap.own_size[i][block] = (own >= 0).sum(axis=1)
    if others:
        distance, label, _ = nearest_other(reference, points, labels)
        wrap.other[block], wrap.other_label[block] = distance, label


def vertices(
    reference: Reference, points: Rows, labels: Ints, exclude: Ints, scales: tuple[Scale, ...]
) -> tuple[Ints, list[tuple[Ints, Ints]]]:
    """Return the mates (m, most), and per scale the rows of the pocket (m, tight) and of the peeled own hull (m, size).

    -1 marks an absent vertex. In a label with few samples at most half of them are peeled, so that some are left.
    """
    most = max(scale.mates for scale in scales)
    mates = reference.all_index.search(points, k=most, within=labels, exclude=exclude, threads=reference.threads)
    pool = reference.core_index.search(
        points, k=most + reference.config.hull_size, within=labels, exclude=exclude, threads=reference.threads
    )
    available = reference.class_sizes[labels] - (exclude >= 0)
    result = []
    for scale in scales:
        peeled_count = np.minimum(scale.mates, np.maximum(1, available // 2))
        peeled = np.where(np.arange(scale.mates) < peeled_count[:, None], mates.indices[:, : scale.mates], -1)
        pocket = np.ascontiguousarray(peeled[:, : scale.tight])
        result.append((pocket, _without(pool, peeled, reference.config.hull_size)))
    return mates.indices, result


def _without(pool: Neighbors, peeled: Ints, size: int) -> Ints:
    """The nearest `size` rows of `pool` that are not in `peeled`, in order; -1 fills up."""
    gone = (pool.indices[:, :, None] == peeled[:, None, :]).any(axis=2) | (pool.indices < 0)
    order = np.argsort(gone, axis=1, kind="stable")[:, :size]
    kept = np.take_along_axis(pool.indices, order, axis=1)
    return np.where(np.take_along_axis(gone, order, axis=1), -1, kept)


def nearest_other(reference: Reference, points: Rows, labels: Ints) -> tuple[Floats, Ints, Ints]:
    """Distance (m,), label (m,) and vertices (m, hull_size) of the nearest hull of another label."""
    size = reference.config.hull_size
    near = reference.core_index.search_by_class(points, k=size, without=labels, threads=reference.threads)
    m = len(points)
    owner = np.repeat(np.arange(m), reference.n_classes)
    distances = _distances(reference, points, near.indices.reshape(-1, size), owner).reshape(m, -1)
    label = distances.argmin(axis=1)
    at = np.arange(m)
    return distances[at, label], label, near.indices[at, label]


def _distances(reference: Reference, points: Rows, members: Ints, owner: Ints | None = None) -> Floats:
    return _solve(reference, points, members, owner=owner, certificates=False).upper


def _solve(
    reference: Reference, points: Rows, members: Ints, *, owner: Ints | None = None, certificates: bool
) -> HullResult:
    return solve_hulls(
        points,
        reference.rows,
        members,
        owner=owner,
        relative_tolerance=reference.config.hull_tolerance,
        certificates=certificates,
        threads=reference.threads,
    )


def evidence(
    reference: Reference, points: Rows, labels: Ints, exclude: Ints, scale: Scale
) -> list[tuple[HullEvidence, ...]]:
    """Solve the three hulls of each point again, with weights: what a report shows and a checker verifies."""
    if len(points) == 0:
        return []
    _, ((pocket, own),) = vertices(reference, points, labels, exclude, (scale,))
    _, other_label, other = nearest_other(reference, points, labels)
    found: list[list[HullEvidence]] = [[] for _ in range(len(points))]
    for role, rows, label in (("pocket", pocket, labels), ("own", own, labels), ("other", other, other_label)):
        solved = _solve(reference, points, rows, certificates=True)
        assert solved.weights is not None  # noqa: S101 - asked for above
        for i in range(len(points)):
            present = rows[i] >= 0
            found[i].append(
                HullEvidence(
                    role=role,  # type: ignore[arg-type]
                    label=int(label[i]),
                    rows=tuple(rows[i, present].tolist()),
                    weights=tuple(solved.weights[i, present].tolist()),
                    lower=float(solved.lower[i]),
                    upper=float(solved.upper[i]),
                )
            )
    return [tuple(items) for items in found]
