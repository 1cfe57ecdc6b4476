"""The collapse test: how tightly a handful of mates wraps a sample, and what wraps it once they are peeled off.

For a sample x of label a (docs/how-it-works.md has the reasons and the measurements):

    pocket   hull distance of x to its nearest mates (samples of label a)
    own      hull distance to the nearest core samples of label a that are not mates
    other    hull distance to the nearest core samples of label c, for every c != a; the smallest gives c*
    K = log own - log pocket     collapse: large when a handful wraps x and the label vanishes without them
    R = log own - log other      reassignment: large when another label then wraps x
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._progress import Progress, track
from clear.class_index import ClassIndex, Run
from clear.config import Scale
from clear.hull import HullResult, solve_hulls
from clear.neighbors import Neighbors
from clear.prepare import Ints, Numbers, Rows, room, row_type
from clear.reference import Reference
from clear.results import HullEvidence, Role

__all__ = [
    "Wrap",
    "collapse",
    "count_peeled",
    "distances",
    "empty_wrap",
    "evidence",
    "keep_nearer",
    "log_ratio",
    "measure",
    "measure_run",
    "measuring_bytes",
    "nearest_of_run",
    "nearest_other",
    "prove",
    "reassignment",
    "vertices",
]

Floats = npt.NDArray[np.float64]
Nearest = tuple[Floats, Ints, Ints]
"""Distance, label and vertices of a hull of each point."""

FLOOR = 1e-6
"""Added to hull distances (of unit rows) before the logarithm."""
NEAREST_MATES = 10
"""Mates that are kept: a sample's score is supported by theirs (`pockets.mean_of_best`)."""
FEW = 32
"""Points for which a second question about their hulls takes longer than measuring all of them."""
BLOCK_BYTES = 64 << 20
"""Working memory of one block of samples; the number of classes only changes how many samples a block has."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """Hull distances of m samples; one entry per scale in `pocket`, `own` and `own_size`."""

    pocket: list[Floats]
    """float64 (m,), unit-row distance; inf without mates."""
    own: list[Floats]
    """float64 (m,); inf when no core sample is left after peeling."""
    own_size: list[npt.NDArray[np.int16]]
    """Vertices behind `own`, int16 (m,)."""
    other: Floats
    """float64 (m,): distance to the nearest other hull; nan when not asked for."""
    other_label: npt.NDArray[np.int32]
    """int32 (m,): whose hull that is; -1 when not asked for."""
    mates: Numbers
    """int32, or int64 from 2^31 rows on, (m, NEAREST_MATES): the nearest rows of the label, nearest
    first; -1 where there are fewer."""
    far: Floats | None = None
    """float64 (m,): distance to the farther half of the label's few rows (`crowd.with_far`); None until measured."""


def collapse(wrap: Wrap, scale: int) -> Floats:
    """K of one scale, float64 (m,); nan where a label is too small to be peeled."""
    return log_ratio(wrap.own[scale], wrap.pocket[scale])


def reassignment(wrap: Wrap, scale: int) -> Floats:
    """R of one scale, float64 (m,)."""
    return log_ratio(wrap.own[scale], wrap.other)


def log_ratio(numerator: Floats, denominator: Floats) -> Floats:
    """log numerator - log denominator, float64 (m,); nan where either is not finite."""
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
    wrap = empty_wrap(len(points), len(scales), len(reference.rows))
    groups = reference.groups(points)
    with track(progress, stage, len(points) * len(reference.runs)) as advance:
        for run in reference.runs:
            index = reference.index(run)
            for block in _blocks(reference, run, points, scales, others):
                skip = np.full(block.stop - block.start, -1) if exclude is None else exclude[block]
                of = None if groups is None else groups[block]
                _measure_block(reference, index, points[block], labels[block], skip, of, scales, others, wrap, block)
                advance(block.stop - block.start)
            del index  # before the next one is packed
    return wrap


def measure_run(
    reference: Reference,
    index: ClassIndex,
    points: Rows,
    labels: Ints,
    scales: tuple[Scale, ...],
    *,
    exclude: Ints,
    groups: Ints | None,
    others: bool = True,
) -> Wrap:
    """`measure` against the classes of one index, for points whose groups are known."""
    wrap = empty_wrap(len(points), len(scales), len(reference.rows))
    for block in _blocks(reference, index.run, points, scales, others):
        of = None if groups is None else groups[block]
        _measure_block(reference, index, points[block], labels[block], exclude[block], of, scales, others, wrap, block)
    return wrap


def _blocks(reference: Reference, run: Run, points: Rows, scales: tuple[Scale, ...], others: bool) -> Iterator[slice]:
    classes = run[1] - run[0] if others else 0
    row_bytes = measuring_bytes(reference.config.hull_size, max(scale.mates for scale in scales), classes)
    return blocks(len(points), row_bytes + 4 * points.shape[1], budget=BLOCK_BYTES)


def measuring_bytes(size: int, mates: int, classes: int) -> int:
    """Of a sample while its hulls of `size` vertices are measured: its own, then those of the classes of a run."""
    pool = mates + size
    return max(32 * pool + mates * (16 + pool), 24 * size * classes)


def empty_wrap(m: int, scales: int, rows: int, place: Path | None = None) -> Wrap:
    """Nothing measured yet of m samples among so many rows. Small types, since it is for all samples.

    place: a folder for the mates where they are many (`prepare.room`).
    """
    mates: Numbers = room((m, NEAREST_MATES), row_type(rows), place)
    mates.fill(-1)
    return Wrap(
        [np.full(m, np.nan) for _ in range(scales)],
        [np.full(m, np.nan) for _ in range(scales)],
        [np.zeros(m, np.int16) for _ in range(scales)],
        np.full(m, np.nan),
        np.full(m, -1, np.int32),
        mates,
    )


def _measure_block(
    reference: Reference,
    index: ClassIndex,
    points: Rows,
    labels: Ints,
    exclude: Ints,
    groups: Ints | None,
    scales: tuple[Scale, ...],
    others: bool,
    wrap: Wrap,
    block: slice,
) -> None:
    """Fill `wrap` for one block, as far as the classes of the index go."""
    mine = np.flatnonzero((labels >= index.run[0]) & (labels < index.run[1]))
    if len(mine):
        rows, at = points[mine], block.start + mine
        mates, hulls = _own_vertices(reference, index, rows, labels[mine], exclude[mine], scales)
        wrap.mates[at] = mates[:, :NEAREST_MATES]
        apart = _distances_at_once(reference, rows, [members for pair in hulls for members in pair])
        for i, (_, own) in enumerate(hulls):
            wrap.pocket[i][at], wrap.own[i][at] = apart[2 * i], apart[2 * i + 1]
            wrap.own_size[i][at] = (own >= 0).sum(axis=1)
    if others:
        distance, label, _ = nearest_of_run(reference, index, points, labels, groups)
        keep_nearer(wrap, block, distance, label)


def keep_nearer(wrap: Wrap, block: slice | Ints, distance: Floats, label: Ints) -> None:
    """Keep the nearer of the other hull that is known and a further one; of equal ones that of the smaller label."""
    known, known_label = wrap.other[block], wrap.other_label[block]
    nearer = (known_label < 0) | (distance < known) | ((distance == known) & (label < known_label))
    wrap.other[block] = np.where(nearer, distance, known)
    wrap.other_label[block] = np.where(nearer, label, known_label)


def vertices(
    reference: Reference, points: Rows, labels: Ints, exclude: Ints, scales: tuple[Scale, ...]
) -> tuple[Ints, list[tuple[Ints, Ints]]]:
    """Return the mates (m, most), and per scale the rows of the pocket (m, tight) and of the peeled own hull (m, size).

    -1 marks an absent vertex. In a label with few samples at most half of them are peeled, so that some are left.
    """
    m, size = len(points), reference.config.hull_size
    mates = np.full((m, max(scale.mates for scale in scales)), -1)
    hulls = [(np.full((m, scale.tight), -1), np.full((m, size), -1)) for scale in scales]
    for run in reference.runs:
        mine = np.flatnonzero((labels >= run[0]) & (labels < run[1]))
        if not len(mine):
            continue
        found = _own_vertices(reference, reference.index(run), points[mine], labels[mine], exclude[mine], scales)
        mates[mine] = found[0]
        for (pocket, own), (pocket_found, own_found) in zip(hulls, found[1], strict=True):
            pocket[mine], own[mine] = pocket_found, own_found
    return mates, hulls


def _own_vertices(
    reference: Reference,
    index: ClassIndex,
    points: Rows,
    labels: Ints,
    exclude: Ints,
    scales: tuple[Scale, ...],
) -> tuple[Ints, list[tuple[Ints, Ints]]]:
    """`vertices` of points whose labels the index has."""
    most = max(scale.mates for scale in scales)
    mates = index.own(points, labels, most, exclude)
    pool = index.own(points, labels, most + reference.config.hull_size, exclude, core=True)
    result = []
    for scale in scales:
        peeled_count = count_peeled(reference.class_sizes, labels, exclude, scale)
        peeled = np.where(np.arange(scale.mates) < peeled_count[:, None], mates.indices[:, : scale.mates], -1)
        pocket = np.ascontiguousarray(peeled[:, : scale.tight])
        result.append((pocket, _without(pool, peeled, reference.config.hull_size)))
    return mates.indices, result


def count_peeled(class_sizes: Ints, labels: Ints, exclude: Ints, scale: Scale) -> Ints:
    """How many mates are peeled off each sample, int64 (m,)."""
    available = class_sizes[labels] - (exclude >= 0)
    return np.minimum(scale.mates, np.maximum(1, available // 2))


def _without(pool: Neighbors, peeled: Ints, size: int) -> Ints:
    """The nearest `size` rows of `pool` that are not in `peeled`, in order; -1 fills up."""
    gone = (pool.indices[:, :, None] == peeled[:, None, :]).any(axis=2) | (pool.indices < 0)
    order = np.argsort(gone, axis=1, kind="stable")[:, :size]
    kept = np.take_along_axis(pool.indices, order, axis=1)
    return np.where(np.take_along_axis(gone, order, axis=1), -1, kept)


def nearest_other(reference: Reference, points: Rows, labels: Ints) -> Nearest:
    """Distance (m,), label (m,) and vertices (m, hull_size) of the nearest hull of another label."""
    groups, best = reference.groups(points), None
    for run in reference.runs:
        best = _nearer(best, nearest_of_run(reference, reference.index(run), points, labels, groups))
    assert best is not None  # noqa: S101 - there is a run at least
    return best


def _nearer(best: Nearest | None, found: Nearest) -> Nearest:
    """The nearer of what is known and what a further run of classes has; of equal ones the known."""
    if best is None:
        return found
    nearer = found[0] < best[0]
    for kept, new in zip(best, found, strict=True):
        kept[nearer] = new[nearer]
    return best


def nearest_of_run(
    reference: Reference, index: ClassIndex, points: Rows, labels: Ints, groups: Ints | None
) -> tuple[Floats, Ints, Ints]:
    """`nearest_other` among the labels of the index; infinitely far where it has no other."""
    near = index.others(points, labels, reference.config.hull_size, groups)
    present, at = near.indices >= 0, np.arange(len(points))
    counts = present.sum(axis=2)
    nearest, label, rest = np.full(len(points), np.inf), np.zeros(len(points), np.int64), counts > 0
    many = len(points) >= FEW
    if many:  # one hull is measured first, and of the others only those that may be nearer
        total = near.distances.sum(axis=2, where=present, initial=0.0)
        label = np.where(rest, total / np.maximum(counts, 1), np.inf).argmin(axis=1)  # most often the nearest
        nearest = distances(reference, points, near.indices[at, label])
        rest[at, label] = False
    del present
    owner, other = np.nonzero(rest)
    beyond = nearest[owner] if many else None
    apart = distances(reference, points, near.indices[owner, other], owner, beyond=beyond)
    order = np.lexsort((other, apart, owner))
    best = order[np.flatnonzero(np.diff(owner[order], prepend=-1))]
    who, found = owner[best], apart[best]
    nearer = (found < nearest[who]) | ((found == nearest[who]) & (other[best] < label[who]))
    nearest[who[nearer]], label[who[nearer]] = found[nearer], other[best[nearer]]
    return nearest, label + index.run[0], near.indices[at, label]


def distances(
    reference: Reference, points: Rows, members: Ints, owner: Ints | None = None, *, beyond: Floats | None = None
) -> Floats:
    """Hull distances of points to rows, (m,), or of those that `owner` (h,) names; members (h, k), -1 where absent.

    beyond (h,): hulls that are proven to lie farther away are not measured: inf.
    """
    if beyond is None:
        return _solve(reference, points, members, owner=owner, certificates=False).upper
    usable = np.where(np.isfinite(beyond), beyond, 0.0)
    decided = _solve(reference, points, members, owner=owner, certificates=False, eps=usable)
    left = np.flatnonzero(~(decided.lower > beyond))
    owner = np.arange(len(points)) if owner is None else owner
    found = np.full(len(members), np.inf)
    found[left] = distances(reference, points, members[left], owner[left])
    return found


def _distances_at_once(reference: Reference, points: Rows, hulls: list[Ints]) -> list[Floats]:
    """`distances` of the points to several hulls each; of few points in one call, which would take most of the time."""
    if len(points) >= FEW:
        return [distances(reference, points, members) for members in hulls]
    members = np.full((len(hulls), len(points), max(hull.shape[1] for hull in hulls)), -1)
    for i, hull in enumerate(hulls):
        members[i, :, : hull.shape[1]] = hull
    owner = np.tile(np.arange(len(points)), len(hulls))
    apart = distances(reference, points, members.reshape(len(owner), -1), owner)
    return list(apart.reshape(len(hulls), -1))


def _solve(
    reference: Reference,
    points: Rows,
    members: Ints,
    *,
    owner: Ints | None = None,
    certificates: bool,
    eps: Floats | None = None,
) -> HullResult:
    """Measure hulls, or decide whether they are nearer than eps (h,)."""
    return solve_hulls(
        points,
        reference.rows,
        members,
        owner=owner,
        mode="distance" if eps is None else "decide",
        eps=eps,
        relative_tolerance=reference.config.hull_tolerance,
        certificates=certificates,
        threads=reference.threads,
    )


def evidence(
    reference: Reference, points: Rows, labels: Ints, exclude: Ints, scale: Scale, progress: Progress = False
) -> list[tuple[HullEvidence, ...]]:
    """Solve the three hulls of each point again, with weights: what a report shows and a checker verifies."""
    if len(points) == 0:
        return []
    m, size, groups = len(points), reference.config.hull_size, reference.groups(points)
    pocket, own = np.full((m, scale.tight), -1), np.full((m, size), -1)
    best: Nearest | None = None
    with track(progress, "certificates", reference.n_classes, "classes") as advance:
        for run in reference.runs:  # an index is made once for all that it is asked
            index = reference.index(run)
            mine = np.flatnonzero((labels >= run[0]) & (labels < run[1]))
            if len(mine):
                _, ((pocket[mine], own[mine]),) = _own_vertices(
                    reference, index, points[mine], labels[mine], exclude[mine], (scale,)
                )
            best = _nearer(best, nearest_of_run(reference, index, points, labels, groups))
            del index  # before the next one is packed
            advance(run[1] - run[0])
    assert best is not None  # noqa: S101 - there is a run at least
    return prove(reference, points, (("pocket", pocket, labels), ("own", own, labels), ("other", best[2], best[1])))


def prove(
    reference: Reference, points: Rows, hulls: tuple[tuple[Role, Ints, Ints], ...]
) -> list[tuple[HullEvidence, ...]]:
    """Solve hulls of each point with weights: their role, vertices (m, k) and labels (m,)."""
    found: list[list[HullEvidence]] = [[] for _ in range(len(points))]
    for role, rows, label in hulls:
        solved = _solve(reference, points, rows, certificates=True)
        assert solved.weights is not None  # noqa: S101 - asked for above
        for i in range(len(points)):
            present = rows[i] >= 0
            found[i].append(
                HullEvidence(
                    role=role,
                    label=int(label[i]),
                    rows=tuple(rows[i, present].tolist()),
                    weights=tuple(solved.weights[i, present].tolist()),
                    lower=float(solved.lower[i]),
                    upper=float(solved.upper[i]),
                )
            )
    return [tuple(items) for items in found]
