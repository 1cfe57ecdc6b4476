"""What a scan will cost, before it runs: bytes, operations and seconds per stage, from rates measured here."""

from __future__ import annotations

import functools
import mmap
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_threads
from clear._blas import one_numpy_thread
from clear._lists import NEAR_CLASSES, default_lists
from clear.approximate import Approximate, as_approximate
from clear.class_index import RUN_BYTES
from clear.collapse import BLOCK_BYTES, measuring_bytes
from clear.config import SCAN_SCALE, ScanConfig
from clear.cross_validation import MAX_FIT_ROWS, cross_validate
from clear.data import Features
from clear.hull import solve_hulls
from clear.neighbors import NeighborIndex
from clear.pieces import LOCAL_ROWS
from clear.prepare import apply_preparation, count_classes, find_representatives, fit_preparation

__all__ = ["Plan", "Stage", "plan_scan", "require_memory"]

SAMPLE_ROWS, LARGE_SAMPLE, SAMPLE_QUERIES = 4096, 1 << 15, 1024
PIECE_BYTES = 13
"""Of a sample in a piece of the stage "hulls", for each run of classes: 12 and its share of the file's head."""
KEPT_BYTES = 28
"""Of a sample beside its prepared row: number of its representative, margin, marks."""
SORT_BYTES, FOLD_BYTES = 24, 32
"""Of a sample: while copies are found; rows of the folds, and what they predict."""
WRAP_BYTES, SCORE_BYTES = 70, 104
"""Of a sample: its distances and mates; its scores."""
PACKING_BYTES, NUMBERS_BYTES = 80, 16
"""Of a packed row beside its numbers, while it is packed; of any row, its class in the run."""
FLAG_BYTES = 8 << 10
"""Of a flag, with its hulls."""
LIBRARY_BYTES, SKLEARN_BYTES = 150 << 20, 90 << 20
"""Resident at least once the libraries of a scan are imported; what scikit-learn and SciPy bring of it."""
LISTS_SLOWER = 1.6
"""An operation in lists over one in a whole class: fewer queries and rows meet at a time."""
STARTUP_SECONDS = 0.5
"""Imports, and reading and hashing little."""
SECONDS_OF_SCORE, SECONDS_OF_COMPARISON = 8e-6, 12e-6
"""Of a sample, after its hulls: its scores; packing all rows again for a comparison with exact neighbours."""
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
    process_bytes: int
    """Resident now: interpreter, libraries, and features that are in memory already."""
    kept_bytes: int
    """Prepared rows and what is known of each sample: kept to the end."""
    approximate: str | None
    """How candidates are found; None for exact neighbours."""

    @property
    def seconds(self) -> float:
        """Total estimate."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Resident memory at the peak: the process as it is now, kept bytes and the largest stage."""
        return self.process_bytes + self.kept_bytes + max(stage.peak_bytes for stage in self.stages)

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
    approximate: Approximate | Literal["ivf", "hnsw"] | None = None,
) -> Plan:
    """Estimate what `scan` costs for (n_samples, n_features) float features of n_classes balanced classes.

    Takes about a second: it times each stage on a few thousand synthetic rows and scales the result up. Memory is
    that of this process, with what is in it.

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
    how = as_approximate(approximate)
    rates = _measure_rates(width, min(classes, 100), config, workers)
    searched = _searched_rows(n, classes, how)
    operations = 2.0 * n * searched * width
    rate = rates["neighbours"] * (1 if how is None else LISTS_SLOWER)
    hulls = selected = n * (classes - 1) + 2 * n
    fitted = min(int(n * (1 - 1 / config.folds)), MAX_FIT_ROWS)
    # Wide features: their covariance, its eigenvectors (about 10 d^3) and the projection, all in float64.
    products = 0.0 if width == d else 2.0 * n * d * (d + width) + 10.0 * d**3
    prepare_seconds = STARTUP_SECONDS + n * d * rates["prepare"] + products * rates["products"]
    core_seconds = fitted * config.folds * rates["core"]
    after = SECONDS_OF_SCORE + (0 if how is None else SECONDS_OF_COMPARISON)
    kept, peak = _memory(n, d, classes, config, workers)
    disk = 16 * n, (58 + 4 * (classes + 1)) * n + PIECE_BYTES * n * _runs(n, width, classes)
    stages = (
        Stage("prepare", 10.0 * n * d + products, prepare_seconds, peak["prepare"], 0),
        Stage("core", float(fitted * config.folds), core_seconds, peak["core"], disk[0]),
        Stage("neighbours", operations, operations * rate + selected * rates["selection"], peak["hulls"], 0),
        Stage("hulls", float(hulls), hulls * rates["hulls"], peak["hulls"], disk[1]),
        Stage("flags", float(n), n * after, peak["flags"], 0),
    )
    process = max(resident_bytes(), LIBRARY_BYTES)
    return Plan(n, d, classes, width, workers, stages, process, kept, None if how is None else str(how.method))


def require_memory(features: Features, config: ScanConfig, limit: int, threads: int | None = None) -> None:
    """Raise MemoryError when the process would need more than `limit` bytes, features that are in memory included."""
    limit = as_count(limit, "max_memory")
    n, d = features.values.shape
    classes = count_classes(features)
    kept, peak = _memory(n, d, classes, config, as_threads(threads))
    loaded = resident_bytes() if "sklearn" in sys.modules else max(resident_bytes() + SKLEARN_BYTES, LIBRARY_BYTES)
    needed = loaded + kept + max(peak.values())
    if needed > limit:
        raise MemoryError(
            f"the scan needs about {needed / 2**20:.0f} MiB, this process included: max_memory allows "
            f"{limit / 2**20:.0f} MiB; narrower features (pca_width) or fewer samples need less"
        )


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _searched_rows(n: int, classes: int, how: Approximate | None) -> float:
    """Rows (and centres) that a sample is held against: all, those of its class twice more; or some lists of each.

    Of inverted lists its class is searched twice, the other near classes once, the far ones less.
    """
    if how is None:
        return n * (1 + 2 / classes)
    size = max(1, n // classes)
    lists = how.lists or default_lists(size)
    near = min(classes, NEAR_CLASSES)
    searched = (near + 1) * min(lists, how.probes) + (classes - near) * min(lists, how.probes, how.far())
    return (classes + 3) * lists + size * searched / lists


def _runs(n: int, width: int, classes: int, parts: int = 1) -> int:
    """`len(class_runs(...))` of balanced classes, however many."""
    of_class = max(1, n // classes) * (4 * width + 16) * parts
    return -(-classes // max(1, RUN_BYTES // of_class))


def _memory(n: int, d: int, classes: int, config: ScanConfig, threads: int) -> tuple[int, dict[str, int]]:
    """Bytes kept to the end, and those of each stage beside them; classes are balanced."""
    width = d if d <= config.pca_above else config.pca_width
    row = 4 * width
    fitted = min(int(n * (1 - 1 / config.folds)), MAX_FIT_ROWS)
    runs = _runs(n, width, classes)
    packed, few = -(-n // runs), -(-n // _runs(n, width, classes, parts=4))
    at_once = min(n, LOCAL_ROWS) * (measuring_bytes(config.hull_size, SCAN_SCALE.mates, -(-classes // runs)) + row)
    fits = min(threads, config.folds)
    shown = NUMBERS_BYTES * n + few * (row + PACKING_BYTES) + FLAG_BYTES * round(n * config.review_rate)
    return n * (row + KEPT_BYTES), {
        "prepare": 2 * min(16 << 20, 8 * n * d) + SORT_BYTES * n + (0 if width == d else 4 * 8 * d * d),
        "core": FOLD_BYTES * n + fits * fitted * 4 * (width + 4 * classes),
        "hulls": (WRAP_BYTES + NUMBERS_BYTES) * n + packed * (row + PACKING_BYTES) + min(BLOCK_BYTES, at_once),
        "flags": SCORE_BYTES * n + max(WRAP_BYTES * n, shown),
    }


def _measure_rates(width: int, classes: int, config: ScanConfig, threads: int) -> dict[str, float]:
    """Seconds per value prepared, operation of a matrix product, row fitted, operation of the search and hull.

    Also "selection": seconds of a query and class for finding the nearest among the rows that were looked at.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, LARGE_SAMPLE)
    labels[:classes] = np.arange(classes)
    large = (rng.normal(size=(classes, width))[labels] + rng.normal(size=(LARGE_SAMPLE, width))).astype(np.float32)
    rows, size = large[:SAMPLE_ROWS], config.hull_size
    near = NeighborIndex(rows).search(rows, k=size, threads=threads)
    prepare = _seconds(lambda: _prepare(rows, labels[:SAMPLE_ROWS], config))
    square = rng.normal(size=(PRODUCT_SIDE, PRODUCT_SIDE))
    with one_numpy_thread():
        products = _seconds(lambda: square @ square)
    core = _seconds(
        lambda: cross_validate(rows, labels[:SAMPLE_ROWS], config, threads=threads), repeat=2
    )  # the first imports
    small_search, large_search = (
        _seconds(functools.partial(index.search_by_class, rows[:SAMPLE_QUERIES], k=size, threads=threads))
        for index in (NeighborIndex(base, labels[: len(base)], n_classes=classes) for base in (rows, large))
    )
    operation = max(0.0, large_search - small_search) / (2.0 * SAMPLE_QUERIES * (LARGE_SAMPLE - SAMPLE_ROWS) * width)
    selection = max(0.0, small_search - operation * 2.0 * SAMPLE_QUERIES * SAMPLE_ROWS * width)
    hulls = _seconds(
        lambda: solve_hulls(
            rows, rows, near.indices, relative_tolerance=config.hull_tolerance, certificates=False, threads=threads
        )
    )
    return {
        "prepare": prepare / rows.size,
        "products": products / (2.0 * PRODUCT_SIDE**3),
        "core": core / (SAMPLE_ROWS * (config.folds - 1)),
        "neighbours": operation,
        "selection": selection / (SAMPLE_QUERIES * classes),
        "hulls": hulls / SAMPLE_ROWS,
    }


def _prepare(rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], config: ScanConfig) -> None:
    find_representatives(apply_preparation(rows, fit_preparation(rows, config)), labels)


def _seconds(work: Callable[[], object], repeat: int = 3) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
