"""What approximate candidates miss: recall, and agreement with exact neighbours, measured on a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks, forget
from clear._progress import Progress, track
from clear.approximate import describe
from clear.class_index import ClassIndex
from clear.collapse import Wrap, measure
from clear.config import SCAN_SCALE, Scale
from clear.prepare import Ints, Rows
from clear.reference import Reference, positions
from clear.results import Approximation, Level, Scores

__all__ = ["Drawn", "compare", "compare_scan", "draw", "recall_of"]

SAMPLE = 1000
"""Rows drawn at random, and at most as many flagged ones."""

Score = Callable[[Wrap], tuple[Scores, float]]
Asked = tuple[Rows, Ints, int, Ints | None, bool]
"""Points, labels, k, rows to leave out, whether among the core alone."""
Again = Callable[[Ints], tuple[npt.NDArray[np.int8], Ints]]
"""Levels and suggested labels of some rows, from exact neighbours."""


class Drawn(NamedTuple):
    """The rows that are compared, and what approximate candidates said of them."""

    random: Ints
    flagged: Ints
    asked: Ints
    """Both, ascending."""
    levels: npt.NDArray[np.int8]
    """Of those asked about."""
    suggested: Ints


def draw(scores: Scores) -> Drawn:
    """A sample of the distinct rows, and the most suspicious of the flagged ones."""
    distinct = np.flatnonzero(scores.representative == np.arange(len(scores.level)))
    drawn = np.sort(np.random.default_rng(0).choice(distinct, min(SAMPLE, len(distinct)), replace=False))
    above = distinct[scores.level[distinct] > Level.NONE]
    order = np.lexsort((above, -np.nan_to_num(scores.suspicion[above], nan=-np.inf), -scores.level[above]))
    flagged = np.sort(above[order[:SAMPLE]])
    asked = np.union1d(drawn, flagged)
    return Drawn(drawn, flagged, asked, scores.level[asked], scores.suggested_label[asked])


def compare(
    reference: Reference,
    drawn: Drawn,
    points: Rows,
    labels: Ints,
    exclude: Ints,
    scale: Scale,
    again: Again,
    progress: Progress = False,
) -> Approximation:
    """Compare the rows drawn with what exact neighbours give; points, labels and exclude are those of all rows."""
    assert reference.approximate is not None  # noqa: S101 - asked for by the caller
    levels, suggested = again(drawn.asked)
    same_level = levels == drawn.levels
    same_label = suggested == drawn.suggested
    of_flagged = np.isin(drawn.asked, drawn.flagged)
    of_random = np.isin(drawn.asked, drawn.random)
    sampled, flagged = drawn.random, len(drawn.flagged)
    recall = recall_of(
        reference, points[sampled], labels[sampled], suggested[of_random], exclude[sampled], scale, progress
    )
    return Approximation(
        **describe(reference.approximate),
        sampled=len(sampled),
        recall=recall,
        same_level=float(same_level[of_random].mean()),
        flagged=flagged,
        flagged_same_level=float(same_level[of_flagged].mean()) if flagged else float("nan"),
        same_suggestion=float(same_label[of_flagged].mean()) if flagged else float("nan"),
    )


def compare_scan(reference: Reference, wrap: Wrap, score: Score, progress: Progress = False) -> Approximation:
    """Measure a sample of a scan again with exact neighbours.

    Levels follow from all scores: those of the rows sampled are replaced by exact ones, the others stay, and levels are
    drawn again by `score`. The wrap is as before in the end. Scores of all rows are made twice here, and not kept: they
    take more memory than anything else at that time.
    """

    def again(rows: Ints) -> tuple[npt.NDArray[np.int8], Ints]:
        points, labels = reference.rows[rows], reference.labels[rows]
        true = measure(
            reference.exact(), points, labels, (SCAN_SCALE,), exclude=rows, progress=progress, stage="exact hulls"
        )
        reference.release()
        at = positions(reference, rows)
        kept = [whole[at] for whole in _arrays(wrap)]
        _put(wrap, at, _arrays(true))
        replaced, _ = score(wrap)
        found = replaced.level[rows], replaced.suggested_label[rows]
        _put(wrap, at, kept)
        forget(wrap.mates)  # the recall comes next, and wants memory
        return found

    every = np.arange(len(reference.rows))
    drawn = draw(score(wrap)[0])
    return compare(reference, drawn, reference.rows, reference.labels, every, SCAN_SCALE, again, progress)


def recall_of(
    reference: Reference,
    points: Rows,
    labels: Ints,
    suggested: Ints,
    exclude: Ints,
    scale: Scale,
    progress: Progress = False,
) -> float:
    """Share of the exact candidates of some points that are found: mates, core rows of label and suggested label."""
    exact, size = reference.exact(), reference.config.hull_size
    found = wanted = 0
    groups = reference.groups(points)
    with track(progress, "recall", reference.n_classes, "classes") as advance:
        for run in reference.runs:
            mine, other = (np.flatnonzero((of >= run[0]) & (of < run[1])) for of in (labels, suggested))
            own: list[Asked] = [
                (points[mine], labels[mine], k, exclude[mine], core) for core, k in _own_searches(reference, scale)
            ]
            here = reference.index(run)
            near = here.others(points[other], labels[other], size, None if groups is None else groups[other]).indices
            have = [near[np.arange(len(other)), suggested[other] - run[0]], *_search_own(here, own)]
            del here, near
            reference.release()  # one index at a time
            there = exact.index(run)
            true = _search_own(there, [(points[other], suggested[other], size, None, True), *own])
            del there
            exact.release()
            for got, want in zip(have, true, strict=True):
                for block in blocks(len(want), want.shape[1] ** 2):
                    hit = (want[block, :, None] == got[block, None, :]).any(axis=2) & (want[block] >= 0)
                    found, wanted = found + int(hit.sum()), wanted + int((want[block] >= 0).sum())
            advance(run[1] - run[0])
    return found / max(wanted, 1)


def _own_searches(reference: Reference, scale: Scale) -> list[tuple[bool, int]]:
    """Whether among core rows alone, and for how many, a sample's own label is searched."""
    return [(False, scale.mates), (True, scale.mates + reference.config.hull_size)]


def _search_own(index: ClassIndex, asked: list[Asked]) -> list[Ints]:
    return [index.own(points, labels, k, skip, core=core).indices for points, labels, k, skip, core in asked]


def _arrays(wrap: Wrap) -> list[npt.NDArray[Any]]:
    return [*wrap.pocket, *wrap.own, *wrap.own_size, wrap.other, wrap.other_label, wrap.mates]


def _put(wrap: Wrap, at: Ints, values: list[npt.NDArray[Any]]) -> None:
    for whole, new in zip(_arrays(wrap), values, strict=True):
        whole[at] = new
