"""Features with their labels and ids: from arrays and files, and back to files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_labels, to_numpy

__all__ = ["Features"]


@dataclass(frozen=True, slots=True)
class Features:
    """Feature vectors with labels and ids. Memory-mapped values stay memory-mapped."""

    values: npt.NDArray[np.floating[Any]]
    """float16, float32 or float64, (n, d)."""
    labels: npt.NDArray[np.int64]
    """Class numbers from 0, int64 (n,)."""
    ids: npt.NDArray[Any]
    """Unique names of the samples, int64 or str (n,). Default: row numbers."""
    class_names: tuple[str, ...] | None = None
    predictions: npt.NDArray[np.int64] | None = None
    """The model's predictions, int64 (n,); a probe needs them."""
    source: str | None = None
    """Where they came from, for the report."""

    @classmethod
    def from_arrays(
        cls,
        values: Any,
        labels: Any,
        *,
        ids: Any = None,
        class_names: tuple[str, ...] | None = None,
        predictions: Any = None,
        source: str | None = None,
    ) -> Features:
        """Check and wrap arrays or CPU tensors; nothing is copied where dtypes fit."""
        rows = as_features(values, finite=False)
        n = len(rows)
        classes = None if class_names is None else len(class_names)
        names = np.arange(n) if ids is None else to_numpy(ids)
        if names.shape != (n,) or names.dtype.kind not in "iuU":
            raise ValueError(f"ids has dtype {names.dtype} and shape {names.shape}: want ({n},) integers or strings")
        if len(np.unique(names)) != n:
            raise ValueError(f"ids repeat: want {n} different ones")
        return cls(
            rows,
            as_labels(labels, n, classes=classes),
            names,
            class_names,
            None if predictions is None else as_labels(predictions, n, "predictions", classes=classes),
            source,
        )

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Features({self.values.shape} {self.values.dtype}, {len(np.unique(self.labels))} classes)"
