"""Checks arrays at the public door: dtype, shape, order, finiteness. Messages name argument, got, wanted, remedy."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clear._progress import Progress, tracked
from clear._rows import ShardedRows

__all__ = ["as_features", "as_ids", "as_labels", "as_threads", "blocks", "first_nonfinite_rows", "forget"]

FloatArray = npt.NDArray[np.floating[Any]]
BLOCK_BYTES = 16 << 20


def blocks(n: int, row_bytes: int, *, budget: int = BLOCK_BYTES) -> Iterator[slice]:
    """Yield consecutive slices of [0, n) of about `budget` bytes each, at least one row."""
    step = max(1, budget // max(1, row_bytes))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """View NumPy arrays, memory maps, sharded rows, sequences and CPU tensors (bfloat16 widened) as an array."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, ShardedRows):  # stays in its files: whoever reads it in blocks need not know
        return cast("npt.NDArray[Any]", value)
    if type(value).__module__.partition(".")[0] == "torch":
        tensor = value.detach().cpu()
        return np.asarray(tensor.float().numpy() if "bfloat16" in str(tensor.dtype) else tensor.numpy())
    return np.asarray(value)


def first_nonfinite_rows(values: FloatArray, limit: int = 5, *, progress: Progress = False) -> tuple[list[int], int]:
    """Return the first rows that hold nan or inf, and how many there are. Reads in blocks."""
    found: list[int] = []
    count = 0
    for block in tracked(blocks(len(values), values.shape[1] * values.itemsize), progress, "read and check"):
        bad = np.flatnonzero(~np.isfinite(values[block]).all(axis=1))
        count += len(bad)
        found.extend(int(block.start + i) for i in bad[: limit - len(found)])
    return found, count


def as_features(
    value: Any,
    name: str = "features",
    *,
    width: int | None = None,
    finite: bool = True,
    progress: Progress = False,
) -> FloatArray:
    """Return `value` as a floating (n, d) array without copying it, or raise."""
    array = to_numpy(value)
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} has dtype {array.dtype}: want floating point (float16, float32, float64); cast it first"
        )
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}: want two dimensions (samples, features)")
    if array.shape[1] == 0:
        raise ValueError(f"{name} has shape {array.shape}: want at least one feature")
    if width is not None and array.shape[1] != width:
        raise ValueError(
            f"{name} has {array.shape[1]} columns: want {width}, the width of the rows it is compared with"
        )
    if finite:
        rows, count = first_nonfinite_rows(array, progress=progress)
        if count:
            raise ValueError(
                f"{name} has nan or inf in {count} of {len(array)} rows (first: {rows}): remove them first"
            )
    return array


def forget(values: npt.NDArray[Any] | ShardedRows) -> None:
    """Let go of the pages of a file's memory map that were read or written: they need not stay resident."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for part in values.held() if isinstance(values, ShardedRows) else [values]:
        base: Any = part
        while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
            base = base.base
        if isinstance(base, np.memmap) and base.mode != "c" and isinstance(base.base, mmap.mmap):
            base.base.madvise(mmap.MADV_DONTNEED)


def as_float32(array: FloatArray) -> npt.NDArray[np.float32]:
    """Return C-contiguous, aligned, native float32 rows; a copy only where needed. float64 is rounded once."""
    if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
        return cast("npt.NDArray[np.float32]", array)  # at once: what follows takes longer than a small search
    with np.errstate(over="ignore"):
        rows = np.require(array, dtype=np.dtype("=f4"), requirements=["C", "A"])
    if array.dtype.itemsize > 4 and not np.isfinite(rows).all():
        raise ValueError("values are too large for float32 (above 3.4e38): rescale the features first")
    return rows


def as_labels(value: Any, n: int, name: str = "labels", *, classes: int | None = None) -> npt.NDArray[np.int64]:
    """Return `value` as int64 labels of shape (n,) in [0, classes), or raise."""
    array = to_numpy(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}: want integers (class numbers from 0)")
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}: want ({n},), one for each row")
    labels = np.ascontiguousarray(array, dtype=np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= classes)) if classes is not None else np.flatnonzero(labels < 0)
    if len(bad):
        top = "" if classes is None else f" and below {classes}"
        raise ValueError(f"{name}[{bad[0]}] is {labels[bad[0]]} ({len(bad)} such): want class numbers from 0{top}")
    return labels


def as_ids(value: Any, n: int, name: str, *, rows: int, optional: bool = False) -> npt.NDArray[np.int64]:
    """Return `value` as int64 row numbers of shape (n,) in [0, rows); None and -1 mean "none" where optional."""
    if value is None and optional:
        return np.full(n, -1, dtype=np.int64)
    array = to_numpy(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}: want integers (row numbers)")
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}: want ({n},)")
    ids = np.ascontiguousarray(array, dtype=np.int64)
    least = -1 if optional else 0
    if ids.size and (ids.min() < least or ids.max() >= rows):
        bad = np.flatnonzero((ids < least) | (ids >= rows))
        raise ValueError(f"{name}[{bad[0]}] is {ids[bad[0]]}: want row numbers below {rows}")
    return ids


def as_count(value: Any, name: str, *, low: int = 1, high: int | None = None, why: str = "") -> int:
    """Return `value` as an int in [low, high], or raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}: want a whole number")
    if value < low or (high is not None and value > high):
        top = "" if high is None else f" and at most {high}"
        raise ValueError(f"{name} is {value}: want at least {low}{top}{why}")
    return int(value)


def as_number(value: Any, name: str, *, low: float = 0.0, high: float = math.inf) -> float:
    """Return `value` as a float in [low, high], or raise; nan is none."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        wanted = f"of at least {low:g}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}: want a number {wanted}")
    return float(value)


def as_threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked, else the cores that this process may use."""
    if threads is not None:
        return as_count(threads, "threads", high=1024)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores(cores)))


def _cgroup_cores(default: int) -> int:
    """Cores allowed by the container's quota (cgroup v2), or `default`."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return default if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return default
