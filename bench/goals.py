"""The table of docs/scaling.md: the goals of large scans beside what was measured (cluster.json, large-scans.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import report_scans
from bench.report_tables import seconds

RESULTS = Path(__file__).parent / "results" / "cluster.json"
SCANS = RESULTS.with_name("large-scans.json")
NAMES = {
    "scan": "kills (-9) of scans",
    "join": "kills (-9) of joins",
    "features": "kills (-9) of extractions",
    "ray": "node deaths in scans under Ray",
    "ray-shards": "node deaths, training set in shards",
    "ray-features": "node deaths in extractions under Ray",
}


def block() -> str:
    """Markdown: goal, floor, stretch, measured; rows whose step was not run are left out."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["| | floor | stretch | measured |", "|---|---|---|---|", *_scans(report_scans.load(SCANS))]
    for step, describe in (
        ("pieces", _pieces),
        ("resume", _resume),
        ("ray", _ray),
        ("guard", _guard),
        ("join", _join),
        ("join_million", _join),
    ):
        if step in found:
            lines += describe(found[step])
    lines += [f"| faults: {_name(what)} | | | {_count(kinds)} |" for what, kinds in _faults(found).items()]
    return "\n".join(lines)


def _scans(found: dict[str, Any] | None) -> list[str]:
    """The largest scan with inverted lists, and the largest exact one."""
    rows = [] if found is None else found["rows"]
    lines = []
    for row in sorted((row for row in rows if row["mode"] == "ivf"), key=lambda row: row["rows"])[-1:]:
        text = f"{report_scans.elapsed(row)}, {row['peak_rss'] / 2**30:.2f} GiB"
        name = f"{row['rows']:,} x {row['width']}, approximate candidates, whole scan, two threads"
        lines.append(f"| {name} | 60 min, 4 GiB peak | 20 min, 2 GiB | {text} |")
    for row in sorted((row for row in rows if row["mode"] == "exact"), key=lambda row: row["rows"])[-1:]:
        text = f"{report_scans.over_neighbours(row):.2f}"
        name = f"{row['rows']:,} x {row['width']} exact, over its neighbours' time, two threads"
        lines.append(f"| {name} | 1.3 | 1.1 | {text} |")
    return lines


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _pieces(row: dict[str, Any]) -> list[str]:
    each = ", ".join(_percent(ratio) for ratio in row["ratios"])
    text = f"{_percent(row['over_memory'])} of CPU time (pairs in turns: {each})"
    return [f"| sharding and markers, {row['samples']:,} x 64 | 10 % | 3 % | {text} |"]


def _resume(row: dict[str, Any]) -> list[str]:
    text = f"{row['finished_pieces_repeated']} finished pieces of {row['pieces']}, and the one under way"
    return [f"| killed at 90 %: work repeated, {row['samples']:,} x 64 | one shard | one shard | {text} |"]


def _ray(row: dict[str, Any]) -> list[str]:
    each = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
    text = f"{row['over_local']:.2f} of elapsed time (in turns: {each})"
    return [f"| Ray over local, two cores, {row['samples']:,} x 64 | 1.25 | 1.1 | {text} |"]


def _guard(rows: dict[str, Any]) -> list[str]:
    goals = {"50k training samples, batch 1,": ("3 ms", "1 ms"), "50k training samples, batch 256,": (".5 ms", ".2 ms")}
    lines = []
    for group, row in rows.items():
        if isinstance(row, dict) and "loaded" not in group:
            floor, stretch = next((goal for part, goal in goals.items() if part in group), ("", ""))
            text = f"{seconds(row['seconds'])}, CPU {seconds(row['cpu_seconds'])}"
            lines.append(f"| {group} | {floor} | {stretch} | {text} |")
    return lines


def _join(rows: dict[str, Any]) -> list[str]:
    lines, samples = [], f"{rows['samples']:,} x 64"
    for new, row in rows["new"].items():
        shares = [f"{100 * row[how]['over_whole']:.1f} %" for how in ("kept", "kept again", "searched")]
        text = (
            f"{shares[0]} of CPU time where the neighbours were kept, {shares[1]} where all are kept again, "
            f"{shares[2]} where not; {row['measured_again']:,} old ones measured again"
        )
        lines.append(f"| {int(new):,} samples join {samples}, over a whole scan | | | {text} |")
    few, scanned = min(map(int, rows["new"])), rows["whole_seconds"] / rows["samples"]
    each, old = [], []
    for how in ("kept", "kept again", "searched"):
        share = rows["rows_each"][how]
        each.append(f"{share:.1f}")
        of_new = few * share * scanned
        old.append(f"{(rows['new'][str(few)][how]['seconds'] - of_new) / rows['samples'] * 1e6:.0f}")
    lines.append(
        f"| each further sample that joins {samples} | | | that of {each[0]} rows of the scan; {each[1]}; {each[2]} |"
    )
    return [*lines, f"| each old sample that is joined, {samples} | | | {old[0]} µs of CPU time; {old[1]}; {old[2]} |"]


def _faults(found: dict[str, Any]) -> dict[str, Any]:
    return {what: kinds for what, kinds in found.get("faults", {}).items() if isinstance(kinds, dict)}


def _name(what: str) -> str:
    return NAMES.get(what, what)


def _count(kinds: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in kinds.items()) + ": results equal"
