"""The goals of large scans, measured: what pieces, a kill, Ray and node deaths cost; results/cluster.json.

OMP_NUM_THREADS=1 python -m bench.bench_goals pieces ray resume guard join faults    any of them; others stay
OMP_NUM_THREADS=1 python -m bench.bench_goals join_million                           most of an hour
python -m bench.report                                                               the table in docs/scaling.md
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from workloads import features  # noqa: E402

import clear  # noqa: E402
from bench.goals import RESULTS  # noqa: E402
from bench.report import condense, version  # noqa: E402

ROOT = Path(__file__).parents[1]
FAULTS = {"scan": 20, "join": 20, "features": 20, "ray": 3, "ray-shards": 3, "ray-features": 3}
RAY_PIECE = 2048


def training(n: int) -> clear.Features:
    values, labels = features(n, 64, 10, seed=3)
    return clear.Features.from_arrays(values, labels.astype(np.int64))


def pieces(folder: Path, n: int = 200_000, turns: int = 3) -> dict[str, Any]:
    """CPU time of a scan that keeps its pieces over that of one pass in memory, in turns, one thread."""
    data = training(n)
    ratios, seconds = [], []
    for turn in range(turns):
        taken = []
        for work in (None, folder / str(turn)):
            begun = time.process_time()
            clear.scan(data, threads=1, workdir=work)
            taken.append(time.process_time() - begun)
        ratios.append(taken[1] / taken[0])
        seconds.append(taken[0])
    return {"samples": n, "turns": turns, "over_memory": float(np.median(ratios)), "ratios": ratios, "seconds": seconds}


def ray(folder: Path, n: int = 50_000, turns: int = 3) -> dict[str, Any]:
    """Elapsed time of a scan under Ray over that of the local engine with as many threads, in turns; equal results."""
    import ray as engine

    data, taken = training(n), {"local": [], "ray": []}
    engine.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    options = {"local": {"threads": 2}, "ray": {"engine": "ray", "threads": 2, "piece_rows": RAY_PIECE}}
    found = {}
    for turn in range(turns + 1):  # the first is not counted: workers start
        for name, chosen in options.items():
            begun = time.perf_counter()
            found[name] = clear.scan(data, **chosen)
            if turn:
                taken[name].append(time.perf_counter() - begun)
        assert (found["local"].scores.score == found["ray"].scores.score).all()
        assert found["local"].flags == found["ray"].flags
    engine.shutdown()
    ratios = [b / a for a, b in zip(*taken.values(), strict=True)]
    return {"samples": n, "turns": turns, "over_local": float(np.median(ratios)), "ratios": ratios, "seconds": taken}


def resume(folder: Path, n: int = 50_000, piece_rows: int = 1024) -> dict[str, Any]:
    """Kill a scan when 90 % of its pieces are there; what is done twice when it goes on."""
    data = training(n)
    np.savez(folder / "train.npz", features=data.values, labels=data.labels)
    work, count = folder / "work", -(-n // piece_rows)
    command = [sys.executable, "-m", "clear", "scan", "train.npz", "--workdir", "work", "--threads", "1"]
    command += ["--piece-rows", str(piece_rows)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(work.glob("hulls-*.npz"))) < 0.9 * count:
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("*-*.npz")}
    status = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode
    after = {path.name: path.stat().st_mtime_ns for path in work.glob("*-*.npz")}
    again = sum(after[name] != when for name, when in before.items())
    done = sum(name.startswith("hulls") for name in before)
    assert status in (0, 1, 2)
    assert done < count
    return {"samples": n, "pieces": count, "done_at_the_kill": done, "finished_pieces_repeated": again, "begun": 1}


def join(folder: Path, n: int = 50_000, new: tuple[int, int] = (50, 500)) -> dict[str, Any]:
    """CPU time of letting new samples join a finished scan over that of a scan of all, one thread.

    The finished scan kept its neighbours, or its joiners search them again; both give the same scores.
    """
    whole = training(n + max(new))
    order = np.random.default_rng(0).permutation(n + max(new))

    def part(count: int) -> clear.Features:
        return clear.Features.from_arrays(whole.values[order[:count]], whole.labels[order[:count]])

    clear.scan(part(1000), threads=1)  # the first imports
    begun = time.process_time()
    clear.scan(part(n), threads=1, workdir=folder / "work", keep_neighbors=True)
    scanned = time.process_time() - begun
    kept = [*(folder / "work").glob("near-*")]
    disk = {"pieces": folder_bytes(folder / "work"), "near": sum(file.stat().st_size for file in kept)}
    scores: dict[int, Any] = {}
    found: dict[str, Any] = {str(count): {} for count in new}
    each = {}
    for how in ("kept", "kept again", "searched"):
        seconds = []
        for count in new:
            where = {"workdir": folder / str(count)} if how == "kept again" else {}
            begun = time.process_time()
            result = clear.scan(part(n + count), threads=1, previous=folder / "work", **where)
            seconds.append(time.process_time() - begun)
            assert result.joined is not None
            same = scores.setdefault(count, result.scores.suspicion)
            if not np.array_equal(same, result.scores.suspicion, equal_nan=True):
                raise AssertionError("a join whose neighbours were kept differs from one that searched them")
            found[str(count)] |= {"measured_again": result.joined.measured_again, "changed": len(result.joined.changed)}
            found[str(count)][how] = {"seconds": seconds[-1], "over_whole": seconds[-1] / scanned}
        each[how] = (seconds[1] - seconds[0]) / (new[1] - new[0]) / (scanned / n)
        if how == "kept again":
            for file in kept:
                file.unlink()
    return {"samples": n, "whole_seconds": scanned, "disk_bytes": disk, "new": found, "rows_each": each}


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def guard(folder: Path) -> dict[str, Any]:
    """Batches of 1 and 256 against 50,000 and 1,000,000 training samples, for each input."""
    raw = folder / "guard.json"
    command = [sys.executable, "-m", "pytest", "-q", "bench/bench_guard.py", "--full", f"--benchmark-json={raw}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows = condense([json.loads(raw.read_text(encoding="utf-8"))])["rows"]
    return {
        row["group"]: {"seconds": row["median_seconds"]}
        | {name: row["facts"][name] for name in ("cpu_seconds", "save_seconds") if name in row["facts"]}
        for row in rows
    }


def faults(folder: Path) -> dict[str, Any]:
    """The commands of tests/faults.py, with their counts; each fails where anything differs at the end."""
    found = {}
    for what, count in FAULTS.items():
        command = [sys.executable, str(ROOT / "tests" / "faults.py"), what, "--count", str(count)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
        found[what] = ast.literal_eval(printed.strip().splitlines()[-1])
    return found


def join_million(folder: Path) -> dict[str, Any]:
    """The same of a million samples; most of an hour."""
    return join(folder, 1_000_000, (1_000, 10_000))


STEPS = {step.__name__: step for step in (pieces, ray, resume, guard, join, join_million, faults)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=STEPS)
    for what in parser.parse_args().what:
        with tempfile.TemporaryDirectory() as place:
            measured = STEPS[what](Path(place))
        measured |= {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "ray_version": version("ray")}
        known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(known | {what: measured}, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{what}: {json.dumps(measured)}\n")


if __name__ == "__main__":
    main()
