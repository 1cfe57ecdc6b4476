"""From benchmark results to the tables in the documents: nobody types a number.

python -m pytest bench --full --benchmark-json=raw.json
python -m bench.report raw.json [more.json ...]     condense into results/speed.json, write the tables
python -m bench.report                              write the tables from results/speed.json
python -m bench.report --check                      fail if a document differs from results/speed.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SPEED = ROOT / "bench" / "results" / "speed.json"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
MARKERS = ("<!-- bench:start -->", "<!-- bench:end -->")
PACKAGES = ["numpy", "scipy", "scikit-learn", "torch", "faiss-cpu", "highspy", "daqp", "piqp", "quadprog"]
HIDDEN = {"method", "n", "m", "d", "k", "classes", "problems"}


def condense(raw: list[dict[str, Any]]) -> dict[str, Any]:
    """Machine, versions and one row for each benchmark."""
    info = raw[0]["machine_info"]
    rows = []
    for run in raw:
        for entry in run["benchmarks"]:
            facts = dict(entry["extra_info"])
            scale = facts.get("extrapolated", 1.0) / facts.get("problems", 1)
            rows.append(
                {
                    "group": entry["group"] or entry["name"],
                    "method": facts.get("method", "clear"),
                    "median_seconds": entry["stats"]["median"] * scale,
                    "iqr_seconds": entry["stats"]["iqr"] * scale,
                    "rounds": entry["stats"]["rounds"],
                    "facts": facts,
                }
            )
    return {
        "machine": {
            "cpu": info["cpu"].get("brand_raw", "unknown"),
            "cores": info["cpu"].get("count"),
            "system": f"{info['system']} {info['machine']}",
            "python": info["python_version"],
        },
        "date": raw[0]["datetime"][:10],
        "versions": {name: version(name) for name in ["clear-pockets", *PACKAGES]},
        "rows": rows,
    }


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def tables(speed: dict[str, Any]) -> dict[str, list[str]]:
    """A Markdown table for each group: method, median, ratio to ours, quality."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in speed["rows"]:
        groups.setdefault(row["group"], []).append(row)
    found = {}
    for name, rows in groups.items():
        ours = next((row for row in rows if row["method"] == "clear"), None)
        unit = " a problem" if "problems" in rows[0]["facts"] else ""
        lines = [f"| method | median{unit} | over clear | also measured |", "|---|---|---|---|"]
        for row in rows:
            ratio = row["median_seconds"] / ours["median_seconds"] if ours else float("nan")
            facts = ", ".join(
                f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}"
                for k, v in row["facts"].items()
                if k not in HIDDEN
            )
            lines.append(f"| {row['method']} | {seconds(row['median_seconds'])} | {ratio:.2f}x | {facts} |")
        found[name] = lines
    return found


def machine_line(speed: dict[str, Any]) -> str:
    machine = speed["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in speed["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, "
        f"{speed['date']}; {versions}."
    )


def benchmarks_page(speed: dict[str, Any]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m bench.report` from `bench/results/speed.json`; do not edit. Peers run in the",
        "same run as ours, one thread each unless a row says otherwise; every answer is checked. Medians. A ratio",
        "below 1 is a loss.",
        "",
        "```",
        "make bench",
        "```",
        "",
        machine_line(speed),
        "",
    ]
    for name, table in tables(speed).items():
        lines += [f"## {name}", "", *table, ""]
    return "\n".join(lines)


def headline(speed: dict[str, Any]) -> str:
    """The rows that the README shows: the best peer of chosen groups beside ours."""
    chosen = [
        "neighbors plain n=50k m=5000 d=64 k=10",
        "neighbors by class n=50k m=2500 d=64 C=10 k=50",
        "hull d=64 k=64 in",
        "hull d=64 k=64 held",
        "scan n=50k d=64 C=10",
    ]
    lines = ["| workload | clear | fastest correct peer | ratio |", "|---|---|---|---|"]
    for group in chosen:
        rows = [row for row in speed["rows"] if row["group"] == group]
        ours = [row for row in rows if row["method"] == "clear"]
        peers = [
            row
            for row in rows
            if row["method"] != "clear" and not row["facts"].get("wrong") and not row["facts"].get("undecided")
        ]
        if not ours or not peers:
            continue
        best = min(peers, key=lambda row: row["median_seconds"])
        note = " (extrapolated)" if "extrapolated" in best["facts"] else ""
        unit = " a problem" if "problems" in ours[0]["facts"] else ""
        ratio = best["median_seconds"] / ours[0]["median_seconds"]
        lines.append(
            f"| {group} | {seconds(ours[0]['median_seconds'])}{unit} | {best['method']} "
            f"{seconds(best['median_seconds'])}{note} | {ratio:.3g}x |"
        )
    return "\n".join(
        [
            *lines,
            "",
            machine_line(speed).partition(";")[0] + ". All rows, losses included: "
            "[docs/benchmarks.md](docs/benchmarks.md).",
        ]
    )


def with_block(text: str, block: str) -> str:
    start, end = MARKERS
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no {start} ... {end}")
    return pattern.sub(lambda _: f"{start}\n{block}\n{end}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.raw:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in options.raw]
        SPEED.parent.mkdir(exist_ok=True)
        SPEED.write_text(json.dumps(condense(runs), indent=1) + "\n", encoding="utf-8")
    speed = json.loads(SPEED.read_text(encoding="utf-8"))
    wanted = {DOCUMENT: benchmarks_page(speed), README: with_block(README.read_text(encoding="utf-8"), headline(speed))}
    for path, text in wanted.items():
        if options.check:
            if path.read_text(encoding="utf-8") != text:
                sys.stderr.write(f"{path.name} differs from {SPEED.name}: run python -m bench.report\n")
                return 1
        else:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
