"""The verdict of a scan: does a group of samples of one label stand out, and are more samples certain than usual?"""

from __future__ import annotations

import numpy as np

from clear.pockets import MAY_STAND_OUT, STANDS_OUT, stands_out
from clear.reference import Reference
from clear.results import Level, Scores, Verdict
from clear.suspicion import company_excess

__all__ = ["describe_group", "scan_verdict"]

CERTAIN_RATE = 4e-3
"""Certain samples per sample that real data without poisons may have: odd ones and wrong labels (measured:
docs/how-it-works.md)."""
ODD_RATE = 5e-4
"""Certain samples per sample below which they say nothing: among thousands some are odd. Among fewer one does."""
VERDICT_ALPHA = 1e-2
"""Chance that data with that rate have as many certain samples as make the verdict "poisoned"."""


def scan_verdict(reference: Reference, scores: Scores) -> Verdict:
    """Poisoned: a group stands out, or too many are certain. Undecided: less of both, a crowd, or weak features."""
    from scipy.special import pdtrc

    certain = len(np.unique(reference.representative[scores.level == Level.CERTAIN]))
    too_many = certain > 0 and pdtrc(certain - 1, CERTAIN_RATE * len(reference.units)) < VERDICT_ALPHA
    n, excess = len(reference.units), company_excess(scores.company, reference.labels)
    if too_many or excess > stands_out(STANDS_OUT, n):
        return "poisoned"
    some = certain >= max(1, ODD_RATE * n) or np.isfinite(scores.crowd).any()
    weak = reference.core_accuracy < reference.config.weak_accuracy
    return "undecided" if some or excess > stands_out(MAY_STAND_OUT, n) or weak else "clean"


def describe_group(reference: Reference, scores: Scores) -> list[str]:
    """A note about the group that stands out, where one does."""
    excess = company_excess(scores.company, reference.labels)
    may, does = (stands_out(spreads, len(reference.units)) for spreads in (MAY_STAND_OUT, STANDS_OUT))
    if not excess > may:
        return []
    row = int(np.nanargmax(scores.company))
    return [
        f"the samples around row {row}, labelled {int(reference.labels[row])}, stand {excess:.1f} spreads above "
        f"those of other labels: clean data seldom reach {may:.2f}, and hardly ever {does:.2f}"
    ]
