"""What error budgets give on clean data: verdicts and certain samples of scans, flagged inputs of probes.

    python -m bench.budgets [--data DIR]

Training sets without poisons, and further samples of the same data as inputs, with what a logistic regression fitted on
the training set predicts for them: synthetic classes, scikit-learn's digits as they are, pixels of Fashion-MNIST (where
Debian's dataset-fashion-mnist is installed), and, with DIR (as in real_runs.py), ResNet-20 features of CIFAR-10's test
images. Each budget is changed alone. Writes bench/results/budgets.json (rows of data that are not here stay) and the
table in docs/how-it-works.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import clear
from bench.clean_sets import cifar_features, put_table
from bench.quality.datasets import Absent, fashion
from bench.workloads import features
from clear.results import Level

RESULTS = Path(__file__).parent / "results" / "budgets.json"
MARKERS = ("<!-- budgets:start -->", "<!-- budgets:end -->")
SETS, TRAINING, INPUTS, FIRST_SEED = 20, 1000, 2000, 200
ALARMS, FLAGS, RATES = (0.01, 0.05, 0.2), (0.2326, 1.0, 5.0), (0.0005, 0.002, 0.01, 0.05)


class Source(NamedTuple):
    """Features to draw training sets and inputs from."""

    name: str
    values: np.ndarray
    labels: np.ndarray


def sources(data: Path | None) -> Iterator[Source]:
    """Every data set that is there."""
    values, labels = features(SETS * TRAINING, 64, 10, seed=FIRST_SEED)
    yield Source("synthetic, 64 features", values, labels)
    values, labels = load_digits(return_X_y=True)
    yield Source("digits, pixels", values, labels)
    try:
        images = fashion().fresh
        yield Source("Fashion-MNIST, pixels", images.images.reshape(len(images), -1), images.labels)
    except Absent as absent:
        print(absent)
    if data is not None:
        found = cifar_features(data)
        yield Source("CIFAR-10, ResNet-20", found.values, found.labels)


def measure(source: Source) -> dict[str, Any]:
    """Rates over all training sets of a source."""
    poisoned, certain = np.zeros(len(ALARMS), int), np.zeros(len(FLAGS), int)
    flagged, inputs = np.zeros(len(RATES), int), 0
    values, labels = source.values.astype(np.float32), source.labels.astype(np.int64)
    for number in range(SETS):
        order = np.random.default_rng(FIRST_SEED + number).permutation(len(labels))
        train, rest = order[:TRAINING], order[TRAINING : TRAINING + INPUTS]
        training = clear.Features.from_arrays(values[train], labels[train])
        poisoned += [
            clear.scan(training, config=clear.ScanConfig(false_alarms=a)).verdict == "poisoned" for a in ALARMS
        ]
        levels = [clear.scan(training, config=clear.ScanConfig(false_flags=f)).scores.level for f in FLAGS]
        certain += [int((level == Level.CERTAIN).sum()) for level in levels]
        scaler = StandardScaler().fit(values[train])
        model = LogisticRegression(C=0.01, max_iter=500).fit(scaler.transform(values[train]), labels[train])
        predicted = model.predict(scaler.transform(values[rest]))
        asked = clear.Features.from_arrays(values[rest], predicted, predictions=predicted)
        score = clear.probe(asked, training).scores.score
        flagged += [int((score > clear.ScanConfig(probe_fpr=rate).probe_spreads).sum()) for rate in RATES]
        inputs += len(rest)
    return {
        "data": source.name,
        "sets": SETS,
        "samples": TRAINING,
        "poisoned": poisoned.tolist(),
        "certain": certain.tolist(),
        "inputs": inputs,
        "flagged": flagged.tolist(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """For the page."""
    lines = [
        f"| clean data, {SETS} sets of {TRAINING:,} | poisoned at `false_alarms` {', '.join(map(str, ALARMS))} "
        f"| certain in a set at `false_flags` {', '.join(f'{flags:.2g}' for flags in FLAGS)} "
        f"| inputs flagged at `probe_fpr` {', '.join(map(str, RATES))} |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["data"],
            ", ".join(f"{count / row['sets']:.2f}" for count in row["poisoned"]),
            ", ".join(f"{count / row['sets']:.2f}" for count in row["certain"]),
            ", ".join(f"{count / row['inputs']:.4f}" for count in row["flagged"]) + f" of {row['inputs']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    kept = {row["data"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))} if RESULTS.exists() else {}
    rows = list((kept | {source.name: measure(source) for source in sources(parser.parse_args().data)}).values())
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    put_table(MARKERS, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
