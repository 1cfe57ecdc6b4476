"""What a clean reference says about inputs, class by class: by regression, by hulls, and by the model's confidence."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks, to_numpy
from clear._blas import one_blas_thread
from clear._progress import Progress, track
from clear.config import ScanConfig
from clear.hull import solve_hulls
from clear.neighbors import NeighborIndex
from clear.prepare import Ints, Rows

__all__ = ["by_confidence", "by_hulls", "by_regression", "lead_of_others"]

Floats = npt.NDArray[np.float64]

FLOOR = 1e-6
"""Added to hull distances (of unit rows) before the logarithm."""
BLOCK_BYTES = 64 << 20
REGULARISATION = 0.01
"""C of the logistic regression on the reference."""
LEAST_PROBABILITY = 1e-12


def by_regression(
    points: Rows, rows: Rows, labels: Ints, classes: int, config: ScanConfig, cores: int, progress: Progress
) -> tuple[Floats, Floats]:
    """Log probability of every class: of inputs (m, classes), mean over the folds; of the reference, held out."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    of_inputs, of_rows = np.zeros((len(points), classes)), np.zeros((len(rows), classes))
    folds = KFold(config.folds, shuffle=True, random_state=config.seed).split(rows)
    with (
        one_blas_thread(),
        warnings.catch_warnings(),
        track(progress, "review: regression", config.folds, "folds") as advance,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        for train, held_out in folds:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=200))
            if len(np.unique(labels[train])) < 2:
                raise ValueError(
                    "reference has too few samples of all classes but one: want some of each in every fold"
                )
            model.fit(rows[train], labels[train])
            of_rows[held_out] = _log_probabilities(model, rows[held_out], classes)
            of_inputs += _log_probabilities(model, points, classes) / config.folds
            advance(1)
    return of_inputs, of_rows


def _log_probabilities(model: Any, points: Rows, classes: int) -> Floats:
    """(m, classes), floored; a class that the model has not seen gets the floor."""
    found = np.full((len(points), classes), np.log(LEAST_PROBABILITY))
    for block in blocks(len(points), points.shape[1] * 8 + classes * 16, budget=BLOCK_BYTES):
        found[block, model.classes_] = np.log(model.predict_proba(points[block]) + LEAST_PROBABILITY)
    return found


def by_hulls(
    points: Rows, rows: Rows, labels: Ints, classes: int, config: ScanConfig, cores: int, progress: Progress
) -> tuple[Floats, Floats]:
    """Minus log distance to the hull of the nearest samples of every class; a reference sample is no vertex of its own.

    -inf where a class has no other sample.
    """
    index, size = NeighborIndex(rows, labels, n_classes=classes), config.hull_size
    found = []
    for name, queries, exclude in (("inputs", points, None), ("reference", rows, np.arange(len(rows)))):
        nearness = np.empty((len(queries), classes))
        with track(progress, f"review: hulls of {name}", len(queries)) as advance:
            for block in blocks(len(queries), 32 * size * classes, budget=BLOCK_BYTES):
                part = queries[block]
                skip = None if exclude is None else exclude[block]
                near = index.search_by_class(part, k=size, exclude=skip, threads=cores).indices
                solved = solve_hulls(
                    part,
                    rows,
                    near.reshape(-1, size),
                    owner=np.repeat(np.arange(len(part)), classes),
                    relative_tolerance=config.hull_tolerance,
                    certificates=False,
                    threads=cores,
                )
                nearness[block] = -np.log(solved.upper.reshape(-1, classes) + FLOOR)
                advance(len(part))
        found.append(nearness)
    return found[0], found[1]


def lead_of_others(support: Floats, predicted: Ints) -> Floats:
    """Support of the best other class minus that of the predicted one, (m,); nan where one of them has none."""
    at = np.arange(len(predicted))
    own = support[at, predicted]
    others = support.copy()
    others[at, predicted] = -np.inf
    best = others.max(axis=1)
    known = np.isfinite(own) & np.isfinite(best)
    return np.where(known, np.where(known, best, 0) - np.where(known, own, 0), np.nan)


def by_confidence(values: Any, n: int, name: str) -> Floats:
    """Log odds of the model's confidence in its own prediction, float64 (n,)."""
    given = to_numpy(values)
    if given.shape != (n,) or given.dtype.kind != "f":
        raise ValueError(f"{name} has dtype {given.dtype} and shape {given.shape}: want ({n},) floating point")
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"{name} holds values outside 0 to 1: want probabilities")
    sure = np.clip(given.astype(np.float64), LEAST_PROBABILITY, 1 - 1e-7)
    return np.asarray(np.log(sure) - np.log1p(-sure))
