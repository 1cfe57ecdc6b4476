"""What the plan says beside what happens: seconds and resident memory of scans of several sizes, a process each.

    python -m bench.bench_plan --out bench/results/plan.json

The plan is made just before the scan, in the same process. Goal: within a factor of 1.5.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench.large_scans import in_process

SIZES = (10_000, 50_000, 200_000)
KEPT = (
    "rows",
    "mode",
    "threads",
    "seconds",
    "plan_seconds",
    "peak_rss",
    "plan_peak_bytes",
    "before_rss",
    "load_at_start",
)


def compare(rows: int, mode: str, threads: int, scratch: Path) -> dict[str, Any]:
    """One scan: planned and taken."""
    place, load = scratch / str(rows), os.getloadavg()[0]
    in_process("--write", str(place), "--rows", str(rows))
    common = ("--scan", str(place), "--rows", str(rows), "--mode", mode, "--threads", str(threads))
    row = in_process(*common) | {"load_at_start": load}
    kept = {name: row[name] for name in KEPT}
    return kept | {
        "seconds_over_plan": row["seconds"] / row["plan_seconds"],
        "peak_over_plan": row["peak_rss"] / row["plan_peak_bytes"],
        "stages": row["stages"],
        "plan_stages": row["plan_stages"],
        "peaks": row["peaks"],
    }


def main() -> None:
    """Compare all sizes, print a line for each, write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--modes", nargs="+", default=["exact", "ivf"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path("build/large-scans"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in options.sizes:
        for mode in options.modes:
            rows.append(compare(size, mode, options.threads, options.scratch))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
