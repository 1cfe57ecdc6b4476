"""The classifier that picks the core: what the samples of the other folds say about every sample's label."""

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

__all__ = ["MAX_FIT_ROWS", "cross_validate"]

Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEAST_PROBABILITY = 1e-12
LARGEST = -float(np.log(LEAST_PROBABILITY))
"""Margin of a label that is as unlikely, or as sure, as can be told."""
MAX_FIT_ROWS = 100_000
"""The cross-validated classifier is fitted on at most this many rows a fold (a seeded sample of them)."""


def cross_validate(
    rows: Rows,
    labels: Ints,
    config: ScanConfig,
    *,
    threads: int,
    progress: Progress = False,
    work: Work | None = None,
) -> tuple[Ints, Floats]:
    """Judge every row by logistic regression fitted on the other folds (standardised, L2, C = 0.01).

    Returns the label predicted, int64 (n,), and the margin, float64 (n,): log probability of the likeliest other label
    less that of the row's own.

    Folds run side by side, each on one BLAS thread: that is several times faster than threads within a fold, and the
    result does not depend on `threads`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold

    predicted, margin = np.empty_like(labels), np.empty(len(labels))
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
            found, rows_held = future.result(), futures[future]
            predicted[rows_held], margin[rows_held] = found["predicted"], found["margin"]
            advance(1)
    return predicted, margin


def _fold(rows: Rows, labels: Ints, jobs: list[tuple[Ints, Ints]], fold: int, work: Work | None) -> Arrays:
    """Predictions of one fold: stored ones, where the work has them."""
    if work is not None:
        work.check_time("core", fold, len(jobs))
    return finish(work, "core", fold, lambda: _fit_predict(rows, labels, *jobs[fold]))


def _fit_predict(rows: Rows, labels: Ints, picked: Ints, held_out: Ints) -> Arrays:
    """Fit on the rows picked; predicted labels and margins of those held out."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = np.unique(labels[picked])
    if len(known) == 1:
        alike = labels[held_out] == known[0]
        return {"predicted": np.full(len(held_out), known[0]), "margin": np.where(alike, -LARGEST, LARGEST)}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    model.fit(rows[picked], labels[picked])
    found, margin = np.empty(len(held_out), dtype=np.int64), np.empty(len(held_out))
    for block in blocks(len(held_out), rows.shape[1] * 8 + len(known) * 24):
        chances = model.predict_proba(rows[held_out[block]])
        found[block] = known[chances.argmax(axis=1)]
        margin[block] = _margin(chances, known, labels[held_out[block]])
    return {"predicted": found, "margin": margin}


def _margin(chances: Floats, known: Ints, labels: Ints) -> Floats:
    """Log probability of the likeliest other label less that of the given one, from -LARGEST to LARGEST."""
    place = np.searchsorted(known, labels).clip(max=len(known) - 1)
    at, is_known = np.arange(len(labels)), known[place] == labels
    own = np.where(is_known, chances[at, place], 0.0)
    others = chances.copy()
    others[at[is_known], place[is_known]] = 0.0
    logs = np.log(np.stack([others.max(axis=1), own]) + LEAST_PROBABILITY)
    return np.asarray(logs[0] - logs[1])
