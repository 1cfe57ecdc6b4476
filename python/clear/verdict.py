"""The verdict of a scan: does a group of samples stand out from all others, and are more samples certain than usual?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clear.budgets import Bars, more_flags, verdict_bars
from clear.pockets import LINKED_MATES, SMALLEST_POCKET, excess_over
from clear.reference import Reference
from clear.results import Level, Scores, Verdict

__all__ = ["Group", "describe_group", "find_group", "scan_verdict"]

CERTAIN_RATE = 4e-3
"""Certain samples per sample that real data without poisons may have: odd ones and wrong labels (measured:
docs/how-it-works.md)."""
ODD_RATE = 5e-4
"""Certain samples per sample below which they say nothing: among thousands some are odd. Among fewer one does."""
GROUP_TAIL = 0.98
"""Quantile of the samples outside the group: further groups, as poisons for several targets are, may be beyond it."""
OTHER_LABELS_SHORT = 0.75
"""Spreads more by which a flagged group must stand above the samples of other labels, where it does not above all: what
lies around poisons in their own class may be the attacker's, too, but classes of unequal shape stand out a little."""


class Group(NamedTuple):
    """The sample of the largest company and its ten nearest mates; copies of them belong to it, too."""

    rows: tuple[int, ...]
    """Distinct ones, the sample first; none where no sample has a company."""
    excess: float
    """How far its company stands above that of all samples outside the group, in their spreads, or, of a flagged group,
    above that of the samples of other labels, less `OTHER_LABELS_SHORT`, if that is more; nan if untold."""
    flagged: int
    """How many of the rows are flagged."""


def find_group(reference: Reference, scores: Scores) -> Group:
    """The group that stands out most."""
    if np.isnan(scores.company).all():
        return Group((), float("nan"), 0)
    top = int(reference.representative[np.nanargmax(scores.company)])
    at = np.array([top])
    near = reference.nearest(reference.rows[at], reference.labels[at], LINKED_MATES, at)[0]
    units = np.append(at, near[near >= 0])
    flagged = int((scores.level[units] > Level.NONE).sum())
    member = np.isin(reference.representative, units)
    excess = excess_over(scores.company[at], scores.company[~member], GROUP_TAIL)[0]
    if flagged >= SMALLEST_POCKET:
        others = scores.company[reference.labels != reference.labels[top]]
        excess = np.fmax(excess, excess_over(scores.company[at], others, GROUP_TAIL)[0] - OTHER_LABELS_SHORT)
    return Group(tuple(units.tolist()), float(excess), flagged)


def scan_verdict(reference: Reference, scores: Scores, group: Group) -> Verdict:
    """Poisoned: a flagged group stands out, or many are certain. Undecided: less of both, a crowd, and weak features
    whatever they show."""
    from scipy.special import pdtrc

    n, config = len(reference.units), reference.config
    if reference.core_accuracy < config.weak_accuracy:
        return "undecided"
    certain = len(np.unique(reference.representative[scores.level == Level.CERTAIN]))
    accepted = more_flags(config.false_flags, n)
    too_many = certain > 0 and pdtrc(certain - 1, CERTAIN_RATE * n + accepted) < config.false_alarms
    may, does = bars(reference)
    if too_many or (group.excess > does and group.flagged >= SMALLEST_POCKET):
        return "poisoned"
    some = certain >= max(1, ODD_RATE * n + accepted) or np.isfinite(scores.crowd).any()
    return "undecided" if some or group.excess > may else "clean"


def bars(reference: Reference) -> Bars:
    """Spreads by which a group may stand out, and by which it does."""
    return verdict_bars(reference.config.false_alarms, len(reference.units))


def describe_group(reference: Reference, group: Group) -> list[str]:
    """A note about the group that stands out, where one does."""
    may, does = bars(reference)
    if not group.excess > may:
        return []
    row = group.rows[0]
    return [
        f"the {len(group.rows)} samples around row {row}, labelled {int(reference.labels[row])}, stand out by "
        f"{group.excess:.1f} spreads, {group.flagged} of them flagged: clean data seldom reach {may:.2f}, and "
        f"hardly ever {does:.2f}"
    ]
