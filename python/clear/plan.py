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

from clear._arrays import as_count, as_features, as_threads
from clear._blas import one_numpy_thread
from clear._lists import NEAR_CLASSES, default_lists
from clear.approximate import Approximate, as_approximate
from clear.class_index import RUN_BYTES, packed_bytes
from clear.collapse import BLOCK_BYTES, NEAREST_MATES, measuring_bytes
from clear.config import SCAN_SCALE, ScanConfig
from clear.cross_validation import MAX_FIT_ROWS, cross_validate
from clear.data import Features
from clear.hull import solve_hulls
from clear.neighbors import NeighborIndex
from clear.pieces import LOCAL_ROWS
from clear.prepare import FILED_BYTES, apply_preparation, count_classes, find_representatives, fit_preparation, row_type
from clear.reference import library_versions
from clear.touched import PAIR_BYTES
from clear.work import PIECE_ROWS, hash_array

__all__ = ["SHORTEST_STAGE", "Plan", "Stage", "plan_scan", "require_memory"]

SHORTEST_STAGE = 0.5
"""Seconds. Of a shorter stage a plan says no more than that it is: what is not counted in one may be as much."""

SAMPLE_ROWS, FITTED_SAMPLE, LARGE_SAMPLE, SAMPLE_QUERIES = 1 << 12, 1 << 14, 1 << 15, 1 << 10
PIECE_BYTES = 13
"""Of a sample in a piece of the stage "hulls", for each run of classes: 12 and its share of the file's head."""
CROWD_BYTES = 9
"""Of a sample in a piece of the stage "crowds", with its share of the file's head."""
KEPT_BYTES = 28
"""Of a sample beside its prepared row: number of its representative, margin, marks."""
SORT_BYTES, FOLD_BYTES = 24, 32
"""Of a sample: while copies are found; rows of the folds, and what they predict."""
WRAP_BYTES, SCORE_BYTES, COMPARED_BYTES = 78, 104, 24
"""Of a sample: its distances and mates; its scores; what these want more where the distances stay to be compared."""
FREED_BYTES = 64 << 20
"""That the allocator keeps of what was scored before."""
PACKING_BYTES, NUMBERS_BYTES = 80, 16
"""Of a packed row beside its numbers, while it is packed; of any row, its class in the run."""
FLAG_BYTES = 8 << 10
"""Of a flag, with its hulls."""
LIBRARY_BYTES, SKLEARN_BYTES = 150 << 20, 90 << 20
"""Resident at least once the libraries of a scan are imported; what scikit-learn and SciPy bring of it."""
MANY_FASTER = 0.9
"""An operation among all rows over one among the rows of the measurement: fewer of them are near enough to be kept."""
LISTS_SLOWER, ROWS_MORE = 0.75, 80
"""An operation in lists over one in a whole class, and how much more of it a row of a list costs, divided by the rows
of a list: 1.4 of 128 rows, 0.9 of 500, as fewer queries and rows meet at a time."""
SHORTEST_LIST = 64
"""Shorter ones were not measured: they are taken to cost no more."""
FILES_SLOWER = 2.0
"""Preparing many rows over preparing those of the measurement, which are in memory: files are read, too."""
GRAPHS_FIRST, GRAPHS_AGAIN = 2, 4
"""Graphs that a row is put into: of its class and of that's core before hulls are measured; to compare, to certify."""
GRAPH_GROWTH, GRAPHS_SLOWER = 1 / 4, 1.6
"""Power of the rows of a graph by which a step in it becomes slower (measured from 1,000 to 10,000), and a step in one
of many graphs over one in the graph of the measurement, which stays in the cache."""
VISITED = 8192
"""Rows that a step in a graph may meet: 64 links of 128 nodes."""
GRAPH_BYTES = 300
"""Of a row in a graph, beside its numbers."""
SCORES = 12
"""Numbers of a sample in `Scores` that lie in files, where there are many samples."""
PREDICTED = 0.1
"""Predicting a row over fitting on it."""
HULLS_PROVEN = 0.9
"""Of the seconds of hulls: most of other labels' are only proven to lie farther away, and picked out for that."""
HULLS_OF_SCORE, HULLS_OF_COMPARISON = 4.0, 3.5
"""Of a sample, after its hulls, in the seconds of a hull: its scores; the comparison with exact neighbours."""
PRODUCT_SIDE = 384


KEEPS_EXACTLY = "keep_neighbors goes with a workdir, and without approximate"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a scan."""

    name: str
    operations: float
    """Floating-point operations for neighbours, hulls solved for hulls, rows fitted for the core."""
    seconds: float
    """Estimate from a rate measured on this machine a moment ago; below `SHORTEST_STAGE` only that it is less."""
    peak_bytes: int
    """Working memory of the stage, beside what it keeps."""
    disk_bytes: int
    """What the stage adds to a `workdir`: pieces, and files without names that are gone when the scan ends."""


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
        """Room that a `workdir` wants on its disk: pieces, and files without names that are gone when the scan ends."""
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
    keep_neighbors: bool = False,
) -> Plan:
    """Estimate what `scan` costs for (n_samples, n_features) float features of n_classes balanced classes.

    Takes about a second: it times each stage on a few thousand synthetic rows and scales the result up. Memory is
    that of this process, with what is in it. Options as in `scan`.

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
    if keep_neighbors and how is not None:
        raise ValueError(KEEPS_EXACTLY)
    rates = _measure_rates(width, min(classes, 100), config, workers, how)
    hulls = selected = n * (classes - 1) + 2 * n
    again = 0.0
    if how is not None and how.method == "hnsw":
        deep = GRAPHS_SLOWER * (n / classes / SAMPLE_ROWS) ** GRAPH_GROWTH
        operations = 2.0 * width * VISITED * (GRAPHS_FIRST * n + selected)
        searching = deep * (GRAPHS_FIRST * n * rates["insert"] + selected * rates["graph"])
        again = deep * GRAPHS_AGAIN * n * rates["insert"]
    else:
        operations = 2.0 * n * _searched_rows(n, classes, how) * width
        rate = rates["neighbours"] * MANY_FASTER * (1 if how is None else _lists_slower(n, classes, how))
        searching = operations * rate + selected * rates["selection"]
    fitted = min(int(n * (1 - 1 / config.folds)), MAX_FIT_ROWS)
    # Wide features: their covariance, its eigenvectors (about 10 d^3) and the projection, all in float64.
    products = 0.0 if width == d else 2.0 * n * d * (d + width) + 10.0 * d**3
    prepare_seconds = rates["opening"] + n * d * rates["prepare"] * FILES_SLOWER + products * rates["products"]
    core_seconds = rates["imports"] + (fitted * config.folds + n * PREDICTED) * rates["core"]
    after = rates["hulls"] * (HULLS_OF_SCORE + (0 if how is None else HULLS_OF_COMPARISON))
    kept, peak = _memory(n, d, classes, config, workers, how, keep=keep_neighbors)
    of_folds = 16 * n + 4 * config.folds * (width + 1) * classes
    of_hulls = (58 + 4 * (classes + 1)) * n + PIECE_BYTES * n * _runs(n, width, classes)
    filed = _filed(n, width)
    near = n * _near_bytes(n, classes, config) if keep_neighbors else 0
    stages = (
        Stage("prepare", 10.0 * n * d + products, prepare_seconds, peak["prepare"], filed["prepare"]),
        Stage("core", float(fitted * config.folds), core_seconds, peak["core"], of_folds),
        Stage("neighbours", operations, searching, peak["hulls"], near),
        Stage("hulls", float(hulls), HULLS_PROVEN * hulls * rates["hulls"], peak["hulls"], of_hulls + filed["hulls"]),
        Stage("flags", float(n), n * after + again, peak["flags"], CROWD_BYTES * n + filed["flags"]),
    )
    process = max(resident_bytes(), LIBRARY_BYTES)
    return Plan(n, d, classes, width, workers, stages, process, kept, None if how is None else str(how.method))


def require_memory(
    features: Features,
    config: ScanConfig,
    limit: int,
    threads: int | None = None,
    *,
    approximate: Approximate | str | None = None,
    files: bool = False,
    keep: bool = False,
    joins: bool = False,
) -> None:
    """Raise MemoryError when the process would need more than `limit` bytes, features that are in memory included.

    files: large arrays lie in files of a folder of work, whose pages the system writes out when it wants memory.
    keep: neighbours are kept; joins: most samples have been scanned.
    """
    limit = as_count(limit, "max_memory")
    n, d = features.values.shape
    classes = count_classes(features)
    how, options = as_approximate(approximate), {"files": files, "keep": keep, "joins": joins}
    kept, peak = _memory(n, d, classes, config, as_threads(threads), how, **options)
    loaded = resident_bytes() if "sklearn" in sys.modules else max(resident_bytes() + SKLEARN_BYTES, LIBRARY_BYTES)
    needed = loaded + kept + max(peak.values())
    if needed > limit:
        raise MemoryError(
            f"the scan needs about {needed / 2**20:.0f} MiB, this process included: max_memory allows "
            f"{limit / 2**20:.0f} MiB; narrower features (pca_width), fewer samples, and of many a workdir need less"
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
    size, lists = _list_count(n, classes, how)
    near = min(classes, NEAR_CLASSES)
    searched = (near + 1) * min(lists, how.probes) + (classes - near) * min(lists, how.probes, how.far())
    return (classes + 3) * lists + size * searched / lists


def _list_count(n: int, classes: int, how: Approximate) -> tuple[int, int]:
    """Rows of a class, and lists that they are cut into."""
    size = max(1, n // classes)
    return size, min(how.lists or default_lists(size), size)


def _lists_slower(n: int, classes: int, how: Approximate) -> float:
    size, lists = _list_count(n, classes, how)
    return LISTS_SLOWER + ROWS_MORE / max(SHORTEST_LIST, size / lists)


def _runs(n: int, width: int, classes: int, parts: int = 1) -> int:
    """`len(class_runs(...))` of balanced classes, however many."""
    of_class = max(1, n // classes) * packed_bytes(width) * parts
    return -(-classes // max(1, RUN_BYTES // of_class))


def _near_bytes(n: int, classes: int, config: ScanConfig) -> int:
    """Of a sample, where its neighbours are kept (`reach.KEPT`)."""
    return np.dtype(row_type(n)).itemsize * (2 * SCAN_SCALE.mates + config.hull_size * (classes + 1))


def _filed(n: int, width: int) -> dict[str, int]:
    """Bytes of large arrays that lie in files of a folder of work (`prepare.room`), by the stage that makes them."""
    arrays = {"prepare": 4 * width * n, "hulls": 4 * NEAREST_MATES * n, "flags": 8 * n}
    found = {stage: size if size >= FILED_BYTES else 0 for stage, size in arrays.items()}
    return found | {"flags": SCORES * found["flags"]}


def _memory(
    n: int,
    d: int,
    classes: int,
    config: ScanConfig,
    threads: int,
    how: Approximate | None,
    *,
    files: bool = False,
    keep: bool = False,
    joins: bool = False,
) -> tuple[int, dict[str, int]]:
    """Bytes kept to the end, and those of each stage beside them; classes are balanced. Options as `require_memory`."""
    width = d if d <= config.pca_above else config.pca_width
    filed = _filed(n, width) if files else {"prepare": 0, "hulls": 0}
    row = 4 * width
    fitted = min(int(n * (1 - 1 / config.folds)), MAX_FIT_ROWS)
    runs = _runs(n, width, classes)
    packed, few = -(-n // runs), -(-n // _runs(n, width, classes, parts=4))
    at_once = min(n, LOCAL_ROWS) * (measuring_bytes(config.hull_size, SCAN_SCALE.mates, -(-classes // runs)) + row)
    fits = min(threads, config.folds)
    packing = row + PACKING_BYTES
    if how is not None and how.method == "hnsw":
        packing = GRAPHS_FIRST * (2 * row + GRAPH_BYTES)  # vectors grow by doubling
    compared = 0 if how is None else COMPARED_BYTES * n
    shown = NUMBERS_BYTES * n + few * packing + FLAG_BYTES * round(n * config.review_rate)
    wrap = WRAP_BYTES * n - filed["hulls"]
    near = min(n, PIECE_ROWS) * _near_bytes(n, classes if joins else -(-classes // runs), config) if keep else 0
    if joins:  # what was before, and how near a row must be to change it
        compared = WRAP_BYTES * n
        near = 2 * (near + PAIR_BYTES) + compared + 4 * (classes + 1) * n
    return n * (row + KEPT_BYTES) - filed["prepare"], {
        "prepare": 2 * min(16 << 20, 8 * n * d) + SORT_BYTES * n + (0 if width == d else 4 * 8 * d * d),
        "core": FOLD_BYTES * n + fits * fitted * 4 * (width + 4 * classes),
        "hulls": wrap + NUMBERS_BYTES * n + packed * packing + min(BLOCK_BYTES, at_once) + near,
        "flags": SCORE_BYTES * n + max(wrap + compared, shown) + FREED_BYTES,
    }


def _measure_rates(
    width: int, classes: int, config: ScanConfig, threads: int, how: Approximate | None
) -> dict[str, float]:
    """Seconds per value prepared, operation of a matrix product, row fitted, operation of the search and hull.

    Also "opening" and "imports": seconds for what was not here before, which a scan wants at once and the folds want;
    "selection": seconds of a query and class for finding the nearest among the rows that were looked at; where graphs
    are searched, "insert" of a row into one and "graph" of a search.
    """
    opening = _seconds(library_versions, repeat=1)  # the first imports
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, LARGE_SAMPLE)
    labels[:classes] = np.arange(classes)
    large = (rng.normal(size=(classes, width))[labels] + rng.normal(size=(LARGE_SAMPLE, width))).astype(np.float32)
    rows, size = large[:SAMPLE_ROWS], config.hull_size
    near = NeighborIndex(rows).search(rows, k=size, exclude=np.arange(len(rows)), threads=threads)
    prepare = _seconds(lambda: _prepare(large, labels, config))
    square = rng.normal(size=(PRODUCT_SIDE, PRODUCT_SIDE))
    with one_numpy_thread():
        products = _seconds(lambda: square @ square)
    first, again = (
        _seconds(lambda: cross_validate(rows, labels[:SAMPLE_ROWS], config, threads=threads), repeat=1)
        for _ in range(2)  # the first imports
    )
    core = _seconds(
        lambda: cross_validate(large[:FITTED_SAMPLE], labels[:FITTED_SAMPLE], config, threads=threads), repeat=1
    )
    small_search, large_search = (
        _seconds(functools.partial(index.search_by_class, rows[:SAMPLE_QUERIES], k=size, threads=threads))
        for index in (NeighborIndex(base, labels[: len(base)], n_classes=classes) for base in (rows, large))
    )
    operation = max(0.0, large_search - small_search) / (2.0 * SAMPLE_QUERIES * (LARGE_SAMPLE - SAMPLE_ROWS) * width)
    selection = max(0.0, small_search - operation * 2.0 * SAMPLE_QUERIES * SAMPLE_ROWS * width)
    hulls = _seconds(
        lambda: solve_hulls(
            rows, rows, near.indices, relative_tolerance=config.hull_tolerance, certificates=False, threads=threads
        ),
        repeat=9,  # each takes milliseconds
    )
    graphs = _measure_graph(rows, size, how, threads) if how is not None and how.method == "hnsw" else {}
    return graphs | {
        "opening": opening,
        "imports": max(0.0, first - again),
        "prepare": prepare / large.size,
        "products": products / (2.0 * PRODUCT_SIDE**3),
        "core": core / (FITTED_SAMPLE * (config.folds - 1 + PREDICTED)),
        "neighbours": operation,
        "selection": selection / (SAMPLE_QUERIES * classes),
        "hulls": hulls / SAMPLE_ROWS,
    }


def _measure_graph(rows: npt.NDArray[np.float32], k: int, how: Approximate, threads: int) -> dict[str, float]:
    index = NeighborIndex(rows, approximate=how)
    build = _seconds(lambda: NeighborIndex(rows, approximate=how).search(rows[:1], k=k, threads=threads))
    index.search(rows[:1], k=k, threads=threads)  # is built
    search = _seconds(lambda: index.search(rows[:SAMPLE_QUERIES], k=k, threads=threads))
    return {"insert": build / len(rows), "graph": search / SAMPLE_QUERIES}


def _prepare(rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], config: ScanConfig) -> None:
    as_features(rows)
    mapped = apply_preparation(rows, fit_preparation(rows, config))
    find_representatives(mapped, labels)
    hash_array(mapped)


def _seconds(work: Callable[[], object], repeat: int = 3) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
