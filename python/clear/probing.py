"""Incoming samples against a prepared training set: the probe, and what a guard shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import FloatArray, as_features, as_labels, blocks
from clear._progress import Progress, tracked
from clear.agreement import compare, draw
from clear.approximate import Approximate
from clear.collapse import collapse, log_ratio, measure, nearest_other, reassignment
from clear.config import PROBE_SCALES, ScanConfig
from clear.crowd import far_distances, nearest_far
from clear.data import Features
from clear.flags import make_flags
from clear.pockets import robust_center
from clear.prepare import Ints, Rows, apply_preparation
from clear.reference import Reference
from clear.results import Approximation, Flag, Level, ProbeResult, Scores

__all__ = ["CENTER_NAMES", "Center", "Judged", "check_inputs", "judge", "probe", "training_collapse"]

LOWER = 0.25
"""Quantile of a class's collapse that says how high it lies: poisons hardly move it while they are a minority."""


class Center(NamedTuple):
    """Where the collapse of a training set lies, in one of the probe's tests."""

    median: float
    spread: float
    raised: tuple[float, ...]
    """By how much the lower quartile of each class lies above that of all, 0 below. Samples of some classes collapse
    more, of small ones above all: little is left when their mates are peeled off."""


CENTER_NAMES = (*(str(scale.mates) for scale in PROBE_SCALES), "far")
"""Of the probe's scales, and of the crowd's test (not raised: a crowd would raise it)."""


def probe(
    inputs: Features,
    reference: Features | Reference,
    *,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
    approximate: Approximate | Literal["ivf", "hnsw"] | None = None,
) -> ProbeResult:
    """Test incoming samples for pockets of the training set that the model was trained on.

    Parameters
    ----------
    inputs : Features
        Features (m, d) of the incoming samples from the same model and layer as the reference; what the model predicts
        for them in `predictions` (where that is None `labels` are taken for them, and a note says so).
    reference : Features or Reference
        The training set with the labels it was trained on. A `Reference` is prepared once and used for many probes.
    config, threads, progress, approximate
        As in `scan`; a prepared `Reference` brings its own.

    Returns
    -------
    ProbeResult
        Flagged inputs, each with the corrected label, the training samples that hold the pocket up and the hulls.
        Thresholds come from the training set alone.

    Raises
    ------
    ValueError, TypeError
        As `scan`; also when widths differ, or a prediction is not a class of the training set.

    Notes
    -----
    An input that equals a training sample of the predicted label is measured without that sample.
    """
    if not isinstance(reference, Reference):
        reference = Reference(reference, config=config, threads=threads, progress=progress, approximate=approximate)
    wanted = inputs.labels if inputs.predictions is None else inputs.predictions
    values, labels = check_inputs(reference, inputs.values, wanted, progress)
    stood_in = ["inputs have no predictions: their labels were taken for them"] if inputs.predictions is None else []
    centers = training_collapse(reference, progress)
    judged = judge(reference, centers, values, labels, progress=progress)
    flags = judged.flags(reference, labels, inputs.ids, progress)
    unsure = _doubts(reference, judged.scores, labels)
    return ProbeResult(
        n_samples=len(values),
        n_features=values.shape[1],
        n_classes=reference.n_classes,
        class_names=reference.features.class_names,
        labels=labels,
        ids=inputs.ids,
        source=inputs.source,
        reference_source=reference.features.source,
        verdict="poisoned" if flags else "undecided" if unsure else "clean",
        scores=judged.scores,
        flags=flags,
        thresholds=_thresholds(reference.config, centers),
        preparation=reference.preparation,
        config=reference.config,
        core_accuracy=reference.core_accuracy,
        notes=tuple(reference.notes + stood_in + unsure),
        approximation=(
            None if reference.approximate is None else _compare(reference, centers, judged, values, labels, progress)
        ),
    )


def _doubts(reference: Reference, scores: Scores, labels: Ints) -> list[str]:
    """Why nothing flagged does not mean clean."""
    config, notes = reference.config, []
    if reference.core_accuracy < config.weak_accuracy:
        notes.append(
            f"weak features: cross-validated accuracy {reference.core_accuracy:.3f} of the training set is below "
            f"{config.weak_accuracy}; no flag means undecided, not clean"
        )
    untold = np.isnan(scores.score)
    if untold.any():
        classes = np.unique(labels[untold])
        notes.append(
            f"{untold.sum()} inputs could not be judged, as {len(classes)} classes (such as {classes[0]}) have too few "
            "training samples; no flag means undecided, not clean"
        )
    return notes


def check_inputs(
    reference: Reference, values: Any, predictions: Any, progress: Progress = False
) -> tuple[FloatArray, Ints]:
    """Features (m, d) and predictions (m,) that fit the reference, or an error that says what does not."""
    checked = as_features(values, "inputs", width=len(reference.preparation.mean), progress=progress)
    return checked, as_labels(predictions, len(checked), "predictions", classes=reference.n_classes)


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of inputs, and what their flags are made from."""

    scores: Scores
    points: Rows
    exclude: Ints
    scale: Ints
    """Which of the probe's scales decided, int64 (m,)."""

    def flags(
        self, reference: Reference, labels: Ints, ids: npt.NDArray[Any], progress: Progress = False
    ) -> tuple[Flag, ...]:
        """Flags of the inputs above level NONE."""
        return make_flags(
            self.scores, labels, ids, self.points, self.exclude, reference, self.scale, PROBE_SCALES, progress
        )


def judge(
    reference: Reference,
    centers: list[Center],
    values: FloatArray,
    labels: Ints,
    *,
    others: bool = True,
    progress: Progress = False,
) -> Judged:
    """Hold the collapse of checked inputs against that of the training set (`training_collapse`).

    others: whether inputs that are not flagged get a reassignment and a suggested label, too, which takes most of the
    time; without, no input gets a reassignment.
    """
    points = apply_preparation(values, reference.preparation, progress=progress)
    exclude = _equal_training_rows(reference, points, labels, progress)
    wrap = measure(
        reference, points, labels, PROBE_SCALES, exclude=exclude, others=others, progress=progress, stage="probe"
    )
    far = far_distances(reference, points, labels, exclude, progress)
    k = np.stack([*(collapse(wrap, i) for i in range(len(PROBE_SCALES))), log_ratio(far, wrap.pocket[-1])])
    r = np.stack([*(reassignment(wrap, i) for i in range(len(PROBE_SCALES))), log_ratio(far, wrap.other)])
    z = np.empty(k.shape)
    for i, (median, spread, raised) in enumerate(centers):
        z[i] = (k[i] - median - np.array(raised)[labels]) / spread if spread > 0 else np.nan
    best = np.nan_to_num(z, nan=-np.inf).argmax(axis=0)
    at, nothing = np.arange(len(points)), np.full(len(points), np.nan)
    decided = z[best, at]
    certain = np.nan_to_num(decided, nan=-np.inf) > reference.config.probe_spreads
    suggested, crowded = wrap.other_label.astype(np.int64), best == len(PROBE_SCALES)
    if not others and (asked := np.flatnonzero(certain & ~crowded)).size:
        _, suggested[asked], _ = nearest_other(reference, points[asked], labels[asked])
    shown = np.flatnonzero(crowded & certain)
    if len(shown):
        distance, suggested[shown], _ = nearest_far(reference, points[shown], labels[shown])
        r[-1, shown] = log_ratio(far[shown], distance)
    scores = Scores(
        collapse=k[best, at],
        reassignment=r[best, at],
        score=decided,
        group=decided,
        suspicion=decided,
        distance=nothing,
        margin=nothing,
        support=nothing,
        company=nothing,
        views=nothing,
        suggested_label=suggested,
        level=np.where(certain, Level.CERTAIN, Level.NONE).astype(np.int8),
        in_core=np.zeros(len(points), dtype=np.bool_),
        crowd=np.where(crowded, decided, np.nan),
        representative=at,
    )
    return Judged(scores, points, exclude, best)


def _thresholds(config: ScanConfig, centers: list[Center]) -> dict[str, float]:
    found: dict[str, float] = {"z": config.probe_spreads}
    for name, (median, spread, raised) in zip(CENTER_NAMES, centers, strict=True):
        found[f"collapse_median_{name}"], found[f"collapse_spread_{name}"] = median, spread
        found |= {f"collapse_raised_{name}_{label}": by for label, by in enumerate(raised) if by > 0}
    return found


def _compare(
    reference: Reference,
    centers: list[Center],
    judged: Judged,
    values: FloatArray,
    labels: Ints,
    progress: Progress = False,
) -> Approximation:
    """Judge a sample of the inputs, and flagged ones, again with exact neighbours; thresholds stay."""

    def again(rows: Ints) -> tuple[npt.NDArray[np.int8], Ints]:
        scores = judge(reference.exact(), centers, values[rows], labels[rows], progress=progress).scores
        return scores.level, scores.suggested_label

    drawn = draw(judged.scores)
    return compare(reference, drawn, judged.points, labels, judged.exclude, PROBE_SCALES[-1], again, progress)


def training_collapse(reference: Reference, progress: Progress = False, rows: Ints | None = None) -> list[Center]:
    """Where K of the training set lies for each probe scale and the crowd's test: thresholds come from it.

    `rows`: some of the distinct samples, ascending, in place of all.
    """
    units = reference.units if rows is None else rows
    points, labels = reference.rows[units], reference.labels[units]
    wrap = measure(
        reference,
        points,
        labels,
        PROBE_SCALES,
        exclude=units,
        others=False,
        progress=progress,
        stage="training collapse",
    )
    far = log_ratio(far_distances(reference, points, labels, units, progress), wrap.pocket[-1])
    tight = [collapse(wrap, i) for i in range(len(PROBE_SCALES))]
    level = (0.0,) * reference.n_classes
    return [
        *(Center(*robust_center(k), _raised(k, labels, reference.n_classes)) for k in tight),
        Center(*robust_center(far), level),
    ]


def _raised(k: npt.NDArray[np.float64], labels: Ints, n_classes: int) -> tuple[float, ...]:
    usable = ~np.isnan(k)
    if not usable.any():
        return (0.0,) * n_classes
    order = np.argsort(labels[usable], kind="stable")
    starts = np.searchsorted(labels[usable][order], np.arange(1, n_classes))
    bar, by_class = np.quantile(k[usable], LOWER), np.split(k[usable][order], starts)
    return tuple(max(0.0, float(np.quantile(values, LOWER) - bar)) if len(values) else 0.0 for values in by_class)


def _equal_training_rows(reference: Reference, points: Rows, labels: Ints, progress: Progress) -> Ints:
    found, index = np.empty(len(points), np.int64), reference.all_index
    for block in tracked(blocks(len(points), 4 * points.shape[1]), progress, "equal samples"):
        nobody = np.full(block.stop - block.start, -1)
        nearest = index.search_prepared(points[block], 1, labels[block], nobody, reference.threads)
        found[block] = np.where(nearest.distances[:, 0] == 0, nearest.indices[:, 0], -1)
    return found
