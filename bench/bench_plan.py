"""What the plan says beside what happens: seconds, memory and disk of scans, each in a fresh process.

    python -m bench.bench_plan                     writes results/plan.json; python -m bench.report its table

The plan is made just before the scan, by another process. Exit code 1, and a line for each, where seconds, memory or
disk of a scan, or seconds of a stage, differ from the plan by more than a factor of `WITHIN`; stages that are shorter
than `SHORTEST_STAGE` count as that long, planned or measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench.large_scans import WIDTH, in_process, planned_and_run
from clear.plan import SHORTEST_STAGE, _filed

SIZES = (10_000, 50_000, 200_000)
RESULTS = Path(__file__).parent / "results" / "plan.json"
WITHIN = 1.5
STAGES = {
    "prepare": ("prepare",),
    "core": ("core",),
    "neighbours": ("packing and lists", "of these: neighbours"),
    "hulls": ("neighbours and hulls",),  # less the neighbours, which are of these
    "flags": ("flags and agreement",),
}
KEPT = (
    "rows",
    "mode",
    "threads",
    "seconds",
    "plan_seconds",
    "peak_rss",
    "plan_peak_bytes",
    "plan_disk_bytes",
    "before_rss",
    "load_at_start",
)


def compare(rows: int, mode: str, threads: int, scratch: Path) -> dict[str, Any]:
    """One scan: planned and taken."""
    place, load = scratch / str(rows), os.getloadavg()[0]
    in_process("--write", str(place), "--rows", str(rows))
    common = ("--scan", str(place), "--rows", str(rows), "--threads", str(threads))
    work = scratch / "plan-work"
    shutil.rmtree(work, ignore_errors=True)
    row = planned_and_run(*common, mode=mode, work=("--work", str(work))) | {"load_at_start": load}
    files = _filed(rows, WIDTH)  # without names: gone by now
    disk = sum(path.stat().st_size for path in work.iterdir()) + sum(files.values())
    shutil.rmtree(work)
    kept = {name: row[name] for name in KEPT}
    return kept | {
        "disk": disk,
        "disk_over_plan": disk / row["plan_disk_bytes"],
        "seconds_over_plan": row["seconds"] / row["plan_seconds"],
        "peak_over_plan": row["peak_rss"] / row["plan_peak_bytes"],
        "stages": stage_seconds(row["stages"]),
        "plan_stages": row["plan_stages"],
        "peaks": row["peaks"],
    }


def stage_seconds(measured: dict[str, float]) -> dict[str, float]:
    """Seconds of the plan's stages, from those that the scan was measured in."""
    found = {name: sum(measured.get(part, 0.0) for part in parts) for name, parts in STAGES.items()}
    return found | {"hulls": found["hulls"] - measured.get("of these: neighbours", 0.0)}


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each estimate that is off by more than allowed."""
    found = []
    for row in rows:
        ratios = {name: row[name] for name in ("seconds_over_plan", "peak_over_plan", "disk_over_plan")}
        stages, planned = (
            {name: max(SHORTEST_STAGE, row[which][name]) for name in STAGES} for which in ("stages", "plan_stages")
        )
        ratios |= {f"{name} over its plan": stages[name] / planned[name] for name in STAGES}
        found += [
            f"{row['rows']} rows, {row['mode']}: {name} is {ratio:.2f}, want within {WITHIN}"
            for name, ratio in ratios.items()
            if not 1 / WITHIN <= ratio <= WITHIN
        ]
    return found


def text(document: dict[str, Any]) -> str:
    """The table for docs/scaling.md."""
    lines = [
        f"Scans of stores as above, {document['date']}: measured, with what a fresh process imports for it, and in",
        "brackets what a plan said just before; all keep their pieces. `python -m bench.bench_plan` repeats it, and",
        "fails where seconds, memory or disk of a scan, or seconds of a stage, differ by a factor of more than",
        f"{WITHIN} (a stage of less than {SHORTEST_STAGE:g} s counts as that, as in the plan). A load above the",
        "number of threads means that others used the machine, too.",
        "",
        f"| rows | candidates | seconds | peak MiB | disk MiB | {', '.join(STAGES)}: seconds | threads, load |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        stages = ", ".join(f"{row['stages'][name]:.1f} ({row['plan_stages'][name]:.1f})" for name in STAGES)
        cells = [
            f"{row['rows']:,}",
            row["mode"],
            f"{row['seconds']:.1f} ({row['plan_seconds']:.1f})",
            f"{row['peak_rss'] >> 20} ({row['plan_peak_bytes'] >> 20})",
            f"{row['disk'] / 2**20:.1f} ({row['plan_disk_bytes'] / 2**20:.1f})",
            stages,
            f"{row['threads']}, {row['load_at_start']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Compare all sizes, print a line for each, write them all; 1 where a plan was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--modes", nargs="+", default=["exact", "ivf", "hnsw"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path("build/large-scans"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in options.sizes:
        for mode in options.modes:
            rows.append(compare(size, mode, options.threads, options.scratch))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")
    wrong = misses(rows)
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
