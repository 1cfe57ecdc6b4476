"""Many points against one shared hull: ours and peers in one run, answers counted beside times. One thread.

The vertices are one class of `workloads.features`; the points are mixes of them (deep, sparse), steps off
their boundary (near), held-out rows of the class (held) and rows of another class (far). Peers get all
vertices, one point at a time, and few points (they take long); `problems` in extra_info divides the time.
Wrong answers are counted against the truth by construction, else against ours, which are proven.

    python -m pytest bench/bench_shared_hull.py --full --benchmark-json=shared.json    every size and position
    python -m pytest bench/bench_shared_hull.py --benchmark-disable                    tiny, as a test
    python -m bench.bench_shared_hull [n d m]                                          interleaved, as a table
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from workloads import features  # noqa: E402

import clear  # noqa: E402
from bench.hull_peers import solve_highs, solve_nnls  # noqa: E402

POSITIONS = ("deep", "sparse", "near", "held", "far")
FULL = ((5_000, 64, 1000), (50_000, 64, 400), (200_000, 64, 200), (1_000_000, 64, 100))
TINY = ((300, 16, 6),)
PEERS = {"highs": solve_highs, "nnls": solve_nnls}
PEER_LIMIT = 5_000  # vertices: above, a peer takes seconds for each point
PEER_POINTS = 4

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Shared:
    """One hull, points of one position, and the truth: 1 inside, 0 outside, -1 unknown."""

    vertices: Array
    points: Array
    inside: Array


@functools.lru_cache(maxsize=1)
def classes(n: int, d: int, m: int) -> tuple[Array, Array, Array]:
    """Return n rows of a class, m more of it, and m of another."""
    rows, labels = features(2 * (n + m) + 20 * int(np.sqrt(n)) + 100, d, 2, seed=7)
    rng = np.random.default_rng(7)
    one, other = rng.permutation(np.flatnonzero(labels == 0)), np.flatnonzero(labels == 1)
    return rows[one[:n]], rows[one[n : n + m]], rows[other[:m]]


def mixes(rng: np.random.Generator, v: Array, size: int, m: int) -> Array:
    """Draw m random mixes of `size` rows each."""
    rows = [rng.permutation(len(v))[:size] if size < len(v) else np.arange(len(v)) for _ in range(m)]
    return np.stack([rng.dirichlet(np.ones(len(r))) @ v[r].astype(float) for r in rows])


def steps_off(v: Array, m: int) -> tuple[Array, Array]:
    """Points 1e-3 radii on either side of the boundary, towards mixes pushed outwards; proven by distances."""
    rng, centre = np.random.default_rng(8), v.mean(0, dtype=float)
    hull = clear.SharedHull(v, threads=1)
    beyond = (centre + 4 * (mixes(rng, v, 2 * v.shape[1], m) - centre)).astype(np.float32)
    found = hull.solve(beyond, relative_tolerance=1e-7)
    assert found.members is not None
    assert found.weights is not None
    foot = np.einsum("mk,mkd->md", found.weights, v[found.members].astype(float))
    out = (beyond - foot) / np.maximum(np.linalg.norm(beyond - foot, axis=1), 1e-300)[:, None]
    side = np.arange(m) % 2
    inwards = foot + 1e-3 * (centre - foot)
    points = np.where(side[:, None] == 1, inwards, foot + 1e-3 * hull.radius * out)
    return points.astype(np.float32), np.where(found.status == clear.HullStatus.OUTSIDE, side, -1)


def shared_problem(n: int, d: int, m: int, position: str) -> Shared:
    """Draw the points of one position."""
    v, held, far = classes(n, d, m)
    rng = np.random.default_rng([n, d, m])
    if position == "near":
        return Shared(v, *steps_off(v, m))
    if position in ("deep", "sparse"):
        points = mixes(rng, v, min(n, 4 * d) if position == "deep" else max(2, d // 2), m)
        return Shared(v, points.astype(np.float32), np.ones(m, int))
    return Shared(v, held if position == "held" else far, np.full(m, -1))


def answers(hull: clear.SharedHull, problem: Shared, mode: Any) -> Array:
    """Ask the library: 1 inside, 0 outside, -1 undecided."""
    return np.array([1, 0, -1, -1])[hull.solve(problem.points, mode=mode).status]


def ask_peer(name: str, problem: Shared, eps: float, count: int = PEER_POINTS) -> Array:
    """Ask a peer about the first points, one at a time."""
    v = problem.vertices.astype(float)
    return np.array([PEERS[name](v, z.astype(float), eps) for z in problem.points[:count]])


def quality(found: Array, problem: Shared, ours: Array) -> dict[str, int]:
    """Count points, wrong and undecided answers."""
    truth = np.where(problem.inside >= 0, problem.inside, ours)[: len(found)]
    wrong = (found >= 0) & (truth >= 0) & (found != truth)
    return {"problems": len(found), "wrong": int(wrong.sum()), "undecided": int((found < 0).sum())}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All sizes with --full, a tiny one without."""
    if "size" in metafunc.fixturenames:
        sizes = FULL if metafunc.config.getoption("--full") else TINY
        metafunc.parametrize("size", sizes, ids=lambda s: f"n={s[0]} d={s[1]}")


@pytest.mark.parametrize("solver", ["clear", "clear to 1e-4", *PEERS])
@pytest.mark.parametrize("position", POSITIONS)
def test_shared_hull(benchmark: Any, size: tuple[int, int, int], position: str, solver: str, full: bool) -> None:
    n, d, _ = size
    if solver in PEERS and n > PEER_LIMIT:
        pytest.skip("peers take seconds for each point of this size")
    problem = shared_problem(*size, position)
    hull = clear.SharedHull(problem.vertices, threads=1)
    ours = answers(hull, problem, "decide")
    benchmark.group = f"shared hull n={n} d={d} {position}"
    if solver in PEERS:
        found = benchmark.pedantic(ask_peer, (solver, problem, 1e-5 * hull.radius), rounds=1)
    else:
        mode = "decide" if solver == "clear" else "distance"
        found = benchmark.pedantic(answers, (hull, problem, mode), rounds=5 if full else 1, warmup_rounds=1)
    benchmark.extra_info.update(method=solver, n=n, d=d, **quality(found, problem, ours))
    if solver not in PEERS:
        assert benchmark.extra_info["wrong"] == benchmark.extra_info["undecided"] == 0


def test_packing(benchmark: Any, size: tuple[int, int, int], full: bool) -> None:
    vertices = classes(*size)[0]
    benchmark.group = f"shared hull n={size[0]} d={size[1]} packing"
    benchmark.pedantic(clear.SharedHull, (vertices,), {"threads": 1}, rounds=3 if full else 1)
    benchmark.extra_info.update(method="clear", n=size[0], d=size[1])


def cpu_seconds(call: Any) -> tuple[float, Any]:
    """CPU time of a call (other work on the machine only adds noise), and what it returns."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def compare(size: tuple[int, int, int], position: str, rounds: int = 3) -> str:
    """Time ours and the peers in turn; returns a table row."""
    problem = shared_problem(*size, position)
    hull = clear.SharedHull(problem.vertices, threads=1)
    peers = PEERS if size[0] <= PEER_LIMIT else {}
    calls: dict[str, Any] = {mode: functools.partial(answers, hull, problem, mode) for mode in ("decide", "distance")}
    calls |= {name: functools.partial(ask_peer, name, problem, 1e-5 * hull.radius, 2) for name in peers}
    times: dict[str, list[float]] = {name: [] for name in calls}
    faults = {}
    ours = calls["decide"]()
    for _ in range(rounds):
        for name, call in calls.items():
            seconds, found = cpu_seconds(call)
            times[name].append(seconds / len(found) * 1e6)
            counted = quality(found, problem, ours)
            faults[name] = f" W{counted['wrong']}U{counted['undecided']}".replace(" W0U0", "")
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = [f"{medians[name]:.4g}{faults[name]}" for name in calls]
    ratios = [f"{medians[name] / medians['decide']:.0f}" for name in peers]
    return " | ".join([f"{size[0]} {size[1]} {position}", *cells, *ratios])


def main() -> None:
    """Print CPU microseconds for each point and the ratios."""
    sizes = FULL if len(sys.argv) == 1 else (tuple(int(x) for x in sys.argv[1:4]),)
    print("n d position | decide | distance | highs | nnls | x highs | x nnls")
    for size in sizes:
        for position in POSITIONS:
            print(compare(size, position), flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
