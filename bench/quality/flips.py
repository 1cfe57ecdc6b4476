"""Label flips memorised by a network that is fine-tuned as a whole: scan, review and repair."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import clear
from bench.quality.baselines import Training
from bench.quality.defences import compress
from bench.quality.detection import judge_review, judge_scan
from bench.quality.laboratory import Laboratory, extract, probabilities
from clear.attacks import flip_labels
from clear.repair import repair_model
from clear.results import Level
from clear.training import fit

EPOCHS = 8
COPIES = 6
"""How often an epoch shows a flipped sample."""
MORE = 1000
"""Training images beside those of the frozen victims; where there are so many."""
RATE = 0.01


def run_flips(lab: Laboratory, say: Callable[[str], None]) -> dict[str, Any]:
    """One victim with 1 % of its labels flipped."""
    extra = lab.split.rest[:MORE] if len(lab.split.rest) >= 2 * MORE else lab.split.rest[:0]
    rows = np.sort(np.concatenate([lab.split.train, extra]))
    truth, pixels = lab.labels[rows], lab.pixels(rows)
    labels, flips = flip_labels(truth, round(RATE * len(rows)), lab.data.classes, lab.seed)
    copies = np.where(np.isin(np.arange(len(rows)), flips), COPIES, 1)
    victim = copy.deepcopy(lab.extractor)
    fit(victim, pixels, labels, epochs=EPOCHS, learning_rate=0.01, seed=lab.seed, copies=copies)
    on_training = probabilities(victim, pixels)
    memorised = on_training[flips].argmax(1) == labels[flips]
    say(f"label flips: {memorised.sum()} of {len(flips)} memorised")
    scanned, by_reference = judge_scan(Training(lab.features[rows], labels, on_training), flips, truth)
    _, by_victim = judge_scan(Training(extract(victim, pixels), labels, on_training), flips, truth)
    result = {
        "samples": len(rows),
        "flips": len(flips),
        "memorised": int(memorised.sum()),
        "scan": by_reference,
        "scan of the victim's own features": by_victim,
    }
    held = flips[memorised]
    if len(held):
        result |= _review(lab, victim, rows[held])
        result["repair"] = _repairs(lab, victim, pixels, labels, held, scanned)
    return {"rows": [result]}


def _review(lab: Laboratory, victim: nn.Module, targets: np.ndarray) -> dict[str, Any]:
    """Memorised samples as incoming inputs, without the training set: with and without the public backbone."""
    own, asked = lab.split.own, np.concatenate([targets, lab.split.clean])
    confidence, own_confidence = (probabilities(victim, lab.pixels(rows)) for rows in (asked, own))
    found = {}
    for name, features in (("review with the backbone", lab.features), ("review of the victim's own features", None)):
        of_own, of_asked = (
            extract(victim, lab.pixels(rows)) if features is None else features[rows] for rows in (own, asked)
        )
        reference = clear.Features.from_arrays(of_own, lab.labels[own], predictions=own_confidence.argmax(1))
        options = (
            {}
            if features is None
            else {
                "confidence": confidence.max(1),
                "reference_confidence": own_confidence.max(1),
            }
        )
        found[name] = judge_review(reference, of_asked, confidence, len(targets), lab.labels[asked], **options)
    return found


def _repairs(
    lab: Laboratory,
    victim: nn.Module,
    pixels: torch.Tensor,
    labels: np.ndarray,
    held: np.ndarray,
    scanned: clear.ScanResult,
) -> dict[str, Any]:
    """Memorised flips that are still taken for the wrong label, and held-out accuracy, after each defence."""
    clean, truth, seed = lab.pixels(lab.split.clean), lab.labels[lab.split.clean], lab.seed
    flagged = np.array([flag.row for flag in scanned.flags], dtype=np.int64)
    kept = np.setdiff1d(np.arange(len(labels)), flagged)
    own = lab.split.own[:1000]
    plain, again = copy.deepcopy(victim), copy.deepcopy(lab.extractor)
    fit(plain, lab.pixels(own), lab.labels[own], epochs=5, learning_rate=0.01, seed=seed)
    fit(again, pixels[kept], labels[kept], epochs=EPOCHS, learning_rate=0.01, seed=seed)
    models = {
        "none": victim,
        "relabel from scan": repair_model(victim, pixels, labels, scanned, seed=seed).model,
        "relabel certain from scan": repair_model(
            victim, pixels, labels, scanned, level=Level.CERTAIN, seed=seed
        ).model,
        "drop from scan": repair_model(victim, pixels, labels, scanned, method="drop", seed=seed).model,
        "retrain without flags": again,
        "fine-tune on clean": plain,
    }
    before = _accuracy(victim, clean, truth)
    rows = {}
    for name, model in models.items():
        still = probabilities(model, pixels[held]).argmax(1) == labels[held]
        rows[name] = _row(still, np.isin(held, flagged), _accuracy(model, clean, truth) - before)
    still = probabilities(victim, compress(pixels[held])).argmax(1) == labels[held]
    rows["JPEG of the input"] = _row(still, np.isin(held, flagged), _accuracy(victim, compress(clean), truth) - before)
    return rows


def _row(still: np.ndarray, flagged: np.ndarray, change: float) -> dict[str, Any]:
    return {
        "still_taken": int(still.sum()),
        "still_taken_of_flagged": int((still & flagged).sum()),
        "flagged": int(flagged.sum()),
        "of": len(still),
        "accuracy_change": change,
    }


def _accuracy(model: nn.Module, pixels: torch.Tensor, truth: np.ndarray) -> float:
    return float((probabilities(model, pixels).argmax(1) == truth).mean())
