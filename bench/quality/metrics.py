"""Figures of merit. A positive is kept as its exceedances, from which every rate follows; nothing is tuned here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.stats import beta

Exceedances = list[tuple[float, float]]
"""For each positive: share of negatives that score at least as high, and share with ties counted half."""


def exceedances(scores: np.ndarray, positive: np.ndarray) -> Exceedances:
    """nan counts as the lowest score."""
    usable = np.nan_to_num(np.asarray(scores, float), nan=-np.inf)
    negatives = np.sort(usable[~positive])
    high = usable[positive]
    n = max(1, len(negatives))
    at_least = n - np.searchsorted(negatives, high, side="left")
    above = n - np.searchsorted(negatives, high, side="right")
    return [(float(a / n), float((a + b) / 2 / n)) for a, b in zip(at_least, above, strict=True)]


def rate(found: Iterable[tuple[float, float]], fpr: float) -> float:
    """Share of positives that are found while at most `fpr` of the negatives score as high: TPR at that FPR."""
    values = [strict for strict, _ in found]
    return float(np.mean([value <= fpr for value in values])) if values else float("nan")


def auroc(found: Iterable[tuple[float, float]]) -> float:
    values = [half for _, half in found]
    return float(1 - np.mean(values)) if values else float("nan")


def precision(found: Exceedances, negatives: int) -> float:
    """Share of positives among the 2 P samples that score highest (at most .5)."""
    p = len(found)
    order = sorted(strict * negatives for strict, _ in found)
    inside = sum(above + i < 2 * p for i, above in enumerate(order))
    return inside / (2 * p) if p else float("nan")


def average_precision(found: Exceedances, negatives: int) -> float:
    """Area under the curve of precision and recall, as a sum over the positives; ties count against."""
    ahead = sorted(strict * negatives for strict, _ in found)
    return float(np.mean([(i + 1) / (i + 1 + above) for i, above in enumerate(ahead)])) if ahead else float("nan")


def matthews(found: int, of: int, false: int, negatives: int) -> float:
    """Matthews correlation coefficient of flags: `found` of so many positives, and `false` of so many negatives."""
    flagged = found + false
    scale = np.sqrt(float(flagged) * (of + negatives - flagged) * of * negatives)
    return float((found * (negatives - false) - false * (of - found)) / scale) if scale else 0.0


def interval(successes: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a binomial rate; successes may be a sum of shares."""
    if not trials:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)
