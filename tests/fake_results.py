"""Small results with geometrically true evidence: what a scan and a probe return, made with NumPy and scipy alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from clear.config import PROBE_SCALES, SCAN_SCALE, Scale, ScanConfig
from clear.data import Features
from clear.results import Flag, HullEvidence, Level, Pocket, Preparation, ProbeResult, ScanResult, Scores

CLASSES, PER_CLASS, WIDTH = 3, 60, 10
FLOOR = 1e-6
POCKET = range(60, 66)  # six samples of label 1 that lie in class 0


def fake_features(seed: int = 0) -> Features:
    """Three Gaussian classes of 60; the first six of label 1 sit together inside class 0."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    centres = 4 * np.eye(CLASSES, WIDTH)
    values = centres[labels] + rng.normal(size=(len(labels), WIDTH))
    values[POCKET] = centres[0] + 0.5 * rng.normal(size=WIDTH) + 0.15 * rng.normal(size=(len(POCKET), WIDTH))
    ids = np.array([f"image-{row:03d}" for row in range(len(labels))])
    names = ("cat", "dog", "frog")
    return Features.from_arrays(values.astype(np.float32), labels, ids=ids, class_names=names, source="train.npy")


def fake_inputs(features: Features, seed: int = 1) -> Features:
    """Twenty clean inputs of class 0, predicted right, and two in the middle of the pocket, predicted 1."""
    rng = np.random.default_rng(seed)
    clean = 4 * np.eye(1, WIDTH) + rng.normal(size=(20, WIDTH))
    targets = features.values[POCKET].mean(axis=0) + 0.05 * rng.normal(size=(2, WIDTH))
    values = np.concatenate([clean, targets]).astype(np.float32)
    predictions = np.array([0] * 20 + [1] * 2)
    return Features.from_arrays(
        values, np.zeros(22, dtype=np.int64), predictions=predictions, class_names=features.class_names, source="in.npy"
    )


def hull(vertices: np.ndarray, point: np.ndarray) -> tuple[tuple[float, ...], float, float]:
    """Convex weights of the nearest point of the hull, and proven bounds of the distance."""
    offsets = vertices.astype(np.float64) - point
    system = np.vstack([offsets.T, np.ones(len(offsets))])
    weights, _ = nnls(system, np.eye(len(system))[-1])
    weights /= weights.sum()
    nearest = weights @ offsets
    upper = float(np.linalg.norm(nearest))
    lower = float((offsets @ nearest).min()) / upper
    return tuple(weights.tolist()), min(max(0.0, lower), upper), upper


def prepare(features: Features) -> tuple[Preparation, np.ndarray]:
    """The map of the features (to 8 components), and the mapped rows."""
    mean = features.values.astype(np.float64).mean(axis=0)
    components = np.linalg.svd(features.values - mean, full_matrices=False)[2][:8]
    return Preparation(mean, components), mapped(features, Preparation(mean, components))


def mapped(features: Features, preparation: Preparation) -> np.ndarray:
    rows = (features.values.astype(np.float64) - preparation.mean) @ preparation.components.T
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def judge(
    point: np.ndarray, label: int, base: np.ndarray, labels: np.ndarray, scale: Scale, itself: int | None = None
) -> tuple[float, float, tuple[int, ...], tuple[HullEvidence, ...]]:
    """K, R, mates and the three hulls of one sample, by brute force."""
    order = np.argsort(np.linalg.norm(base - point, axis=1), kind="stable")
    order = order[order != itself]
    own = order[labels[order] == label]
    tight, rest = own[: scale.tight], own[scale.mates : scale.mates + 20]

    def evidence(role: Any, of: int, rows: np.ndarray) -> HullEvidence:
        weights, lower, upper = hull(base[rows], point)
        return HullEvidence(role, of, tuple(rows.tolist()), weights, lower, upper)

    others = [evidence("other", c, order[labels[order] == c][:20]) for c in range(CLASSES) if c != label]
    hulls = (evidence("pocket", label, tight), evidence("own", label, rest), min(others, key=lambda h: h.upper))
    mates = [row for i, (row, w) in enumerate(zip(tight.tolist(), hulls[0].weights, strict=True)) if i < 5 or w > 1e-9]
    logs = [np.log(h.upper + FLOOR) for h in hulls]
    return float(logs[1] - logs[0]), float(logs[1] - logs[2]), tuple(mates), hulls


def robust(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    median = float(np.median(values))
    mad, tail = np.median(np.abs(values - median)), np.quantile(values, 0.9) - median
    return median, float(max(1.4826 * mad, tail / 1.2816))


def standard(values: np.ndarray) -> np.ndarray:
    return (values - robust(values)[0]) / robust(values)[1]


def company(values: np.ndarray, base: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of the five largest among each sample and the ten nearest of its label."""
    return np.array([np.sort(values[with_mates(base, labels, i)])[-5:].mean() for i in range(len(values))])


def with_mates(base: np.ndarray, labels: np.ndarray, row: int) -> list[int]:
    """A sample and the ten nearest of its label."""
    same = np.flatnonzero(labels == labels[row])
    return same[np.argsort(np.linalg.norm(base[same] - base[row], axis=1))[:11]].tolist()


def fake_scan(features: Features, config: ScanConfig | None = None) -> ScanResult:
    """What a scan of `features` finds."""
    config = config or ScanConfig()
    preparation, base = prepare(features)
    found = [
        judge(base[i], int(label), base, features.labels, SCAN_SCALE, i) for i, label in enumerate(features.labels)
    ]
    collapse, reassignment = np.array([f[0] for f in found]), np.array([f[1] for f in found])
    score = reassignment + collapse
    group = score + 0.5
    group[5] = np.nan  # a sample that could not be judged
    means = np.stack([features.values[features.labels == c].mean(axis=0) for c in range(CLASSES)])
    distance = np.linalg.norm(features.values - means[features.labels], axis=1).astype(np.float64)
    margin = reassignment * 2  # stands for a classifier's doubt
    doubted = standard(reassignment) + np.minimum(standard(margin), 6)
    alone = np.fmax(standard(doubted), standard(doubted + standard(distance)))
    pocketed = np.minimum(standard(collapse), 6.0) + standard(distance)
    support = pocketed - 0.2
    support[7] = np.nan  # too few mates
    together = np.where(reassignment > 0, standard(pocketed + 2 * support), np.nan)
    z = np.fmax(alone, together)
    median, spread = robust(z)
    heavy = (np.quantile(z, 0.975) - median) / 1.96 / spread
    limits = {"certain": median + config.certain_spreads * spread * np.clip(heavy, 1.0, 1.5)}
    level = np.zeros(len(features), dtype=np.int8)
    above = z > limits["certain"]
    level[above] = np.where(reassignment[above] > 0, Level.CERTAIN, Level.REVIEW)
    offered = sorted(
        (i for i in range(len(z)) if z[i] > 2 and level[i] == 0 and reassignment[i] > 0), key=lambda i: -z[i]
    )
    level[offered[: round(len(z) * config.review_rate)]] = Level.REVIEW
    suggested = np.array([f[3][2].label for f in found])
    rows = [int(row) for row in np.argsort(-z, kind="stable") if level[row]]
    flags = tuple(
        Flag(
            row,
            features.ids[row].item(),
            Level(int(level[row])),
            int(features.labels[row]),
            int(suggested[row]),
            float(collapse[row]),
            float(reassignment[row]),
            float(z[row]),
            *found[row][2:],
        )
        for row in rows
    )
    scores = Scores(
        collapse,
        reassignment,
        score,
        group,
        z,
        distance,
        margin,
        support,
        company(standard(collapse) + standard(distance), base, features.labels),
        np.full(len(features), np.nan),
        suggested,
        level,
        np.ones(len(features), dtype=bool),
        np.full(len(features), np.nan),
        np.arange(len(features)),
    )
    return ScanResult(
        len(features),
        WIDTH,
        CLASSES,
        features.class_names,
        features.labels,
        features.ids,
        features.source,
        "poisoned" if (level == 2).any() else "clean",
        scores,
        flags,
        pockets(flags),
        limits,
        1.0,
        preparation,
        config,
        ("1 sample was not judged: its label is too small",),
        verdict_rows=tuple(with_mates(base, features.labels, int(scores.company.argmax()))),
    )


def pockets(flags: tuple[Flag, ...]) -> tuple[Pocket, ...]:
    """Flags grouped by label and suggested label, highest score first."""
    groups: dict[tuple[int, int], list[Flag]] = {}
    for flag in flags:
        groups.setdefault((flag.label, flag.suggested_label), []).append(flag)
    made = [
        Pocket(
            *labels,
            tuple(f.row for f in members),
            tuple(f.id for f in members),
            sum(f.score for f in members),
            max(f.level for f in members),
        )
        for labels, members in groups.items()
        if len(members) > 2 or max(f.level for f in members) == Level.CERTAIN
    ]
    return tuple(sorted(made, key=lambda pocket: -pocket.score))


def fake_probe(inputs: Features, features: Features) -> ProbeResult:
    """What a probe of `inputs` against `features` finds."""
    preparation, base = prepare(features)
    points = mapped(inputs, preparation)
    limits = {"z": 4.0, "collapse_median_far": 0.0, "collapse_spread_far": 0.0}  # that test was not made
    best: list[Any] = [None] * len(inputs)
    for scale in PROBE_SCALES:
        own = [
            judge(base[i], int(features.labels[i]), base, features.labels, scale, i)[0] for i in range(len(features))
        ]
        median, mad = robust(np.array(own))
        limits |= {f"collapse_median_{scale.mates}": median, f"collapse_spread_{scale.mates}": mad}
        for i, label in enumerate(inputs.predictions):
            found = judge(points[i], int(label), base, features.labels, scale)
            z = (found[0] - median) / mad
            best[i] = max(best[i] or (-np.inf,), (z, *found), key=lambda pair: pair[0])
    score = np.array([b[0] for b in best])
    level = np.where(score > 4, Level.CERTAIN, Level.NONE).astype(np.int8)
    flags = tuple(
        Flag(i, inputs.ids[i].item(), Level.CERTAIN, int(inputs.predictions[i]), b[4][2].label, *b[1:3], b[0], *b[3:])
        for i, b in sorted(enumerate(best), key=lambda pair: -pair[1][0])
        if level[i]
    )
    suggested = np.array([b[4][2].label for b in best])
    scores = Scores(
        np.array([b[1] for b in best]),
        np.array([b[2] for b in best]),
        score,
        score,
        score,
        *5 * [np.full(len(inputs), np.nan)],
        suggested,
        level,
        np.zeros(len(inputs), dtype=bool),
        np.full(len(inputs), np.nan),
        np.arange(len(inputs)),
    )
    return ProbeResult(
        len(inputs),
        WIDTH,
        CLASSES,
        inputs.class_names,
        inputs.predictions,
        inputs.ids,
        inputs.source,
        features.source,
        "poisoned" if flags else "clean",
        scores,
        flags,
        limits,
        preparation,
        ScanConfig(),
        1.0,
    )


def signed(document: Any) -> bytes:
    """The document with the digest that fits it: what a forger who knows the format writes."""

    def text(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    body = {name: value for name, value in document.items() if name != "digest"}
    return text(body | {"digest": hashlib.sha256(text(body)).hexdigest()}) + b"\n"


class FakeImages:
    """Images as `clear.images` serves them: `image(i)` is uint8, (height, width, 3)."""

    def __init__(self, n: int, shape: tuple[int, ...] = (32, 32, 3)) -> None:
        self.n, self.shape = n, shape
        self.labels = np.zeros(n, dtype=np.int64)

    def __len__(self) -> int:
        return self.n

    def image(self, i: int) -> np.ndarray:
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, size=(4, 4, *self.shape[2:]), dtype=np.uint8)
        return np.repeat(np.repeat(coarse, self.shape[0] // 4, axis=0), self.shape[1] // 4, axis=1)


def renamed(result: ScanResult, text: str) -> ScanResult:
    """The same result with `text` wherever a user's string may stand."""
    flags = tuple(replace(flag, id=f"{text}{flag.row}") for flag in result.flags)
    pockets_ = tuple(replace(p, ids=tuple(f"{text}{row}" for row in p.rows)) for p in result.pockets)
    ids = np.array([f"{text}{row}" for row in range(result.n_samples)])
    return replace(
        result,
        flags=flags,
        pockets=pockets_,
        ids=ids,
        class_names=(text, f"{text}2", f"{text}3"),
        source=text,
        notes=(text,),
    )
