"""A training set made ready to be measured: mapped features, duplicates, the cross-validated core, one index for both.

Exact duplicates with the same label count once: a copy is no mate.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_labels, as_threads, blocks, forget
from clear._backend import release_memory
from clear._lists import Centres, train_centres
from clear._progress import Progress, track, tracked
from clear._version import __version__
from clear.approximate import Approximate, as_approximate, describe
from clear.class_index import ClassIndex, Run, base_of, class_runs
from clear.config import ScanConfig
from clear.cross_validation import FoldEngine, cross_validate
from clear.data import Features
from clear.errors import need
from clear.far_rows import FarRows
from clear.neighbors import NeighborIndex
from clear.prepare import (
    Ints,
    Number,
    Rows,
    apply_preparation,
    count_classes,
    describe_samples,
    distinct_rows,
    find_representatives,
    fit_preparation,
    join_some,
    thin_classes,
)
from clear.results import Preparation
from clear.work import Work, hash_array

__all__ = ["Parts", "Reference", "for_copies", "library_versions", "positions", "require_by_class", "scan_inputs"]

PIECES = 3
"""What stored pieces of a scan hold: raised when that changes."""
OF_SCORES = ("review_rate", "false_flags", "false_alarms", "probe_fpr", "weak_accuracy")
"""Settings that no piece depends on: scores are made anew each time."""


def for_copies(reference: Reference, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Values of the distinct samples, (units,), for all rows, (n,): a copy has those of its representative."""
    if len(reference.units) == len(reference.representative):
        return values
    return values[np.searchsorted(reference.units, reference.representative)]


def positions(reference: Reference, rows: Ints) -> Ints:
    """Where distinct rows stand in `reference.units`."""
    if len(reference.units) == len(reference.representative):
        return rows
    return np.searchsorted(reference.units, rows)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a `Reference` is made of, beside its indices: enough to make it again elsewhere."""

    rows: Rows
    labels: Ints
    representative: Ints
    in_core: npt.NDArray[np.bool_]
    core_accuracy: float
    n_classes: int
    class_names: tuple[str, ...] | None
    source: str | None
    preparation: Preparation
    config: ScanConfig
    notes: tuple[str, ...]
    approximate: Approximate | None = None


class Reference:
    """A labelled training set, prepared once, against which samples are measured.

    Parameters
    ----------
    features : Features
        The training set. Values are read in blocks; the float32 unit rows and a packed index of them stay in memory
        (about 2 * 4 * n * width bytes).
    config : ScanConfig
    threads : int, optional
        Default: the cores this process may use.
    progress : bool or callable
    work : Work, optional
        Where finished pieces are kept.
    approximate : optional
        How candidates for the hulls are found, as in `scan`.
    engine : FoldEngine, optional
        Where the folds of the core are fitted. Default: here.

    Raises
    ------
    ValueError
        Values that are not finite (row numbers are named), fewer than two classes, class numbers with large gaps, or
        fewer distinct samples than two a fold.
    """

    def __init__(
        self,
        features: Features,
        *,
        config: ScanConfig | None = None,
        threads: int | None = None,
        progress: Progress = False,
        work: Work | None = None,
        approximate: Approximate | Literal["ivf", "hnsw"] | None = None,
        engine: FoldEngine | None = None,
    ) -> None:
        self.approximate = require_by_class(approximate)
        self.config = config or ScanConfig()
        self.place = None if work is None else work.folder
        """Where large arrays lie."""
        self.features = features
        self.threads = as_threads(threads)
        values = as_features(features.values, progress=progress)
        n = len(values)
        if n < 2 * self.config.folds:
            raise ValueError(f"features has {n} samples: want at least {2 * self.config.folds} (twice the folds)")
        self.n_classes = count_classes(features)
        self.labels: Ints = as_labels(features.labels, n, classes=self.n_classes)
        self.preparation = fit_preparation(values, self.config, progress=progress)
        self.rows: Rows = apply_preparation(values, self.preparation, place=self.place, progress=progress)
        self.representative = find_representatives(self.rows, self.labels)
        self.units = distinct_rows(self.representative)
        if len(self.units) < 2 * self.config.folds:
            raise ValueError(
                f"features has {len(self.units)} distinct samples among {n}: want at least {2 * self.config.folds} "
                "(twice the folds)"
            )
        self.class_sizes: Ints = np.bincount(self.labels[self.units], minlength=self.n_classes).astype(np.int64)
        self.notes: list[str] = describe_samples(n, self.units, self.class_sizes)
        if work is not None:
            work.begin(scan_inputs(self.rows, self.labels, self.n_classes, self.config, self.approximate))
        self.in_core, self.margin, self.core_accuracy = self._pick_core(progress, work, engine)
        self._plan_indices(progress)

    def _plan_indices(self, progress: Progress = False) -> None:
        """Indices are packed when asked for: all classes together, unless `divide` is called."""
        self.distinct = self.representative == np.arange(len(self.rows))
        self.runs: list[Run] = [(0, self.n_classes)]
        self.centres: Centres | None = None
        if self.approximate is not None and self.approximate.method == "ivf":
            whole = base_of(self.rows, self.labels, self.distinct, (0, self.n_classes))
            self.centres = train_centres(whole, self.approximate.lists, self.approximate.seed, self.threads, progress)
        self.order, self.order_groups = self.units, self._unit_groups(progress)
        if self.order_groups is not None:  # samples that search the same lists lie side by side
            place = np.argsort(self.order_groups, kind="stable")
            self.order, self.order_groups = self.units[place], self.order_groups[place].astype(np.int32)
        self._held: dict[Run, ClassIndex] = {}
        self._lock = threading.Lock()
        self._exact: Reference | None = None
        self._far: FarRows | None = None

    @property
    def far(self) -> FarRows:
        """A few core rows of every class, drawn when first asked for."""
        with self._lock:
            if self._far is None:
                core = self.units[self.in_core[self.units]]
                self._far = FarRows(
                    self.rows, self.labels, core, self.n_classes, self.config.hull_size, self.config.seed
                )
        return self._far

    @far.setter
    def far(self, rows: FarRows) -> None:
        self._far = rows

    def divide(self) -> None:
        """From now on pack only some classes at a time, where all take much memory."""
        self.runs = class_runs(self.class_sizes, self.rows.shape[1])

    def index(self, run: Run) -> ClassIndex:
        """The index of a run of classes; one is held at a time."""
        with self._lock:
            found = self._held.get(run)
            if found is None:
                self._held.clear()
                release_memory()
                found = ClassIndex(
                    self.rows,
                    self.labels,
                    self.distinct,
                    self.in_core,
                    run,
                    self.approximate,
                    self.centres,
                    self.threads,
                )
                self._held[run] = found
                forget(self.rows)
        return found

    def divide_for_few(self) -> None:
        """From now on only few samples are asked about: pack fewer classes at a time. Answers stay the same."""
        self.order, self.order_groups = self.units, None
        runs = class_runs(self.class_sizes, self.rows.shape[1], parts=4)
        if runs != self.runs:
            self.runs = runs
            self.release()

    def release(self) -> None:
        """Give back memory that is only there for speed: packed indices, and rows that lie in a file."""
        with self._lock:
            self._held.clear()
            self._exact = None
        forget(self.rows)
        release_memory()

    @property
    def all_index(self) -> NeighborIndex:
        """Exact index of all distinct rows."""
        return self.exact().index((0, self.n_classes)).all

    @property
    def core_index(self) -> NeighborIndex:
        """Exact index of the core."""
        return self.exact().index((0, self.n_classes)).core

    def groups(self, points: Rows) -> Ints | None:
        """The group of each point where lists are searched, else None."""
        if self.centres is None:
            return None
        parts = blocks(len(points), 4 * points.shape[1])
        return np.concatenate([np.zeros(0, np.int64), *(self.centres.groups(points[p], self.threads) for p in parts)])

    def _unit_groups(self, progress: Progress) -> Ints | None:
        if self.centres is None:
            return None
        found = np.empty(len(self.units), np.int64)
        for part in tracked(blocks(len(self.units), 4 * self.rows.shape[1]), progress, "nearest lists"):
            found[part] = self.centres.groups(self.rows[self.units[part]], self.threads)
        return found

    def nearest(
        self,
        points: Rows,
        labels: Ints,
        k: int,
        exclude: Ints | None = None,
        *,
        core: bool = False,
        progress: Progress = False,
    ) -> Ints:
        """Row numbers of the nearest k (core) rows of each point's label, (m, k)."""
        found = np.full((len(points), k), -1)
        with track(progress, "nearest mates", self.n_classes, "classes") as advance:
            for run in self.runs:
                mine = np.flatnonzero((labels >= run[0]) & (labels < run[1]))
                if len(mine):
                    skip = None if exclude is None else exclude[mine]
                    found[mine] = self.index(run).own(points[mine], labels[mine], k, skip, core=core).indices
                advance(run[1] - run[0])
        return found

    def exact(self) -> Reference:
        """The same with exact neighbours; itself where they are."""
        if self.approximate is None:
            return self
        with self._lock:
            if self._exact is None:
                self._exact = copy.copy(self)
                self._exact.approximate, self._exact.centres, self._exact._held = None, None, {}
                self._exact._lock = threading.Lock()
        return self._exact

    def parts(self) -> Parts:
        """What it is made of, beside the indices."""
        return Parts(
            self.rows,
            self.labels,
            self.representative,
            self.in_core,
            self.core_accuracy,
            self.n_classes,
            self.features.class_names,
            self.features.source,
            self.preparation,
            self.config,
            tuple(self.notes),
            self.approximate,
        )

    @classmethod
    def restore(cls, parts: Parts, *, threads: int | None = None) -> Reference:
        """Make a reference again from its parts; its `features` then hold the prepared rows."""
        self = cls.__new__(cls)
        n = len(parts.rows)
        self.features = Features(parts.rows, parts.labels, np.arange(n), parts.class_names, source=parts.source)
        self.config, self.threads, self.place = parts.config, as_threads(threads), None
        self.rows, self.labels, self.n_classes = parts.rows, parts.labels, parts.n_classes
        self.preparation, self.notes = parts.preparation, list(parts.notes)
        self.representative, self.in_core = parts.representative, parts.in_core
        self.margin = np.full(n, np.nan)  # only a scan wants it, of the set that it has prepared
        self.core_accuracy, self.approximate = parts.core_accuracy, parts.approximate
        self.units = distinct_rows(self.representative)
        self.class_sizes = np.bincount(self.labels[self.units], minlength=self.n_classes).astype(np.int64)
        self._plan_indices()
        return self

    def _pick_core(
        self, progress: Progress, work: Work | None, engine: FoldEngine | None
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], float]:
        """Mark rows whose cross-validated label agrees (a class where too few do keeps all its rows); margins."""
        alone = len(self.units) == len(self.rows)
        labels, rows = (self.labels, self.rows) if alone else (self.labels[self.units], self.rows[self.units])
        predicted, margin = cross_validate(
            rows,
            labels,
            self.config,
            threads=self.threads,
            progress=progress,
            work=work,
            engine=engine,
        )
        agrees = predicted == labels
        accuracy = float(agrees.mean())
        thin = thin_classes(labels, agrees, self.class_sizes, self.config)
        if len(thin):
            agrees |= np.isin(labels, thin)
            self.notes.append(
                f"fewer than {self.config.hull_size} samples of class {join_some(thin)} are predicted as such: "
                "all of its samples serve as its core"
            )
        return for_copies(self, agrees), for_copies(self, margin), accuracy


def require_by_class(value: Approximate | str | None) -> Approximate | None:
    """Return how candidates are found, or refuse what cannot be asked about each class of prepared rows."""
    how = as_approximate(value)
    if how is not None and not isinstance(how.method, str):
        raise ValueError(
            'approximate: a brought index does not hold the prepared rows of each class: want "ivf" or "hnsw"'
        )
    if how is not None and how.method == "hnsw":
        need("faiss", extra="ann")
    return how


def scan_inputs(
    rows: Rows, labels: Ints, n_classes: int, config: ScanConfig, how: Approximate | None = None
) -> dict[str, Any]:
    """Everything that the pieces of a scan depend on."""
    return {
        "samples": len(rows),
        "features": hash_array(rows),
        "labels": hash_array(labels),
        "classes": n_classes,
        "config": {name: value for name, value in asdict(config).items() if name not in OF_SCORES},
        "approximate": None if how is None else describe(how),
        "pieces": PIECES,
        "versions": {"clear-pockets": __version__} | library_versions(how),
    }


def library_versions(how: Approximate | None = None) -> dict[str, str]:
    """Versions of the libraries whose numbers a scan takes."""
    from importlib.metadata import version

    graph = how is not None and how.method == "hnsw"
    return {name: version(name) for name in ("numpy", "scikit-learn", *(["faiss-cpu"] if graph else []))}
