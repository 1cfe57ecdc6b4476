"""The third entry point: `review` inputs of a model with nothing but some clean samples of one's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_labels, as_threads
from clear._progress import Progress
from clear._review_evidence import Floats, by_confidence, by_hulls, by_regression, lead_of_others
from clear.config import ScanConfig
from clear.data import Features
from clear.pockets import robust_center
from clear.prepare import Ints, apply_preparation, count_classes, fit_preparation
from clear.results import Views

__all__ = ["ReviewFlag", "ReviewResult", "review"]


@dataclass(frozen=True, slots=True)
class ReviewFlag:
    """An input whose prediction the reference contradicts."""

    row: int
    id: int | str
    label: int
    """What the model predicts."""
    suggested_label: int
    """The label that the reference gives it instead."""
    score: float
    """Sum of robust z; see `ReviewResult.scores`."""
    level: float
    """Share of clean inputs that reach this score, estimated from the reference: like a p-value."""


@dataclass(frozen=True, slots=True)
class ReviewResult:
    """Everything a review found. Rows number the inputs."""

    n_samples: int
    n_reference: int
    n_features: int
    n_classes: int
    class_names: tuple[str, ...] | None
    labels: Ints
    """The model's predictions for the inputs, int64 (m,)."""
    ids: npt.NDArray[Any]
    source: str | None
    reference_source: str | None
    fpr: float
    """The share of clean inputs that the user accepts to be flagged."""
    threshold: float
    """Inputs with a score of at least this are flagged."""
    scores: Floats
    """Sum of robust z, float64 (m,); nan where the reference has no sample of the predicted label."""
    levels: Floats
    """Share of the reference that scores as high when held out, (1 + count) / (n + 1), float64 (m,)."""
    suggested_labels: Ints
    """int64 (m,)."""
    reference_scores: Floats
    """The same scores of the reference, each sample held out, float64 (n,)."""
    flags: tuple[ReviewFlag, ...]
    """Most suspicious first."""
    config: ScanConfig
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        return f"ReviewResult({self.n_samples} inputs, {len(self.flags)} flagged at {self.fpr:g} of clean inputs)"


def review(
    inputs: Features,
    reference: Features,
    *,
    fpr: float = 0.01,
    confidence: Any = None,
    reference_confidence: Any = None,
    views: Views | None = None,
    reference_views: Views | None = None,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
) -> ReviewResult:
    """Ask whether clean samples of one's own agree with what a model from someone else predicts.

    For those who have neither the training set (then `scan` it, and `probe` inputs against it: both see far more) nor
    the attacker's target: only the model, and some clean, labelled samples.

    Parameters
    ----------
    inputs : Features
        Features (m, d) of the incoming samples, with what the model predicts for them in `predictions` (where that is
        None `labels` are taken for them, and a note says so).
    reference : Features
        Features (n, d) of the user's own clean samples from the same layer, with their true labels; what the model
        predicts for them in `predictions`, where known: it makes the answer better calibrated. Some thousand samples
        are wanted, 1 / fpr at the very least.
    fpr : float
        Share of clean inputs that may be flagged, above 0 and below 1.
    confidence, reference_confidence : array of float, shape (m,) and (n,), optional
        The suspect model's probability of its own prediction. Give them, and features of the *public backbone* that the
        model was trained from in place of the model's own, when the whole network may have been poisoned: its own
        features have been bent then.
    views, reference_views : Views, optional
        A second look at the inputs and at the reference, from `clear.extract_views`: wanted when the whole network may
        have been poisoned, and its public backbone is not known.
    config : ScanConfig, optional
        `hull_size`, `pca_above`, `pca_width`, `hull_tolerance`, `folds` and `seed` are used.
    threads, progress
        As in `scan`.

    Returns
    -------
    ReviewResult
        For each input a score, its level (the share of held-out reference samples that score as high) and the label
        that the reference suggests; flags for those whose level is at most `fpr`.

    Raises
    ------
    ValueError, TypeError
        As `scan`; also when widths differ, one confidence is missing, or `fpr` is out of range.

    Notes
    -----
    Two questions are asked about each input z with prediction t, and answered from the reference with the labels given
    and again with those predicted: how much likelier is another label than t (logistic regression, log scale), and
    how much nearer is another label's hull than that of t (20 nearest samples each, log scale). The robust z of the
    answers are added. With confidences, their log odds take the place of the hulls: a memorised label is one that the
    model is sure of and the backbone contradicts.

    With views two more answers are added to each other, and the larger of both sums counts: how much likelier another
    label is for an earlier layer, and how much less the model believes in its prediction when the image is changed.

    Thresholds are quantiles of the reference's own scores, each sample held out: inputs that are exchangeable with the
    reference are flagged at a rate of about `fpr`. Inputs of another origin need not be.

    What is flagged are disagreements: most of them are honest mistakes of the model, a few may be pockets. An input
    that is not flagged is not proven clean. Levels below 1 / (n + 1) cannot be told apart.

    Time: `folds` small logistic regressions (twice with predictions), O((m + n) n d) for exact neighbours, and
    (m + n) * classes small hulls (twice with predictions).

    Examples
    --------
    >>> import numpy as np, clear
    >>> rng = np.random.default_rng(0)
    >>> centres = 4 * rng.normal(size=(3, 8))
    >>> labels = rng.integers(0, 3, 400)
    >>> values = (centres[labels] + rng.normal(size=(400, 8))).astype(np.float32)
    >>> own = clear.Features.from_arrays(values[:300], labels[:300])
    >>> predictions = labels[300:].copy()
    >>> predictions[7] = (labels[307] + 1) % 3  # the model takes one input for something else
    >>> incoming = clear.Features.from_arrays(values[300:], predictions, predictions=predictions)
    >>> result = clear.review(incoming, own)
    >>> result.flags[0].row, bool(result.flags[0].suggested_label == labels[307])
    (7, True)
    """
    config, cores = config or ScanConfig(), as_threads(threads)
    if isinstance(fpr, bool) or not isinstance(fpr, (int, float)) or not 0 < fpr < 1:
        raise ValueError(f"fpr is {fpr!r}: want a number above 0 and below 1, such as 0.01")
    if (confidence is None) != (reference_confidence is None):
        raise ValueError("confidence is given for one side only: want it for the inputs and for the reference")
    if (views is None) != (reference_views is None):
        raise ValueError("views are given for one side only: want them for the inputs and for the reference")
    values = as_features(reference.values, "reference")
    if len(values) < 2 * config.folds:
        raise ValueError(f"reference has {len(values)} samples: want at least {2 * config.folds} (twice the folds)")
    points = as_features(inputs.values, "inputs", width=values.shape[1])
    classes = _count_classes(inputs, reference)
    asked, notes = _predictions(inputs, "inputs", classes)
    own, own_notes = _predictions(reference, "reference", classes)
    preparation = fit_preparation(values, config)
    rows, points = apply_preparation(values, preparation), apply_preparation(points, preparation)
    labellings = [as_labels(reference.labels, len(rows), classes=classes)]
    if reference.predictions is not None:
        labellings.append(own)
    total = np.zeros(len(points)), np.zeros(len(rows))
    votes = np.zeros((len(points), classes))
    kinds = (by_regression, by_hulls) if confidence is None else (by_regression,)
    for labels in labellings:
        for evidence in kinds:
            found = evidence(points, rows, labels, classes, config, cores, progress)
            votes += _add_support(total, found, (asked, own))
    if confidence is not None:
        sure = by_confidence(confidence, len(points), "confidence")
        _add(total, (sure, by_confidence(reference_confidence, len(rows), "reference_confidence")))
    if views is not None and reference_views is not None:
        total, votes = _with_views(
            (total, votes), (views, reference_views), labellings[0], (asked, own), config, cores, progress
        )
    return _conclude(inputs, reference, values.shape[1], asked, total, votes, fpr, config, notes + own_notes)


def _with_views(
    found: tuple[tuple[Floats, Floats], Floats],
    views: tuple[Views, Views],
    labels: Ints,
    predicted: tuple[Ints, Ints],
    config: ScanConfig,
    cores: int,
    progress: Progress,
) -> tuple[tuple[Floats, Floats], Floats]:
    """The larger, in units of the reference, of the scores found and those of the views; support from where it came."""
    (first, votes), classes = found, found[1].shape[1]
    for part, given, name in zip(views, predicted, ("views", "reference_views"), strict=True):
        if len(part) != len(given):
            raise ValueError(f"{name} has {len(part)} samples: want {len(given)}, in the order of the features")
    early = as_features(views[1].early, "reference_views.early")
    preparation = fit_preparation(early, config)
    rows = apply_preparation(early, preparation)
    points = apply_preparation(as_features(views[0].early, "views.early", width=early.shape[1]), preparation)
    second = np.zeros(len(points)), np.zeros(len(rows))
    support = _add_support(second, by_regression(points, rows, labels, classes, config, cores, progress), predicted)
    _add(second, (views[0].prediction_drop, views[1].prediction_drop))
    largest, seconds = (np.zeros(len(points)), np.zeros(len(rows))), (np.zeros(len(points)), np.zeros(len(rows)))
    _add(largest, first)
    _add(seconds, second)
    from_views = np.nan_to_num(seconds[0], nan=-np.inf) > np.nan_to_num(largest[0], nan=-np.inf)
    votes = np.where(from_views[:, None], support, votes)
    return (np.fmax(largest[0], seconds[0]), np.fmax(largest[1], seconds[1])), votes


def _count_classes(inputs: Features, reference: Features) -> int:
    """Of the reference, or as many as are predicted: samples of one's own may lack the last of them."""
    classes = count_classes(reference)
    if reference.class_names is not None:
        return classes
    wanted = [part.labels if part.predictions is None else part.predictions for part in (inputs, reference)]
    largest = max(int(np.max(labels, initial=0)) for labels in wanted)
    return max(classes, largest + 1) if largest < max(1000, 10 * len(reference.labels)) else classes


def _predictions(features: Features, name: str, classes: int) -> tuple[Ints, list[str]]:
    wanted = features.labels if features.predictions is None else features.predictions
    notes = [f"{name} have no predictions: their labels were taken for them"] if features.predictions is None else []
    return as_labels(wanted, len(features), "predictions", classes=classes), notes


def _add_support(total: tuple[Floats, Floats], found: tuple[Floats, Floats], predicted: tuple[Ints, Ints]) -> Floats:
    """Add robust z of (best other class - predicted class) to the totals; return the inputs' support in the same unit.

    Where the predicted class has no support at all the score becomes nan.
    """
    spread = _add(total, (lead_of_others(found[0], predicted[0]), lead_of_others(found[1], predicted[1])))
    return np.maximum(found[0], -1e9) / spread


def _add(total: tuple[Floats, Floats], values: tuple[Floats, Floats]) -> float:
    """Add robust z, in units of the reference, to both totals, and return the unit; values that do not vary add 0."""
    middle, spread = robust_center(values[1])
    if not spread > 0:
        return np.inf
    for sum_, part in zip(total, values, strict=True):
        sum_ += (part - middle) / spread
    return spread


def _conclude(
    inputs: Features,
    reference: Features,
    width: int,
    asked: Ints,
    total: tuple[Floats, Floats],
    votes: Floats,
    fpr: float,
    config: ScanConfig,
    notes: list[str],
) -> ReviewResult:
    """Levels from the reference's own scores; flags; notes."""
    scores, own = total
    known = np.sort(own[~np.isnan(own)])
    n, classes = len(known), votes.shape[1]
    as_high = n - np.searchsorted(known, scores, side="left")
    levels = np.where(np.isnan(scores), np.nan, (1 + as_high) / (n + 1))
    votes[np.arange(len(asked)), asked] = -np.inf
    suggested = votes.argmax(axis=1)
    allowed = int(np.floor(fpr * (n + 1))) - 1  # reference samples that may score as high as a flagged input
    threshold = float(np.nextafter(known[n - 1 - allowed], np.inf)) if allowed >= 0 else float("inf")
    if allowed < 0:
        notes.append(f"fpr {fpr:g} is below 1 / {n + 1}, the least level that {n} reference samples can show: no flags")
    if np.isnan(scores).any():
        notes.append(f"{int(np.isnan(scores).sum())} inputs were not judged: the reference has none of their label")
    flagged = np.flatnonzero(scores >= threshold)
    flags = [
        ReviewFlag(
            row=row,
            id=inputs.ids[row].item(),
            label=int(asked[row]),
            suggested_label=int(suggested[row]),
            score=float(scores[row]),
            level=float(levels[row]),
        )
        for row in flagged[np.argsort(-scores[flagged], kind="stable")].tolist()
    ]
    return ReviewResult(
        n_samples=len(scores),
        n_reference=len(own),
        n_features=width,
        n_classes=classes,
        class_names=reference.class_names,
        labels=asked,
        ids=inputs.ids,
        source=inputs.source,
        reference_source=reference.source,
        fpr=float(fpr),
        threshold=threshold,
        scores=scores,
        levels=levels,
        suggested_labels=suggested,
        reference_scores=own,
        flags=tuple(flags),
        config=config,
        notes=tuple(notes),
    )
