"""One unit: a data set, an architecture, an attack and a seed; its result is one JSON file, and not run twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clear
from bench.quality.attacks import FROZEN, WHOLE, implant_or_load
from bench.quality.baselines import Training
from bench.quality.datasets import Data
from bench.quality.defences import compare_on_head, compress
from bench.quality.detection import judge_probe, judge_review, judge_scan
from bench.quality.flips import run_flips
from bench.quality.laboratory import Laboratory, extract, open_laboratory, probabilities, train_head
from bench.quality.whole import run_whole
from clear.results import Level

Say = Callable[[str], None]
CLEAN_SETS = 20
PROTOCOL = 5
"""To be raised when anything that changes results is changed: units run before are run again then."""


@dataclass(frozen=True)
class Unit:
    dataset: str
    architecture: str
    attack: str
    seed: int
    targets: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.architecture}-{self.attack}-seed{self.seed}"


def run_unit(unit: Unit, data: Data, out: Path, folder: Path | None, say: Say) -> dict[str, Any]:
    """Run a unit, or read its result where the same one has been run; write it."""
    path = out / "units" / f"{unit.name}.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["unit"] == asdict(unit) and known.get("protocol") == PROTOCOL:
            say(f"{unit.name}: done before")
            return known
    started, cpu = time.perf_counter(), time.process_time()
    lab = open_laboratory(data, unit.architecture, unit.seed, out, folder)
    if unit.attack == "none":
        found = run_clean_sets(lab)
    elif unit.attack == "label-flips":
        found = run_flips(lab, say)
    elif unit.attack in WHOLE:
        found = run_whole(lab, unit.attack, unit.targets, unit.steps, say)
    else:
        found = run_frozen(lab, unit, say)
    result = {
        "unit": asdict(unit),
        "protocol": PROTOCOL,
        "version": clear.__version__,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        **found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    text = json.dumps(result)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.rename(path)
    return json.loads(text)


def run_frozen(lab: Laboratory, unit: Unit, say: Say) -> dict[str, Any]:
    """Clean-label attacks on a new head above a frozen extractor; only those that succeed are defended."""
    assert unit.attack in FROZEN
    labels = lab.labels[lab.split.train]
    clean_head = train_head(lab.features[lab.split.train], labels, lab.data.classes, lab.seed)
    right = probabilities(clean_head, lab.features).argmax(1) == lab.labels
    jpeg_clean = extract(lab.extractor, compress(lab.pixels(lab.split.clean)))
    targets = [row for row in lab.split.rest if right[row]][: unit.targets]
    rng = np.random.default_rng([lab.seed, FROZEN.index(unit.attack)])
    rows = []
    for number, target in enumerate(targets):
        taken_for = int(rng.choice(np.delete(np.arange(lab.data.classes), lab.labels[target])))
        crafted = lab.out / "cache" / "crafted" / f"{unit.name}-{unit.steps}-{target}-{taken_for}.npz"
        case = implant_or_load(lab, unit.attack, int(target), taken_for, clean_head, unit.steps, crafted)
        head = train_head(case.features, labels, lab.data.classes, lab.seed)
        success = int(probabilities(head, case.goal[None]).argmax()) == taken_for
        row: dict[str, Any] = {
            "target": case.target,
            "true": case.true,
            "taken_for": taken_for,
            "success": success,
            "geometry": case.geometry,
        }
        if success:
            row |= _defend(lab, case, head, labels, jpeg_clean)
        rows.append(row)
        say(f"{unit.name}: target {number + 1} of {len(targets)}, {'succeeds' if success else 'fails'}")
    return {"clean_accuracy": float(right[lab.split.clean].mean()), "rows": rows}


def _defend(lab: Laboratory, case: Any, head: Any, labels: np.ndarray, jpeg_clean: np.ndarray) -> dict[str, Any]:
    training = Training(case.features, labels, probabilities(head, case.features))
    truth = labels.copy()
    truth[case.poisons] = case.true  # what their features should be called
    scanned, scan_row = judge_scan(training, case.poisons, truth)
    inputs = np.concatenate([case.goal[None], lab.features[lab.split.clean]])
    confidence = probabilities(head, inputs)
    probed, probe_row = judge_probe(training, case.poisons, inputs, confidence, case.true)
    own = lab.split.own
    own_predicted = probabilities(head, lab.features[own]).argmax(1)
    reference = clear.Features.from_arrays(lab.features[own], lab.labels[own], predictions=own_predicted)
    true_labels = np.concatenate([[case.true], lab.labels[lab.split.clean]])
    return {
        "scan": scan_row,
        "probe": probe_row,
        "review": judge_review(reference, inputs, confidence, 1, true_labels),
        "repair": compare_on_head(lab, case, head, scanned, probed, jpeg_clean),
    }


def run_clean_sets(lab: Laboratory, sets: int = CLEAN_SETS) -> dict[str, Any]:
    """Scans of training sets without poisons: verdicts and certain flags."""
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


def limit_threads() -> None:
    """One thread: the same sums in the same order everywhere."""
    torch.set_num_threads(1)
