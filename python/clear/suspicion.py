"""One suspicion for every training sample: collapse and reassignment, place in its class, a classifier's doubt, mates.

For sample i (docs/how-it-works.md has the reasons and the measurements; z is the robust standard score):

    S          R + K
    distance   to the mean of the core of its class, in the features as they are
    margin     log probability of the likeliest other label - that of its own, cross-validated
    outlying   z(S) + z(distance)
    support    mean of the four most outlying among its ten nearest mates
    views      z(margin of an earlier layer) + z(drop of the network's belief in the label when the image is changed)
               + z(margin of the mirror image)
    suspicion  the largest of z(outlying + z(margin)), z(outlying + support) and z(views): wrong alone, in company, or
               memorised. Where the network fits 99 % of the labels, the first two less 1
    company    mean of the five largest z(K) + z(distance) among the sample and its ten nearest mates: a pocket, whole.
               The verdict asks how far the largest stands above the samples of all other labels
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import FloatArray, as_features, blocks
from clear.cross_validation import fit_predict, split_folds
from clear.pockets import robust_center
from clear.prepare import Reference, apply_preparation, fit_preparation
from clear.results import Views

__all__ = [
    "class_distances",
    "company",
    "company_excess",
    "mate_support",
    "outlyingness",
    "suspicion",
    "suspicion_threshold",
    "view_scores",
]

Floats = npt.NDArray[np.float64]

BEST_MATES, BEST_COMPANY = 4, 5
TAIL_QUANTILE, TAIL_NORMAL = 0.975, 1.96
LARGEST_TAIL = 1.5
"""The tail may raise the threshold by this factor at most: many poisons must not hide themselves."""
MEMORISED = 0.99
"""Share of the labels that a network fits whose features fit the wrong ones among them, too."""
BENT = 1.0
"""By so many spreads more the features of such a network have to speak."""
COMPANY_QUANTILE, COMPANY_NORMAL = 0.99, 2.3263
"""Of the other labels: theirs is a tail that the poisons of one label are no part of."""
LARGEST_COMPANY_TAIL = 3.0
LEAST_OTHERS = 50
"""Samples of other labels that tell a tail."""


def class_distances(reference: Reference) -> Floats:
    """Distance of every sample to the mean of its class's core, float64 (n,). Reads the features twice, in blocks."""
    values, labels = as_features(reference.features.values), reference.labels
    n, d = values.shape
    in_mean = reference.in_core & (reference.representative == np.arange(n))
    means, counts = np.zeros((reference.n_classes, d)), np.zeros(reference.n_classes)
    for block in blocks(n, d * 16):
        rows = np.flatnonzero(in_mean[block]) + block.start
        if len(rows):
            rows = rows[np.argsort(labels[rows], kind="stable")]
            present, first = np.unique(labels[rows], return_index=True)
            means[present] += np.add.reduceat(values[rows].astype(np.float64), first, axis=0)
            counts += np.bincount(labels[rows], minlength=len(counts))
    means /= np.maximum(counts, 1)[:, None]
    found = np.empty(n)
    for block in blocks(n, d * 16):
        apart = values[block].astype(np.float64) - means[labels[block]]
        largest = np.maximum(np.abs(apart).max(axis=1), 1e-300)  # squares of large numbers stay finite
        found[block] = largest * np.linalg.norm(apart / largest[:, None], axis=1)
    return found[reference.representative]


def outlyingness(score: Floats, distance: Floats) -> Floats:
    """z(S) + z(distance), float64 (n,); nan where S is."""
    return _z(score) + _z(distance)


def mate_support(reference: Reference, outlying: Floats, mates: npt.NDArray[np.integer[Any]]) -> Floats:
    """Mean of the four largest values among each sample's nearest mates, float64 (n,); nan with less than four mates.

    mates integers (units, 10): those of every distinct sample, -1 where absent.
    """
    return _mean_of_largest(reference, outlying, mates, BEST_MATES)


def company(reference: Reference, collapse: Floats, distance: Floats, mates: npt.NDArray[np.integer[Any]]) -> Floats:
    """Mean of the five largest z(K) + z(distance) among each sample and its mates, float64 (n,); nan with fewer.

    R has no part in it: samples of a class that look like another, mislabelled or odd, have company, too, but it does
    not collapse as poisons around one target do.
    """
    among = np.column_stack([reference.units.astype(mates.dtype), mates])
    return _mean_of_largest(reference, _z(collapse) + _z(distance), among, BEST_COMPANY)


def _mean_of_largest(reference: Reference, values: Floats, among: npt.NDArray[np.integer[Any]], count: int) -> Floats:
    low = np.nan_to_num(values, nan=-np.inf)
    best = np.sort(np.where(among >= 0, low[among], -np.inf), axis=1)[:, -count:]
    enough = np.isfinite(best).all(axis=1)
    found = np.full(len(values), np.nan)
    found[reference.units[enough]] = best[enough].mean(axis=1)
    return found[reference.representative]


def company_excess(values: Floats, labels: npt.NDArray[np.int64]) -> float:
    """How far the largest company stands above that of all samples with other labels, in their spreads.

    A spread is made larger where their tail is heavy. Poisons of one label do not raise the bar for themselves, as they
    would in a quantile of all samples; a data set whose every label has odd groups raises it. nan if too few others.
    """
    if np.isnan(values).all():
        return float("nan")
    top = int(np.nanargmax(values))
    others = values[(labels != labels[top]) & ~np.isnan(values)]
    if len(others) < LEAST_OTHERS:
        return float("nan")
    middle, spread = robust_center(others)
    if not spread > 0:
        return float("nan")
    tail = float(np.quantile(others, COMPANY_QUANTILE) - middle) / COMPANY_NORMAL / spread
    return float((values[top] - middle) / spread / min(max(tail, 1.0), LARGEST_COMPANY_TAIL))


def view_scores(reference: Reference, views: Views | None) -> Floats:
    """What a second look says of every sample, float64 (n,); nan without one."""
    n = len(reference.labels)
    if views is None:
        return np.full(n, np.nan)
    if len(views) != n:
        raise ValueError(f"views has {len(views)} samples: want the {n} of the features, in the same order")
    early = as_features(views.early, "views.early")
    found = _z(_held_out_margin(reference, early, early)) + _z(views.label_drop)
    if views.late is not None and views.late_mirrored is not None:
        late, mirrored = as_features(views.late, "views.late"), as_features(views.late_mirrored, "views.late_mirrored")
        found = found + _z(_held_out_margin(reference, late, mirrored))
    return found[reference.representative]


def _held_out_margin(reference: Reference, values: FloatArray, asked: FloatArray) -> Floats:
    """Margin of every distinct sample in other features of it, by the samples of the other folds, float64 (n,)."""
    preparation = fit_preparation(values, reference.config)
    rows = apply_preparation(values, preparation)
    others = rows if asked is values else apply_preparation(asked, preparation)
    units, margin = reference.units, np.full(len(values), np.nan)
    labels = reference.labels[units]
    for fitted, held_out in split_folds(len(units), reference.config):
        here, there = units[fitted], units[held_out]
        margin[there] = fit_predict(rows[here], labels[fitted], others[there], labels[held_out])["margin"]
    return margin


def suspicion(outlying: Floats, margin: Floats, support: Floats, views: Floats, bent: bool = False) -> Floats:
    """The largest of the standard scores, float64 (n,).

    bent: the first two come from features that fit the labels, right or wrong, and have to say more.
    """
    found = np.fmax(_z(outlying + _z(margin)), _z(outlying + support))
    return np.fmax(found - BENT if bent else found, _z(views))


def suspicion_threshold(values: Floats, spreads: float) -> float:
    """Median + spreads * spread, where a heavy tail makes the spread larger; inf when the values do not vary."""
    middle, spread = robust_center(values)
    if not spread > 0:
        return float("inf")
    tail = (np.nanquantile(values, TAIL_QUANTILE) - middle) / TAIL_NORMAL / spread
    return float(middle + spreads * spread * min(max(tail, 1.0), LARGEST_TAIL))


def _z(values: Floats) -> Floats:
    """Robust standard scores; nan stays nan, and values that do not vary are 0."""
    middle, spread = robust_center(values)
    return (values - middle) / spread if spread > 0 else values * 0.0
