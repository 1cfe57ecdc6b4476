"""The table of large scans in docs/scaling.md, from results/large-scans.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

# How CPU seconds grow with rows: what is done for each, and its neighbours among all or in lists of sqrt(rows).
GROWTH = {"exact": (1.0, 2.0), "ivf": (1.0, 1.5)}
CORES = 1600
LARGE = 1_000_000  # rows that tell what each takes in memory
HEAD = (
    "| rows | candidates | elapsed (plan) | CPU | peak memory (plan) | beyond the start, over float32 features "
    "| recall | level as exact: all, flagged | planted found | time over neighbours' |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def text(document: dict[str, Any]) -> str:
    """Lines for the page."""
    scans = [row for row in document["rows"] if row["mode"] != "pieces"]
    width, classes = scans[0]["width"], scans[0]["classes"]
    lines = [
        f"Stores of float16 features of width {width}, {classes} classes, 40 samples planted in five pockets; "
        "`python -m bench.large_scans` makes",
        "and scans them, `python -m bench.report` writes this table. A load above the number of threads means that",
        "others used the machine, too: only CPU seconds then say what a scan costs.",
        "",
        *HEAD,
        *(line(row) for row in scans),
        "",
    ]
    lines += [f"- {row['rows']:,} rows, {row['mode']}: {notes(row)}." for row in scans]
    for row in document["rows"]:
        if row["mode"] == "pieces":
            lines.append(
                f"- A folder of work at {row['rows']:,} rows: CPU seconds over those of a scan without one "
                f"{row['cpu_over_plain']:.3f} (median of {row['turns']} pairs in turns)."
            )
    return "\n".join([*lines, "", *extrapolated(scans)])


def extrapolated(scans: list[dict[str, Any]]) -> Iterable[str]:
    """What the scans above say of larger ones: a fit, and where it ends."""
    of_mode = {mode: [row for row in scans if row["mode"] == mode] for mode in GROWTH}
    large = [row for row in scans if row["rows"] >= LARGE]
    if not (large and all(len(rows) >= 2 for rows in of_mode.values())):
        return
    models = {mode: fit(rows, GROWTH[mode]) for mode, rows in of_mode.items()}
    yield "CPU seconds of n rows, fitted to these scans (least squares of relative errors). Beyond their sizes this is"
    yield "extrapolation, and cores are taken to share the work perfectly:"
    yield ""
    for mode, (factors, worst) in models.items():
        terms = " + ".join(f"{f:.2g} n^{power:g}" for f, power in zip(factors, GROWTH[mode], strict=True) if f > 0)
        yield f"- {mode}: {terms}; off by {worst:.0%} at most."
    yield ""
    yield f"| rows | exact, CPU | on {CORES:,} cores | IVF, CPU | memory where the report is made |"
    yield "|---|---|---|---|---|"
    each = max((row["peak_rss"] - row["before_rss"]) / row["rows"] for row in large)
    for rows in (10**8, 10**9):
        exact, lists = (float(np.dot(models[m][0], [float(rows) ** p for p in GROWTH[m]])) for m in ("exact", "ivf"))
        cells = [f"{rows:,}", hours(exact), hours(exact / CORES), hours(lists), f"{each * rows / 2**30:,.0f} GiB"]
        yield f"| {' | '.join(cells)} |"


def fit(scans: list[dict[str, Any]], powers: tuple[float, ...]) -> tuple[list[float], float]:
    """Factors of powers of the rows, none negative, and the largest relative error."""
    rows, seconds = (np.array([float(row[name]) for row in scans]) for name in ("rows", "cpu_seconds"))
    terms = np.stack([rows**power for power in powers], 1) / seconds[:, None]
    factors, _ = nnls(terms, np.ones(len(scans)))
    return [float(f) for f in factors], float(np.abs(terms @ factors - 1).max())


def hours(seconds: float) -> str:
    """Hours, days or years."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400)):
        if seconds > 3 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 3600:,.1f} h"


def line(row: dict[str, Any]) -> str:
    """One scan."""
    exact = row["mode"] == "exact"
    modes = {"exact": "exact", "ivf": f"IVF, {row.get('probes')} lists ({row.get('far_probes')})", "hnsw": "HNSW"}
    cells = [
        f"{row['rows']:,}",
        modes[row["mode"]],
        f"{elapsed(row)} ({duration(row['plan_seconds'])})",
        duration(row["cpu_seconds"]),
        f"{row['peak_rss'] / 2**30:.2f} GiB ({row['plan_peak_bytes'] / 2**30:.2f})",
        f"{(row['peak_rss'] - row['before_rss']) / (4 * row['rows'] * row['width']):.2f}",
        "1" if exact else f"{row['recall']:.3f}",
        "1, 1" if exact else f"{row['same_level']:.3f}, {row['flagged_same_level']:.3f}",
        f"{row['planted_flagged']} of {row['planted']}",
        f"{over_neighbours(row):.2f}" if row.get("starts", 1) == 1 else "–",
    ]
    return f"| {' | '.join(cells)} |"


def elapsed(row: dict[str, Any]) -> str:
    """What a scan took, with the runs that it was a continuation of."""
    return duration(row["seconds"] + row.get("seconds_before", 0.0))


def over_neighbours(row: dict[str, Any]) -> float:
    """Time of the scan over that of the neighbour searches in it."""
    return float(row["seconds"] / row["stages"].get("of these: neighbours", math.nan))


def notes(row: dict[str, Any]) -> str:
    """Where the time went, and on what machine."""
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in row["stages"].items())
    starts = "" if row.get("starts", 1) == 1 else f", in {row['starts']} runs"
    machine = f"{row['threads']} threads of {row['cores']} cores, load {row['load_at_end']:.1f}"
    return f"{stages}; {machine}{starts}, {row['date']}"


def duration(seconds: float) -> str:
    """Seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def load(path: Path) -> dict[str, Any] | None:
    """The results, where there are some."""
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document if document["rows"] else None
