"""One suspicion for every training sample: collapse and reassignment, place in its class, a classifier's doubt, mates.

For sample i (docs/how-it-works.md has the reasons and the measurements; z is the robust standard score):

    S          R + K
    distance   to the mean of the core of its class, in the features as they are
    margin     log probability of the likeliest other label - that of its own, cross-validated
    outlying   z(S) + z(distance)
    support    mean of the four most outlying among its ten nearest mates
    views      z(margin of an earlier layer) + z(drop of the network's belief in the label when the image is changed)
    suspicion  the largest of z(outlying + z(margin)), z(outlying + support) and z(views): wrong alone, in company, or
               memorised
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, blocks, forget
from clear.collapse import Wrap, collapse, reassignment
from clear.cross_validation import cross_validate
from clear.pockets import group_scores, mean_of_best, robust_center, sample_levels
from clear.prepare import Ints, Reference, apply_preparation, fit_preparation, for_copies
from clear.results import Scores, Views

__all__ = ["HullScores", "score_hulls", "score_samples"]

Floats = npt.NDArray[np.float64]

BEST_MATES = 4
TAIL_QUANTILE, TAIL_NORMAL = 0.975, 1.96
LARGEST_TAIL = 1.5
"""The tail may raise the threshold by this factor at most: many poisons must not hide themselves."""


class HullScores(NamedTuple):
    """What hulls and mates say of every sample; fields as in `Scores`, (n,)."""

    collapse: Floats
    reassignment: Floats
    score: Floats
    group: Floats
    distance: Floats
    outlying: Floats
    """z(S) + z(distance); nan where S is."""
    support: Floats
    suggested_label: Ints
    nearer: npt.NDArray[np.bool_]
    """Another label is really nearer."""
    judged: npt.NDArray[np.bool_]
    """And its hulls say enough to be certain."""


def score_hulls(reference: Reference, wrap: Wrap) -> HullScores:
    """Everything that scores want of the hull distances of the distinct samples, whose memory is then free."""
    config = reference.config
    k, r = for_copies(reference, collapse(wrap, 0)), for_copies(reference, reassignment(wrap, 0))
    weak = reference.core_accuracy < config.weak_accuracy
    score = k if weak else r + k
    group = group_scores(reference, k if weak else r + k / 2, wrap.mates)
    nearer = (r > 0) | weak  # nan is not
    distance = class_distances(reference)
    outlying = _z(score)
    outlying += _z(distance)
    return HullScores(
        collapse=k,
        reassignment=r,
        score=score,
        group=group,
        distance=distance,
        outlying=outlying,
        support=for_copies(reference, mean_of_best(outlying, wrap.mates, BEST_MATES)),
        suggested_label=for_copies(reference, wrap.other_label).astype(np.int64),
        nearer=nearer,
        judged=nearer & for_copies(reference, wrap.own_size[0] >= config.hull_size // 2),
    )


def score_samples(reference: Reference, hulls: HullScores, views: Views | None) -> tuple[Scores, float]:
    """Suspicion and level of every sample, with all that led there, and the threshold of the certain ones."""
    config = reference.config
    second = None if views is None else view_scores(reference, views)
    doubt = suspicion(hulls.outlying, reference.margin, hulls.support, second)
    threshold = suspicion_threshold(doubt, config.certain_spreads)
    return Scores(
        collapse=hulls.collapse,
        reassignment=hulls.reassignment,
        score=hulls.score,
        group=hulls.group,
        suspicion=doubt,
        distance=hulls.distance,
        margin=reference.margin,
        support=hulls.support,
        views=np.full(len(doubt), np.nan) if second is None else second,
        suggested_label=hulls.suggested_label,
        level=sample_levels(doubt, threshold, hulls.judged, hulls.nearer | (views is not None), config),
        in_core=reference.in_core,
        representative=reference.representative,
    ), threshold


def class_distances(reference: Reference) -> Floats:
    """Distance of every sample to the mean of its class's core, float64 (n,). Reads the features twice, in blocks."""
    values, labels = as_features(reference.features.values, finite=False), reference.labels  # read once: are finite
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
        forget(values)
    means /= np.maximum(counts, 1)[:, None]
    found = np.empty(n)
    for block in blocks(n, d * 16):
        apart = values[block].astype(np.float64)
        apart -= means[labels[block]]
        largest = np.maximum(np.abs(apart).max(axis=1), 1e-300)  # squares of large numbers stay finite
        apart /= largest[:, None]
        found[block] = largest * np.linalg.norm(apart, axis=1)
        forget(values)
    return found[reference.representative]


def view_scores(reference: Reference, views: Views) -> Floats:
    """What a second look says of every sample, float64 (n,)."""
    n = len(reference.labels)
    if len(views) != n:
        raise ValueError(f"views has {len(views)} samples: want the {n} of the features, in the same order")
    early = as_features(views.early, "views.early")
    rows = apply_preparation(early, fit_preparation(early, reference.config))
    units, margin = reference.units, np.full(n, np.nan)
    _, margin[units] = cross_validate(rows[units], reference.labels[units], reference.config, threads=reference.threads)
    found = _z(margin) + _z(views.label_drop)
    return found[reference.representative]


def suspicion(outlying: Floats, margin: Floats, support: Floats, views: Floats | None) -> Floats:
    """The largest of the standard scores, float64 (n,)."""
    largest = _z(margin)
    largest = _z(np.add(outlying, largest, out=largest), out=largest)
    company = outlying + support
    np.fmax(largest, _z(company, out=company), out=largest)
    return largest if views is None else np.fmax(largest, _z(views), out=largest)


def suspicion_threshold(values: Floats, spreads: float) -> float:
    """Median + spreads * spread, where a heavy tail makes the spread larger; inf when the values do not vary."""
    middle, spread = robust_center(values)
    if not spread > 0:
        return float("inf")
    high = np.quantile(values[~np.isnan(values)], TAIL_QUANTILE, overwrite_input=True)
    tail = (high - middle) / TAIL_NORMAL / spread
    return float(middle + spreads * spread * min(max(tail, 1.0), LARGEST_TAIL))


def _z(values: Floats, out: Floats | None = None) -> Floats:
    """Robust standard scores; nan stays nan, and values that do not vary are 0. `out`: where they go, `values` too."""
    middle, spread = robust_center(values)
    if not spread > 0:
        return np.multiply(values, 0.0, out=out)
    scores = np.subtract(values, middle, out=out)
    scores /= spread
    return scores
