"""The checker's half about scores: reads arrays.npz strictly and draws threshold, levels, pockets, verdict again."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

__all__ = [
    "check_approximation",
    "check_listed",
    "check_pockets",
    "check_scores",
    "check_verdict",
    "distinct_mates",
    "failed",
    "number",
    "read_arrays",
    "same",
]

# The rules of a scan, written down a second time on purpose: the checker shares nothing with the engine.
REVIEW_SPREADS, MOST, COMPANY, MAD_TO_SIGMA, NORMAL_90 = 2.0, 6.0, 2.0, 1.4826, 1.2816
CERTAIN_RATE, ODD_RATE, SMALLEST_POCKET = 4e-3, 5e-4, 3
TAIL_QUANTILE, TAIL_NORMAL, LARGEST_TAIL = 0.975, 1.96, 1.5
STANDS_OUT, SHORT_OF_IT, ALARMS, SLOPE_BELOW, SLOPE_ABOVE = 4.5, 0.75, 0.01, 4.0, 2.5
PROBED, PROBE_RATE, PROBE_SLOPE = 4.0, 0.002, 1.75
MEASURED_ON, BENT, FALSE_FLAGS = 1000, 1.0, 0.2326
GROUP_QUANTILE, GROUP_NORMAL, LARGEST_GROUP_TAIL, LEAST_OTHERS, LARGEST_GROUP = 0.98, 2.053749, 3.0, 50, 11
OTHER_LABELS_SHORT = 0.75
LEVELS = {"review": 1, "certain": 2}
SMALLEST_CROWD = 22
PROBE_TESTS = ("5", "20", "far")
PROBE_LIMITS = {"z", *(f"collapse_{what}_{name}" for what in ("median", "spread") for name in PROBE_TESTS)}
RAISED = re.compile(r"collapse_raised_(?:5|20)_(0|[1-9][0-9]{0,8})")
DTYPES = {
    "mean": ("<f8",),
    "components": ("<f8",),
    "collapse": ("<f8",),
    "reassignment": ("<f8",),
    "score": ("<f8",),
    "group": ("<f8",),
    "suspicion": ("<f8",),
    "distance": ("<f8",),
    "margin": ("<f8",),
    "support": ("<f8",),
    "company": ("<f8",),
    "views": ("<f8",),
    "label": ("<i8",),
    "suggested_label": ("<i8",),
    "representative": ("<i8",),
    "level": ("|i1",),
    "in_core": ("|b1",),
    "crowd": ("<f8",),
}
MEASURED = (
    *("collapse", "reassignment", "score", "group", "suspicion"),
    *("distance", "margin", "support", "company", "views", "crowd"),
)
COPIED = ("label", "suggested_label", "in_core")
STATED = {"collapse": "collapse", "reassignment": "reassignment", "score": "suspicion"}
"""What a flag says, and the array that says so, too."""


def number(value: Any) -> float:
    """A float as reports spell it: null is nan, infinities are strings."""
    return math.nan if value is None else float(value)


def same(stated: Any, value: float) -> bool:
    """Equal up to rounding; nan equals nan."""
    return bool(_close(number(stated), value))


def failed(*claims: tuple[Any, str]) -> list[str]:
    """The messages of the claims that do not hold."""
    return [message for holds, message in claims if not holds]


def _close(left: Any, right: Any) -> Any:
    with np.errstate(invalid="ignore"):
        near = np.abs(np.subtract(left, right)) <= 1e-9 * np.maximum(1, np.abs(right))
    finite = np.isfinite(left) & np.isfinite(right)
    return (finite & near) | np.equal(left, right) | (np.isnan(left) & np.isnan(right))


def read_arrays(path: Path, n: int, d: int) -> dict[str, Any]:
    """Read the arrays of a report about n samples of d features; ValueError, before anything is loaded, for others.

    Members lie uncompressed in the archive, so that none is larger than the file.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) != len(archive.infolist()) or members.keys() | {"components"} != {*DTYPES, "ids"}:
            raise ValueError(f"{path.name} holds {sorted(members)[:20]}: want {sorted({*DTYPES, 'ids'})}")
        return {name: _read_member(archive, info, name, n, d) for name, info in members.items()}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, n: int, d: int) -> Any:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed or encrypted: want it stored")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        wanted = (d,) if name == "mean" else (min(shape[0], d), d) if name == "components" else (n,)
        fits = dtype.kind in "iuU" if name == "ids" else dtype.str in DTYPES[name]
        size = math.prod(shape) * dtype.itemsize
        if shape != wanted or not fits or (by_columns and len(shape) > 1):
            raise ValueError(f"{name} has dtype {dtype} and shape {shape}: want {DTYPES.get(name, 'ids')}, {wanted}")
        if stream.tell() + size != info.file_size:
            raise ValueError(f"{name} has {info.file_size} bytes: want {stream.tell() + size}")
        return np.frombuffer(stream.read(size), dtype).reshape(shape)


def check_scores(report: Any, arrays: dict[str, Any]) -> list[str]:
    """S, suspicion, thresholds and the level of every sample, from what was measured."""
    return _check_scan_scores(report, arrays) if report["kind"] == "scan" else _check_probe_scores(report, arrays)


def _center(values: Any) -> tuple[float, float]:
    """Median and spread of the values that are not nan."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return math.nan, math.nan
    middle, high = np.quantile(usable, [0.5, 0.9])
    return float(middle), float(max(MAD_TO_SIGMA * np.median(np.abs(usable - middle)), (high - middle) / NORMAL_90))


def _check_scan_scores(report: Any, arrays: dict[str, Any]) -> list[str]:
    config, level, score = report["config"], arrays["level"], arrays["score"]
    weak = _weak(report)
    total = arrays["collapse"] if weak else arrays["reassignment"] + arrays["collapse"]
    apart = _standardised(arrays["distance"])
    doubted = np.minimum(_standardised(arrays["margin"]), MOST)
    doubted += _standardised(arrays["collapse" if weak else "reassignment"])
    alone = np.fmax(_standardised(doubted), _standardised(doubted + apart))
    collapsed = np.minimum(_standardised(arrays["collapse"]), MOST)
    together = _standardised(collapsed + apart + COMPANY * arrays["support"])
    nearer = (arrays["reassignment"] > 0) | weak
    usual = np.fmax(alone, np.where(nearer, together, math.nan))
    views = _standardised(arrays["views"])
    ways = (np.fmax(usual, views), np.fmax(usual - BENT, views))[: 1 + bool(np.isfinite(views).any())]
    suspicion = [np.fmax(way, arrays["crowd"]) for way in ways]
    threshold = _threshold(arrays["suspicion"], -NormalDist().inv_cdf(number(config["false_flags"]) / MEASURED_ON))
    own = {f["row"]: len(h["rows"]) for f in report["flags"] for h in f["hulls"] if h["role"] == "own"}
    expected = np.zeros(len(score), dtype=np.int8)
    for row in np.flatnonzero(arrays["suspicion"] > number(report["thresholds"]["certain"])).tolist():
        expected[row] = 2 if nearer[row] and own.get(row, 0) >= config["hull_size"] // 2 else 1
    expected[np.isfinite(arrays["crowd"])] = 2
    seen = np.nan_to_num(arrays["suspicion"], nan=-np.inf)
    plausible = nearer | np.isfinite(arrays["views"]).any()
    offered = np.where((expected == 0) & plausible & (seen > REVIEW_SPREADS), seen, -np.inf)
    order = np.argsort(-offered, kind="stable")[: round(len(score) * config["review_rate"])]
    expected[order[np.isfinite(offered[order])]] = 1
    wrong = np.flatnonzero(level != expected)
    return failed(
        (_close(score, total).all(), "scores: score is not that of K and R in every row"),
        (
            any(_close(arrays["suspicion"], way).all() for way in suspicion),
            "scores: suspicion does not follow from the other scores",
        ),
        (same(report["thresholds"]["certain"], threshold), f"thresholds: the scores give certain = {threshold}"),
        (not len(wrong), f"scores: level does not follow from the scores in {len(wrong)} rows, such as {wrong[:5]}"),
        (_core_agrees(report, arrays), "core_accuracy is not that of in_core"),
        (_crowds_are_many(arrays), f"scores: a crowd of fewer than {SMALLEST_CROWD} samples"),
    )


def _crowds_are_many(arrays: dict[str, Any]) -> bool:
    crowded = np.isfinite(arrays["crowd"]) & (arrays["representative"] == np.arange(len(arrays["crowd"])))
    sizes = np.bincount(arrays["label"][crowded])
    return bool(((sizes == 0) | (sizes >= SMALLEST_CROWD)).all())


def _standardised(values: Any) -> Any:
    middle, spread = _center(values)
    return (values - middle) / spread if spread > 0 else values * 0.0


def _threshold(values: Any, spreads: float) -> float:
    middle, spread = _center(values)
    if not spread > 0:
        return math.inf
    tail = (np.nanquantile(values, TAIL_QUANTILE) - middle) / TAIL_NORMAL / spread
    return float(middle + _stands_out(spreads, len(values)) * spread * min(max(tail, 1.0), LARGEST_TAIL))


def _core_agrees(report: Any, arrays: dict[str, Any]) -> bool:
    """The share of distinct samples in the core is the accuracy, but for classes that all serve as their core.

    Such a class has all its samples in the core; fewer of them than span a hull were predicted right.
    """
    units = arrays["representative"] == np.arange(len(arrays["level"]))
    labels, core = arrays["label"][units], arrays["in_core"][units]
    size, kept = np.bincount(labels), np.bincount(labels[core], minlength=int(labels.max()) + 1)
    full = size[(kept == size) & (size > 0)]
    missing = core.sum() - report["core_accuracy"] * len(core)
    least = (full - np.minimum(full, report["config"]["hull_size"]) + 1).min(initial=len(core) + 1)
    return bool(abs(missing) < 1e-6 or least - 1e-6 < missing < full.sum() + 1e-6)


def _check_probe_scores(report: Any, arrays: dict[str, Any]) -> list[str]:
    limits, score, labels = report["thresholds"], arrays["score"], arrays["label"]
    raises = {key: RAISED.fullmatch(key) for key in set(limits) - PROBE_LIMITS}
    fits = np.zeros(len(score), dtype=bool)
    for name in PROBE_TESTS:
        raised = np.zeros(labels.max(initial=-1) + 1)
        for label in np.unique(labels):
            raised[label] = number(limits.get(f"collapse_raised_{name}_{label}", 0.0))
        above = arrays["collapse"] - number(limits[f"collapse_median_{name}"]) - raised[labels]
        spread = number(limits[f"collapse_spread_{name}"])
        fits |= _close(score, above / spread if spread > 0 else np.full(len(score), np.nan))
    z = PROBED + math.log(PROBE_RATE / number(report["config"]["probe_fpr"])) / PROBE_SLOPE
    level = np.where(score > z, 2, 0)
    return failed(
        (
            all(
                at and int(at[1]) < report["n_classes"] and 0 < number(limits[key]) < 1e6 for key, at in raises.items()
            ),
            "thresholds: more than z, median and spread of every test, and by how much classes are raised",
        ),
        (fits.all(), "scores: score is not that of K in every row"),
        (_close(arrays["group"], score).all(), "scores: group is not the score"),
        (_close(arrays["suspicion"], score).all(), "scores: suspicion is not the score"),
        (same(limits["z"], z), "thresholds: z is not that of probe_fpr"),
        ((arrays["level"] == level).all(), "scores: level does not follow from the scores"),
    )


def check_approximation(report: Any) -> list[str]:
    """What a report says about approximate candidates is a count and shares that can be."""
    stated = report.get("approximation")
    if stated is None:
        return []
    shares = [number(stated[name]) for name in ("recall", "same_level")]
    shares += [number(stated[name]) for name in ("flagged_same_level", "same_suggestion")] if stated["flagged"] else []
    whole = [round(stated["same_level"] * stated["sampled"], 6)]
    whole += [round(number(stated["flagged_same_level"]) * stated["flagged"], 6)] if stated["flagged"] else []
    return failed(
        (all(0 <= share <= 1 for share in shares), "approximation: want shares from 0 to 1"),
        (0 < stated["sampled"] <= report["n_samples"], "approximation: the sample is empty, or larger than the data"),
        (stated["flagged"] <= len(report["flags"]), "approximation: more flags were compared than there are"),
        (all(count == round(count) for count in whole), "approximation: a share is not that of whole samples"),
    )


def check_listed(report: Any, arrays: dict[str, Any]) -> list[str]:
    """The flags are those of the flagged rows, all of them, with the numbers of the arrays; copies repeat theirs."""
    rows = [flag["row"] for flag in report["flags"]]
    flagged, n = np.flatnonzero(arrays["level"] > 0).tolist(), len(arrays["level"])
    unit = arrays["representative"]
    wrong = failed(
        (len(set(rows)) == len(rows), "a row is flagged twice"),
        (sorted(set(rows)) == flagged, f"flags: want those of the {len(flagged)} rows whose level is not none"),
    )
    if not ((unit >= 0) & (unit <= np.arange(n))).all() or not (unit[unit] == unit).all():
        return [*wrong, "scores: representative is not the first of equal rows"]
    repeated = all(_close(arrays[name], arrays[name][unit]).all() for name in MEASURED)
    repeated &= all((arrays[name] == arrays[name][unit]).all() for name in COPIED)
    wrong += failed((repeated, "scores: copies have other scores than what they are copies of"))
    for flag in report["flags"]:
        row = flag["row"]
        if not 0 <= row < n:
            return [*wrong, f"flags: row {row} does not exist"]
        stated = {name: same(flag[name], float(arrays[array][row])) for name, array in STATED.items()}
        stated |= {name: flag[name] == arrays[name][row] for name in ("label", "suggested_label")}
        stated["id"] = flag["id"] == arrays["ids"][row]
        stated["level"] = LEVELS[flag["level"]] == arrays["level"][row]
        wrong += failed(
            *((fits, f"flag of row {row}: {name} is not that of the arrays") for name, fits in stated.items())
        )
    return wrong


def check_pockets(report: Any, arrays: dict[str, Any]) -> list[str]:
    """Pockets hold flags of one label and suggestion; nearest mates and certain flags are not left out."""
    flags, unit = {flag["row"]: flag for flag in report["flags"]}, arrays["representative"]
    home: dict[int, int] = {}
    wrong = []
    for place, pocket in enumerate(report["pockets"], start=1):
        members = [flags.get(row, {}) for row in pocket["rows"]]
        levels = {flag.get("level") for flag in members}
        found = failed(
            (len(set(pocket["rows"])) == len(members) > 0, "rows repeat, or there are none"),
            (not home.keys() & set(pocket["rows"]), "a member is in another pocket, too"),
            ([flag.get("id") for flag in members] == pocket["ids"], "rows and ids are not those of flagged samples"),
            (
                {(f.get("label"), f.get("suggested_label")) for f in members}
                == {(pocket["label"], pocket["suggested_label"])},
                "a member carries other labels",
            ),
            (
                same(pocket["score"], sum(number(flag.get("score")) for flag in members)),
                "score is not the sum of its members'",
            ),
            (pocket["level"] == ("certain" if "certain" in levels else "review"), "level is not the highest"),
            (_counts(pocket["rows"], flags, unit), "has no certain member and less than three distinct ones"),
        )
        wrong += [f"pocket {place}: {violation}" for violation in found]
        home |= dict.fromkeys(pocket["rows"], place)
    for group in _linked(flags, unit):
        homes = {home.get(row) for row in group}
        wrong += failed(
            (len(homes) == 1, f"pockets: rows {group[:8]} hang together, but not in one pocket"),
            (homes != {None} or not _counts(group, flags, unit), f"pockets: rows {group[:8]} are in no pocket"),
        )
    return wrong


def _counts(rows: list[int], flags: dict[int, Any], unit: Any) -> bool:
    """Whether flags that hang together are a pocket."""
    certain = any(flags.get(row, {}).get("level") == "certain" for row in rows)
    return certain or len({int(unit[row]) for row in rows}) >= SMALLEST_POCKET


def _linked(flags: dict[int, Any], unit: Any) -> list[list[int]]:
    """Groups of flagged rows with the same suggestion that are copies or vertices of each other's pocket hull."""
    group = {row: [row] for row in flags}
    for row, flag in flags.items():
        near = next(hull["rows"] for hull in flag["hulls"] if hull["role"] == "pocket")
        for mate in [*near, int(unit[row])]:
            alike = mate in flags and flags[mate]["suggested_label"] == flag["suggested_label"]
            if alike and group[mate] is not group[row]:
                group[row].extend(group[mate])
                group |= dict.fromkeys(group[mate], group[row])
    return [members for row, members in group.items() if members[0] == row]


def check_verdict(report: Any, arrays: dict[str, Any]) -> list[str]:
    """The verdict is the one that follows from levels and pockets."""
    if report["kind"] == "probe":
        unsure = _weak(report) or np.isnan(arrays["score"]).any()
        expected = "poisoned" if report["flags"] else "undecided" if unsure else "clean"
    else:
        expected = _scan_verdict(report, arrays)
    return failed((report["verdict"] == expected, f"verdict is {report['verdict']!r}: the scores say {expected!r}"))


def _weak(report: Any) -> bool:
    return bool(report["core_accuracy"] < report["config"]["weak_accuracy"])


def _scan_verdict(report: Any, arrays: dict[str, Any]) -> str:
    unit = arrays["representative"]
    certain = len(set(unit[arrays["level"] == 2].tolist()))
    n = int((unit == np.arange(len(unit))).sum())
    accepted = max(0.0, number(report["config"]["false_flags"]) - FALSE_FLAGS) * min(n, MEASURED_ON) / MEASURED_ON
    rate = CERTAIN_RATE * n + accepted
    fewer = math.fsum(math.exp(i * math.log(rate) - rate - math.lgamma(i + 1)) for i in range(certain))
    exact = report.get("approximation") is None
    excess, flagged = _company_excess(arrays, report["verdict_rows"], exact=exact)
    if _weak(report):
        return "undecided"
    alarms = number(report["config"]["false_alarms"])
    bar = STANDS_OUT + math.log(ALARMS / alarms) / (SLOPE_BELOW if alarms > ALARMS else SLOPE_ABOVE)
    if (excess > _stands_out(bar, n) and flagged >= SMALLEST_POCKET) or (certain and 1 - fewer < alarms):
        return "poisoned"
    some = certain >= max(1, ODD_RATE * n + accepted) or np.isfinite(arrays["crowd"]).any()
    return "undecided" if some or excess > _stands_out(bar - SHORT_OF_IT, n) else "clean"


def _stands_out(spreads: float, n: int) -> float:
    rarity = 0.5 * math.erfc(spreads / math.sqrt(2)) * MEASURED_ON / max(n, MEASURED_ON)
    return -NormalDist().inv_cdf(rarity) if n > MEASURED_ON and rarity > 0 else spreads


def distinct_mates(arrays: dict[str, Any], row: int) -> Any:
    """The distinct samples with the label of a row, which is one of them."""
    unit, label = arrays["representative"], arrays["label"]
    return np.flatnonzero((label == label[row]) & (unit == np.arange(len(unit))))


def _company_excess(arrays: dict[str, Any], group: Any, *, exact: bool) -> tuple[float, int]:
    """How far the largest company stands out, nan if untold; how many of its group are flagged."""
    company, unit = arrays["company"], arrays["representative"]
    if np.isnan(company).all():
        if group:
            raise ValueError("verdict_rows: want none where no sample has a company")
        return math.nan, 0
    if not group or not all(type(row) is int and 0 <= row < len(unit) for row in group):
        raise ValueError("verdict_rows: want rows")
    rows = np.array(group)
    if (unit[rows] != rows).any() or len(set(group)) < len(rows):
        raise ValueError("verdict_rows: want distinct samples")
    if rows[0] != unit[np.nanargmax(company)] or (arrays["label"][rows] != arrays["label"][rows[0]]).any():
        raise ValueError("verdict_rows: want the sample of the largest company, and others with its label")
    wanted = min(LARGEST_GROUP, len(distinct_mates(arrays, rows[0])))
    if len(rows) > wanted or (exact and len(rows) < wanted):  # approximate candidates may miss some
        raise ValueError(f"verdict_rows: want {wanted} rows")
    flagged = int((arrays["level"][rows] > 0).sum())
    excess = _above(company[rows[0]], company[~np.isin(unit, unit[rows])])
    if flagged >= SMALLEST_POCKET:
        others = company[arrays["label"] != arrays["label"][rows[0]]]
        excess = float(np.fmax(excess, _above(company[rows[0]], others) - OTHER_LABELS_SHORT))
    return excess, flagged


def _above(value: float, others: Any) -> float:
    others = others[~np.isnan(others)]
    middle, spread = _center(others)
    if len(others) < LEAST_OTHERS or not spread > 0:
        return math.nan
    tail = float(np.quantile(others, GROUP_QUANTILE) - middle) / GROUP_NORMAL / spread
    return float((value - middle) / spread / min(max(tail, 1.0), LARGEST_GROUP_TAIL))
