"""Label flips memorised by a network that is fine-tuned as a whole: scan, review and repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.quality.baselines import Training
from bench.quality.clean import WRONG_RATE
from bench.quality.defences import Goals, compare_on_network
from bench.quality.detection import judge_scan
from bench.quality.laboratory import Laboratory, extract, probabilities, start_of, trained_once
from bench.quality.whole import look, review_network
from clear.attacks import flip_labels

COPIES = 6
"""How often an epoch shows a flipped sample."""
MORE = 1000
"""Training images beside those of the frozen victims; where there are so many."""


def run_flips(lab: Laboratory, attack: str, say: Callable[[str], None]) -> dict[str, Any]:
    """One victim with 1 % of its labels flipped."""
    how = "scratch" if attack.endswith("scratch") else "network"
    extra = lab.split.rest[:MORE] if len(lab.split.rest) >= 2 * MORE else lab.split.rest[:0]
    rows = np.sort(np.concatenate([lab.split.train, extra]))
    truth, pixels = lab.labels[rows], lab.pixels(rows)
    labels, flips = flip_labels(truth, round(WRONG_RATE * len(rows)), lab.data.classes, lab.seed)
    copies = np.where(np.isin(np.arange(len(rows)), flips), COPIES, 1)
    victim = _train(lab, attack, how, pixels, labels, copies)
    on_training = probabilities(victim, pixels)
    memorised = on_training[flips].argmax(1) == labels[flips]
    say(f"{attack}: {memorised.sum()} of {len(flips)} memorised")
    scanned, by_reference = judge_scan(Training(lab.features[rows], labels, on_training), flips, truth)
    own = Training(extract(victim, pixels), labels, on_training, look(victim, pixels, labels))
    own_scanned, by_victim = judge_scan(own, flips, truth)
    result = {
        "samples": len(rows),
        "flips": len(flips),
        "memorised": int(memorised.sum()),
        "scan": by_reference,
        "scan of the victim's own features": by_victim,
    }
    held = flips[memorised]
    if len(held):
        result |= review_network(lab, victim, rows[held])
        flagged = np.isin(held, [flag.row for flag in scanned.flags])
        goals = Goals(pixels[held], labels[held], flagged)
        found = {"scan": scanned, "scan of its own features": own_scanned}
        result["repair"] = compare_on_network(lab, victim, pixels, labels, goals, found, how)
    return {"rows": [result]}


def _train(
    lab: Laboratory, attack: str, how: str, pixels: torch.Tensor, labels: np.ndarray, copies: np.ndarray
) -> nn.Module:
    """The victim; kept, for it knows nothing of any defence."""
    path = lab.out / "cache" / "victims" / f"{lab.data.name}-{lab.architecture}-seed{lab.seed}-{attack}.safetensors"
    start, recipe = start_of(lab, how, lab.seed)
    return trained_once(path, start, lambda: (pixels, labels), recipe, lab.seed, copies=copies)
