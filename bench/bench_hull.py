"""Hull problems: ours and peers in one run, answers counted beside times. One thread.

Ours gets a batch per call (that is its interface), peers one problem per call (that is theirs); Gram matrices
and Python included for both. `problems` in extra_info divides the time.

    python -m pytest bench/bench_hull.py --full --benchmark-json=hull.json      every shape and position
    python -m pytest bench/bench_hull.py --benchmark-disable                    tiny, as a test
    python -m bench.bench_hull                                                  interleaved ratios, as a table
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import clear  # noqa: E402
from bench.hull_peers import PEERS  # noqa: E402
from bench.hull_workloads import POSITIONS, SHAPES, HullBatch, hull_batch  # noqa: E402

TINY = ((8, 6), (8, 20))
LOOSE = (5, 10, 20, 50)
SCALING = (((64, 16), "insp"), ((64, 64), "in"), ((64, 128), "jin"), ((128, 64), "insp"), ((64, 64), "held"))
SCALING_TEXT = "mixed regimes"
LEVELS = ("baseline", "avx2", "avx512")
ISAS = LEVELS[: 1 + LEVELS.index(clear._backend.build_info()["best_isa"])]


def solve_ours(batch: HullBatch, **options: Any) -> np.ndarray:
    """Answers of the library: 1 inside, 0 outside, -1 undecided."""
    s, k, d = batch.vertices.shape
    members = np.arange(s * k).reshape(s, k)
    base = batch.vertices.reshape(s * k, d)
    result = clear.solve_hulls(batch.points, base, members, eps=batch.eps, **{"threads": 1, **options})
    return np.array([1, 0, -1, -1])[result.status]


def solve_peer(name: str, batch: HullBatch) -> np.ndarray:
    """Answers of a peer, one problem at a time."""
    return np.array(
        [
            PEERS[name](v.astype(float), z.astype(float), e)
            for v, z, e in zip(batch.vertices, batch.points, batch.eps, strict=True)
        ]
    )


def quality(answers: np.ndarray, batch: HullBatch) -> dict[str, int]:
    """Count wrong and undecided answers; where the truth is unknown, ours (which is proven) stands for it."""
    truth = np.where(batch.inside >= 0, batch.inside, solve_ours(batch, mode="decide"))
    wrong = (answers >= 0) & (truth >= 0) & (answers != truth)
    return {"problems": len(answers), "wrong": int(wrong.sum()), "undecided": int((answers < 0).sum())}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All shapes with --full, tiny ones without."""
    full = metafunc.config.getoption("--full")
    if "shape" in metafunc.fixturenames:
        metafunc.parametrize("shape", SHAPES if full else TINY, ids=lambda s: f"d={s[0]} k={s[1]}")
    if "k" in metafunc.fixturenames:
        metafunc.parametrize("k", LOOSE if full else LOOSE[:2])


@pytest.mark.parametrize("solver", ["clear", *PEERS])
@pytest.mark.parametrize("position", POSITIONS)
def test_membership(benchmark: Any, shape: tuple[int, int], position: str, solver: str, full: bool) -> None:
    batch = hull_batch(*shape, position, 12 if full else 3)
    if full and solver == "clear":
        batch = repeat(batch, 96)
    benchmark.group = f"hull d={shape[0]} k={shape[1]} {position}"
    if solver == "clear":
        answers = benchmark(solve_ours, batch, mode="decide", certificates=True)
    else:
        answers = benchmark.pedantic(solve_peer, (solver, batch), rounds=3 if full else 1)
    benchmark.extra_info.update(method=solver, **quality(answers, batch))
    if solver == "clear":
        assert benchmark.extra_info["wrong"] == benchmark.extra_info["undecided"] == 0


@pytest.mark.parametrize("solver", ["clear", "nnls"])
def test_loose_distances(benchmark: Any, k: int, solver: str, full: bool) -> None:
    batch = hull_batch(64, k, "held", 200 if full else 5)
    benchmark.group = f"hull distance to 1e-3, d=64 k={k}"
    if solver == "clear":
        benchmark(solve_ours, batch, relative_tolerance=1e-3, certificates=False)
    else:
        benchmark.pedantic(solve_peer, (solver, batch), rounds=3 if full else 1)
    benchmark.extra_info.update(method=solver, problems=len(batch.points))


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(benchmark: Any, isa: str, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    batches = scaling_batches(96 if full else 3, full)
    monkeypatch.setenv("CLEAR_ISA", isa)
    benchmark.group = "hull instruction sets, " + SCALING_TEXT
    benchmark(solve_all, batches, 1)
    benchmark.extra_info.update(method=isa, problems=sum(len(batch.points) for batch in batches))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark: Any, threads: int, full: bool) -> None:
    batches = scaling_batches(1000 if full else 3, full)
    benchmark.group = "hull threads, " + SCALING_TEXT
    benchmark(solve_all, batches, threads)
    benchmark.extra_info.update(method=f"{threads} threads", problems=sum(len(batch.points) for batch in batches))


def scaling_batches(problems: int, full: bool) -> list[HullBatch]:
    """Return batches of several regimes, for ratios of one build or thread count to another."""
    return [repeat(hull_batch(*shape, position, 12 if full else 3), problems) for shape, position in SCALING]


def solve_all(batches: list[HullBatch], threads: int) -> None:
    """Decide all batches."""
    for batch in batches:
        solve_ours(batch, mode="decide", threads=threads)


def scaling() -> None:
    """Print the cost of AVX2 instead of AVX-512, and what a second thread brings, medians of interleaved rounds."""
    few, many = scaling_batches(96, True), scaling_batches(1000, True)
    times: dict[str, list[float]] = {}
    for _ in range(9):
        for isa in ISAS:
            os.environ["CLEAR_ISA"] = isa
            began = time.process_time()
            solve_all(few, 1)
            times.setdefault(isa, []).append(time.process_time() - began)
        del os.environ["CLEAR_ISA"]
        for threads in (1, 2):
            began = time.perf_counter()
            solve_all(many, threads)
            times.setdefault(f"{threads} threads", []).append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [f"{isa} reaches x{medians[ISAS[-1]] / medians[isa]:.2f} of {ISAS[-1]}" for isa in ISAS[:-1]]
    print(f"{SCALING_TEXT}: {', '.join(ratios)}; 2 threads x{medians['1 threads'] / medians['2 threads']:.2f} of one")


def geometric_mean(values: list[float]) -> float:
    """Geometric mean, nan when there is none."""
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def repeat(batch: HullBatch, problems: int) -> HullBatch:
    """Return the same problems again and again, up to a batch worth a call."""
    times = -(-problems // len(batch.points))
    return HullBatch(
        np.tile(batch.vertices, (times, 1, 1)),
        np.tile(batch.points, (times, 1)),
        np.tile(batch.eps, times),
        np.tile(batch.inside, times),
    )


def compare(batch: HullBatch, rounds: int = 3) -> tuple[float, float, float, str]:
    """Time ours and the peers in turn: CPU microseconds of ours, of HiGHS, of the
    best fully correct QP, and a table row. CPU time: other work on the machine only adds noise."""
    many = repeat(batch, 96)
    solvers = {"clear": lambda: solve_ours(many, mode="decide")}
    solvers |= {name: functools.partial(solve_peer, name, batch) for name in PEERS}
    times: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(rounds):
        for name, solver in solvers.items():
            for _ in range(5 if name == "clear" else 1):  # ours are short
                began = time.process_time()
                answers = solver()
                times[name].append((time.process_time() - began) / len(answers) * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    found = {name: quality(solver(), many if name == "clear" else batch) for name, solver in solvers.items()}
    faults = {name: f"W{q['wrong']}U{q['undecided']}".replace("W0U0", "") for name, q in found.items()}
    correct = [medians[name] for name in PEERS if name != "highs" and not faults[name]]
    cells = [f"{medians[name]:.4g}{faults[name]}" for name in solvers]
    best = min(correct, default=float("nan"))
    return medians["clear"], medians["highs"], best, f"{cells[0]} | " + " ".join(cells[1:])


def main() -> None:
    """Print one row for each shape and position, then the geometric means of the ratios by regime."""
    ratios: dict[str, list[tuple[float, float]]] = {}
    names = list(PEERS)
    print("CPU microseconds per problem, median; W wrong, U undecided")
    print("d k position clear | " + " ".join(names) + " | x_highs x_best_qp")
    for shape in SHAPES:
        for position in POSITIONS:
            size = 6 if shape[0] * shape[1] < 50000 else 3
            own, highs, best, cells = compare(hull_batch(*shape, position, size))
            regime = "k<=d+1" if shape[1] <= shape[0] + 1 else "k>d+1"
            regime = "outside" if position in ("held", "far") else regime
            ratios.setdefault(regime, []).append((highs / own, best / own))
            ratio = f"{highs / own:.0f} {best / own:.1f}"
            print(f"{shape[0]} {shape[1]} {position} {cells} | {ratio}", flush=True)
    for regime, pairs in ratios.items():
        qp = [b for _, b in pairs if np.isfinite(b)]
        print(
            f"{regime}: geometric mean x{geometric_mean([h for h, _ in pairs]):.0f} HiGHS, "
            f"x{geometric_mean(qp):.1f} best correct QP (least x{min(qp):.1f}), {len(pairs)} rows"
        )
    scaling()


if __name__ == "__main__":
    main()
