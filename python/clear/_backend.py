"""The only door to native code. A device is named once, here; everything above is written without knowing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clear import _core
from clear.errors import BackendUnavailable

__all__ = ["Backend", "Index", "build_info", "get_backend", "release_memory"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]


class Index(Protocol):
    """A base packed for searching; see `_core.NeighborIndex`."""

    @property
    def dimension(self) -> int: ...
    @property
    def n_classes(self) -> int: ...
    def subset(self, found: npt.NDArray[np.uint8]) -> Index: ...
    def class_size(self, label: int) -> int: ...
    def search(
        self, queries: Rows, exclude: Ints, within: Ints, threads: int, distances: Floats, indices: Ints
    ) -> None: ...
    def search_by_class(
        self, queries: Rows, exclude: Ints, without: Ints, k: int, threads: int, distances: Floats, indices: Ints
    ) -> None: ...
    def search_lists(
        self, queries: Rows, exclude: Ints, group: Ints, probes: Ints, threads: int, distances: Floats, indices: Ints
    ) -> None: ...


class Hull(Protocol):
    """Vertices packed for many points; see `_core.SharedHull`."""

    @property
    def radius(self) -> float: ...
    @property
    def dimension(self) -> int: ...
    def __len__(self) -> int: ...
    def solve(
        self, points: Rows, eps: Floats, decide: bool, relative_tolerance: float, certificates: bool, threads: int
    ) -> tuple[npt.NDArray[np.int8], Floats, Floats, Floats, Floats, Ints, Ints, Ints, Floats]: ...


class Backend(Protocol):
    """What a device must do. Arguments are validated and on the device already."""

    device: str

    def build_index(
        self,
        base: npt.NDArray[Any],
        storage: str,
        rows: Ints,
        labels: Ints,
        n_classes: int,
        metric: str,
        *,
        lists: bool = False,
    ) -> Index: ...
    def build_hull(self, vertices: Rows) -> Hull: ...
    def measure_candidates(
        self,
        queries: Rows,
        base: npt.NDArray[Any],
        storage: str,
        metric: str,
        candidates: Ints,
        threads: int,
        distances: Floats,
    ) -> None: ...
    def solve_hulls(
        self,
        points: Rows,
        base: npt.NDArray[Any],
        storage: str,
        owner: Ints,
        members: Ints,
        eps: Floats,
        *,
        decide: bool,
        relative_tolerance: float,
        threads: int,
        outputs: Sequence[npt.NDArray[Any]],
    ) -> None: ...


class CpuBackend:
    """The compiled C++ core."""

    device = "cpu"

    def build_index(
        self,
        base: npt.NDArray[Any],
        storage: str,
        rows: Ints,
        labels: Ints,
        n_classes: int,
        metric: str,
        *,
        lists: bool = False,
    ) -> Index:
        return _core.NeighborIndex(base, storage, rows, labels, n_classes, metric, lists)

    def build_hull(self, vertices: Rows) -> Hull:
        return _core.SharedHull(vertices)

    def measure_candidates(
        self,
        queries: Rows,
        base: npt.NDArray[Any],
        storage: str,
        metric: str,
        candidates: Ints,
        threads: int,
        distances: Floats,
    ) -> None:
        _core.measure_candidates(queries, base, storage, metric, candidates, threads, distances)

    def solve_hulls(
        self,
        points: Rows,
        base: npt.NDArray[Any],
        storage: str,
        owner: Ints,
        members: Ints,
        eps: Floats,
        *,
        decide: bool,
        relative_tolerance: float,
        threads: int,
        outputs: Sequence[npt.NDArray[Any]],
    ) -> None:
        _core.solve_hulls(points, base, storage, owner, members, eps, decide, relative_tolerance, threads, *outputs)


def get_backend(device: str = "auto") -> Backend:
    """Return the back-end of a device: "cpu", or "auto" (the best there is). Only "auto" may choose."""
    name = str(device)
    if name in ("cpu", "auto"):
        return CpuBackend()
    if name.partition(":")[0] == "cuda":
        raise BackendUnavailable(f'device="{name}": this build has no CUDA back-end; use device="cpu" or "auto"')
    raise ValueError(f'device="{name}": want "auto" or "cpu"')


def release_memory() -> None:
    """Hand freed memory back to the system."""
    _core.release_memory()


def build_info() -> dict[str, Any]:
    """Return version, compiler and instruction sets of the native core (what a bug report needs)."""
    return {
        "version": _core.version,
        "compiler": _core.compiler,
        "isa": _core.current_isa(),
        "best_isa": _core.best_isa(),
        "cuda": False,
    }
