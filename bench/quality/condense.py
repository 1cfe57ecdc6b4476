"""From the results of units to one row for each data set, network and attack, pooled over targets and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.quality.attacks import FLIPS, MISTAKES
from bench.quality.metrics import Exceedances, auroc, average_precision, precision, rate

GRID = [round(float(x), 5) for x in np.geomspace(1e-3, 0.3, 25)]
"""False positive rates of the curves."""
SCANS = ("scan", "scan of the victim's own features")
REVIEWS = ("review", "review with the backbone", "review of the victim's own features")
Row = dict[str, Any]


def condense(results: Iterable[Row]) -> list[Row]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for result in results:
        unit = result["unit"]
        groups.setdefault((unit["dataset"], unit["architecture"], unit["attack"]), []).append(result)
    return [_pool(*key, group) for key, group in sorted(groups.items())]


def _pool(dataset: str, architecture: str, attack: str, results: list[Row]) -> Row:
    steps = {result["unit"]["steps"] for result in results}
    if len(steps) > 1 and attack != "none":
        raise ValueError(f"{dataset}, {architecture}, {attack}: units of {sorted(steps)} steps: one --out for each")
    rows = [row for result in results for row in result["rows"]]
    pooled: Row = {
        "dataset": dataset,
        "architecture": architecture,
        "attack": attack,
        "seeds": sorted(result["unit"]["seed"] for result in results),
        "code": sorted({result["code"] for result in results}),
        "cpu_seconds": round(sum(result["cpu_seconds"] for result in results)),
    }
    if attack == "none":
        return pooled | _clean_sets(rows)
    if attack == MISTAKES:
        scanned = [row["scan"] | {"flips": True} for row in rows]
        return pooled | {"sets": len(rows), "scan": _scan(scanned), "points": scanned[0]["points"]}
    won = [row for row in rows if row.get("success", row.get("memorised", 0) > 0)]
    if attack in FLIPS:
        pooled |= {"targets": sum(row["flips"] for row in rows), "successes": sum(row["memorised"] for row in rows)}
    else:
        pooled |= {"targets": len(rows), "successes": len(won), "geometry": _geometry(rows)}
        pooled["clean_accuracy"] = float(np.mean([result["clean_accuracy"] for result in results]))
    if won:
        flips = {"flips": attack in FLIPS}
        pooled |= {part: _scan([row[part] | flips for row in won]) for part in SCANS if part in won[0]}
        pooled |= {part: _review([row[part] | flips for row in won]) for part in REVIEWS if part in won[0]}
        if "probe" in won[0]:
            pooled["probe"] = _probe([row["probe"] for row in won])
        pooled["repair"] = _repair([row["repair"] for row in won if "repair" in row])
        pooled["points"] = won[0]["scan"]["points"]
    return pooled


def _clean_sets(rows: list[Row]) -> Row:
    samples = sum(row["samples"] for row in rows)
    return {
        "sets": len(rows),
        "samples": rows[0]["samples"],
        "certain": sum(row["certain"] for row in rows),
        "sets_with_certain": sum(row["certain"] > 0 for row in rows),
        "certain_most": max(row["certain"] for row in rows),
        "review_share": sum(row["review"] for row in rows) / samples,
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
    }


def _geometry(rows: list[Row]) -> Row:
    names = rows[0]["geometry"]
    return {name: float(np.median([row["geometry"][name] for row in rows])) for name in names}


def _figures(found: Exceedances, trials: int) -> Row:
    return {
        "positives": len(found),
        "trials": trials,
        "auroc": auroc(found),
        "tpr_1%": rate(found, 0.01),
        "tpr_.1%": rate(found, 0.001),
        "curve": [rate(found, x) for x in GRID],
    }


def _scores(parts: list[Row]) -> Row:
    """Figures of each method, positives of all targets pooled.

    Poisons of one target stand and fall together: a target is one trial of an interval, a flipped label is one too.
    """
    shared = [name for name in parts[0]["scores"] if all(name in part["scores"] for part in parts)]
    pooled = {name: [pair for part in parts for pair in part["scores"][name]] for name in shared}
    return {
        name: _figures(found, len(found) if parts[0].get("flips") else len(parts)) for name, found in pooled.items()
    }


def _scan(parts: list[Row]) -> Row:
    negatives, poisons = (sum(part[key] for part in parts) for key in ("negatives", "poisons"))
    scores = _scores(parts)
    for name in scores:
        for key, of_set in (("precision", precision), ("auprc", average_precision)):
            scores[name][key] = float(np.mean([of_set(part["scores"][name], part["negatives"]) for part in parts]))
    return {
        "scores": scores,
        "flags": {
            name: {
                "found": sum(part["flags"][name][0] for part in parts),
                "of": poisons,
                "false": sum(part["flags"][name][1] for part in parts),
                "negatives": negatives,
            }
            for name in parts[0]["flags"]
        },
        "verdicts": dict(Counter(verdicts(parts).values())),
        "label_right": sum(part["label_right"] for part in parts),
        "poisons": poisons,
        "trials": poisons if parts[0]["flips"] else len(parts),
    }


def verdicts(parts: list[Row]) -> dict[object, str]:
    """One for each training set, however many targets share it."""
    return {part.get("training_set", number): part["verdict"] for number, part in enumerate(parts)}


def _probe(parts: list[Row]) -> Row:
    flagged = [part for part in parts if part["flagged"]]
    return {
        "scores": _scores(parts),
        "flagged": len(flagged),
        "of": len(parts),
        "false": sum(part["false_flags"] for part in parts),
        "negatives": sum(part["negatives"] for part in parts),
        "label_right": sum(part["label_right"] for part in parts),
        "mates_are_poisons": float(np.mean([part["mates_are_poisons"] for part in flagged])) if flagged else 0.0,
        "least_z": min(part["z"] for part in parts),
    }


def _review(parts: list[Row]) -> Row:
    row: Row = {"scores": _scores(parts), "negatives": sum(part["negatives"] for part in parts)}
    row["of"] = row["scores"]["clear: review"]["positives"]
    for key in ("flagged_0.01", "flagged_0.001"):
        row[key] = [sum(part[key][i] for part in parts) for i in (0, 1)]
    row["label_right"] = sum(part["label_right"] for part in parts)
    row["mistakes"] = sum(part["false_flags_that_are_mistakes"] for part in parts)
    row["reference"] = parts[0]["reference"]
    return row


def _repair(parts: list[Row]) -> Row:
    found = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        rows = [part[name] for part in parts if name in part]
        changes = [row["accuracy_change"] for row in rows]
        found[name] = {
            "still_taken": sum(int(row["still_taken"]) for row in rows),
            "of": sum(row.get("of", 1) for row in rows),
            "accuracy_change": float(np.mean(changes)),
            "accuracy_change_worst": min(changes),
        }
        if "flagged" in rows[0]:
            found[name] |= {key: sum(row[key] for row in rows) for key in ("flagged", "still_taken_of_flagged")}
        else:
            found[name]["right"] = sum(int(row["right"]) for row in rows)
    return found
