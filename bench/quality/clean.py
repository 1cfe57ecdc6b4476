"""What a scan says of training sets without poisons."""

from __future__ import annotations

from typing import Any

import numpy as np

import clear
from bench.quality.datasets import draw
from bench.quality.laboratory import Laboratory
from clear.results import Level


def run_clean_sets(lab: Laboratory) -> dict[str, Any]:
    """Scans of training sets without poisons: verdicts and flags."""
    rows = []
    for number in range(lab.data.sizes.clean_sets):
        seed = [lab.seed, 999, number]
        order = np.random.default_rng(seed).permutation(len(lab.labels))
        picked = draw(lab.labels, lab.data.sizes, order, seed)
        found = clear.scan(clear.Features.from_arrays(lab.features[picked], lab.labels[picked]), threads=1)
        levels = found.scores.level
        counts = {"certain": int((levels == Level.CERTAIN).sum()), "review": int((levels == Level.REVIEW).sum())}
        rows.append({"verdict": found.verdict, "samples": len(picked)} | counts)
    return {"rows": rows}
