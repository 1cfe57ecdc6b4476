"""How often clean data are accused: certain samples and verdicts on sets without any poison.

    python -m bench.clean_sets [--data DIR]

Synthetic class features (bench/workloads.py), classes of unequal spread, noise, scikit-learn's digits as they are (all
classes, or a few), and, with DIR (as in real_runs.py), penultimate ResNet-20 features of CIFAR-10's test images. Writes
bench/results/clean-sets.json and the table in docs/how-it-works.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import clear
from bench.workloads import features
from clear.results import Level

RESULTS = Path(__file__).parent / "results" / "clean-sets.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "how-it-works.md"
MARKERS = ("<!-- clean-sets:start -->", "<!-- clean-sets:end -->")

Sets = Iterator[tuple[str, np.ndarray, np.ndarray]]


def synthetic_sets() -> Sets:
    for n, seeds in ((1000, 20), (4000, 10), (16_000, 3)):
        for seed in range(seeds):
            values, labels = features(n, 64, 10, seed=100 + seed)
            yield f"synthetic, {n} x 64", values, labels.astype(np.int64)
    for classes, per_class in ((2, 500), (3, 300), (10, 100)):
        for seed in range(40):
            rng = np.random.default_rng(5000 + seed)
            labels = np.repeat(np.arange(classes), per_class)
            centres, spreads = 1.5 * rng.normal(size=(classes, 64)), np.exp(0.3 * rng.normal(size=classes))
            values = centres[labels] + spreads[labels, None] * rng.normal(size=(len(labels), 64))
            yield f"normal, {classes} classes of {per_class}, unequal spreads", values.astype(np.float32), labels
    for seed in range(40):
        values = np.random.default_rng(6000 + seed).normal(size=(1000, 64)).astype(np.float32)
        yield "noise, 10 classes of 100", values, np.repeat(np.arange(10), 100)


def digit_sets() -> Sets:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    for seed in range(20):
        rows = np.random.default_rng(seed).permutation(len(labels))[:1000]
        yield "digits, pixels, 1000 x 64", values[rows].astype(np.float32), labels[rows].astype(np.int64)
    for classes, seeds in ((2, 45), (4, 30)):
        pairs = list(itertools.combinations(range(10), 2))
        for seed in range(seeds):
            chosen = pairs[seed] if classes == 2 else np.random.default_rng(7000 + seed).permutation(10)[:classes]
            rows = np.flatnonzero(np.isin(labels, chosen))
            numbers = np.searchsorted(np.sort(chosen), labels[rows])
            yield f"digits, pixels, {classes} classes", values[rows].astype(np.float32), numbers


def cifar_features(data: Path) -> clear.Features:
    """Penultimate ResNet-20 features of CIFAR-10's test images."""
    model = clear.load_model(data / "models/resnet20-cifar10.safetensors", "resnet20")
    return clear.extract_features(model, clear.open_images(data / "cifar10/test.parquet"))


def cifar_sets(data: Path) -> Sets:
    extracted = cifar_features(data)
    for n, seeds in ((1000, 20), (4000, 10), (10_000, 1)):
        for seed in range(seeds):
            rows = np.random.default_rng(seed).permutation(len(extracted))[:n]
            yield f"CIFAR-10, ResNet-20, {n} x 64", extracted.values[rows], extracted.labels[rows]
    for classes, per_class in ((2, 100), (2, 300), (4, 100)):
        for seed in range(40):
            rng = np.random.default_rng(8000 + seed)
            of_class = [rng.permutation(np.flatnonzero(extracted.labels == c)) for c in rng.permutation(10)[:classes]]
            rows = np.concatenate([members[:per_class] for members in of_class])
            numbers = np.repeat(np.arange(classes), per_class)
            yield f"CIFAR-10, ResNet-20, {classes} classes of {per_class}", extracted.values[rows], numbers


def measure(sets: Sets) -> list[dict[str, object]]:
    rows: dict[str, dict[str, object]] = {}
    for name, values, labels in sets:
        result = clear.scan(clear.Features.from_arrays(values, labels))
        row = rows.setdefault(
            name, {"data": name, "sets": 0, "samples": 0, "certain": [], "clean": 0, "undecided": 0, "poisoned": 0}
        )
        row["sets"] += 1
        row["samples"] += len(values)
        row["certain"].append(int((result.scores.level == Level.CERTAIN).sum()))
        row[result.verdict] += 1
    return list(rows.values())


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| clean data | sets | certain per 1000 | most in a set | clean | undecided | poisoned |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate = 1000 * sum(row["certain"]) / row["samples"]
        verdicts = " | ".join(str(row[name]) for name in ("clean", "undecided", "poisoned"))
        lines.append(f"| {row['data']} | {row['sets']} | {rate:.2f} | {max(row['certain'])} | {verdicts} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    rows = (
        measure(synthetic_sets()) + measure(digit_sets()) + (measure(cifar_sets(options.data)) if options.data else [])
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    put_table(MARKERS, table(rows))
    print(table(rows))


def put_table(markers: tuple[str, str], lines: str) -> None:
    """Write a table into the page, between its markers."""
    start, end = markers
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(start)
    DOCUMENT.write_text(before + f"{start}\n{lines}\n{end}" + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
