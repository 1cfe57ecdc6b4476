"""Whole scans of stores with many rows: seconds, memory, recall, and what the plan said before.

    python -m bench.large_scans --rows 1000000 --mode exact --out bench/results/large-scans.json
    python -m bench.large_scans --rows 10000000 --mode ivf --out bench/results/large-scans.json
    python -m bench.large_scans --rows 200000 --mode pieces --out bench/results/large-scans.json
    python -m bench.report

Each writes its row into the file, in place of an older one. Give a command again when it was interrupted: finished
pieces are kept (`--scratch`), and their seconds are counted. "pieces": an exact scan with a folder of work beside one
without, in turns. Scans run in a process of their own, on a store that another process has written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, CLASSES = 64, 10
SHARD = 1 << 18
POCKETS, POISONS = 5, 8


def write_features(folder: Path, rows: int) -> None:
    """A float16 store of `bench.workloads`' classes in random order, some samples moved into pockets."""
    from clear.store import add_shard, finished_rows, start_store

    manifest = start_store(
        folder,
        rows=rows,
        width=WIDTH,
        dtype="float16",
        class_names=None,
        made_by={"bench": "large_scans", "rows": rows},
    )
    while (start := finished_rows(manifest)) < rows:
        values, labels = make_shard(start // SHARD, min(SHARD, rows - start))
        manifest = add_shard(folder, manifest, values, labels)


def make_shard(number: int, count: int) -> tuple[Any, Any]:
    """Rows of one shard, float32, and labels: unit variance over 16 directions of each class, and a little noise."""
    fixed, rng = np.random.default_rng(11), np.random.default_rng((12, number))
    bases = [np.linalg.qr(fixed.standard_normal((WIDTH, 16)))[0].T for _ in range(CLASSES)]
    means = fixed.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    spectrum = np.arange(1, 17) ** -0.5
    spectrum /= np.linalg.norm(spectrum)
    labels = rng.integers(0, CLASSES, count)
    values = means[labels] + 0.05 / np.sqrt(WIDTH) * rng.standard_normal((count, WIDTH))
    for label, basis in enumerate(bases):
        mine = np.flatnonzero(labels == label)
        values[mine] += (spectrum * rng.standard_normal((len(mine), 16))) @ basis
    if number == 0:
        for rows, target in planted(labels):
            values[rows] = values[target] + 0.02 / np.sqrt(WIDTH) * rng.standard_normal((len(rows), WIDTH))
    return values.astype(np.float32), labels


def planted(labels: Any) -> list[tuple[Any, int]]:
    """Rows of the first shard that are moved, and whereto."""
    found = []
    for pocket in range(POCKETS):
        rows = np.flatnonzero(labels == pocket)[pocket * POISONS : (pocket + 1) * POISONS]
        found.append((rows, int(np.flatnonzero(labels == (pocket + 1) % CLASSES)[100 + pocket])))
    return found


class Meter:
    """Seconds by stage, and the largest resident sizes, of this process."""

    def __init__(self) -> None:
        self.stage, self.seconds, self.peaks = "prepare", defaultdict(float), defaultdict(int)
        self.since = self.began = time.perf_counter()
        self.done = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self.done.wait(0.05):
            facts = resident()
            for name, size in facts.items():
                self.peaks[name] = max(self.peaks[name], size)
                self.peaks[f"{name} in {self.stage}"] = max(self.peaks[f"{name} in {self.stage}"], size)

    def enter(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[self.stage] += now - self.since
        self.since, self.stage = now, stage

    def progress(self, stage: str, done: int, total: int) -> None:
        after = {"cross-validated core": "packing and lists", "hulls": "neighbours and hulls"}.get(stage)
        if after is not None and (done == total or stage == "hulls"):
            self.enter(after)

    def enter_at(self, owner: Any, function: str, stage: str) -> None:
        """Begin a stage where a function is called."""
        real = getattr(owner, function)

        def entered(*args: Any, **options: Any) -> Any:
            self.enter(stage)
            return real(*args, **options)

        setattr(owner, function, entered)

    def time_calls(self, owner: Any, function: str, name: str) -> None:
        """Count the seconds of a function."""
        real = getattr(owner, function)

        def timed(*args: Any, **options: Any) -> Any:
            if self.stage == "packing and lists":
                self.enter("neighbours and hulls")
            start, stage = time.perf_counter(), self.stage
            try:
                return real(*args, **options)
            finally:
                if stage == "neighbours and hulls":
                    self.seconds[name] += time.perf_counter() - start

        setattr(owner, function, timed)


def resident() -> dict[str, int]:
    """Resident bytes: all, and those that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {"rss": sizes["VmRSS"], "anonymous": sizes["RssAnon"]}


def settings(rows: int, mode: str, probes: int | None) -> dict[str, Any]:
    """How a set of so many rows is scanned: options of `clear.scan` and `clear.plan_scan`."""
    import clear

    chosen = {} if probes is None else {"probes": probes}
    return {
        "config": clear.ScanConfig(review_rate=1e-3 if rows <= 2_000_000 else 1e-4),
        "approximate": None if mode == "exact" else clear.Approximate(method=mode, **chosen),
    }


def plan_scan(rows: int, mode: str, threads: int, probes: int | None) -> dict[str, Any]:
    """What the plan says in this process, where nothing has been imported for it."""
    import clear

    plan = clear.plan_scan(rows, WIDTH, CLASSES, threads=threads, **settings(rows, mode, probes))
    return {
        "plan_seconds": plan.seconds,
        "plan_peak_bytes": plan.peak_bytes,
        "plan_disk_bytes": plan.disk_bytes,
        "plan_stages": {stage.name: stage.seconds for stage in plan.stages},
    }


def run_scan(folder: Path, mode: str, threads: int, probes: int | None, work: Path | None) -> dict[str, Any]:
    """One scan in this process, with the imports that it makes."""
    import clear
    from clear import class_index, collapse, detect, reference
    from clear.data import open_features

    data = open_features(folder)
    rows, width = data.values.shape
    chosen = settings(rows, mode, probes)
    how = chosen["approximate"]
    before, meter, cpu = resident(), Meter(), time.process_time()
    meter.enter_at(reference, "cross_validate", "core")
    meter.enter_at(detect, "with_far", "flags and agreement")
    meter.enter_at(detect, "compare_scan", "flags and agreement")
    meter.time_calls(class_index.ClassIndex, "own", "of these: neighbours")
    meter.time_calls(class_index.ClassIndex, "others", "of these: neighbours")
    meter.time_calls(collapse, "solve_hulls", "of these: hulls")
    result = clear.scan(data, threads=threads, workdir=work, progress=meter.progress, **chosen)
    meter.enter("end")
    meter.done.set()
    found = {int(row) for row in np.flatnonzero(result.scores.level > 0)}
    poisons = np.concatenate([rows for rows, _ in planted(result.labels[:SHARD])])
    row = {
        "rows": rows,
        "width": width,
        "classes": CLASSES,
        "mode": mode,
        "threads": threads,
        "seconds": meter.since - meter.began,
        "cpu_seconds": time.process_time() - cpu,
        "stages": dict(meter.seconds),
        "peak_rss": meter.peaks["rss"],
        "peak_anonymous": meter.peaks["anonymous"],
        "peaks": dict(meter.peaks),
        "before_rss": before["rss"],
        "features_bytes": rows * width * 2,
        "verdict": result.verdict,
        "certain": int((result.scores.level == 2).sum()),
        "review_rate": chosen["config"].review_rate,
        "planted": len(poisons),
        "planted_flagged": len(found & set(poisons.tolist())),
    }
    if how is not None and result.approximation is not None:
        said = result.approximation
        row |= {
            "probes": said.probes if mode == "ivf" else None,
            "far_probes": how.far() if mode == "ivf" else None,
            "recall": said.recall,
            "same_level": said.same_level,
            "flagged": said.flagged,
        }
        row |= {"flagged_same_level": said.flagged_same_level, "same_suggestion": said.same_suggestion}
    return row


def planned_and_run(*words: str, mode: str, work: tuple[str, ...] = ()) -> dict[str, Any]:
    """A plan and then the scan, each in a process of its own."""
    common = (*words, "--mode", mode)
    return in_process("--plan", *common) | in_process(*common, *work)


def in_process(*words: str) -> dict[str, Any]:
    """A command of this module in a fresh process; the row it prints."""
    command = [sys.executable, "-m", "bench.large_scans", *words]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Write the store where it is not yet, scan it, and return the row."""
    place = options.scratch / f"{options.rows}"
    in_process("--write", str(place), "--rows", str(options.rows))
    common = ["--rows", str(options.rows), "--threads", str(options.threads), "--scan", str(place)]
    if options.probes is not None:
        common += ["--probes", str(options.probes)]
    if options.mode == "pieces":
        return compare_pieces(options, common)
    work = options.scratch / f"{options.rows}-{options.mode}-work"
    log = work.with_suffix(".json")
    began, kept = time.perf_counter(), json.loads(log.read_text()) if log.exists() else {"seconds": 0.0, "starts": 0}
    try:
        row = planned_and_run(*common, mode=options.mode, work=("--work", str(work)))
    except BaseException:
        log.write_text(
            json.dumps({"seconds": kept["seconds"] + time.perf_counter() - began, "starts": kept["starts"] + 1})
        )
        raise
    shutil.rmtree(work)  # the next time it is measured again
    log.unlink(missing_ok=True)
    return row | {"starts": kept["starts"] + 1, "seconds_before": kept["seconds"]}


def compare_pieces(options: argparse.Namespace, common: list[str]) -> dict[str, Any]:
    """CPU seconds of scans with a folder of work over those without; three pairs in turns."""
    ratios, last = [], {}
    for turn in range(options.turns):
        plain = planned_and_run(*common, mode="exact")
        work = options.scratch / f"pieces-{turn}"
        shutil.rmtree(work, ignore_errors=True)
        last = in_process(*common, "--mode", "exact", "--work", str(work))
        last |= {name: found for name, found in plain.items() if name.startswith("plan_")}
        shutil.rmtree(work)
        ratios.append(last["cpu_seconds"] / plain["cpu_seconds"])
    return last | {"mode": "pieces", "cpu_over_plain": float(np.median(ratios)), "turns": len(ratios)}


def merge(path: Path, row: dict[str, Any]) -> None:
    """Enter a row in the file."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    key = ("rows", "mode", "threads")
    rows = [old for old in document["rows"] if any(old[name] != row[name] for name in key)]
    rows = sorted([*rows, row], key=lambda item: (item["rows"], item["mode"], item["threads"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run a command of the module's text, or a part of it that wants a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--mode", choices=["exact", "ivf", "hnsw", "pieces"], default="ivf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--probes", type=int)
    parser.add_argument("--turns", type=int, default=3, help="pairs of scans in mode pieces")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scratch", type=Path, default=Path("build/large-scans"))
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write_features(options.write, options.rows)
        row: dict[str, Any] = {}
    elif options.plan:
        row = plan_scan(options.rows, options.mode, options.threads, options.probes)
    elif options.scan is not None:
        row = run_scan(options.scan, options.mode, options.threads, options.probes, options.work)
    else:
        options.scratch.mkdir(parents=True, exist_ok=True)
        row = measure(options)
        row |= {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "machine": platform.machine()}
        row["load_at_end"] = os.getloadavg()[0]
        if options.out is not None:
            merge(options.out, row)
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
