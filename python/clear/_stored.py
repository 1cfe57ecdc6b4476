"""Rows as they are kept: float32, or float16 and bfloat16 in half the memory. Widening to float32 is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_float32, blocks

__all__ = ["StoredRows", "as_stored"]

BFLOAT16_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows that native code reads where they are."""

    values: npt.NDArray[Any]
    """(n, d), C order: float32, float16, or bfloat16 as uint16. Any floating dtype and order before `pack`."""
    bfloat16: bool

    @property
    def storage(self) -> Literal["float32", "float16", "bfloat16"]:
        """The name of the precision in native code."""
        if self.bfloat16:
            return "bfloat16"
        return "float16" if self.values.dtype == np.float16 else "float32"

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> StoredRows:
        """Copy chosen rows."""
        return StoredRows(self.values[rows], self.bfloat16)

    def pack(self, part: slice = slice(None)) -> StoredRows:
        """Some rows as native code takes them; copied only where order or dtype ask for it."""
        values = self.values[part]
        if self.storage == "float32":
            return StoredRows(as_float32(values), False)
        return StoredRows(np.require(values, values.dtype.newbyteorder("="), ["C", "A"]), self.bfloat16)

    def widen(self, part: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Some rows in float32."""
        values = self.values[part]
        if not self.bfloat16:
            return as_float32(values)
        return (np.ascontiguousarray(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def as_stored(value: Any, name: str, *, width: int | None = None, finite: bool = True) -> StoredRows:
    """Check features, (n, d), without changing how they are kept.

    Finite, or where they need not be: widened to float32 if they are not, because native code reads 16 bits as finite.
    """
    bits = _bfloat16_bits(value)
    if bits is None:
        rows = StoredRows(as_features(value, name, width=width, finite=finite), False)
        if finite or rows.storage == "float32" or np.isfinite(rows.values).all():
            return rows
        return StoredRows(rows.widen(), False)
    as_features(bits.view(np.float16), name, width=width, finite=False)  # checks the shape
    rows = StoredRows(bits, True)
    for block in blocks(len(bits), bits.shape[1] * 2):
        if ((bits[block] & BFLOAT16_EXPONENT) == BFLOAT16_EXPONENT).any():
            return StoredRows(as_features(rows.widen(), name, finite=finite), False)  # or raises, and names the rows
    return rows


def _bfloat16_bits(value: Any) -> npt.NDArray[np.uint16] | None:
    """The bits of a bfloat16 tensor of torch, or of an array with the dtype of ml_dtypes; None for anything else."""
    if type(value).__module__.partition(".")[0] == "torch":
        if "bfloat16" not in str(value.dtype):
            return None
        import torch  # its caller has it

        return np.asarray(value.detach().cpu().contiguous().view(torch.int16).numpy()).view(np.uint16)
    array = value if isinstance(value, np.ndarray) else None
    if array is None or array.dtype.kind != "V" or array.dtype.name != "bfloat16":
        return None
    return array.view(np.uint16)
