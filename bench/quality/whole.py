"""What is judged where a whole network was trained on the poisoned images: fine-tuned, or from scratch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import clear
from bench.quality.baselines import Training
from bench.quality.defences import Goals, compare_on_network
from bench.quality.detection import judge_probe, judge_review, judge_scan
from bench.quality.laboratory import Laboratory, extract, probabilities
from bench.quality.victims import Attacked, poisoned_pixels


def defend_network(lab: Laboratory, how: str, attacked: Attacked) -> dict[str, Any]:
    """Scan in the features of a public extractor and in the victim's own, probe, review, repair."""
    case, victim = attacked.case, attacked.victim
    labels, pixels = lab.labels[lab.split.train], poisoned_pixels(lab, case)
    truth = labels.copy()
    truth[case.poisons] = case.true
    on_training, goal = probabilities(victim, pixels), probabilities(victim, case.goal_pixels)
    scanned, by_reference = judge_scan(Training(case.features, labels, on_training), case.poisons, truth, case.changed)
    own = Training(extract(victim, pixels), labels, on_training, look(victim, pixels, labels))
    _, by_victim = judge_scan(own, case.poisons, truth, case.changed)
    clean = lab.pixels(lab.split.clean)
    incoming = np.concatenate([extract(victim, case.goal_pixels), extract(victim, clean)])
    confidence = np.concatenate([goal, probabilities(victim, clean)])
    probed, probe_row = judge_probe(own, case.poisons, incoming, confidence, case.true)
    found: dict[str, Any] = {"scan": scanned}
    of_target = tuple(flag for flag in probed.flags if flag.row == 0)
    if of_target:
        found["probe"] = replace(probed, flags=of_target, n_samples=1)
    goals = Goals(case.goal_pixels, np.array([case.taken_for]), np.array([bool(of_target)]))
    return {
        "scan": by_reference,
        "scan of the victim's own features": by_victim,
        "probe": probe_row,
        **review_network(lab, victim, np.array([case.target])),
        "repair": compare_on_network(lab, victim, pixels, labels, goals, found, how, probed=case.goal_pixels),
    }


def review_network(lab: Laboratory, victim: nn.Module, targets: np.ndarray) -> dict[str, Any]:
    """Inputs of a network poisoned as a whole, without its training set: with and without the public backbone."""
    own, asked = lab.split.own, np.concatenate([targets, lab.split.clean])
    confidence, own_confidence = (probabilities(victim, lab.pixels(rows)) for rows in (asked, own))
    found = {}
    for name, features in (("review with the backbone", lab.features), ("review of the victim's own features", None)):
        of_own, of_asked = (
            extract(victim, lab.pixels(rows)) if features is None else features[rows] for rows in (own, asked)
        )
        reference = clear.Features.from_arrays(of_own, lab.labels[own], predictions=own_confidence.argmax(1))
        options: dict[str, Any] = {"confidence": confidence.max(1), "reference_confidence": own_confidence.max(1)}
        if features is None:
            views, own_views = (look(victim, lab.pixels(rows), lab.labels[rows]) for rows in (asked, own))
            options = {"views": views, "reference_views": own_views}
        found[name] = judge_review(reference, of_asked, confidence, len(targets), lab.labels[asked], **options)
    return found


def look(victim: nn.Module, pixels: torch.Tensor, labels: np.ndarray) -> clear.Views | None:
    """Views of images through a network; None where it has no layer that still sees an image."""
    if not any(isinstance(module, nn.Conv2d) for module in victim.modules()):
        return None
    return clear.extract_views(victim, (pixels, labels))
