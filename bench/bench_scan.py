"""A whole scan against the obvious composition of peers: faiss, an index for each class, and one nnls for each hull.

    python -m pytest bench/bench_scan.py --full --bench-threads 2 --benchmark-json=scan.json

The peers run on a sample of the queries; `extrapolated` says by how much their time was multiplied. They get a core of
all samples for nothing, so they do less than the scan does. Peak memory and import time are taken in fresh processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from bench_plan import WITHIN
from workloads import features

import clear
from clear.config import SCAN_SCALE
from clear.prepare import apply_preparation, fit_preparation

CONFIG = clear.ScanConfig()
FULL = (50_000, 64, 10)
TINY = (600, 16, 4)


def make_case(full):
    n, d, classes = FULL if full else TINY
    values, labels = features(n, d, classes, seed=3)
    return values, labels.astype(np.int64)


@pytest.mark.benchmark(group="scan n=50k d=64 C=10")
@pytest.mark.parametrize("method", ["clear", "faiss and nnls"])
def test_scan(method, benchmark, full, threads):
    values, labels = make_case(full)
    data = clear.Features.from_arrays(values, labels)
    if method == "clear":
        found = benchmark.pedantic(clear.scan, (data,), {"threads": threads}, rounds=3 if full else 1)
        assert found.core_accuracy > 0.9
        benchmark.extra_info.update(method=method, threads=threads, samples=len(values), verdict=found.verdict)
        return
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    sample = np.random.default_rng(0).choice(len(values), 60 if full else 6, replace=False)
    collapse = benchmark.pedantic(compose_peers, (values, labels, sample, threads), rounds=2 if full else 1)
    factor = len(values) / len(sample)
    benchmark.extra_info.update(method=method, threads=threads, samples=len(sample), extrapolated=factor)
    ours = clear.scan(data, threads=threads).scores
    alike = ours.in_core.all()  # then peers and scan measure the same hulls
    if alike:
        np.testing.assert_allclose(collapse, ours.collapse[sample], atol=0.02)
    benchmark.extra_info["answers_compared"] = bool(alike)


def compose_peers(values, labels, sample, threads):
    """K of a sample of rows as a user of the peers would compute it; also every other label's hull, as R needs."""
    import faiss

    faiss.omp_set_num_threads(threads)
    rows = apply_preparation(values, fit_preparation(values, CONFIG))
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    found = np.empty((len(sample), len(members), SCAN_SCALE.mates + CONFIG.hull_size + 1), np.int64)
    for c, rows_of_class in enumerate(members):
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(rows[rows_of_class])
        found[:, c] = rows_of_class[index.search(rows[sample], found.shape[2])[1]]
    collapse = np.empty(len(sample))
    for i, row in enumerate(sample):
        mates = found[i, labels[row]]
        mates = mates[mates != row]
        pocket = nnls_distance(rows[mates[: SCAN_SCALE.tight]], rows[row])
        own = nnls_distance(rows[mates[SCAN_SCALE.mates :][: CONFIG.hull_size]], rows[row])
        for c in range(len(members)):
            if c != labels[row]:
                nnls_distance(rows[found[i, c, : CONFIG.hull_size]], rows[row])
        collapse[i] = np.log(own + 1e-6) - np.log(pocket + 1e-6)
    return collapse


def nnls_distance(vertices, point):
    """Distance to the hull by non-negative least squares on an augmented row."""
    from scipy.optimize import nnls

    w = vertices.astype(np.float64) - point
    x, _ = nnls(np.vstack([w.T, np.ones(len(w))]), np.r_[np.zeros(w.shape[1]), 1.0])
    return float(np.linalg.norm(x / x.sum() @ w))


@pytest.mark.benchmark(group="scan n=50k d=64 C=10, what pieces cost")
def test_work_in_pieces(benchmark, full, threads, tmp_path):
    """A scan that keeps its work on disk beside one that does not, in turns; the ratio is that of CPU times."""
    values, labels = make_case(full)
    data = clear.Features.from_arrays(values, labels)
    ratios = []
    for turn in range(5 if full else 1):
        plain = cpu_seconds(lambda: clear.scan(data, threads=threads))
        kept = cpu_seconds(lambda turn=turn: clear.scan(data, threads=threads, workdir=tmp_path / str(turn)))
        ratios.append(kept / plain)
    benchmark.pedantic(clear.scan, (data,), {"threads": threads, "workdir": tmp_path / "0"}, rounds=1)  # all is done
    benchmark.extra_info.update(method="resumed at the end", threads=threads, cpu_over_plain=float(np.median(ratios)))


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


PEAK = """
import resource, sys
import numpy as np
import clear
data = np.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clear.scan(clear.Features.from_arrays(data["values"], data["labels"]), threads=int(sys.argv[2]))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.benchmark(group="peak memory of a scan, n=50k d=64 C=10")
def test_peak_memory(benchmark, full, threads, tmp_path):
    values, labels = make_case(full)
    path = tmp_path / "data.npz"
    np.savez(path, values=values, labels=labels)
    command = [sys.executable, "-c", PEAK, str(path), str(threads)]
    printed = benchmark.pedantic(subprocess.check_output, (command,), {"text": True}, rounds=1)
    before, peak = (int(kilobytes) * 1024 for kilobytes in printed.split())
    assert peak < 1 << 30  # the stated limit
    benchmark.extra_info.update(method="clear", peak_bytes=peak, before_bytes=before, features_bytes=values.nbytes)


@pytest.mark.benchmark(group="import, seconds over numpy")
def test_import_time(benchmark, full):
    code = "import time, numpy; t = time.perf_counter(); import clear; print(time.perf_counter() - t)"

    def run():
        return float(subprocess.check_output([sys.executable, "-c", code], text=True))

    seconds = sorted(run() for _ in range(11 if full else 3))
    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(method="clear", seconds_over_numpy=seconds[len(seconds) // 2])


def test_a_plan_comes_within_reach_of_the_scan(full, threads):
    """The plan's estimate beside what then happens; with --full within what `bench.bench_plan` allows."""
    values, labels = make_case(full)
    plan = clear.plan_scan(*values.shape, int(labels.max()) + 1, threads=threads)
    start = time.perf_counter()
    clear.scan(clear.Features.from_arrays(values, labels), threads=threads)
    taken = time.perf_counter() - start
    sys.stderr.write(json.dumps({"planned_seconds": plan.seconds, "taken_seconds": taken}) + "\n")
    if full:
        assert 1 / WITHIN <= taken / plan.seconds <= WITHIN
