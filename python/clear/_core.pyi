from typing import Any

import numpy as np
import numpy.typing as npt

version: str
compiler: str

def best_isa() -> str: ...
def current_isa() -> str: ...

class CoreError(RuntimeError): ...

class NeighborIndex:
    def __init__(
        self,
        base: npt.NDArray[Any],
        storage: str,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        n_classes: int,
        metric: str,
        lists: bool,
    ) -> None: ...
    def search_lists(
        self,
        queries: npt.NDArray[np.float32],
        exclude: npt.NDArray[np.int64],
        group: npt.NDArray[np.int64],
        probes: npt.NDArray[np.int64],
        threads: int,
        distances: npt.NDArray[np.float64],
        indices: npt.NDArray[np.int64],
    ) -> None: ...
    def subset(self, found: npt.NDArray[np.uint8]) -> NeighborIndex: ...
    @property
    def dimension(self) -> int: ...
    @property
    def n_classes(self) -> int: ...
    def class_size(self, label: int) -> int: ...
    def search(
        self,
        queries: npt.NDArray[np.float32],
        exclude: npt.NDArray[np.int64],
        within: npt.NDArray[np.int64],
        threads: int,
        distances: npt.NDArray[np.float64],
        indices: npt.NDArray[np.int64],
    ) -> None: ...
    def search_by_class(
        self,
        queries: npt.NDArray[np.float32],
        exclude: npt.NDArray[np.int64],
        without: npt.NDArray[np.int64],
        k: int,
        threads: int,
        distances: npt.NDArray[np.float64],
        indices: npt.NDArray[np.int64],
    ) -> None: ...

class SharedHull:
    def __init__(self, vertices: npt.NDArray[np.float32]) -> None: ...
    @property
    def radius(self) -> float: ...
    @property
    def dimension(self) -> int: ...
    def __len__(self) -> int: ...
    def solve(
        self,
        points: npt.NDArray[np.float32],
        eps: npt.NDArray[np.float64],
        decide: bool,
        relative_tolerance: float,
        certificates: bool,
        threads: int,
    ) -> tuple[
        npt.NDArray[np.int8],
        npt.NDArray[np.float64],
        npt.NDArray[np.float64],
        npt.NDArray[np.float64],
        npt.NDArray[np.float64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.float64],
    ]: ...

def release_memory() -> None: ...
def measure_candidates(
    queries: npt.NDArray[np.float32],
    base: npt.NDArray[Any],
    storage: str,
    metric: str,
    candidates: npt.NDArray[np.int64],
    threads: int,
    distances: npt.NDArray[np.float64],
) -> None: ...
def solve_hulls(
    points: npt.NDArray[np.float32],
    base: npt.NDArray[Any],
    storage: str,
    owner: npt.NDArray[np.int64],
    members: npt.NDArray[np.int64],
    eps: npt.NDArray[np.float64],
    decide: bool,
    relative_tolerance: float,
    threads: int,
    status: npt.NDArray[np.int8],
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
    used_eps: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    directions: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64] = ...,
) -> None: ...
