"""Features made ready to be measured: centred, projected when wide, of unit length; copies and classes counted."""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clear._arrays import FloatArray, blocks, forget
from clear._blas import one_numpy_thread
from clear._progress import Progress, tracked
from clear.config import ScanConfig
from clear.data import Features
from clear.results import Preparation

__all__ = [
    "Ints",
    "Number",
    "Numbers",
    "Rows",
    "apply_preparation",
    "count_classes",
    "describe_samples",
    "distinct_rows",
    "find_representatives",
    "fit_preparation",
    "join_some",
    "put_away",
    "room",
    "row_type",
    "thin_classes",
]

FILED_BYTES = 1 << 26
"""Of an array that lies in a file of the folder of work, where there is one."""
Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32 | np.int64]
"""Of rows, as `row_type`."""
Number = TypeVar("Number", bound=np.generic)


def fit_preparation(
    values: FloatArray, config: ScanConfig, *, rows: int | None = None, progress: Progress = False
) -> Preparation:
    """Measure the mean, and the leading principal components of wide features. Reads `values` in blocks.

    `rows`: so many of the first rows alone.
    """
    n, d = len(values) if rows is None else rows, values.shape[1]
    mean = np.zeros(d)
    for block in tracked(blocks(n, d * 8), progress, "mean"):
        mean += values[block].astype(np.float64).sum(axis=0)
        forget(values)
    mean /= n
    if d <= config.pca_above:
        return Preparation(mean, None)
    covariance = np.zeros((d, d))
    with one_numpy_thread():
        for block in tracked(blocks(n, d * 8), progress, "covariance"):
            centred = values[block].astype(np.float64) - mean
            covariance += centred.T @ centred
        _, vectors = np.linalg.eigh(covariance)
    components = vectors[:, ::-1][:, : config.pca_width].T.copy()
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    return Preparation(mean, components)


def apply_preparation(
    values: FloatArray, preparation: Preparation, *, place: Path | None = None, progress: Progress = False
) -> Rows:
    """Map (n, d) features to float32 unit rows; rows equal to the mean stay zero. Reads `values` in blocks.

    place: a folder for the rows where they are many; they then lie in a file without a name, gone when they are.
    """
    width = values.shape[1] if preparation.components is None else len(preparation.components)
    mapped: Rows = room((len(values), width), np.float32, place)
    with nullcontext() if preparation.components is None else one_numpy_thread():
        for block in tracked(blocks(len(values), values.shape[1] * 8), progress, "prepare"):
            centred = values[block].astype(np.float64)
            centred -= preparation.mean
            if preparation.components is not None:
                centred = centred @ preparation.components.T
            centred /= np.maximum(np.abs(centred).max(axis=1, keepdims=True), 1e-300)
            centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-300)
            mapped[block] = centred
            mapped[block] += np.float32(0)  # one zero: -0.0 and 0.0 must be the same bits below
            forget(values)
    return mapped


def room(shape: tuple[int, ...], kind: type[Number], place: Path | None) -> npt.NDArray[Number]:
    """Room for an array: memory, or from `FILED_BYTES` on a file of the folder, so that the system can write pages out.

    The file has no name, and is gone when the array is; `_arrays.forget` lets go of its pages.
    """
    dtype = np.dtype(kind)
    size = dtype.itemsize * math.prod(shape)
    if place is None or size < FILED_BYTES or not hasattr(os, "posix_fallocate"):
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=place) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a signal later
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: want room for {size} bytes", str(place)) from error
        return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)


def row_type(rows: int) -> type[np.int32 | np.int64]:
    """The smaller type that numbers so many rows."""
    return np.int32 if rows < 1 << 31 else np.int64


def put_away(values: npt.NDArray[Number], place: Path | None) -> npt.NDArray[Number]:
    """A large array in a file (`room`), none of it in memory any more; another as it is."""
    kept = room(values.shape, values.dtype.type, place)
    if not isinstance(kept.base, np.memmap):
        return values
    kept[:] = values
    forget(kept)
    return kept


def find_representatives(rows: Rows, labels: Ints) -> Ints:
    """Return, for each row, the first row with the same features and label (itself, where there is none)."""
    n, width = rows.shape
    factors = np.random.default_rng(0).integers(1, 2**63, size=width + 1, dtype=np.uint64) | np.uint64(1)
    keys = labels.astype(np.uint64) * factors[-1]
    for block in blocks(n, width * 16):
        bits = rows[block].view(np.uint32).astype(np.uint64)
        bits *= factors[:-1]
        keys[block] += bits.sum(axis=1)
    order = np.argsort(keys, kind="stable")  # of equal keys the first row comes first
    keys = keys[order]
    repeats = 1 + np.flatnonzero(keys[1:] == keys[:-1])
    heads = repeats[np.diff(repeats, prepend=-1) > 1] - 1  # where rows of one key begin
    copies = order[repeats]
    firsts = order[heads[np.searchsorted(heads, repeats) - 1]]
    found = np.arange(n)
    for block in blocks(len(copies), width * 8):
        copy, first = copies[block], firsts[block]
        same = (rows[copy] == rows[first]).all(axis=1) & (labels[copy] == labels[first])
        found[copy[same]] = first[same]
    return found


def distinct_rows(representative: Ints) -> Ints:
    """Rows that are their own representatives, ascending: the same array where all are."""
    distinct = representative == np.arange(len(representative))
    return representative if distinct.all() else np.flatnonzero(distinct)


def thin_classes(labels: Ints, agrees: npt.NDArray[np.bool_], class_sizes: Ints, config: ScanConfig) -> Ints:
    """Classes where too few samples are predicted as such to span a hull."""
    kept = np.bincount(labels[agrees], minlength=len(class_sizes))
    return np.flatnonzero(kept < np.minimum(class_sizes, config.hull_size))


def count_classes(features: Features) -> int:
    """Return the number of classes, named or counted from the labels; a stray label must not cost memory."""
    present = np.unique(features.labels)
    if len(present) < 2:
        raise ValueError(f"labels hold {len(present)} class: want at least two, since pockets lie between classes")
    if features.class_names is not None:
        return len(features.class_names)
    largest = int(present[-1])
    if largest >= max(1000, 10 * len(features.labels)):
        row = int(features.labels.argmax())
        raise ValueError(f"labels[{row}] is {largest}: want class numbers from 0 without large gaps; renumber them")
    return largest + 1


def describe_samples(n: int, units: Ints, class_sizes: Ints) -> list[str]:
    """Notes on copies and empty classes."""
    notes = []
    if len(units) < n:
        notes.append(
            f"{n - len(units)} of {n} samples are exact duplicates of another with the same label; each counts once"
        )
    empty = np.flatnonzero(class_sizes == 0)
    if len(empty):
        notes.append(f"class {join_some(empty)} has no samples")
    return notes


def join_some(values: Any, limit: int = 8) -> str:
    """The first numbers, and how many more there are."""
    text = ", ".join(str(int(v)) for v in values[:limit])
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"
