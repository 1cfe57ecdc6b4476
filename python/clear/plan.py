"""What a scan will cost, before it runs: bytes, operations and seconds per stage, from rates measured here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clear._arrays import as_count, as_threads
from clear._blas import one_numpy_thread
from clear.collapse import BLOCK_BYTES
from clear.config import ScanConfig
from clear.cross_validation import MAX_FIT_ROWS, cross_validate
from clear.data import Features
from clear.hull import solve_hulls
from clear.neighbors import NeighborIndex

__all__ = ["Plan", "Stage", "plan_scan", "require_memory"]

SAMPLE_ROWS = 4096
PIECE_BYTES = 80
"""Of a sample in a piece of the stage "hulls", beside its reach: 72 and its share of the file's head."""
PRODUCT_SIDE = 384


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a scan."""

    name: str
    operations: float
    """Floating-point operations for neighbours, hulls solved for hulls, rows fitted for the core."""
    seconds: float
    """Estimate from a rate measured on this machine a moment ago."""
    peak_bytes: int
    """Working memory of the stage, beside what it keeps."""
    disk_bytes: int
    """What a scan with a `workdir` keeps of the stage on disk."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimated cost of a scan."""

    n_samples: int
    n_features: int
    n_classes: int
    width: int
    """Features per sample after the projection of wide ones."""
    threads: int
    stages: tuple[Stage, ...]
    kept_bytes: int
    """Prepared rows, packed indices and scores: kept to the end."""

    @property
    def seconds(self) -> float:
        """Total estimate."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Kept bytes plus the largest stage, beside the features themselves and the libraries (about 150 MB)."""
        return self.kept_bytes + max(stage.peak_bytes for stage in self.stages)

    @property
    def disk_bytes(self) -> int:
        """What a scan with a `workdir` keeps on disk."""
        return sum(stage.disk_bytes for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"seconds": self.seconds, "peak_bytes": self.peak_bytes, "disk_bytes": self.disk_bytes}


def plan_scan(
    n_samples: int,
    n_features: int,
    n_classes: int,
    *,
    config: ScanConfig | None = None,
    threads: int | None = None,
) -> Plan:
    """Estimate what `scan` costs for (n_samples, n_features) float features of n_classes balanced classes.

    Takes about a second: it times each stage on a few thousand synthetic rows and scales the result up.

    Examples
    --------
    >>> plan = plan_scan(50_000, 64, 10)
    >>> plan.peak_bytes < 1 << 30
    True
    """
    config = config or ScanConfig()
    n, d, classes = (
        as_count(n_samples, "n_samples"),
        as_count(n_features, "n_features"),
        as_count(n_classes, "n_classes", low=2),
    )
    workers = as_threads(threads)
    width = d if d <= config.pca_above else config.pca_width
    rates = _measure_rates(width, min(classes, 100), config, workers)
    pair_operations = 2.0 * n * n * width * (1 + 2 / classes)
    hulls = n * (classes - 1) + 2 * n
    fitted = min(int(n * (1 - 1 / config.folds)), MAX_FIT_ROWS)
    # Wide features: their covariance, its eigenvectors (about 10 d^3) and the projection, all in float64.
    products = 0.0 if width == d else 2.0 * n * d * (d + width) + 10.0 * d**3
    prepare_seconds = n * d * rates["prepare"] + products * rates["products"]
    peak = _stage_bytes(n, d, config)
    stages = (
        Stage("prepare", 10.0 * n * d + products, prepare_seconds, peak["prepare"], 0),
        Stage("core", float(fitted * config.folds), fitted * config.folds * rates["core"], peak["core"], 8 * n),
        Stage("neighbours", pair_operations, pair_operations * rates["neighbours"], peak["neighbours"], 0),
        Stage("hulls", float(hulls), hulls * rates["hulls"], peak["hulls"], (PIECE_BYTES + 4 * (classes + 1)) * n),
    )
    return Plan(n, d, classes, width, workers, stages, kept_bytes=_memory(n, d, config)[0])


def require_memory(features: Features, config: ScanConfig, limit: int) -> None:
    """Raise MemoryError when a scan needs more than `limit` bytes beside the features themselves."""
    n, d = features.values.shape
    needed = sum(_memory(n, d, config))
    if needed > as_count(limit, "max_memory"):
        raise MemoryError(
            f"the scan needs about {needed / 2**20:.0f} MiB beside the features: max_memory allows "
            f"{limit / 2**20:.0f} MiB; narrower features (pca_width) or fewer samples need less"
        )


def _memory(n: int, d: int, config: ScanConfig) -> tuple[int, int]:
    """Bytes kept to the end, and bytes of the largest stage beside them."""
    width = d if d <= config.pca_above else config.pca_width
    row = 4 * width
    return 2 * n * row + 16 * 8 * n, max(_stage_bytes(n, d, config).values())


def _stage_bytes(n: int, d: int, config: ScanConfig) -> dict[str, int]:
    width = d if d <= config.pca_above else config.pca_width
    fitted = min(int(n * (1 - 1 / config.folds)), MAX_FIT_ROWS)
    return {
        "prepare": 4 * (16 << 20) + (0 if width == d else 4 * 8 * d * d),
        "core": 6 * fitted * 4 * width,
        "neighbours": BLOCK_BYTES,
        "hulls": BLOCK_BYTES,
    }


def _measure_rates(width: int, classes: int, config: ScanConfig, threads: int) -> dict[str, float]:
    """Seconds per value prepared, operation of a matrix product, row fitted, operation of the search, and hull."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, SAMPLE_ROWS)
    labels[:classes] = np.arange(classes)
    rows = (rng.normal(size=(classes, width))[labels] + rng.normal(size=(SAMPLE_ROWS, width))).astype(np.float32)
    size = config.hull_size
    index = NeighborIndex(rows, labels, n_classes=classes)
    near = index.search(rows, k=size, threads=threads)
    prepare = _seconds(lambda: np.linalg.norm(rows.astype(np.float64) - 1.0, axis=1))
    square = rng.normal(size=(PRODUCT_SIDE, PRODUCT_SIDE))
    with one_numpy_thread():
        products = _seconds(lambda: square @ square)
    core = _seconds(
        lambda: cross_validate(rows, labels.astype(np.int64), config, threads=threads), repeat=2
    )  # the first imports
    search = _seconds(lambda: index.search_by_class(rows, k=size, threads=threads))
    hulls = _seconds(
        lambda: solve_hulls(
            rows, rows, near.indices, relative_tolerance=config.hull_tolerance, certificates=False, threads=threads
        )
    )
    return {
        "prepare": 3 * prepare / rows.size,
        "products": products / (2.0 * PRODUCT_SIDE**3),
        "core": core / (SAMPLE_ROWS * (config.folds - 1)),
        "neighbours": search / (2.0 * SAMPLE_ROWS * SAMPLE_ROWS * width),
        "hulls": hulls / SAMPLE_ROWS,
    }


def _seconds(work: Callable[[], object], repeat: int = 3) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
