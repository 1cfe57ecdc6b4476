"""The classifier that picks the core: what the samples of the other folds say about every sample's label."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._backend import release_memory
from clear._blas import one_blas_thread
from clear._progress import Progress, track
from clear.config import ScanConfig
from clear.work import Arrays, Work

__all__ = ["MAX_FIT_ROWS", "Fold", "FoldEngine", "cross_validate", "fit_predict", "predict", "split_folds"]

Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Fold = tuple[Ints, Ints]
"""Rows that a fold is fitted on, and rows that it predicts."""

STAGE = "core"

LEAST_PROBABILITY = 1e-12
LARGEST = -float(np.log(LEAST_PROBABILITY))
"""Margin of a label that is as unlikely, or as sure, as can be told."""
MAX_FIT_ROWS = 100_000
"""The cross-validated classifier is fitted on at most this many rows a fold (a seeded sample of them)."""
SCALED_COLUMNS = 8
"""At least so many are standardised at a time, of more."""
LARGE_FIT = 1 << 20
"""Numbers in the rows of a fold that are not left to the next collection of garbage."""


class FoldEngine(Protocol):
    """Something that fits folds elsewhere."""

    def fit_folds(self, rows: Rows, labels: Ints, folds: dict[int, Fold]) -> Iterator[tuple[int, Arrays]]:
        """Yield the number of a fold and `fit_predict` of its rows, in any order."""
        ...


def cross_validate(
    rows: Rows,
    labels: Ints,
    config: ScanConfig,
    *,
    threads: int,
    progress: Progress = False,
    work: Work | None = None,
    engine: FoldEngine | None = None,
) -> tuple[Ints, Floats]:
    """Judge every row by logistic regression fitted on the other folds (standardised, L2, C = 0.01).

    Returns the label predicted, int64 (n,), and the margin, float64 (n,): log probability of the likeliest other label
    less that of the row's own.

    Folds run side by side, each on one BLAS thread: that is several times faster than threads within a fold, and the
    result does not depend on `threads`.
    """
    predicted, margin = np.empty_like(labels), np.empty(len(labels))
    jobs = dict(enumerate(split_folds(len(rows), config)))
    release_memory()  # the folds were drawn from copies
    with track(progress, "cross-validated core", len(jobs), "folds") as advance:
        for fold, found in _run_folds(rows, labels, jobs, threads, work, engine):
            held_out = jobs[fold][1]
            predicted[held_out], margin[held_out] = found["predicted"], found["margin"]
            advance(1)
    return predicted, margin


def split_folds(n: int, config: ScanConfig) -> list[Fold]:
    """Return what each fold is fitted on and what it predicts: functions of the settings and of `n` alone."""
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(config.seed)
    jobs = []
    for train, held_out in KFold(config.folds, shuffle=True, random_state=config.seed).split(np.empty((n, 0))):
        picked = train if len(train) <= MAX_FIT_ROWS else np.sort(rng.choice(train, MAX_FIT_ROWS, replace=False))
        jobs.append((picked, held_out))
    return jobs


def _run_folds(
    rows: Rows, labels: Ints, jobs: dict[int, Fold], threads: int, work: Work | None, engine: FoldEngine | None
) -> Iterator[tuple[int, Arrays]]:
    """Folds that are stored first, then the others, as they get done and are stored."""
    missing = dict(jobs)
    for fold in jobs:
        stored = None if work is None else work.load(STAGE, fold)
        if stored is not None:
            del missing[fold]
            yield fold, stored
    done = len(jobs) - len(missing)
    if engine is None:
        found = _fit_here(rows, labels, missing, threads, work)
    else:
        found = engine.fit_folds(rows, labels, missing)
        if work is not None and missing:
            work.check_time(STAGE, done, len(jobs))
    for fold, arrays in found:
        done += 1
        if work is not None:
            work.save(STAGE, fold, arrays)
            if engine is not None and done < len(jobs):
                work.check_time(STAGE, done, len(jobs))
        yield fold, arrays


def _fit_here(
    rows: Rows, labels: Ints, jobs: dict[int, Fold], threads: int, work: Work | None
) -> Iterator[tuple[int, Arrays]]:
    most = max((len(picked) for picked, _ in jobs.values()), default=0)
    # Room for the rows of a fold, used again: what threads of their own free, the allocator gives back late or never.
    rooms = [np.empty((most, rows.shape[1]), np.float32) for _ in range(min(threads, len(jobs)))]

    def fit(fold: int) -> Arrays:
        picked, held_out = jobs[fold]
        if work is not None:
            work.check_time(STAGE, fold, len(jobs))
        room = rooms.pop()
        try:
            chosen = room[: len(picked)]
            np.take(rows, picked, axis=0, out=chosen, mode="clip")  # mode "raise" would copy them twice
            return _fit_predict(chosen, labels[picked], rows, labels, held_out)
        finally:
            rooms.append(room)

    with one_blas_thread(), _no_last_digit(), ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(fit, fold): fold for fold in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    if most * rows.shape[1] >= LARGE_FIT:
        del rooms
        gc.collect()  # the optimiser leaves cycles behind that hold them
        release_memory()


def fit_predict(rows: Rows, labels: Ints, held_out: Rows, held_labels: Ints) -> Arrays:
    """Fit a fold's classifier on rows with their labels, on one BLAS thread: labels and margins of those held out.

    And the classifier itself, for `predict`.
    """
    with one_blas_thread(), _no_last_digit():
        return _fit_predict(rows.copy(), labels, held_out, held_labels, np.arange(len(held_out)))


@contextmanager
def _no_last_digit() -> Iterator[None]:
    """Keep quiet about the last digits of a fit: a filter does not need them."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _fit_predict(rows: Rows, labels: Ints, others: Rows, other_labels: Ints, held_out: Ints) -> Arrays:
    """Fit on rows, which are standardised in place; what is said of others[held_out], and the classifier."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    model: Arrays = {"known": np.unique(labels)}
    if len(model["known"]) > 1:
        # Some columns at a time: it takes copies in float64. Sums go down the columns: cutting changes no number.
        cuts = np.linspace(0, rows.shape[1], max(1, rows.shape[1] // SCALED_COLUMNS) + 1).astype(int).tolist()
        scalers = [StandardScaler().fit(rows[:, slice(*cut)]) for cut in pairwise(cuts)]
        for name in ("mean", "scale"):
            model[name] = np.concatenate([getattr(scaler, f"{name}_") for scaler in scalers]).astype(np.float32)
        fitted = LogisticRegression(C=0.01, max_iter=200).fit(_standardise(model, rows), labels)
        # One order in memory, wherever it was fitted: sums depend on it.
        model |= {"coef": np.ascontiguousarray(fitted.coef_), "intercept": fitted.intercept_}
    return _predict(model, others, other_labels, held_out) | model


def predict(model: Arrays, others: Rows, other_labels: Ints) -> Arrays:
    """What a classifier that `fit_predict` has returned says of others, on one BLAS thread: labels and margins."""
    with one_blas_thread():
        return _predict(model, others, other_labels, np.arange(len(others)))


def _predict(model: Arrays, others: Rows, other_labels: Ints, held_out: Ints) -> Arrays:
    from sklearn.linear_model import LogisticRegression

    known = model["known"]
    if len(known) == 1:
        alike = other_labels[held_out] == known[0]
        return {"predicted": np.full(len(held_out), known[0]), "margin": np.where(alike, -LARGEST, LARGEST)}
    fitted = LogisticRegression()
    fitted.classes_, fitted.coef_, fitted.intercept_ = known, model["coef"], model["intercept"]
    found, margin = np.empty(len(held_out), dtype=np.int64), np.empty(len(held_out))
    for block in blocks(len(held_out), others.shape[1] * 8 + len(known) * 24):
        chances = fitted.predict_proba(_standardise(model, others[held_out[block]]))
        found[block] = known[chances.argmax(axis=1)]
        margin[block] = _margin(chances, known, other_labels[held_out[block]])
    return {"predicted": found, "margin": margin}


def _standardise(model: Arrays, values: Rows) -> Rows:
    """Values less the mean of their column, over its scale, in place."""
    values -= model["mean"]
    values /= model["scale"]
    return values


def _margin(chances: Floats, known: Ints, labels: Ints) -> Floats:
    """Log probability of the likeliest other label less that of the given one, from -LARGEST to LARGEST."""
    place = np.searchsorted(known, labels).clip(max=len(known) - 1)
    at, is_known = np.arange(len(labels)), known[place] == labels
    own = np.where(is_known, chances[at, place], 0.0)
    others = chances.copy()
    others[at[is_known], place[is_known]] = 0.0
    logs = np.log(np.stack([others.max(axis=1), own]) + LEAST_PROBABILITY)
    return np.asarray(logs[0] - logs[1])
