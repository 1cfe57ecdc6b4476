"""Tables and figures of docs/evaluation.md, from bench/results/quality.json: nobody types a number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.quality.condense import REVIEWS, SCANS, Row, condense
from bench.quality.metrics import interval, matthews

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "quality.json"
DOCUMENT = ROOT / "docs" / "evaluation.md"
MARKERS = ("<!-- quality:start -->", "<!-- quality:end -->")
ORDER = (
    "feature-collision",
    "bullseye-polytope",
    "convex-polytope",
    "gradient-matching",
    "wrong-labels",
    "label-flips",
)
REPAIRS = ("relabel from both", "relabel from probe", "relabel from scan")
"""Which repair the first table shows: the first of these that was possible."""
ABREAST = 3
"""Attacks in one table of scores."""


def publish(out: Path) -> None:
    """Merge the units below `out` into the results that are kept; figures and document follow."""
    from bench.quality.figures import draw

    rows = {_key(row): row for row in load()}
    units = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "units").glob("*.json"))]
    rows |= {_key(row): row for row in condense(units)}
    kept = json.dumps(_rounded([rows[key] for key in sorted(rows)]), separators=(",", ":"))
    RESULTS.write_text(kept.replace('{"dataset"', '\n{"dataset"') + "\n", encoding="utf-8")
    draw(load(), DOCUMENT.parent / "figures")
    DOCUMENT.write_text(document(load()), encoding="utf-8")


def load() -> list[Row]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def document(rows: list[Row]) -> str:
    """The document with its tables as `rows` say."""
    start, end = MARKERS
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(start)
    return "\n".join([f"{before}{start}", *tables(rows), f"{end}{rest.partition(end)[2]}"])


def tables(rows: list[Row]) -> list[str]:
    """One line for each attack; then all tables, folded, one section for each data set and network."""
    lines = ["", *_summary_table(rows), ""]
    for place in dict.fromkeys((row["dataset"], row["architecture"]) for row in rows):
        here = [row for row in rows if (row["dataset"], row["architecture"]) == place]
        attacks = sorted((row for row in here if row["attack"] != "none"), key=_rank)
        code = ", ".join(sorted({name for row in here for name in row["code"]}))
        lines += ["<details>", f"<summary><b>{place[0]}, {place[1]}</b> (judged by code {code})</summary>", ""]
        for title, make in SECTIONS.items():
            table = make(here if make is _clean_table else attacks)
            lines += [f"**{title}**", "", *table, ""] if table else []
        lines += ["</details>", ""]
    return lines


def summarise(results: Iterable[Row]) -> list[str]:
    """The same tables for results just measured."""
    return tables(_rounded(condense(results)))


def _summary_table(rows: list[Row]) -> list[str]:
    head = ["data, network", "attack", "succeeds without defence", "scan", "best of the others", "probe", "review"]
    head += ["after repair", "accuracy"]
    lines = [_line(head), _line(["---"] * len(head))]
    attacked = [row for row in rows if row["attack"] != "none"]
    for row in sorted(attacked, key=lambda row: (row["dataset"], row["architecture"], _rank(row))):
        place = f"{row['dataset']}, {row['architecture']}"
        cells = [place, row["attack"], _succeeds(row)]
        lines.append(_line([*cells, *(_headlines(row) if "scan" in row else [""] * 6)]))
    return lines


def _succeeds(row: Row) -> str:
    """Without defence; of sets that nobody attacks, how many there are."""
    return _share(row["successes"], row["targets"]) if "targets" in row else f"{row['sets']} sets"


def _headlines(row: Row) -> list[str]:
    """TPR at 1 % FPR of scan, the best baseline and review, at .1 % of the probe; what is left after a repair."""
    scores = row["scan"]["scores"]
    ours = scores["clear"]
    name, best = max(
        ((name, got) for name, got in scores.items() if not name.startswith("clear")),
        key=lambda item: item[1]["tpr_1%"],
    )
    probe, reviewed = row.get("probe"), next((row[part] for part in REVIEWS if part in row), None)
    repair = row.get("repair", {})
    fixed = next((repair[name] for name in REPAIRS if name in repair), None)
    return [
        _interval_of(ours["tpr_1%"], ours["trials"]),
        f"{_interval_of(best['tpr_1%'], best['trials'])} {name}",
        _interval_of(probe["scores"]["clear"]["tpr_.1%"], probe["of"]) if probe else "",
        _interval_of(reviewed["scores"]["clear: review"]["tpr_1%"], reviewed["of"]) if reviewed else "",
        _share(fixed["still_taken"], fixed["of"]) if fixed else "",
        f"{100 * fixed['accuracy_change']:+.2f}" if fixed else "",
    ]


def _attack_table(rows: list[Row]) -> list[str]:
    lines = [
        "| attack | seeds | succeeds without defence | distance | hull | center | cosine | accuracy | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.get("geometry", {})
        shown = [_number(found.get(name)) for name in ("distance", "hull", "center", "cosine")]
        seeds = ", ".join(map(str, row["seeds"]))
        cells = [row["attack"], seeds, _succeeds(row), *shown]
        lines.append(_line([*cells, _number(row.get("clean_accuracy")), row["cpu_seconds"]]))
    return lines


def _scan_table(rows: list[Row]) -> list[str]:
    """Tables of a few attacks each, side by side they would not fit."""
    found = [
        (f"{row['attack']}{', own features and views' if part != 'scan' else ''}", row[part]["scores"])
        for row in rows
        for part in SCANS
        if part in row
    ]
    lines: list[str] = []
    for first in range(0, len(found), ABREAST):
        shown = dict(found[first : first + ABREAST])
        lines += [""] if lines else []
        lines.append(_line(["method", *(f"{name} ({_positives(scores)})" for name, scores in shown.items())]))
        lines.append(_line(["---"] * (len(shown) + 1)))
        methods = dict.fromkeys(name for scores in shown.values() for name in scores)
        for method in sorted(methods, key=lambda name: not name.startswith("clear")):
            cells = []
            for scores in shown.values():
                got = scores.get(method)
                ends = [f"{got[key]:.2f}" for key in ("precision", "auprc") if key in got] if got else []
                cells.append(" ".join([_triple(got), *ends]) if got else "")
            lines.append(_line([method, *cells]))
    return lines


def _flag_table(rows: list[Row]) -> list[str]:
    found = [(row, part) for row in rows for part in SCANS if part in row]
    if not found:
        return []
    rules = list(found[0][0][found[0][1]]["flags"])
    lines = [_line(["attack", *rules, "verdicts", "label right"]), _line(["---"] * (len(rules) + 3))]
    for row, part in found:
        got = row[part]
        name = row["attack"] if part == "scan" else f"{row['attack']}, own features and views"
        cells = [
            f"{f['found']}/{f['of']} {_range(f['found'] / f['of'], got['trials'])}, {f['false'] / f['negatives']:.4f}, "
            f"{matthews(**f):.2f}"
            for f in got["flags"].values()
        ]
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(got["verdicts"].items()))
        lines.append(_line([name, *cells, verdicts, f"{got['label_right']}/{got['poisons']}"]))
    return lines


def _probe_table(rows: list[Row]) -> list[str]:
    rows = [row for row in rows if "probe" in row]
    if not rows:
        return []
    others = [name for name in rows[0]["probe"]["scores"] if name != "clear"]
    head = ["attack", "flagged", "FPR", "AUROC, TPR", *others, "label right", "mates are poisons", "least z"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        got = row["probe"]
        scores = [_triple(got["scores"][name]) for name in ("clear", *others)]
        cells = [row["attack"], _share(got["flagged"], got["of"]), f"{got['false'] / got['negatives']:.5f}", *scores]
        ends = [f"{got['label_right']}/{got['of']}", f"{got['mates_are_poisons']:.2f}", f"{got['least_z']:.1f}"]
        lines.append(_line([*cells, *ends]))
    return lines


def _review_table(rows: list[Row]) -> list[str]:
    found = [row[part] for row in rows for part in REVIEWS if part in row]
    if not found:
        return []
    methods = list(found[0]["scores"])
    head = ["attack", *methods, "flagged at 1 %", "FPR", "flagged at .1 %", "FPR", "label right", "mistakes"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        for part in REVIEWS:
            if part not in row:
                continue
            got = row[part]
            name = row["attack"] if part == "review" else f"{row['attack']}: {part}"
            cells = [name, *(_triple(got["scores"][method]) for method in methods)]
            for key in ("flagged_0.01", "flagged_0.001"):
                cells += [_share(got[key][0], got["of"]), f"{got[key][1] / got['negatives']:.4f}"]
            false = max(1, got["flagged_0.01"][1])
            lines.append(_line([*cells, f"{got['label_right']}/{got['of']}", f"{got['mistakes'] / false:.2f}"]))
    return lines


def _repair_table(rows: list[Row]) -> list[str]:
    rows = [row for row in rows if row.get("repair")]
    if not rows:
        return []
    methods = list(dict.fromkeys(name for row in rows for name in row["repair"]))
    lines = [_line(["defence", *(row["attack"] for row in rows)]), _line(["---"] * (len(rows) + 1))]
    for method in methods:
        cells = []
        for row in rows:
            got = row["repair"].get(method)
            change = f", {100 * got['accuracy_change']:+.2f} ({100 * got['accuracy_change_worst']:+.2f})" if got else ""
            cells.append(f"{_share(got['still_taken'], got['of'])}{change}" if got else "")
        lines.append(_line([method, *cells]))
    return lines


def _clean_table(rows: list[Row]) -> list[str]:
    head = ["sets", "samples each", "certain per 1000", "sets with any", "most in a set", "to review", "verdicts"]
    lines = [_line([*head, "poisoned"]), _line(["---"] * (len(head) + 1))]
    for row in rows:
        if row["attack"] == "none":
            verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(row["verdicts"].items()))
            per = 1000 * row["certain"] / (row["sets"] * row["samples"])
            cells = [row["sets"], row["samples"], f"{per:.2f}", _share(row["sets_with_certain"], row["sets"])]
            cells += [row["certain_most"], f"{row['review_share']:.3f}", verdicts]
            lines.append(_line([*cells, _share(row["verdicts"].get("poisoned", 0), row["sets"])]))
    return lines if len(lines) > 2 else []


SECTIONS = {
    "Attacks": _attack_table,
    "Scan: AUROC, TPR at 1 % and .1 % FPR, precision in the top 2P (at most .5), AUPRC where measured": _scan_table,
    "Scan: poisons flagged, share of the others flagged, Matthews correlation": _flag_table,
    "Probe of the target among clean inputs (scores: AUROC, TPR at 1 % and .1 % FPR)": _probe_table,
    "Review without the training set (mistakes: share of the false flags that the model got wrong)": _review_table,
    "Repair: targets still taken for the wrong class, accuracy in points (and in the worst case)": _repair_table,
    "Clean training sets": _clean_table,
}


def _rank(row: Row) -> tuple[int, str]:
    return (ORDER.index(row["attack"]) if row["attack"] in ORDER else len(ORDER), row["attack"])


def _key(row: Row) -> tuple[str, str, str]:
    return row["dataset"], row["architecture"], row["attack"]


def _positives(scores: Row) -> int:
    return next(iter(scores.values()))["positives"]


def _triple(got: Row) -> str:
    rates = [_interval_of(got[key], got["trials"]) for key in ("tpr_1%", "tpr_.1%")]
    return " ".join([f"{got['auroc']:.3f}", *rates])


def _interval_of(rate: float, trials: int) -> str:
    return f"{rate:.2f} {_range(rate, trials)}"


def _range(rate: float, trials: int) -> str:
    low, high = interval(rate * trials, trials)
    return f"({low:.2f}-{high:.2f})"


def _share(successes: int, trials: int) -> str:
    return f"{successes}/{trials} {_range(successes / max(1, trials), trials)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _rounded(value: Any) -> Any:
    """Floats to five significant digits: what is kept is what is shown."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
