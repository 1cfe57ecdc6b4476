"""Flags: what is shown of every suspected sample, with its hulls solved again for the record."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clear._progress import Progress
from clear.collapse import evidence
from clear.config import Scale
from clear.crowd import far_evidence
from clear.prepare import Ints, Rows
from clear.reference import Reference
from clear.results import Flag, HullEvidence, Level, Scores

__all__ = ["make_flags"]


def make_flags(
    scores: Scores,
    labels: Ints,
    ids: npt.NDArray[np.generic],
    points: Rows,
    exclude: Ints,
    reference: Reference,
    scale_of: Ints,
    scales: tuple[Scale, ...],
    progress: Progress = False,
) -> tuple[Flag, ...]:
    """Flags of all samples above level NONE, most suspicious first, each with its hulls.

    scale_of int64 (n,): which of `scales` decided; the number after the last stands for the crowd's test.
    """
    flagged = np.flatnonzero(scores.level > Level.NONE)
    flags: list[Flag] = []
    for i in range(len(scales) + 1):
        rows = flagged[scale_of[flagged] == i]
        asked = reference, points[rows], labels[rows], exclude[rows]
        hulls = evidence(*asked, scales[i], progress) if i < len(scales) else far_evidence(*asked)
        for row, wraps in zip(rows.tolist(), hulls, strict=True):
            flags.append(
                Flag(
                    row=row,
                    id=ids[row].item(),
                    level=Level(int(scores.level[row])),
                    label=int(labels[row]),
                    suggested_label=int(scores.suggested_label[row]),
                    collapse=float(scores.collapse[row]),
                    reassignment=float(scores.reassignment[row]),
                    score=float(scores.suspicion[row]),
                    mates=_mates(wraps),
                    hulls=wraps,
                )
            )
    return tuple(sorted(flags, key=lambda flag: (-flag.level, -np.nan_to_num(flag.score, nan=-np.inf), flag.row)))


def _mates(hulls: tuple[HullEvidence, ...], nearest: int = 5) -> tuple[int, ...]:
    """The nearest vertices of the pocket united with those that carry weight."""
    pocket = hulls[0]
    support = [row for row, weight in zip(pocket.rows, pocket.weights, strict=True) if weight > 1e-9]
    return tuple(dict.fromkeys([*pocket.rows[:nearest], *support]))
