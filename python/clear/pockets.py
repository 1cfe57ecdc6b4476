"""From scores to flags and pockets: which samples are suspected, how strongly, and which of them hang together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clear.config import ScanConfig
from clear.prepare import Ints, Reference
from clear.results import Flag, Level, Pocket

__all__ = ["find_pockets", "group_scores", "robust_threshold", "sample_levels"]

Floats = npt.NDArray[np.float64]

MATES_IN_GROUP = 4
BEST_MATES = 2
LINKED_MATES = 10
MAD_TO_SIGMA = 1.4826


def robust_center(values: Floats) -> tuple[float, float]:
    """Median and scaled median absolute deviation of the values that are not nan; (nan, nan) without any."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return float("nan"), float("nan")
    middle = float(np.median(usable))
    return middle, float(MAD_TO_SIGMA * np.median(np.abs(usable - middle)))


def robust_threshold(values: Floats, mads: float) -> float:
    """Median + mads * scaled MAD; inf when the values do not vary."""
    middle, spread = robust_center(values)
    return middle + mads * spread if spread > 0 else float("inf")


def own_mates(reference: Reference, count: int) -> Ints:
    """The nearest `count` samples of the same label of every unit, (units, count), -1 where absent."""
    units = reference.units
    return reference.all_index.search(
        reference.rows[units], k=count, within=reference.labels[units], exclude=units, threads=reference.threads
    ).indices


def group_scores(reference: Reference, single: Floats) -> Floats:
    """G, float64 (n,): the sample's score plus the mean of the best two among its four nearest mates' scores."""
    mates = own_mates(reference, MATES_IN_GROUP)
    low = np.nan_to_num(single, nan=-np.inf)
    of_mates = np.where(mates >= 0, low[mates], -np.inf)
    best = np.sort(of_mates, axis=1)[:, -BEST_MATES:]
    support = np.where(np.isfinite(best).all(axis=1), best.mean(axis=1), np.nan)
    grouped = np.full(len(single), np.nan)
    grouped[reference.units] = single[reference.units] + support
    return grouped[reference.representative]


def sample_levels(
    score: Floats, reassignment: Floats, group: Floats, judged: npt.NDArray[np.bool_], config: ScanConfig
) -> tuple[npt.NDArray[np.int8], float]:
    """Level of every sample, int8 (n,), and the threshold above which a judged sample is certain."""
    threshold = robust_threshold(score, config.certain_mads)
    levels = np.zeros(len(score), dtype=np.int8)
    count = round(len(score) * config.review_rate / 2)
    for values in (reassignment, group):
        order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:count]
        levels[order[~np.isnan(values[order])]] = Level.REVIEW
    above = np.nan_to_num(score, nan=-np.inf) > threshold
    levels[above] = Level.REVIEW
    levels[above & judged] = Level.CERTAIN
    return levels, threshold


def find_pockets(reference: Reference, flags: tuple[Flag, ...]) -> tuple[Pocket, ...]:
    """Connected components of flagged samples: same label, same suggested label, among ten nearest mates of each other.

    A component counts as a pocket when it has at least two distinct samples or a certain one. Highest score first.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not flags:
        return ()
    position = np.full(len(reference.labels), -1)
    rows = np.array([flag.row for flag in flags])
    position[rows] = np.arange(len(rows))
    suggested = np.array([flag.suggested_label for flag in flags])
    unit = reference.representative[rows]
    near = reference.all_index.search(
        reference.rows[unit], k=LINKED_MATES, within=reference.labels[unit], exclude=unit, threads=reference.threads
    ).indices
    other = np.where(near >= 0, position[near], -1)
    here = np.repeat(np.arange(len(rows)), near.shape[1])[other.ravel() >= 0]
    there = other.ravel()[other.ravel() >= 0]
    to_unit = np.flatnonzero(position[unit] >= 0)
    here, there = np.concatenate([here, to_unit]), np.concatenate([there, position[unit[to_unit]]])
    alike = suggested[here] == suggested[there]
    graph = coo_array((np.ones(alike.sum()), (here[alike], there[alike])), shape=(len(rows), len(rows)))
    count, component = connected_components(graph, directed=False)
    found = []
    for c in range(count):
        members = [flags[i] for i in np.flatnonzero(component == c)]
        level = max(flag.level for flag in members)
        if level == Level.CERTAIN or len({int(reference.representative[flag.row]) for flag in members}) > 1:
            found.append(_as_pocket(members, level))
    return tuple(sorted(found, key=lambda pocket: (-pocket.score, pocket.rows)))


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
