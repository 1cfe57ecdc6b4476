"""Checks hull answers and whole reports against the data. NumPy only; shares no code with what wrote them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check_hull", "check_report"]

Rows = npt.NDArray[np.float64]
SLACK = 5e-6
"""Distances of unit rows are compared to this: they are float32, and may differ in the last digits."""
FLOOR = 1e-6
"""What is added to distances before their logarithm."""
WEIGHTY = 1e-9
"""Weight above which a vertex counts as support."""


def check_hull(
    vertices: Any,
    point: Any,
    *,
    weights: Any = None,
    direction: Any = None,
    lower: float | None = None,
    upper: float | None = None,
    status: int | None = None,
    eps: float | None = None,
    tolerance: float = 1e-9,
) -> list[str]:
    """Return what is wrong with an answer about the distance of `point` (d,) to the hull of `vertices` (k, d).

    `weights` must be convex and reach `upper`; `direction` must prove `lower`; without one, the bound is proven
    here, starting from the weights. `status` is 0 inside, 1 outside, 2 undecided, 3 invalid, relative to `eps`.
    `tolerance` is relative to the distance of the farthest vertex. An empty list means that everything holds.

    >>> check_hull([[0.0], [2.0]], [3.0], weights=[0.0, 1.0], lower=1.0, upper=0.5)
    ['upper is 0.5, the weights reach 1', 'lower is 1: want 0 to upper']
    """
    offsets = np.asarray(vertices, dtype=np.float64) - np.asarray(point, dtype=np.float64)
    low, high = 0.0 if lower is None else lower, np.inf if upper is None else upper
    if not np.isfinite(offsets).all():
        return [] if status == 3 else ["vertices or point are not finite"]
    if len(offsets) == 0:
        return [] if lower in (None, np.inf) and high == np.inf else ["without vertices the distance is inf"]
    slack = tolerance * max(float(np.linalg.norm(offsets, axis=1).max()), 1e-300)
    wrong = [] if weights is None else _check_weights(offsets, weights, upper, slack)
    if not 0 <= low <= high + slack:
        wrong.append(f"lower is {low:.9g}: want 0 to upper")
    elif low > slack:
        proven = _proven(offsets, weights, low - slack) if direction is None else _bound(offsets, direction)
        if not low <= proven + slack:
            wrong.append(f"lower is {low:.9g}, only {max(proven, 0):.9g} can be proven")
    if status is not None and eps is not None and status != (0 if high <= eps else 1 if low > eps else 2):
        wrong.append(f"status is {status}, bounds {low:.9g} and {high:.9g} with eps {eps:.9g} say otherwise")
    return wrong


def _check_weights(offsets: Rows, weights: Any, upper: float | None, slack: float) -> list[str]:
    convex = np.asarray(weights, dtype=np.float64)
    if convex.shape != (len(offsets),) or not np.isfinite(convex).all():
        return [f"weights have shape {convex.shape} or are not finite: want {len(offsets)} numbers"]
    reached = float(np.linalg.norm(convex @ offsets))
    return _failed(
        (convex.min() >= 0 and abs(convex.sum() - 1) <= 1e-9, "weights are negative or do not sum to 1"),
        (upper is None or abs(reached - upper) <= slack, f"upper is {upper}, the weights reach {reached:.9g}"),
    )


def _bound(offsets: Rows, direction: Any) -> float:
    """Lower bound that a direction proves: the nearest vertex along it."""
    u = np.asarray(direction, dtype=np.float64)
    length = float(np.linalg.norm(u))
    return float((offsets @ u).min()) / length if length > 0 else 0.0


def _proven(offsets: Rows, weights: Any, goal: float, steps: int = 5000) -> float:
    """Best lower bound found by moving weight from the farthest vertex in use to the nearest, up to `goal`."""
    w = np.full(len(offsets), 1 / len(offsets)) if weights is None else np.maximum(weights, 0.0)
    gram = offsets @ offsets.T
    best = -np.inf
    for _ in range(steps):
        gradient = gram @ w
        best = max(best, _bound(offsets, w @ offsets))
        near, far = int(np.argmin(gradient)), int(np.argmax(np.where(w > 0, gradient, -np.inf)))
        curvature = gram[near, near] + gram[far, far] - 2 * gram[near, far]
        if best >= goal or curvature <= 0:
            break
        step = min(w[far], (gradient[far] - gradient[near]) / curvature)
        w[near] += step
        w[far] -= step
    return best


def check_report(report_path: str | Path, features: Any, *, inputs: Any = None) -> list[str]:
    """Return what is wrong with a report: every hull answer, score, level and pocket is recomputed from the data.

    `features` and, for a probe, `inputs` are anything with `values` (n, d) and `labels` (n,), such as
    `clear.Features`: the training set, and the samples probed (`predictions` go before `labels`). Only rows that
    the report names are read. An empty list means that everything holds; a file that cannot be read gives one entry.
    """
    path = Path(report_path)
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_bytes())
        if (report["schema"], report["kind"]) not in (("clear-report/1", "scan"), ("clear-report/1", "probe")):
            return [f"{path}: schema is {report['schema']!r}: want clear-report/1 of a scan or probe"]
        if report["kind"] == "probe" and inputs is None:
            return [f"{path} is about a probe: pass the samples probed as inputs"]
        return _check_all(report, path.parent, features, features if report["kind"] == "scan" else inputs)
    except (OSError, KeyError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        return [f"{path} is damaged: {type(error).__name__}: {error}"]


def _check_all(report: Any, folder: Path, features: Any, queries: Any) -> list[str]:
    wrong = []
    for part in ("preparation", "scores"):
        digest = hashlib.sha256((folder / report[part]["file"]).read_bytes()).hexdigest()
        wrong += _failed((digest == report[part]["sha256"], f"{part}: SHA-256 is not the report's"))
    with np.load(folder / report["preparation"]["file"], allow_pickle=False) as file:
        maps = {name: np.asarray(file[name], dtype=np.float64) for name in file.files}
    shape = (len(queries.labels), np.shape(features.values)[1])
    stated = (report["n_samples"], report["n_features"])
    if shape != stated:
        return [*wrong, f"the data have shape {shape}, those of the report {stated}"]
    for flag in report["flags"]:
        found = _check_flag(flag, report, features, queries, maps)
        wrong += [f"flag of row {flag['row']}: {violation}" for violation in found]
    return wrong + _check_pockets(report)


def _prepare(values: Any, rows: Any, maps: dict[str, Rows]) -> Rows:
    """Map rows as the report says: centre, project, scale to length 1."""
    mapped = np.asarray(values[np.asarray(rows, dtype=np.int64)], dtype=np.float64) - maps["mean"]
    mapped = mapped @ maps["components"].T if "components" in maps else mapped
    length = np.linalg.norm(mapped, axis=1, keepdims=True)
    return (mapped / np.where(length > 0, length, 1)).astype(np.float32).astype(np.float64)


def _check_flag(flag: Any, report: Any, features: Any, queries: Any, maps: dict[str, Rows]) -> list[str]:
    row, predictions = flag["row"], getattr(queries, "predictions", None)
    carried = queries.labels if report["kind"] == "scan" or predictions is None else predictions
    itself = {row} if report["kind"] == "scan" else set()
    pocket, own, other = hulls = sorted(flag["hulls"], key=lambda hull: ("pocket", "own", "other").index(hull["role"]))
    support = {r for r, weight in zip(pocket["rows"], pocket["weights"], strict=True) if weight > WEIGHTY}
    mates, peeled = set(flag["mates"]), set(pocket["rows"]) | set(flag["mates"])
    h_pocket, h_own, h_other = (np.log(float(hull["upper"]) + FLOOR) for hull in hulls)
    wrong = _failed(
        (flag["label"] == carried[row] and row >= 0, "label is not the data's"),
        (flag["id"] == getattr(queries, "ids", range(len(carried)))[row], "id is not the data's"),
        (pocket["label"] == own["label"] == flag["label"] != other["label"], "hulls are of the wrong labels"),
        (other["label"] == flag["suggested_label"], "suggested_label is not that of the other hull"),
        ((features.labels[flag["mates"]] == flag["label"]).all(), "a mate carries another label"),
        (support <= mates and not itself & mates, "mates lack the pocket's support or hold the sample"),
        (not peeled & set(own["rows"]), "own: a mate was not peeled off"),
        (abs(h_own - h_pocket - flag["collapse"]) <= 1e-9, "collapse does not follow from the distances"),
        (abs(h_own - h_other - flag["reassignment"]) <= 1e-9, "reassignment does not follow from the distances"),
    )
    point = _prepare(queries.values, [row], maps)[0]
    for hull in hulls:
        rows, lower, upper = hull["rows"], float(hull["lower"]), float(hull["upper"])
        vertices = _prepare(features.values, rows, maps)
        found = check_hull(vertices, point, weights=hull["weights"], lower=lower, upper=upper, tolerance=SLACK)
        wrong += [f"{hull['role']}: {violation}" for violation in found] + _failed(
            ((features.labels[rows] == hull["label"]).all(), f"{hull['role']}: a vertex carries another label"),
            (
                len(set(rows) - itself) == len(rows) and min(rows, default=0) >= 0,
                f"{hull['role']}: rows repeat or hold the sample",
            ),
            (
                upper - lower <= report["config"]["hull_tolerance"] * upper + SLACK,
                f"{hull['role']}: bounds too far apart",
            ),
        )
    return wrong + _check_level(flag, report)


def _check_level(flag: Any, report: Any) -> list[str]:
    """A scan's score is R + K (K alone where features are weak); a probe's is K in MADs of one of its scales."""
    limits, config, collapse, prefix = report["thresholds"], report["config"], flag["collapse"], "collapse_median_"
    limit = float(limits["certain" if report["kind"] == "scan" else "z"])
    judged = True
    if report["kind"] == "scan":
        weak = report["core_accuracy"] < config["weak_accuracy"]
        scores = [collapse if weak else flag["reassignment"] + collapse]
        judged = any(h["role"] == "own" and len(h["rows"]) >= config["hull_size"] // 2 for h in flag["hulls"])
    else:
        scales = [name.removeprefix(prefix) for name in limits if name.startswith(prefix)]
        scores = [(collapse - limits[prefix + s]) / limits[f"collapse_spread_{s}"] for s in scales]
    level = "certain" if flag["score"] > limit and judged else "review"
    return _failed(
        (any(abs(flag["score"] - s) <= 1e-9 * max(1, abs(s)) for s in scores), "score is not that of K and R"),
        (flag["level"] == level, f"level is {flag['level']!r}, the thresholds say {level!r}"),
    )


def _check_pockets(report: Any) -> list[str]:
    flags = {flag["row"]: flag for flag in report["flags"]}
    certain = any(flag["level"] == "certain" for flag in flags.values())
    wrong = _failed(
        (report["verdict"] in ("undecided", "poisoned" if certain else "clean"), "verdict is not that of the flags"),
        (len(flags) == len(report["flags"]), "a row is flagged twice"),
    )
    for number, pocket in enumerate(report.get("pockets", []), start=1):
        members = [flags.get(row, {}) for row in pocket["rows"]]
        total = sum(flag.get("score", np.nan) for flag in members)
        level = "certain" if any(flag.get("level") == "certain" for flag in members) else "review"
        labels = {(flag.get("label"), flag.get("suggested_label")) for flag in members}
        found = _failed(
            (len(set(pocket["rows"])) == len(members), "rows repeat"),
            ([flag.get("id") for flag in members] == pocket["ids"], "rows and ids are not those of flagged samples"),
            (labels == {(pocket["label"], pocket["suggested_label"])}, "a member carries other labels"),
            (abs(total - pocket["score"]) <= 1e-9 * max(1, abs(total)), "score is not the sum of its members'"),
            (pocket["level"] == level, "level is not the highest of its members"),
        )
        wrong += [f"pocket {number}: {violation}" for violation in found]
    return wrong


def _failed(*claims: tuple[Any, str]) -> list[str]:
    return [message for holds, message in claims if not holds]
