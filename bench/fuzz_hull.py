"""Fuzzes the hull solver with hard problems and verifies every answer with the NumPy checker.

Every batch is solved three times: as it is; each problem beside one that a part of its vertices make, about the
same point (the answers must be those of separate problems, bit for bit); and from weights to start from.

    python -m bench.fuzz_hull --count 20000 --seed 1

Families: lattice, low-rank, anisotropic, near-duplicate, cospherical, Gaussian; offsets up to 1000 radii;
scales 1e-15 to 1e15; points inside, on faces, at vertices, just outside and far. Prints counts; exits 1 when
an answer is not proven.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import clear
from clear import _core  # noqa: TID251 - starts are for other native code, the public door has none
from clear.check import check_hull

Array = npt.NDArray[Any]
FAMILIES = ("lattice", "low_rank", "anisotropic", "near_duplicate", "cospherical", "gaussian")
PLACES = ("mix", "sparse_mix", "vertex", "edge", "outwards", "beyond", "random", "far")
FLOOR = 4 * 2.0**-24


@dataclass(frozen=True, slots=True)
class FuzzBatch:
    """Problems of one shape: vertices float32 (s, k, d), points float32 (s, d), and how to ask."""

    vertices: Array
    points: Array
    mode: Any
    eps: Array | None
    relative_tolerance: float
    family: str


def vertex_set(rng: np.random.Generator, family: str, k: int, d: int) -> Array:
    """Return k rows of a family around the origin, of radius about 1, float64."""
    gauss = rng.standard_normal((k, d))
    if family == "lattice":
        return rng.integers(-1, 2, (k, d)).astype(float)
    if family == "low_rank":
        rank = int(rng.integers(1, max(2, min(k, d))))
        return rng.standard_normal((k, rank)) @ rng.standard_normal((rank, d)) / np.sqrt(rank * d)
    if family == "anisotropic":
        return gauss * 10.0 ** -rng.uniform(0, 4, d)
    if family == "near_duplicate":
        seeds = gauss[rng.integers(0, max(1, k // 3), k)]
        return (seeds + 10.0 ** -rng.uniform(4, 8) * rng.standard_normal((k, d))) / np.sqrt(d)
    if family == "cospherical":
        return gauss / np.linalg.norm(gauss, axis=1, keepdims=True)
    return gauss / np.sqrt(d)


def place(rng: np.random.Generator, v: Array, where: str) -> Array:
    """Return a point at a stated position relative to the hull of v, float64."""
    k, d = v.shape
    radius = np.sqrt(((v - v.mean(0)) ** 2).sum(1).mean())
    if where in ("mix", "sparse_mix"):
        weights = rng.dirichlet(np.ones(k))
        if where == "sparse_mix":
            weights[rng.permutation(k)[: k - max(1, min(k, d) // 2)]] = 0
        return weights / weights.sum() @ v
    if where == "vertex":
        return v[rng.integers(k)]
    if where == "edge":
        a, b = v[rng.integers(k)], v[rng.integers(k)]
        return a + rng.uniform(0, 1) * (b - a)
    if where == "outwards":  # beyond the vertex that is extreme along a random direction, by a little
        u = rng.standard_normal(d)
        return v[np.argmax(v @ u)] + 10.0 ** -rng.uniform(0, 6) * radius * u / np.linalg.norm(u)
    if where == "beyond":
        return v.mean(0) + rng.uniform(0.5, 2) * (v[rng.integers(k)] - v.mean(0))
    if where == "random":
        return v.mean(0) + radius * rng.standard_normal(d) / np.sqrt(d)
    return v.mean(0) + 10 * radius * rng.standard_normal(d) / np.sqrt(d)


def fuzz_batch(rng: np.random.Generator, size: int = 25, largest: int = 96) -> FuzzBatch:
    """Draw one batch of problems."""
    k = int(np.exp(rng.uniform(0, np.log(largest))))
    d = int(np.exp(rng.uniform(0, np.log(largest))))
    family = str(rng.choice(FAMILIES))
    vertices, points = np.empty((size, k, d), np.float32), np.empty((size, d), np.float32)
    for s in range(size):
        offset = rng.choice([0.0, 1.0, 1000.0]) * rng.standard_normal(d) / np.sqrt(d)
        scale = 10.0 ** rng.choice([0, 0, rng.uniform(-15, 15)])
        # Round first: the point is placed relative to the hull that the solver sees.
        v = (((vertex_set(rng, family, k, d) + offset) * scale).astype(np.float32)).astype(float)
        vertices[s], points[s] = v, place(rng, v, str(rng.choice(PLACES)))
    centred = vertices.astype(float) - vertices.astype(float).mean(1, keepdims=True)
    radius = np.sqrt((centred**2).sum(2).mean(1))
    eps = None if rng.random() < 0.7 else radius * 10.0 ** rng.uniform(-7, -1)
    mode = "decide" if rng.random() < 0.5 else "distance"
    return FuzzBatch(vertices, points, mode, eps, 10.0 ** -rng.integers(1, 7), family)


def solve(batch: FuzzBatch, **options: Any) -> clear.HullResult:
    """Ask the library."""
    s, k, d = batch.vertices.shape
    return clear.solve_hulls(
        batch.points,
        batch.vertices.reshape(s * k, d),
        np.arange(s * k).reshape(s, k),
        mode=batch.mode,
        eps=batch.eps,
        relative_tolerance=batch.relative_tolerance,
        **options,
    )


def violations(batch: FuzzBatch, result: clear.HullResult, s: int) -> list[str]:
    """Return what is wrong with answer s: not proven, not as tight as asked, undecided without need."""
    v, z = batch.vertices[s], batch.points[s]
    lower, upper, eps = float(result.lower[s]), float(result.upper[s]), float(result.eps[s])
    assert result.weights is not None
    assert result.directions is not None
    found = check_hull(
        v,
        z,
        weights=result.weights[s],
        direction=result.directions[s],
        lower=lower,
        upper=upper,
        status=int(result.status[s]),
        eps=eps,
    )
    largest = np.sqrt(max((v.astype(float) ** 2).sum(1).max(), (z.astype(float) ** 2).sum()))
    # float64 knows p = sum of weights * w to 2**-53 |w|, so that slopes w.p / |p| are known to that times |w| / |p|.
    farthest = np.sqrt(((v.astype(float) - z) ** 2).sum(1).max())
    loose = batch.relative_tolerance * upper + (2.0**-50 * farthest**2 / upper if upper > 0 else 0)
    if batch.mode == "distance" and upper - lower > loose * (1 + 1e-9) and upper > FLOOR * largest:
        found.append(f"gap: [{lower}, {upper}] is wider than {loose}; eps {eps}")
    if result.status[s] == clear.HullStatus.UNDECIDED and not (0.95 * eps <= lower <= upper <= 1.05 * eps):
        found.append(f"undecided: [{lower}, {upper}] is not within 5 % of eps {eps}")
    return found


def nested(batch: FuzzBatch, result: clear.HullResult, rng: np.random.Generator) -> list[str]:
    """Return what is wrong when nested problems are solved side by side, in any order."""
    s, k, d = batch.vertices.shape
    part = np.sort(rng.permutation(k)[: rng.integers(1, k + 1)])
    members = np.repeat(np.arange(s * k).reshape(s, k), 2, axis=0)
    members[1::2, np.setdiff1d(np.arange(k), part)] = -1
    order = rng.permutation(2 * s) if rng.random() < 0.5 else np.arange(2 * s)
    options: dict[str, Any] = {"mode": batch.mode, "relative_tolerance": batch.relative_tolerance}
    eps = None if batch.eps is None else np.repeat(batch.eps, 2)[order]
    together = clear.solve_hulls(
        batch.points,
        batch.vertices.reshape(s * k, d),
        members[order],
        owner=np.repeat(np.arange(s), 2)[order],
        eps=eps,
        **options,
    )
    fewer = replace(batch, vertices=np.ascontiguousarray(batch.vertices[:, part]))
    alone, back = solve(fewer), np.argsort(order)
    found = [f"{line} (nested)" for i in range(s) for line in violations(fewer, alone, i)]
    for name in ("status", "lower", "upper", "eps", "weights", "directions"):
        both = getattr(together, name)[back]
        inner = both[1::2][:, part] if name == "weights" else both[1::2]
        if not np.array_equal(both[::2], getattr(result, name)) or not np.array_equal(inner, getattr(alone, name)):
            found.append(f"nested: {name} of problems side by side differ from those of separate ones")
    return found


def started(batch: FuzzBatch, result: clear.HullResult, rng: np.random.Generator) -> list[str]:
    """Return what is wrong with answers that start from weights: the optimum, spoilt by some noise."""
    s, k, d = batch.vertices.shape
    noise = rng.dirichlet(np.ones(k), s) * (rng.random((s, k)) < 0.5)
    start = result.weights + 10.0 ** -rng.uniform(0, 12) * noise
    answers = [np.empty(s, np.int8), *np.empty((3, s)), np.empty((s, k)), np.empty((s, d))]
    _core.solve_hulls(
        batch.points,
        batch.vertices.reshape(s * k, d),
        "float32",
        np.arange(s),
        np.arange(s * k).reshape(s, k),
        np.empty(0) if batch.eps is None else batch.eps,
        batch.mode == "decide",
        batch.relative_tolerance,
        1,
        *answers,
        start,
    )
    again = clear.HullResult(*answers)
    found = [f"{line} (started)" for i in range(s) for line in violations(batch, again, i)]
    sides = {int(clear.HullStatus.INSIDE), int(clear.HullStatus.OUTSIDE)}
    for i, pair in enumerate(zip(result.status.tolist(), again.status.tolist(), strict=True)):
        if set(pair) == sides and abs(result.upper[i] - result.eps[i]) > 1e-9 * result.eps[i]:
            found.append(f"started: statuses {pair} of problem {i} differ")
    return found


def run(count: int, seed: int, *, largest: int = 96, show: int = 10) -> tuple[Counter[str], list[str]]:
    """Solve `count` problems; return counts of the answers and the violations found."""
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    while counts["problems"] < count:
        batch = fuzz_batch(rng, largest=largest)
        result = solve(batch)
        for s in range(len(batch.points)):
            counts["problems"] += 1
            counts[clear.HullStatus(result.status[s]).name.lower()] += 1
            for line in violations(batch, result, s):
                counts["violations"] += 1
                if len(wrong) < show:
                    wrong.append(f"{batch.family} {batch.vertices.shape} {batch.mode} problem {s}: {line}")
        for line in nested(batch, result, rng) + started(batch, result, rng):
            counts["violations"] += 1
            if len(wrong) < show:
                wrong.append(f"{batch.family} {batch.vertices.shape} {batch.mode}: {line}")
    return counts, wrong


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", type=int, default=96, help="largest number of vertices, dimensions")
    options = parser.parse_args()
    counts, wrong = run(options.count, options.seed, largest=options.largest)
    print(", ".join(f"{name}: {n}" for name, n in counts.items()))
    print("\n".join(wrong) if wrong else "every answer is proven")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
