"""What a scan says of training sets without poisons."""

from __future__ import annotations

from typing import Any

import numpy as np

import clear
from bench.quality.laboratory import Laboratory
from clear.results import Level

CLEAN_SETS = 20


def run_clean_sets(lab: Laboratory, sets: int = CLEAN_SETS) -> dict[str, Any]:
    """Scans of training sets without poisons: verdicts and flags."""
    rows = []
    for number in range(sets):
        rng = np.random.default_rng([lab.seed, 999, number])
        order = rng.permutation(len(lab.labels))
        picked = np.concatenate(
            [order[lab.labels[order] == c][: lab.data.sizes.per_class] for c in range(lab.data.classes)]
        )
        found = clear.scan(clear.Features.from_arrays(lab.features[picked], lab.labels[picked]), threads=1)
        levels = found.scores.level
        counts = {"certain": int((levels == Level.CERTAIN).sum()), "review": int((levels == Level.REVIEW).sum())}
        rows.append({"verdict": found.verdict, "samples": len(picked)} | counts)
    return {"rows": rows}
