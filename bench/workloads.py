"""Seeded data for the benchmarks: rows like the penultimate features of a classifier."""

from __future__ import annotations

import numpy as np


def _class_rows(rng, count, d, spectrum, noise, separation):
    """One class: a mean, a random subspace with the given spectrum, a little noise in every direction."""
    basis, _ = np.linalg.qr(rng.standard_normal((d, len(spectrum))))
    mean = separation / np.sqrt(d) * rng.standard_normal(d)
    inside = (spectrum * rng.standard_normal((count, len(spectrum)))) @ basis.T
    return mean + inside + noise / np.sqrt(d) * rng.standard_normal((count, d))


def features(n, d, classes=10, *, rank=None, decay=None, noise=0.05, separation=1.0, seed=0):
    """Return rows float32 (n, d) and their labels int64 (n,), sorted by class; deterministic.

    Every class has a mean of length about `separation` and unit variance, spread over `rank` directions
    of its own with standard deviations that fall as j^-decay, plus isotropic noise of length `noise`.
    Defaults: rank 16 and decay 0.5 up to d = 64; rank 128 and decay 1 above.
    """
    small = d <= 64
    rank = rank if rank is not None else 16 if small else 128
    decay = decay if decay is not None else 0.5 if small else 1.0
    spectrum = np.arange(1, rank + 1) ** -float(decay)
    spectrum /= np.linalg.norm(spectrum)
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, classes, n))
    sizes = np.bincount(labels, minlength=classes)
    parts = [_class_rows(rng, size, d, spectrum, noise, separation).astype(np.float32) for size in sizes]
    return np.vstack(parts), labels


def plain_search(n, m, d, *, seed=1):
    """Return a base (n, d) and queries (m, d) of the same distribution, in random order."""
    rows, _ = features(n + m, d, seed=seed)
    rows = rows[np.random.default_rng(seed).permutation(n + m)]
    return rows[:n], rows[n:]


def class_search(n, m, d, classes, *, seed=3):
    """Return a base (n, d), its labels, and queries (m, d): rows of all classes that the base leaves out."""
    rows, labels = features(n + m, d, classes, seed=seed)
    order = np.random.default_rng(seed).permutation(n + m)
    kept = np.sort(order[m:])
    return rows[kept], labels[kept], rows[order[:m]]
