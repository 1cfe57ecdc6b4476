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

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import bench_plan, goals, report_plots, report_scans  # noqa: E402
from bench.report_tables import best_peer, hull_summary, seconds, sections, table  # noqa: E402

ROOT = Path(__file__).parents[1]
SPEED = ROOT / "bench" / "results" / "speed.json"
SCALING = SPEED.with_name("scaling.json")
FIGURE = ROOT / "docs" / "figures" / "scaling.svg"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
SCALE = ROOT / "docs" / "scaling.md"
SCANS = SPEED.with_name("large-scans.json")
HULL_TEXT = """\
Positions: `in` mix of all vertices, `insp` of few, `jin`/`jout` just inside or outside, `held` a held-out sample of
the class, `far` one of another class. Geometric means over the rows below; peers are called as their users call them,
one problem at a time, Gram matrix included, ours in batches of 32 to 960 about the same rows."""
PACKAGES = ["numpy", "scipy", "scikit-learn", "torch", "faiss-cpu", "highspy", "daqp", "piqp", "quadprog"]


def condense(raw: list[dict[str, Any]]) -> dict[str, Any]:
    """Machine, versions and one row for each benchmark."""
    info = next(run["machine_info"] for run in raw if "machine_info" in run)
    rows = []
    for run in raw:
        rows += run.get("rows", [])
        for entry in run.get("benchmarks", []):
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
        "date": next(run["datetime"] for run in raw if "datetime" in run)[:10],
        "versions": {name: version(name) for name in ["clear-pockets", *PACKAGES]},
        "rows": rows,
    }


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
        "same run as ours, one thread each unless a row says otherwise; every answer is checked. Medians, of hulls for",
        "one problem; of CPU time, in turns with the peers, for plain search, search by class and hull membership,",
        "else of elapsed time. The last ratio is over the fastest peer whose answers are all correct; below 1 it is",
        "a loss.",
        "In a cell: W wrong answers, U undecided ones, r recall, e extrapolated from a subset.",
        "",
        "```",
        "make bench",
        "```",
        "",
        machine_line(speed),
        "",
    ]
    found = sections(speed["rows"])
    for kind, workloads in found.items():
        lines += [f"## {kind[0].upper()}{kind[1:]}", ""]
        if kind == "hull":
            lines += [HULL_TEXT, "", *hull_summary(workloads), ""]
        lines += [*table(workloads), ""]
    scaling = report_plots.load(SCALING)
    if scaling is not None:
        lines += report_plots.text(scaling)
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
        methods = {row["method"]: row for row in speed["rows"] if row["group"] == group}
        ours, best = methods.get("clear"), best_peer(methods)
        if ours is None or best is None:
            continue
        note = " (extrapolated)" if "extrapolated" in best["facts"] else ""
        unit = " a problem" if "problems" in ours["facts"] else ""
        ratio = best["median_seconds"] / ours["median_seconds"]
        lines.append(
            f"| {group} | {seconds(ours['median_seconds'])}{unit} | {best['method']} "
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


def with_block(text: str, block: str, name: str = "bench") -> str:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"no {start} ... {end} to write into")
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
    page = with_block(SCALE.read_text(encoding="utf-8"), goals.block(), "goals")
    plans = report_scans.load(bench_plan.RESULTS)
    if plans is not None:
        page = with_block(page, bench_plan.text(plans), "plan")
    scans = report_scans.load(SCANS)
    wanted[SCALE] = page if scans is None else with_block(page, report_scans.text(scans), "large-scans")
    for path, text in wanted.items():
        if options.check:
            if path.read_text(encoding="utf-8") != text:
                sys.stderr.write(f"{path.name} differs from bench/results: run python -m bench.report\n")
                return 1
        else:
            path.write_text(text, encoding="utf-8")
    scaling = report_plots.load(SCALING)
    if scaling is not None and not options.check:
        report_plots.draw(scaling, FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
