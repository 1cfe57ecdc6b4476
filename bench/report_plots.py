"""Scaling curves of the neighbour search, from results/scaling.json to docs/figures/scaling.svg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LABELS = {
    "n": "rows of the base, n",
    "m": "queries, m",
    "d": "width, d",
    "k": "neighbours, k",
    "classes": "classes (search in each)",
    "threads": "threads",
}


def draw(scaling: dict[str, Any], path: Path) -> None:
    """One panel for each axis: seconds of ours and of faiss, both axes logarithmic."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(row["axis"] for row in scaling["rows"]))
    with rc_context({"svg.hashsalt": "clear", "font.size": 8}):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        for name, axis in zip(axes_names, figure.subplots(2, -(-len(axes_names) // 2)).ravel(), strict=False):
            for method, style in (("clear", "C0o-"), ("faiss", "C1s--")):
                points = [
                    (row[name], row["seconds"])
                    for row in scaling["rows"]
                    if row["axis"] == name and row["method"] == method
                ]
                axis.loglog(*zip(*sorted(points), strict=True), style, markersize=3, label=method)
            ticks = sorted({row[name] for row in scaling["rows"] if row["axis"] == name})
            axis.set_xticks(ticks, labels=[f"{tick // 1000}k" if tick >= 1000 else str(tick) for tick in ticks])
            axis.set_xticks([], minor=True)
            axis.set(xlabel=LABELS[name], ylabel="seconds")
            axis.grid(alpha=0.3)
        figure.axes[0].legend()
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def text(scaling: dict[str, Any]) -> list[str]:
    """What the figure shows, for the benchmark page."""
    start = ", ".join(f"{name} = {scaling['rows'][0][name]}" for name in ("m", "d", "k", "classes", "threads"))
    best = max((row for row in scaling["rows"] if row["method"] == "clear" and row["threads"] == 1), key=rate)
    where = ", ".join(f"{name} = {best[name]}" for name in ("n", "m", "d", "k", "classes"))
    return [
        "## Scaling of the neighbour search",
        "",
        "![Seconds against n, m, d, k, classes and threads, ours and faiss](figures/scaling.svg)",
        "",
        f"One thing varied at a time from n = 50000, {start}; medians of three interleaved rounds,",
        "index building not timed (`python -m bench.sweep_neighbors`). Highest rate of ours on one thread:",
        f"{rate(best):.0f} GFLOP/s ({where}).",
        f"A float32 matrix product of NumPy reached {scaling['matrix_gflops']:.0f} in the same run.",
        "",
    ]


def rate(row: dict[str, Any]) -> float:
    return float(row["gflops"])


def load(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
