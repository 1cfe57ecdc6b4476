"""Tables of the benchmark page: one line for each workload, ours beside every peer, and the ratios that sum them up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Workloads = dict[str, dict[str, Row]]  # workload -> method -> row

SHOWN = {"wrong", "undecided", "recall", "extrapolated"}  # marked in the cell
HIDDEN = SHOWN | {"method", "n", "m", "d", "k", "classes", "problems", "threads"}
OUTSIDE = ("held", "far")  # clearly outside; every other position is near the boundary or inside


def seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def sections(rows: list[Row]) -> dict[str, Workloads]:
    """Workloads by kind: the words of the group's name up to the first that has a value (`n=50k`)."""
    found: dict[str, Workloads] = {}
    for row in rows:
        words = row["group"].split()
        head = next((i for i, word in enumerate(words) if "=" in word), len(words))
        kind = " ".join(words[:head]).rstrip(",")
        found.setdefault(kind, {}).setdefault(" ".join(words[head:]), {})[row["method"]] = row
    return found


def correct(row: Row) -> bool:
    facts = row["facts"]
    return not facts.get("wrong") and not facts.get("undecided") and facts.get("recall", 1.0) >= 1.0


def best_peer(methods: dict[str, Row], among: Callable[[str], bool] = lambda name: True) -> Row | None:
    """The fastest other method that answered everything correctly."""
    peers = [row for name, row in methods.items() if not name.startswith("clear") and among(name) and correct(row)]
    return min(peers, key=lambda row: row["median_seconds"], default=None)


def table(workloads: Workloads) -> list[str]:
    """Markdown: medians of every method; W wrong, U undecided answers, r recall below 1, e extrapolated."""
    names = list(dict.fromkeys(name for methods in workloads.values() for name in methods))
    names.sort(key=lambda name: name != "clear")
    also = any(_also(methods) for methods in workloads.values())
    head = ["workload", *names, *(["best correct peer"] if len(names) > 1 else []), *(["also"] if also else [])]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for workload, methods in workloads.items():
        cells = [workload or "-", *(_cell(methods[name]) if name in methods else "" for name in names)]
        if len(names) > 1:
            cells.append(_ratio(methods))
        lines.append(f"| {' | '.join([*cells, *([_also(methods)] if also else [])])} |")
    return lines


def hull_summary(workloads: Workloads) -> list[str]:
    """Geometric means over all shapes and positions of a regime: x HiGHS, x the best correct QP of each row."""
    regimes: dict[str, list[tuple[float, float]]] = {
        "clearly outside (held, far)": [],
        "near or inside, k <= d+1": [],
        "near or inside, k > d+1": [],
    }
    clearly, small, large = regimes.values()
    for workload, methods in workloads.items():
        sizes = dict(word.split("=") for word in workload.split() if "=" in word)
        qp = best_peer(methods, lambda name: name != "highs")
        if "clear" not in methods or "highs" not in methods or not {"d", "k"} <= set(sizes):
            continue
        own = methods["clear"]["median_seconds"]
        pair = methods["highs"]["median_seconds"] / own, qp["median_seconds"] / own if qp else math.nan
        near = small if int(sizes["k"]) <= int(sizes["d"]) + 1 else large
        (clearly if workload.endswith(OUTSIDE) else near).append(pair)
    lines = ["| regime | rows | x HiGHS | x best correct QP | least x QP |", "|---|---|---|---|---|"]
    for regime, pairs in regimes.items():
        qps = [qp for _, qp in pairs if not math.isnan(qp)]
        if pairs and qps:
            highs = geometric_mean([h for h, _ in pairs])
            lines.append(f"| {regime} | {len(pairs)} | {highs:.0f} | {geometric_mean(qps):.1f} | {min(qps):.1f} |")
    return lines


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _cell(row: Row) -> str:
    facts = row["facts"]
    marks = [f"{letter}{facts[name]}" for letter, name in (("W", "wrong"), ("U", "undecided")) if facts.get(name)]
    if facts.get("recall", 1.0) < 1.0:
        marks.append(f"r{facts['recall']:.3f}")
    if "extrapolated" in facts:
        marks.append("e")
    return " ".join([seconds(row["median_seconds"]), *marks])


def _ratio(methods: dict[str, Row]) -> str:
    peer = best_peer(methods)
    if peer is None or "clear" not in methods:
        return ""
    return f"{peer['median_seconds'] / methods['clear']['median_seconds']:.3g}x {peer['method']}"


def _also(methods: dict[str, Row]) -> str:
    facts = methods["clear"]["facts"] if "clear" in methods else {}
    shown = {name: value for name, value in facts.items() if name not in HIDDEN}
    if facts.get("threads", 1) != 1:
        shown["threads"] = facts["threads"]
    return ", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
