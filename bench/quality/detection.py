"""Scan, probe, review and every baseline on one poisoned training set: what is found, and what is accused."""

from __future__ import annotations

from typing import Any

import numpy as np

import clear
from bench.quality.baselines import Training, combine, score_inputs, score_without_training_set
from bench.quality.metrics import exceedances
from clear.results import Level

FPRS = (0.01, 0.001)


def judge_scan(
    training: Training, poisons: np.ndarray, truth: np.ndarray, changed: np.ndarray | None = None
) -> tuple[clear.ScanResult, dict[str, Any]]:
    """Scan a training set; scores of poisons against those of all others, for `scan` and the baselines.

    What else the attacker `changed` is neither: nobody has to find it, and finding it is no false alarm.
    """
    found = training.scanned
    is_poison = np.isin(np.arange(len(truth)), poisons)
    others = ~is_poison & ~np.isin(np.arange(len(truth)), poisons if changed is None else changed)
    counted = is_poison | others
    ours, levels = found.scores, found.scores.level
    scores = {
        "clear": ours.suspicion,
        "clear: S = R + K": ours.score,
        "clear: R": ours.reassignment,
        "clear: K": ours.collapse,
    }
    scores |= {"clear and cleanlab labels": combine(ours.suspicion, training.scores["cleanlab labels"])}
    scores |= training.scores
    flags = {"clear certain": levels == Level.CERTAIN, "clear all": levels > Level.NONE}
    flags |= training.flags
    return found, {
        "verdict": found.verdict,
        "negatives": int(others.sum()),
        "poisons": len(poisons),
        "label_right": int((ours.suggested_label[poisons] == truth[poisons]).sum()),
        "scores": {name: exceedances(values[counted], is_poison[counted]) for name, values in scores.items()},
        "flags": {name: [int(mask[is_poison].sum()), int(mask[others].sum())] for name, mask in flags.items()},
        "points": _points(ours, is_poison, others),
    }


def _points(scores: clear.Scores, is_poison: np.ndarray, others: np.ndarray, shown: int = 300) -> dict[str, Any]:
    """K and R of the poisons and of some others, for the scatter plot."""
    pairs = np.stack([np.nan_to_num(scores.collapse), np.nan_to_num(scores.reassignment)], axis=1).round(3)
    return {"poisons": pairs[is_poison].tolist(), "others": pairs[others][:shown].tolist()}


def judge_probe(
    training: Training, poisons: np.ndarray, inputs: np.ndarray, confidence: np.ndarray, true: int
) -> tuple[clear.ProbeResult, dict[str, Any]]:
    """Probe inputs of which the first is the target."""
    predicted = confidence.argmax(1)
    probed = clear.probe(
        clear.Features.from_arrays(inputs, predicted, predictions=predicted), training.reference, threads=1
    )
    is_target = np.arange(len(inputs)) == 0
    scores = {"clear": probed.scores.score} | score_inputs(training, inputs, confidence)
    hit = [flag for flag in probed.flags if flag.row == 0]
    return probed, {
        "flagged": bool(hit),
        "z": float(np.nan_to_num(probed.scores.score[0], nan=-99)),
        "false_flags": sum(flag.row != 0 for flag in probed.flags),
        "negatives": int((~is_target).sum()),
        "label_right": bool(probed.scores.suggested_label[0] == true),
        "mates_are_poisons": float(np.isin(hit[0].mates, poisons).mean()) if hit else 0.0,
        "scores": {name: exceedances(values, is_target) for name, values in scores.items()},
    }


def judge_review(
    own: clear.Features, inputs: np.ndarray, victim: np.ndarray, targets: int, truth: np.ndarray, **options: Any
) -> dict[str, Any]:
    """Review inputs, with the victim's probabilities, of which the first `targets` are backdoored."""
    predicted = victim.argmax(1)
    features = clear.Features.from_arrays(inputs, predicted, predictions=predicted)
    is_target = np.arange(len(inputs)) < targets
    row: dict[str, Any] = {"negatives": int((~is_target).sum()), "reference": len(own)}
    found = clear.review(features, own, fpr=max(FPRS), threads=1, **options)
    for fpr in FPRS:
        flagged = flagged_at(found.levels, fpr)
        row[f"flagged_{fpr:g}"] = [int(flagged[is_target].sum()), int(flagged[~is_target].sum())]
    wrong = predicted != truth
    row["false_flags_that_are_mistakes"] = int((flagged_at(found.levels, FPRS[0]) & wrong & ~is_target).sum())
    row["label_right"] = int((found.suggested_labels[is_target] == truth[is_target]).sum())
    scores = {"clear: review": found.scores} | score_without_training_set(own, inputs, victim)
    row["scores"] = {name: exceedances(values, is_target) for name, values in scores.items()}
    return row


def flagged_at(levels: np.ndarray, fpr: float) -> np.ndarray:
    return np.nan_to_num(levels, nan=1.0) <= fpr
