"""What others do with the same features: scores of training samples, and of inputs. Larger is more suspicious."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import clear
from clear.collapse import vertices
from clear.config import SCAN_SCALE, Scale

Scorer = Callable[["Training"], np.ndarray]
VOTERS = 50
"""k of Deep k-NN."""


@dataclass(frozen=True)
class Training:
    """A training set as a defender sees it."""

    features: np.ndarray
    labels: np.ndarray
    victim: np.ndarray
    """The victim's probabilities for it, (n, classes)."""
    views: clear.Views | None = None

    @property
    def classes(self) -> int:
        return self.victim.shape[1]

    @cached_property
    def reference(self) -> clear.Reference:
        return clear.Reference(clear.Features.from_arrays(self.features, self.labels))

    @cached_property
    def scanned(self) -> clear.ScanResult:
        return clear.scan(clear.Features.from_arrays(self.features, self.labels), views=self.views, threads=1)

    @cached_property
    def voters(self) -> np.ndarray:
        """Nearest samples of any label, (n, VOTERS), nearest first."""
        return clear.find_neighbors(self.reference.rows, k=VOTERS).indices

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Of every baseline that can be run on so many samples."""
        n = len(self.labels)
        return {name: score(self) for name, score in SCORERS.items() if n <= MOST_SAMPLES.get(name, n)}

    @cached_property
    def flags(self) -> dict[str, np.ndarray]:
        """Of every baseline that has a rule of its own."""
        return {name: rule(self) for name, rule in RULES.items()}

    @cached_property
    def held_out(self) -> np.ndarray:
        """Cross-validated probabilities, (n, classes): the logistic regression of the core, by cleanlab's recipe."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
            return cross_val_predict(model, self.reference.rows, self.labels, method="predict_proba")


def deep_knn(training: Training, *, self_vote: bool = False) -> np.ndarray:
    """Share of the k nearest training samples with another label (Peri et al. 2020); self-vote: one of k is itself."""
    near = training.voters[:, : VOTERS - self_vote]
    votes = (training.labels[near] == training.labels[:, None]).sum(1) + int(self_vote)
    return 1 - votes / VOTERS


def deep_knn_flags(training: Training) -> np.ndarray:
    """Its own rule: another label has the plurality."""
    near = training.labels[training.voters]
    counts = np.stack([(near == c).sum(1) for c in range(training.classes)], axis=1)
    return counts.argmax(1) != training.labels


def spectral(training: Training) -> np.ndarray:
    """Squared projection on the leading direction of the sample's own class, centred (Tran et al. 2018)."""
    scores = np.zeros(len(training.labels))
    for c in np.unique(training.labels):
        rows = training.labels == c
        centred = training.features[rows].astype(float) - training.features[rows].mean(0)
        scores[rows] = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2
    return scores


def activation_clustering(training: Training) -> np.ndarray:
    """Two clusters in ten components of each class; the smaller, the higher its members score (Chen et al. 2018)."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    scores = np.zeros(len(training.labels))
    for c in np.unique(training.labels):
        rows = np.flatnonzero(training.labels == c)
        reduced = PCA(min(10, len(rows), training.features.shape[1]), random_state=0).fit_transform(
            training.features[rows]
        )
        cluster = KMeans(2, n_init=10, random_state=0).fit_predict(reduced)
        sizes = np.bincount(cluster, minlength=2)
        scores[rows] = 1 - sizes[cluster] / len(rows)
    return scores


def l2_outlier(training: Training) -> np.ndarray:
    """Distance to the mean of the own class."""
    means = np.stack([training.features[training.labels == c].mean(0) for c in range(training.classes)])
    return np.linalg.norm(training.features - means[training.labels], axis=1)


def lof(training: Training) -> np.ndarray:
    """Local outlier factor within the own class, 20 neighbours."""
    from sklearn.neighbors import LocalOutlierFactor

    scores = np.zeros(len(training.labels))
    for c in np.unique(training.labels):
        rows = np.flatnonzero(training.labels == c)
        model = LocalOutlierFactor(min(20, len(rows) - 1)).fit(training.reference.rows[rows])
        scores[rows] = -model.negative_outlier_factor_
    return scores


def cleanlab_labels(training: Training) -> np.ndarray:
    """Self-confidence of cleanlab, negated."""
    from cleanlab.rank import get_label_quality_scores

    return -get_label_quality_scores(training.labels, training.held_out)


def cleanlab_outliers(training: Training) -> np.ndarray:
    """Out-of-distribution score of cleanlab on the features, negated."""
    from cleanlab.outlier import OutOfDistribution

    return -OutOfDistribution().fit_score(features=training.features, verbose=False)


def cleanlab_flags(training: Training) -> np.ndarray:
    """find_label_issues at its defaults."""
    from cleanlab.filter import find_label_issues

    return find_label_issues(training.labels, training.held_out, n_jobs=1)


def training_loss(training: Training) -> np.ndarray:
    """Cross-entropy of the victim on its own training sample."""
    at = np.arange(len(training.labels))
    return -np.log(training.victim[at, training.labels] + 1e-12)


def knn_collapse(training: Training) -> np.ndarray:
    """R + K with mean distances to the same vertices in place of hull distances: what the hull itself adds."""
    reference, everyone = training.reference, np.arange(len(training.labels))
    pocket, own, other = _mean_distances(reference, reference.rows, training.labels, SCAN_SCALE, everyone)
    return 2 * np.log(own + 1e-6) - np.log(pocket + 1e-6) - np.log(other + 1e-6)


def _mean_distances(
    reference: clear.Reference, points: np.ndarray, labels: np.ndarray, scale: Scale, exclude: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, ((pocket, own),) = vertices(reference, points, labels, exclude, (scale,))

    def mean(members: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(reference.rows[members] - points[:, None], axis=2)
        return np.nanmean(np.where(members >= 0, apart, np.nan), axis=1)

    near = reference.core_index.search_by_class(points, k=reference.config.hull_size)
    by_class = np.where(np.isfinite(near.distances), near.distances, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an empty class
        others = np.nanmean(by_class, axis=2)
    others[np.arange(len(labels)), labels] = np.inf
    return mean(pocket), mean(own), np.nanmin(others, axis=1)


def combine(*scores: np.ndarray) -> np.ndarray:
    """Sum of scores in robust units: a fair ensemble of two signals."""
    from clear.pockets import robust_center

    total = np.zeros(len(scores[0]))
    for values in scores:
        middle, spread = robust_center(values)
        total += (np.nan_to_num(values, nan=middle) - middle) / spread
    return total


SCORERS: dict[str, Scorer] = {
    "Deep k-NN, k = 50": deep_knn,
    "Deep k-NN, k = 50, self-vote": lambda training: deep_knn(training, self_vote=True),
    "spectral signatures": spectral,
    "activation clustering": activation_clustering,
    "l2 outlier": l2_outlier,
    "LOF": lof,
    "cleanlab labels": cleanlab_labels,
    "cleanlab outliers": cleanlab_outliers,
    "training loss": training_loss,
    "kNN in place of the hull": knn_collapse,
}
MOST_SAMPLES = {"cleanlab outliers": 20_000}
"""Beyond so many, a baseline is left out: minutes for each training set."""
RULES: dict[str, Callable[[Training], np.ndarray]] = {
    "Deep k-NN plurality": deep_knn_flags,
    "cleanlab find_label_issues": cleanlab_flags,
}


def score_without_training_set(own: clear.Features, inputs: np.ndarray, victim: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of incoming samples with the victim's probabilities, against clean samples of one's own."""
    from clear._review_evidence import by_regression, lead_of_others
    from clear.config import ScanConfig
    from clear.prepare import apply_preparation, fit_preparation

    config, predicted = ScanConfig(), victim.argmax(1)
    preparation = fit_preparation(own.values, config)
    rows, points = apply_preparation(own.values, preparation), apply_preparation(inputs, preparation)
    near = own.labels[clear.find_neighbors(points, rows, k=VOTERS).indices]
    support, _ = by_regression(points, rows, own.labels, victim.shape[1], config, 1, False)
    return {
        "regression alone": lead_of_others(support, predicted),
        "Deep k-NN, k = 50": 1 - (near == predicted[:, None]).mean(1),
        "1 - confidence": 1 - victim.max(1),
    }


def score_inputs(training: Training, inputs: np.ndarray, confidence: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of incoming samples with predictions `confidence.argmax(1)`, against the training set."""
    from clear.prepare import apply_preparation

    reference, predicted = training.reference, confidence.argmax(1)
    points = apply_preparation(inputs, reference.preparation)
    near = clear.find_neighbors(points, reference.rows, k=VOTERS)
    nobody = np.full(len(points), -1)
    pocket, own, _ = _mean_distances(reference, points, predicted, Scale(5, 5), nobody)
    return {
        "Deep k-NN, k = 50": 1 - (training.labels[near.indices] == predicted[:, None]).mean(1),
        "distance to the 20th neighbour": near.distances[:, 19],
        "1 - confidence": 1 - confidence.max(1),
        "kNN in place of the hull": np.log(own + 1e-6) - np.log(pocket + 1e-6),
    }
