"""The plan counts what a scan takes, and large scans write their rows; no test asserts a time."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from bench import bench_plan, large_scans, report_scans
from samples import make_classes

import clear
from clear.class_index import class_runs
from clear.plan import _filed, _memory, _runs, require_memory, resident_bytes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def any_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what does not depend on how fast this machine is: measuring it takes seconds."""
    monkeypatch.setattr("clear.plan._measure_rates", lambda *_: defaultdict(lambda: 1e-9))


def test_a_plan_counts_the_process_and_grows_with_the_samples() -> None:
    small, large = clear.plan_scan(10_000, 64, 10), clear.plan_scan(1_000_000, 64, 10)
    assert small.peak_bytes > resident_bytes() > 20 << 20
    assert large.kept_bytes == 100 * small.kept_bytes
    assert large.kept_bytes < large.peak_bytes - large.process_bytes < 4 * 4 * 64 * 1_000_000
    assert [stage.name for stage in large.stages] == ["prepare", "core", "neighbours", "hulls", "flags"]


@pytest.mark.usefixtures("any_rates")
def test_a_plan_counts_neighbours_that_are_kept() -> None:
    plain, kept = (clear.plan_scan(20_000, 16, 200, keep_neighbors=keep) for keep in (False, True))
    row = 4 * (20 * 201 + 40)
    assert kept.disk_bytes - plain.disk_bytes == 20_000 * row
    assert kept.peak_bytes > plain.peak_bytes + 8192 * row // 2  # of a piece; the core wants more without
    with pytest.raises(ValueError, match="without approximate"):
        clear.plan_scan(20_000, 16, 200, keep_neighbors=True, approximate="ivf")


@pytest.mark.usefixtures("any_rates")
def test_a_plan_counts_the_projection_of_wide_features() -> None:
    narrow, wide = (clear.plan_scan(10_000, width, 5, threads=1).stages[0] for width in (256, 1024))
    assert narrow.operations == 10.0 * 10_000 * 256
    assert wide.operations == 10.0 * 10_000 * 1024 + 2.0 * 10_000 * 1024 * (1024 + 64) + 10.0 * 1024**3
    assert wide.peak_bytes - narrow.peak_bytes == 4 * 8 * 1024**2


@pytest.mark.usefixtures("any_rates")
def test_lists_cost_fewer_operations_where_classes_are_large() -> None:
    exact, lists = (clear.plan_scan(1_000_000, 64, 10, approximate=how) for how in (None, "ivf"))
    operations = [{stage.name: stage.operations for stage in made.stages}["neighbours"] for made in (exact, lists)]
    assert operations[1] < operations[0] / 4
    assert (exact.approximate, lists.approximate) == (None, "ivf")


@pytest.mark.usefixtures("any_rates")
def test_a_graph_costs_what_it_holds_and_building_it() -> None:
    pytest.importorskip("faiss")
    lists, graph = (clear.plan_scan(1_000_000, 64, 4, approximate=how) for how in ("ivf", "hnsw"))
    packed = 250_000 * (4 * 64 + 256)  # numbers and links of a class
    assert graph.peak_bytes - graph.process_bytes > lists.peak_bytes - lists.process_bytes + packed
    neighbours = [{stage.name: stage for stage in made.stages}["neighbours"] for made in (lists, graph)]
    assert neighbours[0].operations != neighbours[1].operations


@pytest.mark.usefixtures("any_rates")
def test_the_disk_planned_holds_what_a_folder_of_work_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clear.prepare.FILED_BYTES", 1 << 10)
    monkeypatch.setattr("clear.plan.FILED_BYTES", 1 << 10)
    nameless: list[int] = []
    reserve = os.posix_fallocate
    monkeypatch.setattr("os.posix_fallocate", lambda file, at, size: (nameless.append(size), reserve(file, at, size)))
    values, labels = make_classes(0)
    clear.scan(clear.Features.from_arrays(values, labels), workdir=tmp_path)
    planned = clear.plan_scan(*values.shape, int(labels.max()) + 1)
    assert sum(_filed(*values.shape).values()) == sum(nameless)
    named = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sum(nameless) < planned.disk_bytes < 1.5 * (sum(nameless) + named)


def test_what_lies_in_files_need_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clear.plan.FILED_BYTES", 1 << 20)
    n, needed = 400_000, []
    features = clear.Features.from_arrays(np.zeros((n, 64), np.float32), np.arange(n) % 10)
    for files in (False, True):
        with pytest.raises(MemoryError, match="max_memory allows 0 MiB") as error:
            require_memory(features, clear.ScanConfig(), 1, threads=1, files=files)
        needed.append(int(str(error.value).split()[4]))
    assert needed[0] - needed[1] == pytest.approx(n * 4 * 64 / 2**20, abs=5)  # mates are gone at the peak


@pytest.mark.parametrize(("review_rate", "saves"), [(0.02, False), (1e-4, True)])
def test_mates_in_a_file_are_taken_off_only_where_they_are_still_held(review_rate: float, saves: bool) -> None:
    """The flags' own memory comes when mates are gone: where it is the most, a file of these saves nothing."""
    n, config = 2_000_000, clear.ScanConfig(review_rate=review_rate)
    mates = _filed(n, 64)["hulls"]
    held, filed = (_memory(n, 64, 100, config, 2, None, files=files)[1] for files in (False, True))
    assert held["hulls"] - filed["hulls"] == mates > 0
    assert held["flags"] - filed["flags"] == saves * mates


def test_classes_are_packed_together_while_they_are_small() -> None:
    assert class_runs(np.array([10, 0, 20]), 64) == [(0, 3)]
    million = 1 << 20
    assert class_runs(np.array([million, million, 1, 1]), 12) == [(0, 1), (1, 2), (2, 4)]
    assert class_runs(np.array([1 << 19, 1 << 19, 1]), 12) == [(0, 2), (2, 3)]


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
@pytest.mark.parametrize("n", [1000, 1 << 20, 10_000_000])
@pytest.mark.parametrize("parts", [1, 4])
def test_a_plan_counts_the_runs_of_balanced_classes(n: int, classes: int, parts: int) -> None:
    sizes = np.full(classes, n // classes)
    assert _runs(n, 64, classes, parts) == len(class_runs(sizes, 64, parts=parts))


def test_a_stray_label_is_refused_alike_with_and_without_a_limit() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 5
    labels[7] = 10**12
    features = clear.Features.from_arrays(rng.normal(size=(200, 8)).astype(np.float32), labels)
    for options in ({}, {"max_memory": 1 << 32}):
        with pytest.raises(ValueError, match=r"labels\[7\] is 1000000000000: want class numbers from 0 without large"):
            clear.scan(features, **options)


def test_a_wrong_plan_is_named() -> None:
    stages = dict.fromkeys(bench_plan.STAGES, 1.0)
    good = {"rows": 1000, "mode": "exact", "seconds_over_plan": 1.4, "peak_over_plan": 0.7, "disk_over_plan": 1.0}
    good |= {"stages": stages, "plan_stages": stages}
    short = {"stages": stages | {"core": 0.04}, "plan_stages": stages | {"core": 0.4}}
    assert bench_plan.misses([good, good | short]) == []  # less than half a second, as the plan says
    (less,) = bench_plan.misses([good | short | {"plan_stages": stages}])
    assert less == "1000 rows, exact: core over its plan is 0.50, want within 1.5"
    (slow,) = bench_plan.misses([good, good | {"seconds_over_plan": 1.6}])
    (core,) = bench_plan.misses([good | {"stages": stages | {"core": 2.0}}])
    assert core == "1000 rows, exact: core over its plan is 2.00, want within 1.5"
    (large,) = bench_plan.misses([good | {"peak_over_plan": 0.6}])
    assert slow == "1000 rows, exact: seconds_over_plan is 1.60, want within 1.5"
    assert large.startswith("1000 rows, exact: peak_over_plan is 0.60")


def test_a_large_scan_writes_its_row_in_place_of_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, older = tmp_path / "scans.json", {"rows": 3000, "mode": "exact", "threads": 1, "peak_rss": 1}
    scans.write_text(json.dumps({"rows": [older, older | {"threads": 2}]}))
    options = ["--rows", "3000", "--mode", "exact", "--threads", "1", "--scratch", str(tmp_path), "--out", str(scans)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["large_scans", *options])
    large_scans.main()
    written, kept = json.loads(scans.read_text())["rows"]
    assert kept == older | {"threads": 2}
    assert written["peak_rss"] > 20 << 20
    assert written["planted_flagged"] == written["planted"] == 40
    assert "| 3,000 | exact |" in report_scans.text({"rows": [written]})


@pytest.mark.parametrize(("mode", "named"), [("ivf", "IVF, 64 lists (16)"), ("hnsw", "HNSW")])
def test_a_large_scan_of_lists_and_graphs_says_what_they_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, named: str
) -> None:
    if mode == "hnsw":
        pytest.importorskip("faiss")
    monkeypatch.chdir(ROOT)
    large_scans.write_features(tmp_path / "store", 3000)
    common = ("--rows", "3000", "--threads", "1", "--mode", mode)
    row = large_scans.in_process("--scan", str(tmp_path / "store"), *common)
    row |= large_scans.plan_scan(3000, mode, 1, None)
    assert row["recall"] > 0.9
    assert row["planted_flagged"] == 40
    assert report_scans.line(row).startswith(f"| 3,000 | {named} | ")
