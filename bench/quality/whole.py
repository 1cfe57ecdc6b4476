"""Clean-label attacks on a network that is fine-tuned as a whole on the poisoned images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality.attacks import WHOLE, Implanted, implant_or_load
from bench.quality.baselines import Training
from bench.quality.defences import Goals, compare_on_network
from bench.quality.detection import judge_probe, judge_scan, review_network
from bench.quality.laboratory import Laboratory, extract, probabilities, train_head
from clear.training import fit

EPOCHS = 8


def run_whole(lab: Laboratory, attack: str, count: int, steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Poison, fine-tune the extractor with its head on the training set, and defend where that succeeds."""
    train, labels = lab.split.train, lab.labels[lab.split.train]
    right = probabilities(lab.extractor, lab.pixels(lab.split.rest)).argmax(1) == lab.labels[lab.split.rest]
    rng = np.random.default_rng([lab.seed, 100 + list(WHOLE).index(attack)])
    unused_head = train_head(lab.features[train], labels, lab.data.classes, lab.seed)
    rows, accuracies = [], []
    for number, target in enumerate(lab.split.rest[right][:count].tolist()):
        taken_for = int(rng.choice(np.delete(np.arange(lab.data.classes), lab.labels[target])))
        place = f"{lab.data.name}-{lab.architecture}-{attack}-seed{lab.seed}-{steps}-{target}-{taken_for}.npz"
        path = Path(lab.out) / "cache" / "crafted" / place
        case = implant_or_load(lab, attack, target, taken_for, unused_head, steps, path)
        pixels = lab.pixels(train)
        pixels[case.poisons] = case.poison_pixels
        victim = copy.deepcopy(lab.extractor)
        fit(victim, pixels, labels, epochs=EPOCHS, learning_rate=0.01, seed=lab.seed)
        success = int(probabilities(victim, case.goal_pixels).argmax()) == taken_for
        on_clean = probabilities(victim, lab.pixels(lab.split.clean))
        accuracies.append(float((on_clean.argmax(1) == lab.labels[lab.split.clean]).mean()))
        row: dict[str, Any] = {"target": target, "true": case.true, "taken_for": taken_for, "success": success}
        row["geometry"] = case.geometry
        if success:
            row |= _defend(lab, case, victim, pixels, labels, on_clean)
        rows.append(row)
        say(f"{attack}: target {number + 1} of {count}, {'succeeds' if success else 'fails'}")
    return {"clean_accuracy": float(np.mean(accuracies)), "rows": rows}


def _defend(lab: Laboratory, case: Implanted, victim: Any, pixels: Any, labels: Any, on_clean: Any) -> dict[str, Any]:
    truth = labels.copy()
    truth[case.poisons] = case.true
    on_training, goal = probabilities(victim, pixels), probabilities(victim, case.goal_pixels)
    scanned, by_reference = judge_scan(Training(case.features, labels, on_training), case.poisons, truth)
    own = Training(extract(victim, pixels), labels, on_training)
    _, by_victim = judge_scan(own, case.poisons, truth)
    incoming = np.concatenate([extract(victim, case.goal_pixels), extract(victim, lab.pixels(lab.split.clean))])
    confidence = np.concatenate([goal, on_clean])
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
        "repair": compare_on_network(lab, victim, pixels, labels, goals, found, EPOCHS, probed=case.goal_pixels),
    }
