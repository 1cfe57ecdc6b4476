"""Verifies hull answers and reports with NumPy alone: shares no code with the engine, so that proofs stand alone."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from clear._check_scores import (
    check_approximation,
    check_listed,
    check_pockets,
    check_scores,
    check_verdict,
    distinct_mates,
    failed,
    read_arrays,
    same,
)

__all__ = ["check_hull", "check_report"]

SLACK = 5e-6
"""Distances of prepared rows (float32, length 1) are compared to this: their last digits depend on the machine."""
FLOOR = 1e-6
"""What is added to distances before their logarithm."""
WEIGHTY = 1e-9
"""Weight above which a vertex counts as support."""
PARTS = {"arrays": "arrays.npz", "scores": "scores.parquet"}
NEAREST = 5
"""Vertices of the pocket that are mates, whether they carry weight or not."""
ROLES = ("pocket", "own", "other")
INSIDE, OUTSIDE, UNDECIDED, INVALID = 0, 1, 2, 3


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
    """Return what is not proven about a point and a convex hull; an empty list means that everything is.

    Parameters
    ----------
    vertices : array of float, shape (k, d)
        The rows that span the hull.
    point : array of float, shape (d,)
        The query.
    weights : array of float, shape (k,), optional
        Convex weights: the proof of `upper` and of status inside.
    direction : array of float, shape (d,), optional
        The proof of `lower` and of status outside.
    lower, upper, eps : float, optional
        Bounds of the distance and the distance up to which a point counts as inside, feature units.
    status : int, optional
        0 inside, 1 outside, 2 undecided, 3 invalid.
    tolerance : float
        Allowed rounding, relative to each bound; 1e-14 of the largest coordinates is allowed on top.

    Returns
    -------
    list of str
        One line for each claim that fails.

    Examples
    --------
    >>> check_hull([[0.0], [1.0]], [0.25], weights=[0.75, 0.25], upper=0.0, status=0, eps=1e-9)
    []
    >>> check_hull([[0.0], [1.0]], [3.0], direction=[-1.0], lower=2.5)
    ['lower: the direction proves 2.0, less than 2.5']
    """
    v = np.asarray(vertices, dtype=np.float64)
    z = np.asarray(point, dtype=np.float64)
    if not (np.isfinite(v).all() and np.isfinite(z).all()):
        return [] if status in (None, INVALID) else ["status: nan or inf in the input, so it must be invalid"]
    if len(v) == 0:
        return [] if status in (None, OUTSIDE) else ["status: no vertices, so the point is outside"]
    slack = 1e-14 * (len(v) + 4) * float(np.sqrt(max((v**2).sum(1).max(), (z**2).sum())))
    found = []
    if weights is not None:
        found += _check_weights(v, z, np.asarray(weights, dtype=np.float64), upper, tolerance, slack)
    elif upper is not None:
        found.append("upper: no weights to prove it")
    if lower is not None and lower > 0:
        proven = 0.0 if direction is None else _margin(v, z, np.asarray(direction, dtype=np.float64))
        if not proven >= lower * (1 - tolerance) - slack:
            found.append(f"lower: the direction proves {proven}, less than {lower}")
    if lower is not None and upper is not None and not lower <= upper:
        found.append(f"lower: {lower} is above upper {upper}")
    return found + _check_status(status, lower, upper, eps)


def _check_weights(v: Any, z: Any, weights: Any, upper: float | None, tolerance: float, slack: float) -> list[str]:
    convex = weights.shape == (len(v),) and (weights >= 0).all()
    if not convex or not abs(weights.sum() - 1) <= 1e-14 * (len(v) + 4):
        return ["weights: want one number of at least 0 for each vertex, and a sum of 1"]
    distance = float(np.linalg.norm(weights @ v - z))
    if upper is not None and not abs(distance - upper) <= upper * tolerance + slack:
        return [f"upper: the weights prove {distance}, not {upper}"]
    return []


def _margin(v: Any, z: Any, direction: Any) -> float:
    length = float(np.linalg.norm(direction))
    return float(((v - z) @ (direction / length)).min()) if length > 0 else 0.0


def _check_status(status: int | None, lower: float | None, upper: float | None, eps: float | None) -> list[str]:
    if status == INVALID:
        return ["status: invalid, but every number is finite"]
    if eps is None or status is None:
        return []
    if status == INSIDE and not (upper is not None and upper <= eps):
        return [f"status: inside needs upper {upper} <= eps {eps}"]
    if status == OUTSIDE and not (lower is not None and lower > eps):
        return [f"status: outside needs lower {lower} > eps {eps}"]
    if status == UNDECIDED and upper is not None and lower is not None and (upper <= eps or lower > eps):
        return ["status: undecided, but the bounds decide"]
    return []


def check_report(
    report_path: str | Path,
    features: Any,
    *,
    inputs: Any = None,
    features_path: str | Path | None = None,
    inputs_path: str | Path | None = None,
) -> list[str]:
    """Return what is wrong with a report: hulls are recomputed from the data; levels, pockets, verdict from the scores.

    `features` and, for a probe, `inputs` are anything with `values` (n, d) and `labels` (n,), such as
    `clear.Features`: the training set, and the samples probed (`predictions` go before `labels`). Only rows that
    the report names are read, and those with the label of its group. `features_path` and `inputs_path` are the files
    they came from: their SHA-256 is compared with the report's. An empty list means that everything holds; a file that
    cannot be read gives one entry. docs/how-it-works.md ("Certificates") says what is proven and what is not.
    """
    path = Path(report_path)
    path = path / "report.json" if path.is_dir() else path
    try:
        if not path.is_file():
            return [f"{path}: want a regular file"]
        report = json.loads(path.read_bytes())
        if (report["schema"], report["kind"]) not in (("clear-report/1", "scan"), ("clear-report/1", "probe")):
            return [f"{path}: schema is {report['schema']!r}: want clear-report/1 of a scan or probe"]
        if report["kind"] == "probe" and inputs is None:
            return [f"{path} is about a probe: pass the samples probed as inputs"]
        wrong = _check_digests(report, path.parent, {"features": features_path, "inputs": inputs_path})
        return wrong + _check_all(report, path.parent, features, features if report["kind"] == "scan" else inputs)
    except Exception as error:  # whatever a damaged or forged file makes the readers raise is a violation
        return [f"{path} is damaged: {type(error).__name__}: {' '.join(str(error).split())[:300]}"]


def _check_digests(report: Any, folder: Path, paths: dict[str, str | Path | None]) -> list[str]:
    """The document's own digest, those of the parts (by their fixed names), and those of the files read."""
    body = {name: value for name, value in report.items() if name != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    wrong = failed((hashlib.sha256(text).hexdigest() == report["digest"], "digest: the document was changed"))
    for part, name in PARTS.items():
        if report[part]["file"] != name or not (folder / name).is_file():
            raise ValueError(f"{part}: want a regular file named {name}")
        wrong += failed((_sha256(folder / name) == report[part]["sha256"], f"{part}: SHA-256 is not the report's"))
    for name, path in paths.items():
        if path is not None and name in report["inputs"]:
            stated = report["inputs"][name]["sha256"]
            wrong += failed((_sha256(path) == stated, f"inputs: SHA-256 of {Path(path).name} is not the report's"))
    return wrong


def _sha256(path: str | Path) -> str:
    place = Path(path)
    with open(place / "manifest.json" if place.is_dir() else place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_all(report: Any, folder: Path, features: Any, queries: Any) -> list[str]:
    shape = (len(queries.labels), np.shape(features.values)[1])
    stated = (report["n_samples"], report["n_features"])
    if shape != stated:
        return [f"the data have shape {shape}, those of the report {stated}"]
    arrays = read_arrays(folder / PARTS["arrays"], *shape)
    wrong = _check_data(report, features, queries, arrays)
    for flag in report["flags"]:
        found = _check_flag(flag, report, features, queries, arrays)
        wrong += [f"flag of row {flag['row']}: {violation}" for violation in found]
    wrong += check_listed(report, arrays) + check_scores(report, arrays)
    if report["kind"] == "scan":
        wrong += check_pockets(report, arrays)
    wrong += check_approximation(report) + check_verdict(report, arrays)
    return wrong + _check_group(report, features, arrays)


def _carried(report: Any, queries: Any) -> Any:
    """The label that each sample is held against."""
    predictions = getattr(queries, "predictions", None)
    return queries.labels if report["kind"] == "scan" or predictions is None else predictions


def _check_data(report: Any, features: Any, queries: Any, arrays: dict[str, Any]) -> list[str]:
    """Labels, ids, class names and copies are those of the data."""
    names, known = report["class_names"], getattr(features, "class_names", None)
    classes = int(np.max(features.labels)) + 1 if names is None else len(names)
    unit = arrays["representative"]
    copies = np.flatnonzero(unit != np.arange(len(unit)))
    real = report["kind"] == "scan" or not len(copies)
    for i in range(0, len(copies), 4096):
        block = copies[i : i + 4096]
        apart = _prepare(queries.values, block, arrays) - _prepare(queries.values, unit[block], arrays)
        real &= bool((np.abs(apart) <= SLACK).all())
    shapes = [item["shape"] for item in report["inputs"].values() if "shape" in item]
    return failed(
        (np.array_equal(arrays["label"], _carried(report, queries)), "scores: labels are not the data's"),
        (np.array_equal(arrays["ids"], getattr(queries, "ids", arrays["ids"])), "scores: ids are not the data's"),
        (report["n_classes"] == classes, f"n_classes is {report['n_classes']}: the data have {classes}"),
        (known is None or (names is not None and list(known) == names), "class_names are not the data's"),
        (real, "scores: a copy is not equal to what it is a copy of"),
        (all(s == [report["n_samples"], report["n_features"]] for s in shapes), "inputs: shape is not the data's"),
    )


def _check_group(report: Any, features: Any, arrays: dict[str, Any]) -> list[str]:
    """The rows by which the verdict is made are a sample and its nearest mates, where neighbours are exact."""
    group = report.get("verdict_rows")
    if not group or report.get("approximation") is not None:
        return []
    point, mates = _prepare(features.values, group[:1], arrays), distinct_mates(arrays, group[0])
    apart = np.empty(len(mates))
    for i in range(0, len(mates), 4096):
        block = slice(i, i + 4096)
        apart[block] = np.linalg.norm(_prepare(features.values, mates[block], arrays) - point, axis=1)
    inside = np.isin(mates, group)
    nearest = apart[inside].max() <= apart[~inside].min(initial=math.inf) + SLACK
    return failed((nearest, "verdict_rows: a sample outside is nearer to the first than one inside"))


def _prepare(values: Any, rows: Any, maps: dict[str, Any]) -> Any:
    """Map rows as the report says: centre, project, scale to length 1."""
    mapped = np.asarray(values[np.asarray(rows, dtype=np.int64)], dtype=np.float64) - maps["mean"]
    mapped = mapped @ maps["components"].T if "components" in maps else mapped
    length = np.linalg.norm(mapped, axis=1, keepdims=True)
    return (mapped / np.where(length > 0, length, 1)).astype(np.float32).astype(np.float64)


def _direction(vertices: Any, point: Any, weights: Any, goal: float, steps: int = 5000) -> Any:
    """A direction that proves a distance of `goal`, or the best found, moving weight from far vertices to near ones."""
    offsets, w = vertices - point, np.maximum(weights, 0.0)
    best, proven = w @ offsets, -np.inf
    for _ in range(steps):
        u = w @ offsets
        along, margin = offsets @ u, _margin(vertices, point, u)
        best, proven = (u, margin) if margin > proven else (best, proven)
        near, far = int(np.argmin(along)), int(np.argmax(np.where(w > 0, along, -np.inf)))
        curvature = float(((offsets[near] - offsets[far]) ** 2).sum())
        if proven >= goal or curvature == 0:
            break
        step = min(w[far], (along[far] - along[near]) / curvature)
        w[near] += step
        w[far] -= step
    return best


def _check_flag(flag: Any, report: Any, features: Any, queries: Any, maps: dict[str, Any]) -> list[str]:
    row, carried = flag["row"], _carried(report, queries)
    gap = report["config"]["hull_tolerance"]
    itself = {row} if report["kind"] == "scan" else set()
    pocket, own, other = hulls = sorted(flag["hulls"], key=lambda hull: ROLES.index(hull["role"]))
    support = [r for r, weight in zip(pocket["rows"], pocket["weights"], strict=True) if weight > WEIGHTY]
    nearest = list(dict.fromkeys([*pocket["rows"][:NEAREST], *support]))
    peeled = set(pocket["rows"]) | set(flag["mates"])
    h_pocket, h_own, h_other = (_log(float(hull["upper"])) for hull in hulls)
    wrong = failed(
        (flag["label"] == carried[row] and row >= 0, "label is not the data's"),
        (flag["id"] == getattr(queries, "ids", range(len(carried)))[row], "id is not the data's"),
        ([hull["role"] for hull in hulls] == list(ROLES), "hulls: want one pocket, own and other"),
        (pocket["label"] == own["label"] == flag["label"] != other["label"], "hulls are of the wrong labels"),
        (other["label"] == flag["suggested_label"], "suggested_label is not that of the other hull"),
        ((features.labels[flag["mates"]] == flag["label"]).all(), "a mate carries another label"),
        (flag["mates"] == nearest, "mates are not the nearest vertices of the pocket and its support"),
        (not peeled & set(own["rows"]), "own: a mate was not peeled off"),
        (same(flag["collapse"], h_own - h_pocket), "collapse does not follow from the distances"),
        (same(flag["reassignment"], h_own - h_other), "reassignment does not follow from the distances"),
    )
    point = _prepare(queries.values, [row], maps)[0]
    for hull in hulls:
        rows, lower, upper = hull["rows"], float(hull["lower"]), float(hull["upper"])
        if not rows or len(rows) != len(hull["weights"]):
            empty = not rows and lower == upper == math.inf
            wrong += failed((empty, f"{hull['role']}: weights: want one for each row, and distance inf without rows"))
            continue
        lower = min(lower, upper) if lower <= upper + SLACK else lower  # they may cross by rounding
        vertices = _prepare(features.values, rows, maps)
        distances = np.linalg.norm(vertices - point, axis=1)
        found = check_hull(
            vertices,
            point,
            weights=hull["weights"],
            direction=_direction(vertices, point, hull["weights"], lower - SLACK),
            lower=lower,
            upper=upper,
            tolerance=SLACK / max(upper, SLACK),
        )
        wrong += [f"{hull['role']}: {violation}" for violation in found] + failed(
            ((features.labels[rows] == hull["label"]).all(), f"{hull['role']}: a vertex carries another label"),
            (len(set(rows) - itself) == len(rows), f"{hull['role']}: rows repeat or hold the sample"),
            (min(rows) >= 0, f"{hull['role']}: a row is negative"),
            ((np.diff(distances) >= -SLACK).all(), f"{hull['role']}: rows are not ordered by distance"),
            (report["kind"] == "probe" or hull is pocket or maps["in_core"][rows].all(), f"{hull['role']}: not core"),
            (upper - lower <= gap * upper + SLACK, f"{hull['role']}: bounds are far apart"),
        )
    return wrong


def _log(distance: float) -> float:
    return math.log(distance + FLOOR) if math.isfinite(distance) else math.nan
