"""Scaling of the neighbour search: one of n, d, k, classes and threads varied at a time, ours beside faiss.

python -m bench.sweep_neighbors [--tiny] [--out bench/results/scaling.json]

Writes machine, date and rows {axis, n, m, d, k, classes, threads, method, seconds, gflops}: the median of three
interleaved runs, index building not timed. `matrix_gflops`: a matrix product, one thread.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from workloads import class_search

import clear

POINT = {"n": 50_000, "m": 2000, "d": 64, "k": 10, "classes": 1, "threads": 1}
AXES: dict[str, list[int]] = {
    "n": [5000, 20_000, 50_000, 100_000, 200_000],
    "m": [1, 10, 100, 300, 1000, 2000, 5000],
    "d": [16, 32, 64, 128, 256, 512],
    "k": [1, 10, 50, 200, 1000],
    "classes": [1, 10, 100, 1000],
    "threads": [1, 2],
}
ROUNDS = 3


def searches(point: dict[str, int]) -> dict[str, Any]:
    """Calls of ours and of faiss (one index a class) for one point."""
    import faiss

    n, m, d, k, classes, threads = (point[name] for name in ("n", "m", "d", "k", "classes", "threads"))
    base, labels, queries = class_search(n, m, d, classes)
    index = clear.NeighborIndex(base, labels, n_classes=classes)
    peers = []
    for label in range(classes):
        peer = faiss.IndexFlatL2(d)
        peer.add(np.ascontiguousarray(base[labels == label]))
        peers.append(peer)

    def ours() -> None:
        if classes == 1:
            index.search(queries, k=k, threads=threads)
        else:
            index.search_by_class(queries, k=k, threads=threads)

    def theirs() -> None:
        faiss.omp_set_num_threads(threads)
        for peer in peers:
            peer.search(queries, k)

    return {"clear": ours, "faiss": theirs}


def measure(point: dict[str, int]) -> dict[str, float]:
    """Median wall time of each method, interleaved."""
    from threadpoolctl import threadpool_limits

    times: dict[str, list[float]] = {}
    with threadpool_limits(point["threads"]):
        calls = searches(point)
        for repeat in range(ROUNDS + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if repeat:  # the first warms up
                    times.setdefault(name, []).append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def matrix_rate(size: int) -> float:
    """GFLOP/s of a float32 matrix product on one thread: near the peak of the processor."""
    from threadpoolctl import threadpool_limits

    a = np.ones((size, size), np.float32)
    with threadpool_limits(1):
        found = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            found.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(found)


def sweep(path: Path, *, tiny: bool) -> None:
    """Measure every point of every axis and write the rows."""
    start = {**POINT, "n": 600, "m": 20} if tiny else POINT
    rows = []
    for axis, values in AXES.items():
        for value in values[:2] if tiny else values:
            point = {**start, axis: min(value, 600) if tiny and axis == "n" else value}
            point["k"] = min(point["k"], point["n"])
            flops = 2e-9 * point["n"] * point["m"] * point["d"]
            for method, seconds in measure(point).items():
                rows.append({"axis": axis, **point, "method": method, "seconds": seconds, "gflops": flops / seconds})
    facts = {
        "machine": platform.processor() or platform.machine(),
        "isa": clear.build_info()["isa"],
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "matrix_gflops": matrix_rate(64 if tiny else 2048),
        "rows": rows,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scaling.json")
    options = parser.parse_args()
    sweep(options.out, tiny=options.tiny)
    return 0


if __name__ == "__main__":
    sys.exit(main())
