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
"""Distances between unit rows are compared to this: prepared rows are float32, and may differ in their last digit."""
FLOOR = 1e-6
"""What is added to distances before their logarithm."""
REVIEW_RULES = {"review_reassignment": "reassignment", "review_group": "group", "review_collapse": "collapse"}


def check_hull(
    vertices: Any, point: Any, *, weights: Any = None, direction: Any = None, lower: float | None = None,
    upper: float | None = None, status: int | None = None, eps: float | None = None, tolerance: float = 1e-9,
) -> list[str]:
    """Return what is wrong with an answer about the distance of `point` (d,) to the hull of `vertices` (k, d).

    `weights` must be convex and reach `upper` exactly; `direction` must prove `lower`; without a direction the bound
    is proven here, starting from the weights. `status` is 0 inside, 1 outside, 2 undecided, relative to `eps`.
    `tolerance` is relative to the distance of the farthest vertex. An empty list means that everything holds.

    >>> check_hull([[0.0], [2.0]], [3.0], weights=[0.0, 1.0], lower=1.0, upper=0.5)
    ['upper is 0.5, the weights reach 1', 'lower 1 is above upper 0.5']
    """
    offsets = np.asarray(vertices, dtype=np.float64) - np.asarray(point, dtype=np.float64)
    if not np.isfinite(offsets).all():
        return [] if status == 3 else ["vertices or point are not finite"]
    if len(offsets) == 0:
        return [] if lower in (None, np.inf) and upper in (None, np.inf) else ["a hull without vertices is at distance inf"]
    slack = tolerance * max(float(np.linalg.norm(offsets, axis=1).max()), 1e-300)
    wrong = []
    if weights is not None:
        convex = np.asarray(weights, dtype=np.float64)
        if convex.shape != (len(offsets),) or not np.isfinite(convex).all():
            return [f"weights have shape {convex.shape} or are not finite: want {len(offsets)} numbers"]
        if convex.min() < 0 or abs(convex.sum() - 1) > 1e-9:
            wrong.append(f"weights are not convex (smallest {convex.min():.3g}, sum {convex.sum():.12g})")
        reached = float(np.linalg.norm(convex @ offsets))
        if upper is not None and not abs(reached - upper) <= slack:
            wrong.append(f"upper is {upper:.9g}, the weights reach {reached:.9g}")
    if lower is not None and upper is not None and not lower <= upper + slack:
        wrong.append(f"lower {lower:.9g} is above upper {upper:.9g}")
    if lower is not None and lower > slack:
        proven = _bound(offsets, direction) if direction is not None else _proven(offsets, weights, lower - slack)
        if not lower <= proven + slack:
            wrong.append(f"lower is {lower:.9g}, only {max(proven, 0):.9g} can be proven")
    if lower is not None and not lower >= 0:
        wrong.append(f"lower is {lower}: want at least 0")
    if status is not None and eps is not None and lower is not None and upper is not None:
        said = 0 if upper <= eps else 1 if lower > eps else 2
        if status != said:
            wrong.append(f"status is {status}, the bounds say {said}")
    return wrong


def _bound(offsets: Rows, direction: Any) -> float:
    """Lower bound that a direction proves: the nearest vertex along it."""
    u = np.asarray(direction, dtype=np.float64)
    length = float(np.linalg.norm(u))
    return float((offsets @ u).min()) / length if length > 0 else 0.0


def _proven(offsets: Rows, weights: Any, goal: float, steps: int = 5000) -> float:
    """Best lower bound found by moving weight from the farthest vertex in use to the nearest, until `goal` is reached."""
    k = len(offsets)
    w = np.full(k, 1 / k) if weights is None else np.maximum(np.asarray(weights, dtype=np.float64), 0)
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

    `features` (and, for a probe, `inputs`) are anything with `values` (n, d) and `labels` (n,), such as
    `clear.Features`: the training set, and the samples probed (their `predictions`, where there are any, count as
    labels). Only rows that the report names are read. An empty list means that everything holds; a report that
    cannot be read gives one entry.
    """
    path = Path(report_path)
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_bytes())
        if report["schema"] != "clear-report/1" or report["kind"] not in ("scan", "probe"):
            return [f"schema is {report['schema']!r}, kind {report['kind']!r}: want clear-report/1, scan or probe"]
        if report["kind"] == "probe" and inputs is None:
            return ["this report is of a probe: the samples probed are needed too (inputs)"]
        wrong = [f"{name}: SHA-256 differs from the report's" for name in ("preparation", "scores")
                 if hashlib.sha256((path.parent / report[name]["file"]).read_bytes()).hexdigest() != report[name]["sha256"]]
        with np.load(path.parent / report["preparation"]["file"], allow_pickle=False) as file:
            maps = {name: np.asarray(file[name], dtype=np.float64) for name in file.files}
        queries = features if report["kind"] == "scan" else inputs
        if len(queries.labels) != report["n_samples"] or np.shape(features.values)[1] != report["n_features"]:
            return [*wrong, f"the data are ({len(queries.labels)}, {np.shape(features.values)[1]}), the report's are "
                            f"({report['n_samples']}, {report['n_features']})"]
        for flag in report["flags"]:
            found = _check_flag(flag, report, features, queries, maps)
            wrong += [f"flag of row {flag['row']}: {violation}" for violation in found]
        return wrong + _check_pockets(report) + _check_verdict(report)
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        return [f"{path} is damaged: {type(error).__name__}: {error}"]


def _prepare(values: Any, rows: Any, maps: dict[str, Rows]) -> Rows:
    """Map the rows named as the report says: centre, project, scale to length 1."""
    centred = np.asarray(np.asarray(values)[np.asarray(rows, dtype=np.int64)], dtype=np.float64) - maps["mean"]
    mapped = centred @ maps["components"].T if "components" in maps else centred
    length = np.linalg.norm(mapped, axis=1, keepdims=True)
    return (mapped / np.where(length > 0, length, 1)).astype(np.float32).astype(np.float64)


def _check_flag(flag: Any, report: Any, features: Any, queries: Any, maps: dict[str, Rows]) -> list[str]:
    wrong: list[str] = []
    row, scan = flag["row"], report["kind"] == "scan"
    labels = np.asarray(features.labels)
    stated = None if scan else getattr(queries, "predictions", None)
    if flag["label"] != int(np.asarray(queries.labels if stated is None else stated)[row]):
        wrong.append("label differs from the data's")
    ids = getattr(queries, "ids", None)
    if ids is not None and flag["id"] != np.asarray(ids)[row].item():
        wrong.append("id differs from the data's")
    hulls = {hull["role"]: hull for hull in flag["hulls"]}
    if len(flag["hulls"]) != 3 or set(hulls) != {"pocket", "own", "other"}:
        return [*wrong, f"hulls are {sorted(hulls)}: want pocket, own and other"]
    point = _prepare(queries.values, [row], maps)[0]
    for role, hull in hulls.items():
        if min(hull["rows"], default=0) < 0 or len(set(hull["rows"])) != len(hull["rows"]):
            wrong.append(f"{role}: rows are negative or repeat")
        if (labels[hull["rows"]] != hull["label"]).any():
            wrong.append(f"{role}: a vertex carries another label than {hull['label']}")
        if scan and row in hull["rows"]:
            wrong.append(f"{role}: the sample is a vertex of its own hull")
        vertices = _prepare(features.values, hull["rows"], maps)
        bounds = {name: float(hull[name]) for name in ("lower", "upper")}
        found = check_hull(vertices, point, weights=hull["weights"], tolerance=SLACK, **bounds)
        if bounds["upper"] - bounds["lower"] > report["config"]["hull_tolerance"] * bounds["upper"] + SLACK:
            found.append(f"bounds {bounds['lower']:.9g} and {bounds['upper']:.9g} are further apart than hull_tolerance")
        wrong += [f"{role}: {violation}" for violation in found]
    support = {r for r, w in zip(hulls["pocket"]["rows"], hulls["pocket"]["weights"], strict=True) if w > 0}
    if set(hulls["own"]["rows"]) & (set(hulls["pocket"]["rows"]) | set(flag["mates"])):
        wrong.append("own: a mate was not peeled off")
    if not support <= set(flag["mates"]) or (labels[flag["mates"]] != flag["label"]).any() or (scan and row in flag["mates"]):
        wrong.append("mates lack support of the pocket, carry another label, or hold the sample itself")
    if (hulls["pocket"]["label"], hulls["own"]["label"]) != (flag["label"],) * 2 or hulls["other"]["label"] == flag["label"]:
        wrong.append("hulls: pocket and own must carry the flag's label, other must not")
    if hulls["other"]["label"] != flag["suggested_label"]:
        wrong.append(f"suggested_label is {flag['suggested_label']}, the other hull is of {hulls['other']['label']}")
    pocket, own, other = (np.log(float(hulls[role]["upper"]) + FLOOR) for role in ("pocket", "own", "other"))
    for name, value in (("collapse", own - pocket), ("reassignment", own - other)):
        if not abs(flag[name] - value) <= 1e-9:
            wrong.append(f"{name} is {flag[name]}, the distances give {value}")
    return wrong + _check_level(flag, report)


def _check_level(flag: Any, report: Any) -> list[str]:
    """A scan's score is R + K (K where features are weak), a probe's is K in MADs of one of its scales."""
    limits = report["thresholds"]
    if report["kind"] == "probe":
        scales = [name.removeprefix("median_") for name in limits if name.startswith("median_")]
        scores = [(flag["collapse"] - limits[f"median_{s}"]) / limits[f"mad_{s}"] for s in scales]
    else:
        weak = report["core_accuracy"] < report["config"]["weak_accuracy"]
        scores = [flag["collapse"] if weak else flag["reassignment"] + flag["collapse"]]
    wrong = []
    if not any(abs(flag["score"] - score) <= 1e-9 * max(1, abs(score)) for score in scores):
        wrong.append(f"score is {flag['score']}, K and R give {scores}")
    reviewed = any(flag[value] >= limits[name] for name, value in REVIEW_RULES.items() if limits.get(name) is not None)
    certain = limits["certain"] is not None and flag["score"] > limits["certain"]
    if flag["level"] not in ("certain", "review") or certain != (flag["level"] == "certain") or not (certain or reviewed):
        wrong.append(f"level is {flag['level']!r}, the thresholds say otherwise")
    return wrong


def _check_pockets(report: Any) -> list[str]:
    wrong = []
    flags = {flag["row"]: flag for flag in report["flags"]}
    for number, pocket in enumerate(report.get("pockets", []), start=1):
        members = [flags[row] for row in pocket["rows"] if row in flags]
        labels = (pocket["label"], pocket["suggested_label"])
        if len(members) != len(set(pocket["rows"])) or [flag["id"] for flag in members] != pocket["ids"]:
            wrong.append(f"pocket {number}: rows or ids are not those of flagged samples")
        elif any((flag["label"], flag["suggested_label"]) != labels for flag in members):
            wrong.append(f"pocket {number}: a member carries other labels")
        elif not abs(sum(flag["score"] for flag in members) - pocket["score"]) <= 1e-9 * max(1, abs(pocket["score"])):
            wrong.append(f"pocket {number}: score is not the sum of its members'")
        elif pocket["level"] != ("certain" if any(flag["level"] == "certain" for flag in members) else "review"):
            wrong.append(f"pocket {number}: level is not the highest of its members")
    return wrong


def _check_verdict(report: Any) -> list[str]:
    certain = any(flag["level"] == "certain" for flag in report["flags"])
    consistent = {"clean": not certain, "poisoned": certain, "undecided": True}
    rows = [flag["row"] for flag in report["flags"]]
    wrong = [] if consistent.get(report["verdict"], False) else [f"verdict {report['verdict']!r} does not follow from the flags"]
    return wrong + (["a row is flagged twice"] if len(set(rows)) != len(rows) else [])
