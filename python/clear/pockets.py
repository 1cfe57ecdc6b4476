"""From scores to flags and pockets: which samples are suspected, how strongly, and which of them hang together."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks, forget
from clear._progress import Progress
from clear.config import ScanConfig
from clear.reference import Reference, for_copies
from clear.results import Flag, Level, Pocket

__all__ = [
    "find_pockets",
    "group_scores",
    "excess_over",
    "label_excess",
    "linked",
    "mean_of_best",
    "robust_center",
    "sample_levels",
    "standard",
]

Floats = npt.NDArray[np.float64]

NEAREST_MATES, BEST_MATES = 4, 2
LINKED_MATES = 10
SMALLEST_POCKET = 3
"""Samples of a pocket without a certain one."""
REVIEW_SPREADS = 2.0
"""Suspicion of a sample that is worth a look."""
LABEL_TAIL = 0.99
"""Quantile of the other labels: theirs is a tail that the poisons of one label are no part of."""
LARGEST_TAIL = 3.0
LEAST_OTHERS = 50
"""Samples that tell a tail."""
MAD_TO_SIGMA = 1.4826
NORMAL_90 = 1.2816
"""0.9 quantile of the standard normal law."""


def robust_center(values: Floats) -> tuple[float, float]:
    """Median and spread of the values that are not nan, in standard deviations of a normal law; (nan, nan) without any.

    The spread is the larger of scaled MAD and scaled distance from median to 0.9 quantile: scores of clean data are
    skewed, and a threshold must follow their upper side.
    """
    usable = values[~np.isnan(values)]  # the one copy: all else happens in it
    if not len(usable):
        return float("nan"), float("nan")
    middle, high = np.quantile(usable, [0.5, 0.9], overwrite_input=True)
    usable -= middle
    apart = np.median(np.abs(usable, out=usable), overwrite_input=True)
    return float(middle), float(max(MAD_TO_SIGMA * apart, (high - middle) / NORMAL_90))


def standard(values: Floats, out: Floats | None = None) -> Floats:
    """Robust standard scores; nan stays nan, and values that do not vary are 0. `out`: where they go, `values` too."""
    middle, spread = robust_center(values)
    if not spread > 0:
        return np.multiply(values, 0.0, out=out)
    scores = np.subtract(values, middle, out=out)
    scores /= spread
    return scores


def label_excess(values: Floats, labels: npt.NDArray[np.int64]) -> tuple[int, Floats]:
    """The label of the largest value, and how far all values stand above those of the other labels, in their spreads.

    A spread is made larger where their tail is heavy. Samples of one label do not raise the bar for themselves, as they
    would in a quantile of all samples; a data set whose every label has odd groups raises it. nan if too few others.
    """
    nothing = np.full(len(values), np.nan)
    if np.isnan(values).all():
        return -1, nothing
    top = int(labels[np.nanargmax(values)])
    return top, excess_over(values, values[labels != top], LABEL_TAIL)


def excess_over(values: Floats, others: Floats, quantile: float) -> Floats:
    """How far values stand above others, in spreads of theirs, made larger where the tail beyond a quantile is heavy.

    nan where the others that are not nan are too few, or do not vary.
    """
    others = others[~np.isnan(others)]
    middle, spread = robust_center(others)
    if len(others) < LEAST_OTHERS or not spread > 0:
        return np.full(len(values), np.nan)
    tail = float(np.quantile(others, quantile) - middle) / NormalDist().inv_cdf(quantile) / spread
    return (values - middle) / spread / min(max(tail, 1.0), LARGEST_TAIL)


def mean_of_best(
    values: Floats, mates: npt.NDArray[np.integer[Any]], count: int, own: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Mean of the best `count` values among each distinct sample's mates, float64 (units,); nan where fewer have one.

    values float64 (n,); mates integers (units, k), -1 where absent; own (units,): a row that counts beside them.
    """
    found = np.empty(len(mates))
    for block in blocks(len(mates), 48 * mates.shape[1]):
        near = mates[block] if own is None else np.column_stack([own[block].astype(mates.dtype), mates[block]])
        of_mates = np.where(near >= 0, np.nan_to_num(values[near], nan=-np.inf), -np.inf)
        best = np.sort(of_mates, axis=1)[:, -count:]
        found[block] = np.where(np.isfinite(best).all(axis=1), best.mean(axis=1), np.nan)
        forget(mates)
    return found


def group_scores(reference: Reference, single: Floats, mates: npt.NDArray[np.integer[Any]]) -> Floats:
    """G, float64 (n,): the sample's score plus the mean of the best two among its nearest mates' scores.

    mates integers (units, 4 or more): those of every distinct sample, nearest first, -1 where absent.
    """
    support = mean_of_best(single, mates[:, :NEAREST_MATES], BEST_MATES)
    return for_copies(reference, np.add(single[reference.units], support, out=support))


def sample_levels(
    suspicion: Floats,
    threshold: float,
    judged: npt.NDArray[np.bool_],
    plausible: npt.NDArray[np.bool_],
    crowded: npt.NDArray[np.bool_],
    config: ScanConfig,
) -> npt.NDArray[np.int8]:
    """Level of every sample, int8 (n,): a judged one above the threshold is certain, and so is a crowd; plausible ones
    are offered."""
    levels = np.zeros(len(suspicion), np.int8)  # comparisons with nan are False
    above = suspicion > threshold
    levels[above] = Level.REVIEW
    levels[(above & judged) | crowded] = Level.CERTAIN
    offered = np.flatnonzero(~above & ~crowded & plausible & (suspicion > REVIEW_SPREADS))
    order = np.argsort(-suspicion[offered], kind="stable")[: round(len(suspicion) * config.review_rate)]
    levels[offered[order]] = Level.REVIEW
    return levels


def find_pockets(reference: Reference, flags: tuple[Flag, ...], progress: Progress = False) -> tuple[Pocket, ...]:
    """Connected components of flagged samples: same label, same suggested label, among ten nearest mates of each other.

    A component counts as a pocket when it has at least three distinct samples or a certain one. Highest score first.
    """
    if not flags:
        return ()
    position = np.full(len(reference.labels), -1)
    rows = np.array([flag.row for flag in flags])
    position[rows] = np.arange(len(rows))
    suggested = np.array([flag.suggested_label for flag in flags])
    unit = reference.representative[rows]
    near = reference.nearest(reference.rows[unit], reference.labels[unit], LINKED_MATES, unit, progress=progress)
    other = np.column_stack([np.where(near >= 0, position[near], -1), position[unit]])
    component = linked(np.where(suggested[other] == suggested[:, None], other, -1))
    found = []
    for c in range(component.max() + 1):
        members = [flags[i] for i in np.flatnonzero(component == c)]
        level = max(flag.level for flag in members)
        if (
            level == Level.CERTAIN
            or len({int(reference.representative[flag.row]) for flag in members}) >= SMALLEST_POCKET
        ):
            found.append(_as_pocket(members, level))
    return tuple(sorted(found, key=lambda pocket: (-pocket.score, pocket.rows)))


def linked(other: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Connected component of every sample, int32 (m,); other integers (m, k): those it hangs together with, or -1."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    there = other.ravel() >= 0
    pairs = np.repeat(np.arange(len(other)), other.shape[1])[there], other.ravel()[there]
    graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(len(other), len(other)))
    component: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return component


def _as_pocket(members: list[Flag], level: Level) -> Pocket:
    ordered = sorted(members, key=lambda flag: flag.row)
    return Pocket(
        label=ordered[0].label,
        suggested_label=ordered[0].suggested_label,
        rows=tuple(flag.row for flag in ordered),
        ids=tuple(flag.id for flag in ordered),
        score=float(sum(flag.score for flag in ordered)),
        level=level,
    )
