"""The plan counts what a scan takes, and large scans write their rows; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench import report_scans

import clear
from clear.class_index import class_runs
from clear.plan import _runs, resident_bytes

ROOT = Path(__file__).parents[1]


def test_a_plan_counts_the_process_and_grows_with_the_samples() -> None:
    small, large = clear.plan_scan(10_000, 64, 10), clear.plan_scan(1_000_000, 64, 10)
    assert small.peak_bytes > resident_bytes() > 20 << 20
    assert large.kept_bytes == 100 * small.kept_bytes
    assert large.kept_bytes < large.peak_bytes - large.process_bytes < 4 * 4 * 64 * 1_000_000
    assert [stage.name for stage in large.stages] == ["prepare", "core", "neighbours", "hulls", "flags"]


def test_lists_cost_fewer_operations_where_classes_are_large() -> None:
    exact, lists = (clear.plan_scan(1_000_000, 64, 10, approximate=how) for how in (None, "ivf"))
    operations = [{stage.name: stage.operations for stage in plan.stages}["neighbours"] for plan in (exact, lists)]
    assert operations[1] < operations[0] / 4
    assert (exact.approximate, lists.approximate) == (None, "ivf")


def test_classes_are_packed_together_while_they_are_small() -> None:
    assert class_runs(np.array([10, 0, 20]), 256) == [(0, 3)]
    million = 1 << 20
    assert class_runs(np.array([million, million, 1, 1]), 64) == [(0, 1), (1, 2), (2, 4)]
    assert class_runs(np.array([1 << 19, 1 << 19, 1]), 64) == [(0, 2), (2, 3)]


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
@pytest.mark.parametrize("n", [1000, 1 << 20, 10_000_000])
@pytest.mark.parametrize("parts", [1, 4])
def test_a_plan_counts_the_runs_of_balanced_classes(n: int, classes: int, parts: int) -> None:
    sizes = np.full(classes, n // classes)
    assert _runs(n, 64, classes, parts) == len(class_runs(sizes, 4 * 64 + 16, parts=parts))


def test_a_stray_label_is_refused_alike_with_and_without_a_limit() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 5
    labels[7] = 10**12
    features = clear.Features.from_arrays(rng.normal(size=(200, 8)).astype(np.float32), labels)
    for options in ({}, {"max_memory": 1 << 32}):
        with pytest.raises(ValueError, match=r"labels\[7\] is 1000000000000: want class numbers from 0 without large"):
            clear.scan(features, **options)


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_a_large_scan_writes_its_row_in_place_of_an_older_one(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-m", "bench.large_scans", "--rows", "3000", "--mode", mode, "--threads", "1"]
    command += ["--scratch", str(tmp_path), "--out", str(tmp_path / "scans.json")]
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    document = json.loads((tmp_path / "scans.json").read_text())
    (row,) = document["rows"]
    assert row["peak_rss"] > 20 << 20
    assert f"| 3,000 | {'exact' if mode == 'exact' else 'IVF, 64 lists (16)'} |" in report_scans.text(document)
