"""Training sets without poisons: what a scan says of them, and of those with a few labels wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import clear
from bench.quality.baselines import Training
from bench.quality.datasets import draw
from bench.quality.detection import judge_scan
from bench.quality.laboratory import Laboratory, probabilities, train_head
from clear.attacks import flip_labels
from clear.results import Level

WRONG_RATE = 0.01
"""Share of labels that are wrong, here and where a network learns from them."""
CLEAN, WRONG = 999, 998
"""Streams of random numbers."""


def run_clean_sets(lab: Laboratory) -> dict[str, Any]:
    """Scans of training sets without poisons: verdicts and flags."""
    rows = []
    for picked in training_sets(lab, CLEAN, lab.data.sizes.clean_sets):
        found = clear.scan(clear.Features.from_arrays(lab.features[picked], lab.labels[picked]), threads=1)
        levels = found.scores.level
        counts = {"certain": int((levels == Level.CERTAIN).sum()), "review": int((levels == Level.REVIEW).sum())}
        rows.append({"verdict": found.verdict, "samples": len(picked)} | counts)
    return {"rows": rows}


def run_wrong_labels(lab: Laboratory, count: int) -> dict[str, Any]:
    """Scans of `count` training sets of which 1 % of the labels are wrong, in features that never learnt from them."""
    rows = []
    for number, picked in enumerate(training_sets(lab, WRONG, count)):
        truth, classes = lab.labels[picked], lab.data.classes
        labels, wrong = flip_labels(truth, round(WRONG_RATE * len(picked)), classes, 1000 * lab.seed + number)
        head = train_head(lab.features[picked], labels, classes, lab.seed)
        training = Training(lab.features[picked], labels, probabilities(head, lab.features[picked]))
        _, judged = judge_scan(training, wrong, truth)
        rows.append({"flips": len(wrong), "scan": judged})
    return {"rows": rows}


def training_sets(lab: Laboratory, stream: int, count: int) -> Iterator[np.ndarray]:
    """Rows of training sets of the usual size, each drawn anew."""
    for number in range(count):
        seed = [lab.seed, stream, number]
        order = np.random.default_rng(seed).permutation(len(lab.labels))
        yield draw(lab.labels, lab.data.sizes, order, seed)
