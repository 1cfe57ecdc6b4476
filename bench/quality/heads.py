"""What is judged where a new head was trained above a frozen extractor."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

import clear
from bench.quality.baselines import Training
from bench.quality.defences import compare_on_head, compress
from bench.quality.detection import judge_probe, judge_review, judge_scan
from bench.quality.epic import train_with_epic
from bench.quality.laboratory import Laboratory, extract, probabilities, train_head
from bench.quality.victims import Attacked


class HeadDefence:
    """Scan, probe, review, repair and the baselines, target after target of one laboratory."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self._judged: tuple[str, Training, dict[str, nn.Module]] | None = None

    @cached_property
    def compressed(self) -> np.ndarray:
        """Features of the clean inputs after JPEG."""
        return extract(self.lab.extractor, compress(self.lab.pixels(self.lab.split.clean)))

    def __call__(self, attacked: Attacked) -> dict[str, Any]:
        lab, case, head = self.lab, attacked.case, attacked.victim
        labels, own = lab.labels[lab.split.train], lab.split.own
        training, others = self._training_set(attacked)
        truth = labels.copy()
        truth[case.poisons] = case.true  # what their features should be called
        scanned, scan_row = judge_scan(training, case.poisons, truth, case.changed)
        inputs = np.concatenate([case.goal[None], lab.features[lab.split.clean]])
        confidence = probabilities(head, inputs)
        probed, probe_row = judge_probe(training, case.poisons, inputs, confidence, case.true)
        own_predicted = probabilities(head, lab.features[own]).argmax(1)
        reference = clear.Features.from_arrays(lab.features[own], lab.labels[own], predictions=own_predicted)
        true_labels = np.concatenate([[case.true], lab.labels[lab.split.clean]])
        return {
            "scan": scan_row | {"training_set": case.training_set},
            "probe": probe_row,
            "review": judge_review(reference, inputs, confidence, 1, true_labels),
            "repair": compare_on_head(lab, case, head, others, (scanned, probed), self.compressed),
        }

    def _training_set(self, attacked: Attacked) -> tuple[Training, dict[str, nn.Module]]:
        """The training set, scanned, and heads trained anew with a defence: once, however many targets share them."""
        case = attacked.case
        if self._judged is None or self._judged[0] != case.training_set:
            labels, classes = self.lab.labels[self.lab.split.train], self.lab.data.classes
            training = Training(case.features, labels, probabilities(attacked.victim, case.features))
            kept = np.setdiff1d(np.arange(len(labels)), [flag.row for flag in training.scanned.flags])
            others = {"retrain without flags": train_head(case.features[kept], labels[kept], classes, self.lab.seed)}
            epic = train_with_epic(case.features, labels, classes, self.lab.seed)
            self._judged = case.training_set, training, others | ({"EPIC": epic} if epic else {})
        return self._judged[1:]
