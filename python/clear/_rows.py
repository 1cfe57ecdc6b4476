"""Rows that lie in several files, read as if they were one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ShardedRows"]


class ShardedRows:
    """A read-only (n, d) array in pieces: slices and row numbers give NumPy arrays, and nothing else is read.

    `load` returns piece i as an array (rows of it, d); asked again each time, so that it decides what stays mapped.
    `convert` turns stored rows into `dtype`. `np.asarray` reads everything into memory.
    """

    ndim = 2

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        dtype: npt.DTypeLike,
        load: Callable[[int], npt.NDArray[Any]],
        convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = np.asarray,
    ) -> None:
        self._ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
        self._load = load
        self._convert = convert
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.shape = (int(self._ends[-1]) if len(sizes) else 0, width)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows once they are read."""
        return self.shape[0] * self.shape[1] * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ShardedRows({self.shape} {self.dtype}, {len(self._ends)} pieces)"

    def held(self) -> list[npt.NDArray[Any]]:
        """All pieces, as they are loaded."""
        return [self._load(piece) for piece in range(len(self._ends))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("rows in several files cannot be viewed as one array without a copy")
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._range(start, max(start, stop)) if step == 1 else self._pick(np.arange(start, stop, step))
        if isinstance(rows, (int, np.integer)):
            taken: npt.NDArray[Any] = self._pick(np.array([rows]))[0]
            return taken
        asked = np.asarray(rows)
        return self._pick(np.flatnonzero(asked) if asked.dtype == np.bool_ else asked.astype(np.int64))

    def _range(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Consecutive rows: a view where one piece has them all."""
        parts = []
        while start < stop:
            piece = int(np.searchsorted(self._ends, start, side="right"))
            offset = int(self._ends[piece - 1]) if piece else 0
            end = min(stop, int(self._ends[piece]))
            parts.append(self._convert(self._load(piece)[start - offset : end - offset]))
            start = end
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.dtype)

    def _pick(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        wanted = np.where(rows < 0, rows + len(self), rows)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"row {rows.min() if rows.min() < 0 else rows.max()}: there are {len(self)} rows")
        taken = np.empty((len(wanted), self.shape[1]), self.dtype)
        pieces = np.searchsorted(self._ends, wanted, side="right")
        for piece in np.unique(pieces):
            here = pieces == piece
            offset = int(self._ends[piece - 1]) if piece else 0
            taken[here] = self._convert(self._load(int(piece))[wanted[here] - offset])
        return taken
