"""The method on real images, end to end: attack, scan or probe, repair, verify.

    python -m bench.real_runs label-flips        --data DIR [--seed 1]
    python -m bench.real_runs feature-collision  --data DIR [--seed 1] [--targets 10]
    python -m bench.real_runs full-scan          --data DIR
    python -m bench.real_runs inverted-lists     --data DIR [--seed 1]
    python -m bench.real_runs tables                          (write docs/real-runs.md again from the results)

DIR holds cifar10/{train,test}.parquet (images as Hugging Face writes them) and models/resnet20-cifar10.safetensors, a
network trained on CIFAR-10's training images only: the 10,000 test images are all unseen by it. Writes
bench/results/RUN-seedN.json and the tables of docs/real-runs.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import clear
from clear.attacks import feature_collision, flip_labels
from clear.features import extract_features, predict
from clear.images import open_images
from clear.models import last_linear, load_model
from clear.repair import repair_model
from clear.results import Level
from clear.training import accuracy, fit
from clear.verify import verify_repair

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[1] / "docs" / "real-runs.md"


class FromPixels(nn.Module):
    """The network behind its own normalisation, so that an attack can bound pixels in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(network.preprocess.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(network.preprocess.std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network((pixels - self.mean) / self.std)


def load(data: Path) -> tuple[nn.Module, torch.Tensor, np.ndarray]:
    """The pretrained network on pixels, and the images it has not seen: float32 (n, 3, 32, 32) in [0, 1], labels."""
    network = load_model(data / "models/resnet20-cifar10.safetensors", "resnet20")
    images = open_images(data / "cifar10/test.parquet")
    pixels = np.stack([images.image(i) for i in range(len(images))])
    model = FromPixels(network).eval()
    return model, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, np.asarray(images.labels)


def detection_rate(scores: np.ndarray, positive: np.ndarray, rate: float) -> float:
    """Share of positives above the (1 - rate) quantile of the others."""
    usable = np.nan_to_num(scores, nan=-np.inf)
    return float((usable[positive] > np.quantile(usable[~positive], 1 - rate)).mean())


def run_label_flips(data: Path, seed: int, flips: int = 20, samples: int = 4000, epochs: int = 8) -> dict[str, Any]:
    """Flip labels, memorise them end to end, scan the features of the network from before, repair from the flags."""
    public, pixels, labels = load(data)
    order = np.random.default_rng(seed).permutation(len(labels))
    train, held_out = np.sort(order[:samples]), np.sort(order[samples:])
    poisoned, rows = flip_labels(labels[train], flips, 10, seed)
    is_flip = np.isin(np.arange(samples), rows)
    victim = copy.deepcopy(public)
    fit(victim, pixels[train], poisoned, epochs=epochs, learning_rate=0.01, seed=seed, copies=np.where(is_flip, 6, 1))
    memorised = int((predict(victim, (pixels[train][rows], None)) == poisoned[rows]).sum())
    reference = extract_features(public, (pixels[train], poisoned))
    start = time.perf_counter()
    found = clear.scan(reference)
    scan_seconds = time.perf_counter() - start
    repair = repair_model(victim, pixels[train], poisoned, found, seed=seed)
    checked = verify_repair(
        victim,
        repair.model,
        pixels[train],
        poisoned,
        corrected=repair.labels,
        scan=found,
        held_out=(pixels[held_out], labels[held_out]),
        extractor=public,
    )
    flagged = found.scores.level > Level.NONE
    still = predict(repair.model, (pixels[train][rows], None)) == poisoned[rows]
    dropped = repair_model(victim, pixels[train], poisoned, found, method="drop", seed=seed)
    still_dropped = predict(dropped.model, (pixels[train][rows], None)) == poisoned[rows]
    oracle = repair_model(
        victim, pixels[train], poisoned, dict(zip(rows.tolist(), labels[train][rows].tolist(), strict=True)), seed=seed
    )
    return {
        "attack": {"flips": flips, "memorised": memorised, "samples": samples, "epochs": epochs},
        "scan": {
            "verdict": found.verdict,
            "seconds": scan_seconds,
            "flags": int(flagged.sum()),
            "certain": int((found.scores.level == Level.CERTAIN).sum()),
            "flips_flagged": int(flagged[rows].sum()),
            "flips_certain": int((found.scores.level[rows] == Level.CERTAIN).sum()),
            "corrected_label_right": float((found.scores.suggested_label[rows] == labels[train][rows]).mean()),
            "tpr_at_1%_R": detection_rate(found.scores.reassignment, is_flip, 0.01),
            "tpr_at_1%_S": detection_rate(found.scores.score, is_flip, 0.01),
            "tpr_at_.1%_S": detection_rate(found.scores.score, is_flip, 0.001),
        },
        "repair": {
            "still_misclassified": int(still.sum()),
            "still_misclassified_of_flagged": int((still & flagged[rows]).sum()),
            "held_out_accuracy_before": checked.held_out_accuracy_before,
            "held_out_accuracy_after": checked.held_out_accuracy_after,
            "pockets_closed": f"{sum(p.closed for p in checked.pockets)} of {len(checked.pockets)}",
            "oracle_flags_still": int((predict(oracle.model, (pixels[train][rows], None)) == poisoned[rows]).sum()),
            "oracle_flags_accuracy": accuracy(oracle.model, pixels[held_out], labels[held_out]),
            "drop_still_misclassified": int(still_dropped.sum()),
        },
    }


def run_feature_collision(data: Path, seed: int, targets: int = 10, epsilon: float = 0.1) -> dict[str, Any]:
    """Five poisons a target, a new head on a frozen extractor; probe the target, scan, repair the head, verify."""
    public, pixels, labels = load(data)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    train = np.sort(np.concatenate([order[labels[order] == c][:100] for c in range(10)]))
    rest = np.setdiff1d(order, train)
    clean = np.sort(rng.choice(rest, 2000, replace=False))
    candidates = rng.permutation(np.setdiff1d(rest, clean))
    clean_head = train_head(public, pixels[train], labels[train], seed)
    rows, attempt = [], 0
    while len(rows) < targets:
        target = candidates[attempt]
        attempt += 1
        true, taken_for = int(labels[target]), int(rng.choice(np.delete(np.arange(10), labels[target])))
        if predict(clean_head, (pixels[target][None], None))[0] != true:
            continue  # an attack on an input that is misclassified anyway shows nothing
        rows.append(attack_and_defend(public, pixels, labels, train, clean, int(target), taken_for, epsilon, seed))
        print(json.dumps(rows[-1]), flush=True)
    won = [row for row in rows if row["attack_succeeded"]]
    if not won:
        raise SystemExit("no attack succeeded: nothing to defend against")
    mean = {
        key: float(np.mean([row[key] for row in won]))
        for key in won[0]
        if key not in ("target", "true", "taken_for", "attack_succeeded", "verdict")
    }
    verdicts = [row["verdict"] for row in won]
    return {"attack_success": f"{len(won)} of {len(rows)}", "mean": mean, "verdicts": verdicts, "targets": rows}


def train_head(public: nn.Module, pixels: torch.Tensor, labels: np.ndarray, seed: int) -> nn.Module:
    """A copy of the network with a new last layer, trained alone: Adam .1, 60 epochs."""
    model = copy.deepcopy(public)
    name, head = last_linear(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head.reset_parameters()
    features = torch.from_numpy(extract_features(public, (pixels, labels)).values)
    fit(head, features, labels, epochs=60, learning_rate=0.1, batch_size=64, seed=seed, optimizer="adam")
    return model


def attack_and_defend(
    public: nn.Module,
    pixels: torch.Tensor,
    labels: np.ndarray,
    train: np.ndarray,
    clean: np.ndarray,
    target: int,
    taken_for: int,
    epsilon: float,
    seed: int,
) -> dict[str, Any]:
    """One target: poison, train the head, probe, scan, repair from either, verify."""
    images, given = pixels[train].clone(), labels[train]
    features = extract_features(public, (images, given)).values
    goal = extract_features(public, (pixels[target][None], None)).values[0]
    bases = np.flatnonzero(given == taken_for)
    bases = bases[np.argsort(np.linalg.norm(features[bases] - goal, axis=1))[:5]]
    attack = feature_collision(public, images[bases], pixels[target], epsilon=epsilon)
    images[bases] = attack.poisons
    is_poison = np.isin(np.arange(len(train)), bases)
    victim = train_head(public, images, given, seed)
    training = extract_features(victim, (images, given))
    inputs = extract_features(victim, (torch.cat([pixels[target][None], pixels[clean]]), None))
    scanned = clear.scan(training)
    probed = clear.probe(inputs, training)
    hit = [flag for flag in probed.flags if flag.row == 0]
    true = int(labels[target])
    before = float((inputs.predictions[1:] == labels[clean]).mean())
    row: dict[str, Any] = {
        "target": target,
        "true": true,
        "taken_for": taken_for,
        "attack_succeeded": bool(inputs.predictions[0] == taken_for),
        "verdict": scanned.verdict,
        "distance_ratio": float(np.median(attack.distance_after / attack.distance_before)),
        "scan_tpr_at_1%_S": detection_rate(scanned.scores.score, is_poison, 0.01),
        "scan_tpr_at_.1%_S": detection_rate(scanned.scores.score, is_poison, 0.001),
        "scan_tpr_at_1%_G": detection_rate(scanned.scores.group, is_poison, 0.01),
        "scan_certain_recall": float((scanned.scores.level[is_poison] == Level.CERTAIN).mean()),
        "scan_certain_clean": int((scanned.scores.level[~is_poison] == Level.CERTAIN).sum()),
        "scan_label_right": float((scanned.scores.suggested_label[is_poison] == true).mean()),
        "probe_flagged": float(bool(hit)),
        "probe_z": float(probed.scores.score[0]),
        "probe_fpr": float((probed.scores.level[1:] == Level.CERTAIN).mean()),
        "probe_label_right": float(probed.scores.suggested_label[0] == true),
        "probe_mates_are_poisons": float(np.isin(hit[0].mates, bases).mean()) if hit else 0.0,
    }
    goal_input = (pixels[target][None], None)
    for name, found in (("scan", scanned), ("probe", probed_target(probed))):
        repaired = repair_model(
            victim, images, given, found, scope="head", seed=seed, probed=inputs_of(pixels, target, clean)
        )
        row[f"{name}_repair_still_taken"] = float(predict(repaired.model, goal_input)[0] == taken_for)
        row[f"{name}_repair_true"] = float(predict(repaired.model, goal_input)[0] == true)
        row[f"{name}_repair_accuracy_change"] = accuracy(repaired.model, pixels[clean], labels[clean]) - before
    return row


def inputs_of(pixels: torch.Tensor, target: int, clean: np.ndarray) -> torch.Tensor:
    return torch.cat([pixels[target][None], pixels[clean]])


def probed_target(result: clear.ProbeResult) -> clear.ProbeResult:
    """The probe with the target's flag alone: false flags are counted apart."""
    return replace(result, flags=tuple(flag for flag in result.flags if flag.row == 0))


def run_full_scan(data: Path) -> dict[str, Any]:
    """Features of the 50,000 training images and their scan, by the command line; time and peak memory of each."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        images, features, out = str(data / "cifar10/train.parquet"), f"{folder}/train.npz", f"{folder}/scan"
        weights = str(data / "models/resnet20-cifar10.safetensors")
        steps = {
            "features": ["features", weights, images, "--architecture", "resnet20", "--out", features],
            "plan": ["plan", features, "--json"],
            "scan": ["scan", features, "--out", out, "--json"],
            "check": ["check", out, features, "--json"],
        }
        for name, arguments in steps.items():
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-m", "clear", *arguments], stdout=subprocess.PIPE, text=True)
            printed = process.stdout.read() if process.stdout else ""
            _, status, usage = os.wait4(process.pid, 0)
            found[name] = {
                "seconds": time.perf_counter() - start,
                "peak_mib": usage.ru_maxrss / 1024,
                "exit_code": os.waitstatus_to_exitcode(status),
            }
            if name == "plan":
                plan = json.loads(printed)
                found[name] |= {"planned_seconds": plan["seconds"], "planned_peak_mib": plan["peak_bytes"] / (1 << 20)}
        result = clear.read_report(out)
        levels = result.scores.level
        found["result"] = {
            "verdict": result.verdict,
            "certain": int((levels == Level.CERTAIN).sum()),
            "to_review": int((levels == Level.REVIEW).sum()),
            "pockets": len(result.pockets),
            "cross_validated_accuracy": result.core_accuracy,
        }
    return found


def run_inverted_lists(data: Path, seed: int, flips: int = 100, lists: int = 141, probes: int = 16) -> dict[str, Any]:
    """The training images' features, some labels flipped: scans with inverted lists beside the exact one.

    The same number of lists of the nearest classes is searched, fewer and fewer of the others.
    """
    model = load_model(data / "models/resnet20-cifar10.safetensors", "resnet20")
    clean = extract_features(model, open_images(data / "cifar10/train.parquet"))
    labels, rows = flip_labels(np.asarray(clean.labels), flips, 10, seed)
    features = clear.Features.from_arrays(clean.values, labels)
    exact = clear.scan(features)
    flagged = exact.scores.level > Level.NONE
    found: dict[str, Any] = {"exact": {"flags": int(flagged.sum()), "flips_flagged": int(flagged[rows].sum())}}
    for far in (probes, probes // 2, probes // 4, probes // 8):
        result = clear.scan(features, approximate=clear.Approximate(lists=lists, probes=probes, far_probes=far))
        also, said = result.scores.level > Level.NONE, result.approximation
        assert said is not None
        found[f"{probes} lists of {lists}, far {far}"] = {
            "recall": said.recall,
            "level_as_exact": float((result.scores.level == exact.scores.level).mean()),
            "level_as_exact_of_flagged": float((result.scores.level == exact.scores.level)[flagged].mean()),
            "label_as_exact": float((result.scores.suggested_label == exact.scores.suggested_label).mean()),
            "flags": int(also.sum()),
            "flips_flagged": int(also[rows].sum()),
        }
    return found


def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Scalars of nested tables, with dotted names."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from flat(item, f"{prefix}{key}.")
        elif not isinstance(item, list):
            yield prefix + key, item


def write_tables() -> None:
    """Put what bench/results holds into docs/real-runs.md, between its markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for path in sorted(RESULTS.glob("*.json")):
        start, end = f"<!-- {path.stem}:start -->", f"<!-- {path.stem}:end -->"
        if start in text:
            rows = [
                f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in flat(json.loads(path.read_text()))
            ]
            before, rest = text.split(start)
            table = "\n".join(["| measured | value |", "|---|---|", *rows])
            text = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    DOCUMENT.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["label-flips", "feature-collision", "full-scan", "inverted-lists", "tables"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", type=int, default=10)
    options = parser.parse_args()
    if options.run != "tables":
        if options.data is None:
            parser.error("--data is needed: the directory with cifar10/ and models/")
        start = time.perf_counter()
        if options.run == "label-flips":
            result = run_label_flips(options.data, options.seed)
        elif options.run == "feature-collision":
            result = run_feature_collision(options.data, options.seed, options.targets)
        elif options.run == "inverted-lists":
            result = run_inverted_lists(options.data, options.seed)
        else:
            result = run_full_scan(options.data)
        result |= {"seed": options.seed, "total_seconds": time.perf_counter() - start, "version": clear.__version__}
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{options.run}-seed{options.seed}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result, indent=1))
    write_tables()


if __name__ == "__main__":
    main()
