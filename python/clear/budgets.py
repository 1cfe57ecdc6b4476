"""From the errors that a user accepts to the spreads that make a flag or a verdict.

Each law goes through one point, and its slope was measured on clean development sets, of other seeds than those that
docs/how-it-works.md ("Error budgets") shows:

    certain flags   clean samples flagged among 1,000 = 1,000 * upper tail of a normal law; a heavier tail of the data
                    is a part of their spread (`suspicion.suspicion_threshold`)
    verdict         clean sets called poisoned = .01 * exp(-4 (spreads - 4.5)) below 4.5 spreads, and above it
                    .01 * exp(-2.5 (spreads - 4.5)), where hardly anything was measured
    probe           clean inputs flagged = .002 * exp(-1.75 (spreads - 4))
"""

from __future__ import annotations

from math import erfc, log, sqrt
from statistics import NormalDist
from typing import NamedTuple

__all__ = ["FALSE_FLAGS", "Bars", "flag_spreads", "more_flags", "probe_spreads", "stands_out", "verdict_bars"]

MEASURED_ON = 1000
"""Samples of the sets that spreads were measured on."""
FALSE_FLAGS = 0.2326
"""Of a scan: 3.5 spreads."""
STANDS_OUT, ALARMS, SLOPE_BELOW, SLOPE_ABOVE = 4.5, 0.01, 4.0, 2.5
SHORT_OF_IT = 0.75
"""By so many spreads less a group may stand out: undecided."""
PROBED, PROBE_RATE, PROBE_SLOPE = 4.0, 0.002, 1.75


class Bars(NamedTuple):
    """Spreads by which a group of samples may stand out from others, and by which it does."""

    may: float
    does: float


def flag_spreads(false_flags: float) -> float:
    """Spreads beyond which so many of a thousand clean samples lie."""
    return -NormalDist().inv_cdf(false_flags / MEASURED_ON)


def more_flags(false_flags: float, n: int) -> float:
    """Flags of n clean samples that come on top of what the verdict expects anyway, since the user accepts them."""
    return max(0.0, false_flags - FALSE_FLAGS) * min(n, MEASURED_ON) / MEASURED_ON


def probe_spreads(fpr: float) -> float:
    """Spreads beyond which that share of clean inputs lies."""
    return PROBED + log(PROBE_RATE / fpr) / PROBE_SLOPE


def verdict_bars(false_alarms: float, n: int) -> Bars:
    """What the group that stands out most of n samples stays below, but for that share of clean sets."""
    does = STANDS_OUT + log(ALARMS / false_alarms) / (SLOPE_BELOW if false_alarms > ALARMS else SLOPE_ABOVE)
    return Bars(stands_out(does - SHORT_OF_IT, n), stands_out(does, n))


def stands_out(spreads: float, n: int) -> float:
    """As rare among n samples as so many spreads are among a thousand, if tails are normal: the largest of more is
    larger."""
    rarity = 0.5 * erfc(spreads / sqrt(2)) * MEASURED_ON / max(n, MEASURED_ON)  # `NormalDist.cdf` cancels far out
    return -NormalDist().inv_cdf(rarity) if n > MEASURED_ON and rarity > 0 else spreads
