"""What approximate candidates miss: recall, and agreement with exact neighbours, measured on a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear.approximate import describe
from clear.collapse import Wrap, measure
from clear.config import SCAN_SCALE, Scale
from clear.prepare import Ints, Reference, Rows
from clear.results import Approximation, Level, Scores

__all__ = ["compare", "compare_scan", "recall_of"]

SAMPLE = 1000
"""Rows drawn at random, and at most as many flagged ones."""

Score = Callable[[Reference, Wrap], tuple[Scores, float]]
Again = Callable[[Ints], tuple[npt.NDArray[np.int8], Ints]]
"""Levels and suggested labels of some rows, from exact neighbours."""


def compare(
    reference: Reference, scores: Scores, points: Rows, labels: Ints, exclude: Ints, scale: Scale, again: Again
) -> Approximation:
    """Compare a sample of rows, and flagged ones, with what exact neighbours give; arguments are those of all rows."""
    assert reference.approximate is not None  # noqa: S101 - asked for by the caller
    distinct = np.flatnonzero(scores.representative == np.arange(len(points)))
    drawn = np.sort(np.random.default_rng(0).choice(distinct, min(SAMPLE, len(distinct)), replace=False))
    level = scores.level[distinct]
    order = np.lexsort((distinct, -np.nan_to_num(scores.suspicion[distinct], nan=-np.inf), -level))
    flagged = np.sort(distinct[order[: min(SAMPLE, int((level > Level.NONE).sum()))]])
    asked = np.union1d(drawn, flagged)
    levels, suggested = again(asked)
    same_level = levels == scores.level[asked]
    same_label = suggested == scores.suggested_label[asked]
    of_flagged = np.isin(asked, flagged)
    return Approximation(
        **describe(reference.approximate),
        sampled=len(drawn),
        recall=recall_of(reference, points[drawn], labels[drawn], exclude[drawn], scale),
        same_level=float(same_level[np.isin(asked, drawn)].mean()),
        flagged=len(flagged),
        flagged_same_level=float(same_level[of_flagged].mean()) if len(flagged) else float("nan"),
        same_suggestion=float(same_label[of_flagged].mean()) if len(flagged) else float("nan"),
    )


def compare_scan(reference: Reference, wrap: Wrap, scores: Scores, score: Score) -> Approximation:
    """Measure a sample of a scan again with exact neighbours.

    Levels follow from all scores: those of the rows sampled are replaced by exact ones, the others stay, and levels are
    drawn again by `score`.
    """

    def again(rows: Ints) -> tuple[npt.NDArray[np.int8], Ints]:
        points, labels = reference.rows[rows], reference.labels[rows]
        true = measure(reference.exact(), points, labels, (SCAN_SCALE,), exclude=rows)
        replaced, _ = score(reference, _replaced(wrap, np.searchsorted(reference.units, rows), true))
        return replaced.level[rows], replaced.suggested_label[rows]

    every = np.arange(len(reference.rows))
    return compare(reference, scores, reference.rows, reference.labels, every, SCAN_SCALE, again)


def recall_of(reference: Reference, points: Rows, labels: Ints, exclude: Ints, scale: Scale) -> float:
    """Share of the exact candidates of some points, mates and core rows of every label, that are found."""
    exact, size = reference.exact(), reference.config.hull_size
    found = wanted = 0
    groups = reference.groups(points)
    for run in reference.runs:
        here, there = reference.index(run), exact.index(run)
        mine = np.flatnonzero((labels >= run[0]) & (labels < run[1]))
        pairs = [(here.others(points, labels, size, groups), there.others(points, labels, size, None))]
        for core, k in ((False, scale.mates), (True, scale.mates + size)):
            asked = points[mine], labels[mine], k, exclude[mine]
            pairs.append((here.own(*asked, core=core), there.own(*asked, core=core)))
        for got, want in pairs:
            have, true = (near.indices.reshape(-1, near.indices.shape[-1]) for near in (got, want))
            for block in blocks(len(true), true.shape[1] ** 2):
                hit = (true[block, :, None] == have[block, None, :]).any(axis=2) & (true[block] >= 0)
                found, wanted = found + int(hit.sum()), wanted + int((true[block] >= 0).sum())
        del here, there  # before the next ones are packed
    return found / max(wanted, 1)


def _replaced(wrap: Wrap, at: Ints, true: Wrap) -> Wrap:
    """A copy of a wrap with other measurements of some samples."""

    def put(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
        whole = old.copy()
        whole[at] = new
        return whole

    return Wrap(
        [put(old, new) for old, new in zip(wrap.pocket, true.pocket, strict=True)],
        [put(old, new) for old, new in zip(wrap.own, true.own, strict=True)],
        [put(old, new) for old, new in zip(wrap.own_size, true.own_size, strict=True)],
        put(wrap.other, true.other),
        put(wrap.other_label, true.other_label),
        put(wrap.mates, true.mates),
    )
