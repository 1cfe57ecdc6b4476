"""One suspicion for every training sample: collapse and reassignment, place in its class, a classifier's doubt, mates.

For sample i (docs/how-it-works.md has the reasons and the measurements; z is the robust standard score):

    S          R + K
    distance   to the mean of the core of its class, in the features as they are
    margin     log probability of the likeliest other label - that of its own, cross-validated
    doubted    z(R) + the smaller of z(margin) and 6
    pocketed   the smaller of z(K) and 6, + z(distance): R has no part in it. A class next to another has company that
               looks like the other, too, but does not collapse as poisons around one target do; two near-copies
               collapse more, hence 6
    support    mean of the four most pocketed among its ten nearest mates
    views      z(margin of an earlier layer) + z(drop of the network's belief in the label when the image is changed)
               + z(margin of the mirror image)
    suspicion  the largest of z(doubted), z(doubted + z(distance)), z(pocketed + 2 support) where R > 0 (anywhere, if
               features are weak), z(views) and, in a crowd, how far that stands out: wrong, wrong and odd, in
               company, memorised, or crowding. Where the network fits 99 % of the labels, the first three less 1.
               Weak features: K in place of R
    K, R, S    of a crowd's samples: see `clear.crowd`
    company    mean of the five largest z(K) + z(distance) among the sample and its ten nearest mates: a pocket, whole.
               The verdict asks how far the largest stands above all samples outside its group; of a flagged group
               also above those of other labels, by a higher bar (`clear.verdict`)
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import FloatArray, as_features, blocks, forget
from clear._progress import Progress, track, tracked
from clear.budgets import stands_out
from clear.collapse import Wrap, collapse, reassignment
from clear.cross_validation import fit_predict, split_folds
from clear.crowd import find_crowds
from clear.pockets import group_scores, mean_of_best, robust_center, sample_levels, standard
from clear.prepare import Ints, apply_preparation, fit_preparation, put_away
from clear.reference import Reference, for_copies
from clear.results import Scores, Views

__all__ = ["HullScores", "MEMORISED", "score_hulls", "score_samples", "suspicion_threshold"]

Floats = npt.NDArray[np.float64]

BEST_MATES, BEST_COMPANY = 4, 5
MOST = 6.0
"""Spreads of K or margin that one sample may bring to suspicion: more is a near-copy or a loud mistake, no surer."""
COMPANY = 2.0
"""What mates say counts so many times what a sample itself says: a clean one may collapse, seldom four of its mates."""
TAIL_QUANTILE, TAIL_NORMAL = 0.975, 1.96
LARGEST_TAIL = 1.5
"""The tail may raise the threshold by this factor at most: many poisons must not hide themselves."""
MEMORISED = 0.99
"""Share of the labels that a network fits whose features fit the wrong ones among them, too."""
BENT = 1.0
"""By so many spreads more the features of such a network have to speak."""


class HullScores(NamedTuple):
    """What hulls and mates say of every sample; fields as in `Scores`, (n,)."""

    collapse: Floats
    reassignment: Floats
    score: Floats
    leaning: Floats
    """R; K where features are weak. The same array."""
    group: Floats
    distance: Floats
    support: Floats
    company: Floats
    suggested_label: Ints
    crowd: Floats
    nearer: npt.NDArray[np.bool_]
    """Another label is really nearer."""
    judged: npt.NDArray[np.bool_]
    """And its hulls say enough to be certain."""


def score_hulls(reference: Reference, wrap: Wrap, progress: Progress = False) -> HullScores:
    """Everything that scores want of the hull distances of the distinct samples, whose memory is then free."""
    config = reference.config
    k, r, crowded = collapse(wrap, 0), reassignment(wrap, 0), np.full(len(wrap.other), np.nan)
    full = wrap.own_size[0] >= config.hull_size // 2
    crowds = find_crowds(reference, wrap)
    suggested = wrap.other_label.copy()
    at = crowds.at
    k[at], r[at], suggested[at], crowded[at] = (
        crowds.collapse,
        crowds.reassignment,
        crowds.suggested_label,
        crowds.excess,
    )
    full[at] = True
    k, r = for_copies(reference, k), for_copies(reference, r)
    weak = reference.core_accuracy < config.weak_accuracy
    score = k if weak else r + k
    group = group_scores(reference, k if weak else r + k / 2, wrap.mates)
    nearer = (r > 0) | weak  # nan is not
    distance = class_distances(reference, progress)
    around = partial(mean_of_best, mates=wrap.mates)
    # One array of all samples at a time.
    company = around(_with_distance(k, distance), count=BEST_COMPANY, own=reference.units)
    support = around(_with_distance(k, distance, MOST), count=BEST_MATES)
    return HullScores(
        collapse=k,
        reassignment=r,
        score=score,
        leaning=k if weak else r,
        group=group,
        distance=distance,
        support=for_copies(reference, support),
        company=for_copies(reference, company),
        suggested_label=for_copies(reference, suggested).astype(np.int64),
        crowd=for_copies(reference, crowded),
        nearer=nearer,
        judged=nearer & for_copies(reference, full),
    )


def score_samples(
    reference: Reference, hulls: HullScores, views: Views | None, progress: Progress = False
) -> tuple[Scores, float]:
    """Suspicion and level of every sample, with all that led there, and the threshold of the certain ones."""
    config = reference.config
    second = None if views is None else view_scores(reference, views, progress)
    bent = views is not None and views.fitted >= MEMORISED
    in_company = _with_distance(hulls.collapse, hulls.distance, MOST)
    in_company += COMPANY * hulls.support
    doubt = suspicion(hulls.leaning, reference.margin, hulls.distance, in_company, hulls.nearer, second, bent)
    np.fmax(doubt, hulls.crowd, out=doubt)
    threshold = suspicion_threshold(doubt, config.certain_spreads)
    plausible = hulls.nearer if second is None else hulls.nearer | np.isfinite(second).any()
    keep = partial(put_away, place=reference.place)
    return Scores(
        collapse=keep(hulls.collapse),
        reassignment=keep(hulls.reassignment),
        score=keep(hulls.score),
        group=keep(hulls.group),
        suspicion=keep(doubt),
        distance=keep(hulls.distance),
        margin=keep(reference.margin),
        support=keep(hulls.support),
        company=keep(hulls.company),
        views=keep(np.full(len(doubt), np.nan) if second is None else second),
        suggested_label=keep(hulls.suggested_label),
        level=sample_levels(doubt, threshold, hulls.judged, plausible, np.isfinite(hulls.crowd), config),
        in_core=reference.in_core,
        crowd=keep(hulls.crowd),
        representative=reference.representative,
    ), threshold


def class_distances(reference: Reference, progress: Progress = False) -> Floats:
    """Distance of every sample to the mean of its class's core, float64 (n,). Reads the features twice, in blocks."""
    values, labels = as_features(reference.features.values, finite=False), reference.labels  # read once: are finite
    n, d = values.shape
    in_mean = reference.in_core & (reference.representative == np.arange(n))
    means, counts = np.zeros((reference.n_classes, d)), np.zeros(reference.n_classes)
    for block in tracked(blocks(n, d * 16), progress, "class means"):
        rows = np.flatnonzero(in_mean[block]) + block.start
        if len(rows):
            rows = rows[np.argsort(labels[rows], kind="stable")]
            present, first = np.unique(labels[rows], return_index=True)
            means[present] += np.add.reduceat(values[rows].astype(np.float64), first, axis=0)
            counts += np.bincount(labels[rows], minlength=len(counts))
        forget(values)
    means /= np.maximum(counts, 1)[:, None]
    found = np.empty(n)
    for block in tracked(blocks(n, d * 16), progress, "distances to class means"):
        apart = values[block].astype(np.float64)
        apart -= means[labels[block]]
        largest = np.maximum(np.abs(apart).max(axis=1), 1e-300)  # squares of large numbers stay finite
        apart /= largest[:, None]
        found[block] = largest * np.linalg.norm(apart, axis=1)
        forget(values)
    return found[reference.representative]


def _with_distance(values: Floats, distance: Floats, most: float = np.inf) -> Floats:
    """z(values), at most so much, + z(distance)."""
    found = standard(values)
    np.minimum(found, most, out=found)  # nan stays
    found += standard(distance)
    return found


def view_scores(reference: Reference, views: Views, progress: Progress = False) -> Floats:
    """What a second look says of every sample, float64 (n,)."""
    n = len(reference.labels)
    if len(views) != n:
        raise ValueError(f"views has {len(views)} samples: want the {n} of the features, in the same order")
    early = as_features(views.early, "views.early", progress=progress)
    found = standard(_held_out_margin(reference, early, early, progress)) + standard(views.label_drop)
    if views.late is not None and views.late_mirrored is not None:
        late = as_features(views.late, "views.late", progress=progress)
        mirrored = as_features(views.late_mirrored, "views.late_mirrored", progress=progress)
        found = found + standard(_held_out_margin(reference, late, mirrored, progress))
    return found[reference.representative]


def _held_out_margin(reference: Reference, values: FloatArray, asked: FloatArray, progress: Progress) -> Floats:
    """Margin of every distinct sample in other features of it, by the samples of the other folds, float64 (n,)."""
    preparation = fit_preparation(values, reference.config, progress=progress)
    rows = apply_preparation(values, preparation, progress=progress)
    others = rows if asked is values else apply_preparation(asked, preparation, progress=progress)
    units, margin = reference.units, np.full(len(values), np.nan)
    labels = reference.labels[units]
    folds = split_folds(len(units), reference.config)
    with track(progress, "margins of views", len(folds), "folds") as advance:
        for fitted, held_out in folds:
            here, there = units[fitted], units[held_out]
            margin[there] = fit_predict(rows[here], labels[fitted], others[there], labels[held_out])["margin"]
            advance(1)
    return margin


def suspicion(
    leaning: Floats,
    margin: Floats,
    distance: Floats,
    in_company: Floats,
    nearer: npt.NDArray[np.bool_],
    views: Floats | None,
    bent: bool = False,
) -> Floats:
    """The largest of the standard scores, float64 (n,). Writes over `in_company` (pocketed + COMPANY * support).

    leaning: towards another label, R; K where features are weak.
    nearer: where another label is, and company counts: samples with a near-copy collapse, too, but seldom there.
    bent: all but the views come from features that fit the labels, right or wrong, and have to say more.
    """
    largest = standard(margin)
    np.minimum(largest, MOST, out=largest)  # nan stays
    largest += standard(leaning)
    odd = standard(distance)
    odd += largest
    largest = np.fmax(standard(largest, out=largest), standard(odd, out=odd), out=largest)
    together = standard(in_company, out=in_company)
    np.fmax(largest, together, out=largest, where=nearer)
    if bent:
        largest -= BENT
    return largest if views is None else np.fmax(largest, standard(views), out=largest)


def suspicion_threshold(values: Floats, spreads: float) -> float:
    """Median + spreads * spread, where a heavy tail makes the spread larger; inf when the values do not vary.

    The spreads are those wanted among a thousand: among more values, as rare as those (`budgets.stands_out`).
    """
    middle, spread = robust_center(values)
    if not spread > 0:
        return float("inf")
    high = np.quantile(values[~np.isnan(values)], TAIL_QUANTILE, overwrite_input=True)
    tail = (high - middle) / TAIL_NORMAL / spread
    return float(middle + stands_out(spreads, len(values)) * spread * min(max(tail, 1.0), LARGEST_TAIL))
