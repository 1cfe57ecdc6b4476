"""Hull problems: ours and peers in one run, answers counted beside times. One thread.

Ours gets a batch per call (that is its interface), peers one problem per call (that is theirs); Gram matrices
and Python included for both. `problems` in extra_info divides the time.

    python -m pytest bench/bench_hull.py --full --benchmark-json=hull.json      every shape and position
    python -m pytest bench/bench_hull.py --benchmark-disable                    tiny, as a test
    python -m bench.bench_hull --out hull.json                                  membership interleaved with peers
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))

import clear  # noqa: E402
from bench.hull_peers import PEERS  # noqa: E402
from bench.hull_workloads import POSITIONS, SHAPES, HullBatch, hull_batch  # noqa: E402
from bench.interleave import interleaved  # noqa: E402
from bench.report_tables import hull_summary, sections  # noqa: E402

TINY = ((8, 6), (8, 20))
LOOSE = (5, 10, 20, 50)
SCALING = (((64, 16), "insp"), ((64, 64), "in"), ((64, 128), "jin"), ((128, 64), "insp"), ((64, 64), "held"))
SCALING_TEXT = "mixed regimes"
LEVELS = ("baseline", "avx2", "avx512")
ISAS = LEVELS[: 1 + LEVELS.index(clear._backend.build_info()["best_isa"])]


def question(batch: HullBatch, times: int = 1) -> dict[str, Any]:
    """Arguments of `solve_hulls`: every problem `times` times, on the same rows."""
    s, k, d = batch.vertices.shape
    return {
        "points": batch.points,
        "base": batch.vertices.reshape(s * k, d),
        "members": np.tile(np.arange(s * k).reshape(s, k), (times, 1)),
        "owner": np.tile(np.arange(s), times),
        "eps": np.tile(batch.eps, times),
    }


def answers_of(result: clear.HullResult, batch: HullBatch) -> np.ndarray:
    """1 inside, 0 outside, -1 undecided, for each problem of the batch; repeated ones must be answered alike."""
    answers = np.array([1, 0, -1, -1])[result.status].reshape(-1, len(batch.points))
    assert (answers == answers[0]).all()
    return answers[0]


def solve_ours(batch: HullBatch, **options: Any) -> np.ndarray:
    """Answers of the library."""
    return answers_of(clear.solve_hulls(**question(batch), **{"threads": 1, **options}), batch)


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
    questions = scaling_questions(8 if full else 1, full)
    monkeypatch.setenv("CLEAR_ISA", isa)
    benchmark.group = "hull instruction sets, " + SCALING_TEXT
    benchmark(solve_all, questions, 1)
    benchmark.extra_info.update(method=isa, problems=sum(len(asked["eps"]) for asked in questions))


def scaling_questions(times: int, full: bool) -> list[dict[str, Any]]:
    """Return questions of several regimes, for ratios of one build or thread count to another."""
    return [question(hull_batch(*shape, position, 12 if full else 3), times) for shape, position in SCALING]


def solve_all(questions: list[dict[str, Any]], threads: int) -> None:
    """Decide all of them."""
    for asked in questions:
        clear.solve_hulls(**asked, mode="decide", threads=threads)


def test_threads_give_the_same_answers_in_turns(full: bool) -> None:
    rows = compare_threads(scaling_questions(1, full), rounds=1)
    assert [row["method"] for row in rows] == ["1 threads", "2 threads"]


def compare_threads(questions: list[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """Elapsed time of one thread and two, in turns."""
    solvers = {f"{threads} threads": functools.partial(solve_all, questions, threads) for threads in (1, 2)}
    problems = dict.fromkeys(solvers, sum(len(asked["eps"]) for asked in questions))
    group = "hull threads, " + SCALING_TEXT
    rows, _ = interleaved(group, solvers, rounds=rounds, problems=problems, warm=True, clock=time.perf_counter)
    return rows


def compare(batch: HullBatch, group: str) -> list[dict[str, Any]]:
    """Time ours and the peers in turns, each warm; return rows for bench/report.py, for one problem.

    Ours get the same problems 80 times in a call: the same rows, as warm as those of the peers.
    """
    times = 80
    asked = question(batch, times)
    solvers: dict[str, Any] = {"clear": lambda: clear.solve_hulls(**asked, mode="decide", threads=1)}
    solvers |= {name: functools.partial(solve_peer, name, batch) for name in PEERS}
    problems = {name: len(batch.points) * (times if name == "clear" else 1) for name in solvers}
    rows, answers = interleaved(group, solvers, rounds=5, problems=problems, warm=True)
    answers["clear"] = answers_of(answers["clear"], batch)
    for row in rows:
        row["facts"] |= quality(answers[row["method"]], batch)
    return rows


def compare_shape(shape: tuple[int, int], position: str) -> list[dict[str, Any]]:
    """Compare on a batch of one kind; print a line."""
    size = 12 if shape[0] * shape[1] < 50000 else 4
    rows = compare(hull_batch(*shape, position, size), f"hull d={shape[0]} k={shape[1]} {position}")
    print(rows[0]["group"], *(f"{row['method']} {row['median_seconds'] * 1e6:.4g}" for row in rows), flush=True)
    return rows


def main() -> None:
    """Time every shape and position; print a line for each, write the rows."""
    parser = argparse.ArgumentParser(description="Hull membership, ours and peers in turn.")
    parser.add_argument("--out", type=Path, help="JSON for bench/report.py")
    out = parser.parse_args().out
    with threadpool_limits(1):  # else threads of a peer's BLAS spin on while others are timed
        rows = [row for shape in SHAPES for position in POSITIONS for row in compare_shape(shape, position)]
        rows += compare_threads(scaling_questions(800, True), rounds=9)
    print("\n".join(hull_summary(sections(rows)["hull"])))
    if out is not None:
        out.write_text(json.dumps({"rows": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
