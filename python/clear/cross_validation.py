"""The classifier that picks the core: every sample's label as the samples of the other folds predict it."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._blas import one_blas_thread
from clear._progress import Progress, track
from clear.config import ScanConfig
from clear.work import Arrays, Work, finish

__all__ = ["MAX_FIT_ROWS", "cross_validated_labels"]

Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_FIT_ROWS = 100_000
"""The cross-validated classifier is fitted on at most this many rows a fold (a seeded sample of them)."""


def cross_validated_labels(
    rows: Rows,
    labels: Ints,
    config: ScanConfig,
    *,
    threads: int,
    progress: Progress = False,
    work: Work | None = None,
) -> Ints:
    """Predict every row's label by logistic regression fitted on the other folds (standardised, L2, C = 0.01).

    Folds run side by side, each on one BLAS thread: that is several times faster than threads within a fold, and the
    result does not depend on `threads`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold

    predicted = np.empty_like(labels)
    folds = KFold(config.folds, shuffle=True, random_state=config.seed).split(rows)
    rng = np.random.default_rng(config.seed)
    jobs = []
    for train, held_out in folds:
        picked = train if len(train) <= MAX_FIT_ROWS else np.sort(rng.choice(train, MAX_FIT_ROWS, replace=False))
        jobs.append((picked, held_out))
    with (
        one_blas_thread(),
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
        track(progress, "cross-validated core", len(jobs), "folds") as advance,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a filter needs no last digit
        futures = {pool.submit(_fold, rows, labels, jobs, i, work): job[1] for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            predicted[futures[future]] = future.result()["predicted"]
            advance(1)
    return predicted


def _fold(rows: Rows, labels: Ints, jobs: list[tuple[Ints, Ints]], fold: int, work: Work | None) -> Arrays:
    """Predictions of one fold: stored ones, where the work has them."""
    if work is not None:
        work.check_time("core", fold, len(jobs))
    return finish(work, "core", fold, lambda: {"predicted": _fit_predict(rows, labels, *jobs[fold])})


def _fit_predict(rows: Rows, labels: Ints, picked: Ints, held_out: Ints) -> Ints:
    """Fit on the rows picked, predict those held out."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels[picked])) == 1:
        return np.full(len(held_out), labels[picked[0]])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    model.fit(rows[picked], labels[picked])
    found = np.empty(len(held_out), dtype=np.int64)
    for block in blocks(len(held_out), rows.shape[1] * 8):
        found[block] = model.predict(rows[held_out[block]])
    return found
