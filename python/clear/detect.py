"""The two entry points: `scan` a training set for pockets, `probe` incoming samples against one."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_features, as_labels
from clear._progress import Progress
from clear.collapse import Wrap, collapse, evidence, measure, reassignment
from clear.config import PROBE_SCALES, SCAN_SCALE, Scale, ScanConfig
from clear.data import Features
from clear.pieces import measure_in_pieces
from clear.plan import require_memory
from clear.pockets import find_pockets, group_scores, robust_center, sample_levels
from clear.prepare import Ints, Reference, Rows, apply_preparation
from clear.ray_engine import check_engine, open_engine
from clear.results import Flag, HullEvidence, Level, Pocket, ProbeResult, ScanResult, Scores, Verdict
from clear.work import PIECE_ROWS, Work

__all__ = ["probe", "scan"]

Floats = npt.NDArray[np.float64]

CERTAIN_RATE = 1e-3
"""Certain samples per sample of clean data (measured: docs/how-it-works.md)."""
CERTAIN_TOGETHER = 3
"""Certain samples that make the verdict "poisoned" when they are at least half of one pocket: clean data gave two."""
VERDICT_ALPHA = 1e-3
"""Chance that clean data with that rate have as many certain samples as make the verdict "poisoned"."""


def scan(
    features: Features,
    *,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
    workdir: str | os.PathLike[str] | None = None,
    piece_rows: int = PIECE_ROWS,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    max_seconds: float | None = None,
    max_memory: int | None = None,
) -> ScanResult:
    """Find the samples of a labelled training set that form or support pockets of the decision boundary.

    Parameters
    ----------
    features : Features
        Feature vectors (n, d) with labels; penultimate-layer features of a network not trained on the suspect
        labels are best (docs/how-it-works.md, "Which features").
    config : ScanConfig, optional
    threads : int, optional
        Default: the cores this process may use.
    progress : bool or callable
        True shows bars on standard error; a callable is called as f(stage, done, total).
    workdir : path, optional
        Folder for finished pieces (made if needed): after a kill, or `max_seconds`, the same call goes on from there,
        and gives the same result to the last bit (docs/scaling.md).
    piece_rows : int
        Samples in a piece: at most so many are measured again after a kill.
    engine : {"local", "ray"}
        Where pieces are measured: in this process, or as tasks of a Ray cluster; the result is equal (==).
    address : str, optional
        Of the Ray cluster ("auto", "ray://host:10001", ...); default: one on this machine, for this scan.
    max_seconds : float, optional
        Time after which no further piece is begun; needs `workdir`.
    max_memory : int, optional
        Bytes that the scan may need beside the features themselves (`plan_scan` says how many it needs).

    Returns
    -------
    ScanResult
        Scores of every sample; flags, most suspicious first, each with corrected label, mates and the hulls that show
        it; pockets; a verdict. The same for every number of threads.

    Raises
    ------
    ValueError, TypeError
        Values that are not finite, one class only, too few samples, wrong shapes or dtypes; a `workdir` of others.
    LimitReached
        The time is up; what is done is kept.
    MemoryError
        More than `max_memory` would be needed: said before anything is computed.

    Notes
    -----
    Time O(n^2 d) for exact neighbours plus n * (classes + 1) small hulls; memory about three times the features.

    Examples
    --------
    >>> import numpy as np, clear
    >>> rng = np.random.default_rng(0)
    >>> centres = 4 * rng.normal(size=(3, 8))
    >>> labels = np.repeat([0, 1, 2], 60)
    >>> values = (centres[labels] + rng.normal(size=(180, 8))).astype(np.float32)
    >>> labels[5] = 2  # one wrong label
    >>> result = clear.scan(clear.Features.from_arrays(values, labels))
    >>> result.flags[0].row, result.flags[0].suggested_label
    (5, 0)
    """
    if max_memory is not None:
        require_memory(features, config or ScanConfig(), max_memory)
    check_engine(engine, address)
    work = _open_work(workdir, piece_rows, max_seconds)
    reference = Reference(features, config=config, threads=threads, progress=progress, work=work)
    with open_engine(engine, address, reference.threads) as runner:
        wrap = measure_in_pieces(reference, work=work, engine=runner, piece_rows=piece_rows, progress=progress)
    scores, threshold = _score_training_set(reference, wrap)
    flags = _flags(
        scores,
        reference.labels,
        features.ids,
        reference.rows,
        reference.representative,
        reference,
        np.zeros(len(reference.labels), np.int64),
        (SCAN_SCALE,),
    )
    pockets = find_pockets(reference, flags)
    return ScanResult(
        n_samples=len(reference.labels),
        n_features=features.values.shape[1],
        n_classes=reference.n_classes,
        class_names=features.class_names,
        labels=reference.labels,
        ids=features.ids,
        source=features.source,
        verdict=_scan_verdict(reference, scores.level, pockets),
        scores=scores,
        flags=flags,
        pockets=pockets,
        thresholds={"certain": threshold},
        core_accuracy=reference.core_accuracy,
        preparation=reference.preparation,
        config=reference.config,
        notes=tuple(reference.notes + _scan_notes(reference, scores)),
    )


def probe(
    inputs: Features,
    reference: Features | Reference,
    *,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
) -> ProbeResult:
    """Test incoming samples for pockets of the training set that the model was trained on.

    Parameters
    ----------
    inputs : Features
        Features (m, d) of the incoming samples from the same model and layer as the reference; what the model predicts
        for them in `predictions` (where that is None `labels` are taken for them, and a note says so).
    reference : Features or Reference
        The training set with the labels it was trained on. A `Reference` is prepared once and used for many probes.
    config, threads, progress
        As in `scan`; a prepared `Reference` brings its own config and threads.

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
        reference = Reference(reference, config=config, threads=threads, progress=progress)
    values = as_features(inputs.values, "inputs", width=len(reference.preparation.mean))
    stood_in = ["inputs have no predictions: their labels were taken for them"] if inputs.predictions is None else []
    wanted = inputs.labels if inputs.predictions is None else inputs.predictions
    labels = as_labels(wanted, len(values), "predictions", classes=reference.n_classes)
    points = apply_preparation(values, reference.preparation)
    exclude = _equal_training_rows(reference, points, labels)
    wrap = measure(reference, points, labels, PROBE_SCALES, exclude=exclude, progress=progress, stage="probe")
    thresholds: dict[str, float] = {"z": reference.config.probe_spreads}
    z = np.empty((len(PROBE_SCALES), len(points)))
    for i, (scale, (middle, spread)) in enumerate(
        zip(PROBE_SCALES, training_collapse(reference, progress), strict=True)
    ):
        thresholds[f"collapse_median_{scale.mates}"], thresholds[f"collapse_spread_{scale.mates}"] = middle, spread
        z[i] = (collapse(wrap, i) - middle) / spread if spread > 0 else np.nan
    best = np.nan_to_num(z, nan=-np.inf).argmax(axis=0)
    at = np.arange(len(points))
    scores = Scores(
        collapse=np.stack([collapse(wrap, i) for i in range(len(PROBE_SCALES))])[best, at],
        reassignment=np.stack([reassignment(wrap, i) for i in range(len(PROBE_SCALES))])[best, at],
        score=z[best, at],
        group=z[best, at],
        suggested_label=wrap.other_label,
        level=np.where(
            np.nan_to_num(z[best, at], nan=-np.inf) > reference.config.probe_spreads, Level.CERTAIN, Level.NONE
        ).astype(np.int8),
        in_core=np.zeros(len(points), dtype=np.bool_),
        representative=at,
    )
    flags = _flags(scores, labels, inputs.ids, points, exclude, reference, best, PROBE_SCALES)
    return ProbeResult(
        n_samples=len(points),
        n_features=values.shape[1],
        n_classes=reference.n_classes,
        class_names=reference.features.class_names,
        labels=labels,
        ids=inputs.ids,
        source=inputs.source,
        reference_source=reference.features.source,
        verdict="poisoned" if flags else "clean",
        scores=scores,
        flags=flags,
        thresholds=thresholds,
        preparation=reference.preparation,
        config=reference.config,
        notes=tuple(reference.notes + stood_in),
    )


def training_collapse(reference: Reference, progress: Progress = False) -> list[tuple[float, float]]:
    """Median and scaled MAD of K over the training set for each probe scale: where the probe's thresholds come from."""
    units = reference.units
    wrap = measure(
        reference,
        reference.rows[units],
        reference.labels[units],
        PROBE_SCALES,
        exclude=units,
        others=False,
        progress=progress,
        stage="training collapse",
    )
    return [robust_center(collapse(wrap, i)) for i in range(len(PROBE_SCALES))]


def _open_work(workdir: str | os.PathLike[str] | None, piece_rows: int, max_seconds: float | None) -> Work | None:
    as_count(piece_rows, "piece_rows")
    if workdir is not None:
        return Work(workdir, piece_rows=piece_rows, max_seconds=max_seconds)
    if max_seconds is not None:
        raise ValueError(f"max_seconds is {max_seconds}: want a workdir too, where what is done can be kept")
    return None


def _score_training_set(reference: Reference, wrap: Wrap) -> tuple[Scores, float]:
    units, config = reference.units, reference.config
    n = len(reference.labels)
    position = np.empty(n, dtype=np.int64)
    position[units] = np.arange(len(units))
    spread = position[reference.representative]  # every copy takes its representative's scores
    k = collapse(wrap, 0)[spread]
    r = reassignment(wrap, 0)[spread]
    weak = reference.core_accuracy < config.weak_accuracy
    score = k if weak else r + k
    group = group_scores(reference, k if weak else r + k / 2, wrap.mates)
    judged = wrap.own_size[0][spread] >= config.hull_size // 2
    if not weak:
        judged &= r > 0  # another label must really be nearer; nan is not
    levels, threshold = sample_levels(score, r, group, judged, config)
    scores = Scores(k, r, score, group, wrap.other_label[spread], levels, reference.in_core, reference.representative)
    return scores, threshold


def _flags(
    scores: Scores,
    labels: Ints,
    ids: npt.NDArray[np.generic],
    points: Rows,
    exclude: Ints,
    reference: Reference,
    scale_of: Ints,
    scales: tuple[Scale, ...],
) -> tuple[Flag, ...]:
    """Flags of all samples above level NONE, most suspicious first, each with its hulls."""
    flagged = np.flatnonzero(scores.level > Level.NONE)
    flags: list[Flag] = []
    for i, scale in enumerate(scales):
        rows = flagged[scale_of[flagged] == i]
        hulls = evidence(reference, points[rows], labels[rows], exclude[rows], scale)
        for row, wraps in zip(rows.tolist(), hulls, strict=True):
            flags.append(
                Flag(
                    row=row,
                    id=ids[row].item(),
                    level=Level(int(scores.level[row])),
                    label=int(labels[row]),
                    suggested_label=int(scores.suggested_label[row]),
                    collapse=float(scores.collapse[row]),
                    reassignment=float(scores.reassignment[row]),
                    score=float(scores.score[row]),
                    mates=_mates(wraps),
                    hulls=wraps,
                )
            )
    return tuple(sorted(flags, key=lambda flag: (-flag.level, -np.nan_to_num(flag.score, nan=-np.inf), flag.row)))


def _mates(hulls: tuple[HullEvidence, ...], nearest: int = 5) -> tuple[int, ...]:
    """The nearest vertices of the pocket united with those that carry weight."""
    pocket = hulls[0]
    support = [row for row, weight in zip(pocket.rows, pocket.weights, strict=True) if weight > 1e-9]
    return tuple(dict.fromkeys([*pocket.rows[:nearest], *support]))


def _equal_training_rows(reference: Reference, points: Rows, labels: Ints) -> Ints:
    nearest = reference.all_index.search(points, k=1, within=labels, threads=reference.threads)
    return np.where(nearest.distances[:, 0] == 0, nearest.indices[:, 0], -1)


def _scan_verdict(reference: Reference, levels: npt.NDArray[np.int8], pockets: tuple[Pocket, ...]) -> Verdict:
    """Poisoned: certain samples hang together, or are too many. Undecided: few alone, or weak features."""
    from scipy.special import pdtrc

    certain = np.flatnonzero(levels == Level.CERTAIN)
    distinct = set(reference.representative[certain].tolist())
    members = [set(reference.representative[list(pocket.rows)].tolist()) for pocket in pockets]
    tight = any(len(distinct & m) >= CERTAIN_TOGETHER and 2 * len(distinct & m) >= len(m) for m in members)
    expected = CERTAIN_RATE * len(reference.units)
    if tight or (distinct and pdtrc(len(distinct) - 1, expected) < VERDICT_ALPHA):
        return "poisoned"
    return "undecided" if distinct or reference.core_accuracy < reference.config.weak_accuracy else "clean"


def _scan_notes(reference: Reference, scores: Scores) -> list[str]:
    config = reference.config
    notes = []
    if reference.core_accuracy < config.weak_accuracy:
        notes.append(
            f"weak features: cross-validated accuracy {reference.core_accuracy:.3f} is below {config.weak_accuracy}; "
            "samples are ranked by collapse alone, and no certain flag means undecided, not clean"
        )
    wanted = 2 * SCAN_SCALE.mates + 1
    small = np.flatnonzero((reference.class_sizes > 0) & (reference.class_sizes < wanted))
    if len(small):
        notes.append(f"neighbourhoods were lowered in {len(small)} classes with fewer than {wanted} distinct samples")
    unscored = int(np.isnan(scores.score).sum())
    if unscored:
        notes.append(f"{unscored} samples were not scored: their class is too small")
    return notes
