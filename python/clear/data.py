"""Features with their labels and ids: from arrays and files, and back to files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_labels, to_numpy
from clear._files import COLUMNS, MANIFEST, atomic_write, is_url
from clear._npy import read_npy, read_npz
from clear._parquet import ColumnNames, read_dataset, read_parquet, write_parquet
from clear._urls import local_path
from clear.errors import need
from clear.store import open_store, write_store

__all__ = ["Features", "open_features", "save_features"]


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


def open_features(
    path: Any,
    *,
    labels: Any = None,
    column: str = "auto",
    label_column: str = "label",
    id_column: str | None = "auto",
    prediction_column: str | None = "auto",
) -> Features:
    """Open features with their labels from a file or a Hugging Face dataset.

    Parameters
    ----------
    path : path or datasets.Dataset
        - `.npy`: the values, float16/32/64 (n, d), memory-mapped. Beside it may lie `<stem>.labels.npy`,
          `<stem>.ids.npy`, `<stem>.predictions.npy` and `<stem>.class_names.npy`.
        - `.npz`: arrays `features`, `labels`, and perhaps `ids`, `predictions`, `class_names`; read into memory.
        - `.parquet`: a column of (fixed-size) lists of floats, a label column, and perhaps ids and predictions.
        - a folder: a feature store (`save_features` and `clear-pockets features` write them; docs/scaling.md), whose
          shards stay memory-mapped; or a data set that Hugging Face `datasets` has saved there.
        - a URL that fsspec knows (`file://`, `s3://`, ...) of one of these, with fsspec installed; it is copied
          to a temporary folder first, unless it is local.
        - a `datasets.Dataset` with such columns.
    labels : array of int, or path, optional
        Labels (n,) instead of those in or beside the file: an array, an `.npy` file, or an `.npz` file with `labels`
        (or a URL of one).
    column : str
        Embedding column. "auto" takes "embedding", "embeddings", "features" or "feature", else the only candidate.
    label_column : str
        Label column; class names come from the Hugging Face metadata where there are any.
    id_column, prediction_column : str or None
        "auto" takes "id" and "prediction" where they exist; None takes none (ids are then row numbers).

    Returns
    -------
    Features
        Values keep their dtype; those of an `.npy` file stay an `np.memmap`.

    Raises
    ------
    UnsafeFile
        The file is damaged, lies about its sizes, or holds pickled objects. Nothing is allocated before this is known.
    TypeError, ValueError
        Wrong types, nulls, ragged lists, missing columns or labels.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from clear.data import Features, open_features, save_features
    >>> path = tempfile.mkdtemp() + "/train.npz"
    >>> save_features(Features.from_arrays(np.eye(4, dtype=np.float32), [0, 1, 1, 0]), path)
    >>> open_features(path)
    Features((4, 4) float32, 2 classes)
    """
    given = _open_labels(labels)
    columns = ColumnNames(column, label_column, id_column, prediction_column, read_labels=labels is None)
    if type(path).__module__.partition(".")[0] == "datasets":
        source = f"dataset {path.info.dataset_name or path.info.builder_name or 'in memory'}"
        return _from_columns(*read_dataset(path, columns, source), given, source)
    file = Path(local_path(path))
    source = os.fspath(path) if is_url(path) else str(file)
    if (file / MANIFEST).exists() or (file / "state.json").exists():
        return _from_folder(file, columns, given, source)
    if file.suffix == ".npy":
        return _from_npy(file, given, source)
    if file.suffix == ".npz":
        arrays = read_npz(file, ("features", *COLUMNS))
        for key in ("features", "labels") if labels is None else ("features",):
            _require(arrays, key, file)
        return _from_columns(arrays, _names(arrays.get("class_names"), file), given, source)
    if file.suffix in (".parquet", ".pq"):
        return _from_columns(*read_parquet(file, columns), given, source)
    raise ValueError(f"{path}: suffix {file.suffix!r} is not known: want .npy, .npz, .parquet or a feature store")


def save_features(
    features: Features,
    path: str | os.PathLike[str],
    *,
    dtype: Literal["float16", "float32", "float64", "bfloat16"] | None = None,
) -> None:
    """Write features so that `open_features` reads the same back: `.npz`, `.parquet`, `.npy` with siblings, or a store.

    A name without a suffix is the folder of a feature store: shards that stay memory-mapped, with their SHA-256. The
    other files have no digest: a number that was changed later may go unnoticed.

    Files appear under their final names only when they are complete; `.npy` siblings of an older save that the new
    one does not have are removed. Parquet needs pyarrow.

    Parameters
    ----------
    features : Features
    path : path
    dtype : {"float16", "float32", "float64", "bfloat16"}, optional
        Of the values in a store; default: their own. NumPy has no bfloat16: `Features` holds such values as float32,
        and a store that keeps them as bfloat16 gives the same ones back from half the room.

    Raises
    ------
    ValueError
        The suffix is not one of these; `dtype` is given for another file than a store; a value of a store is nan or
        inf, or becomes so.
    OSError
        The place cannot be written to.
    """
    target = Path(path)
    if dtype is not None and target.suffix:
        raise ValueError(f"dtype is {dtype!r}: want a feature store (a name without a suffix), got {target.name}")
    plain = {name: getattr(features, name) for name in COLUMNS if getattr(features, name) is not None}
    plain = {name: np.asarray(value) for name, value in plain.items()}
    if target.suffix == ".npz":
        with atomic_write(target) as temporary, open(temporary, "wb") as file:
            np.savez(file, features=features.values, **plain)
    elif target.suffix in (".parquet", ".pq"):
        columns = {"label": plain["labels"], "id": plain["ids"], "prediction": plain.get("predictions")}
        present = {name: values for name, values in columns.items() if values is not None}
        with atomic_write(target) as temporary:
            write_parquet(temporary, features.values, present, features.class_names)
    elif target.suffix == ".npy":
        _save_npy(target, features.values, plain)
    elif target.suffix == "":
        write_store(target, features.values, plain, features.class_names, source=features.source, dtype=dtype)
    else:
        raise ValueError(f"{path}: suffix {target.suffix!r} is not known: want .npz, .npy, .parquet, or none (a store)")


def _save_npy(target: Path, values: npt.NDArray[Any], plain: dict[str, npt.NDArray[Any]]) -> None:
    """All files are complete before the first gets its name; the features, entered first, get theirs last."""
    with ExitStack() as stack:
        files = {target: values} | {_sibling(target, name): array for name, array in plain.items()}
        for path, array in files.items():
            with open(stack.enter_context(atomic_write(path)), "wb") as file:
                np.save(file, array, allow_pickle=False)
        for name in COLUMNS:
            if name not in plain:
                _sibling(target, name).unlink(missing_ok=True)


def _sibling(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}.{name}.npy")


def _open_labels(labels: Any) -> Any:
    """Labels as an array: given as one, or as the path of one."""
    if not isinstance(labels, (str, os.PathLike)):
        return labels
    path = Path(local_path(labels))
    if path.suffix == ".npy":
        return read_npy(path)
    if path.suffix != ".npz":
        raise ValueError(f"labels: {path} has suffix {path.suffix!r}: want .npy or .npz")
    arrays = read_npz(path, ["labels"])
    _require(arrays, "labels", path)
    return arrays["labels"]


def _require(arrays: dict[str, npt.NDArray[Any]], key: str, path: Path) -> None:
    if key not in arrays:
        raise ValueError(f"{path}: has no array {key!r}: want features and labels (or pass labels=)")


def _names(array: npt.NDArray[Any] | None, path: Path) -> tuple[str, ...] | None:
    if array is None:
        return None
    if array.dtype.kind != "U" or array.ndim != 1:
        raise ValueError(
            f"{path}: class_names has dtype {array.dtype} and shape {array.shape}: want strings (classes,)"
        )
    return tuple(str(name) for name in array)


def _from_folder(folder: Path, columns: ColumnNames, labels: Any, source: str) -> Features:
    """A feature store, or a data set that Hugging Face has saved."""
    if (folder / MANIFEST).exists():
        arrays, names, _ = open_store(folder)
        return _from_columns(arrays, names, labels, source)
    dataset = need("datasets", extra="hf").load_from_disk(os.fspath(folder))
    return _from_columns(*read_dataset(dataset, columns, source), labels, source)


def _from_npy(path: Path, labels: Any, source: str) -> Features:
    beside = {name: _sibling(path, name) for name in COLUMNS}
    if labels is None and not beside["labels"].exists():
        raise ValueError(f"{path}: has no labels: want them in {beside['labels'].name} beside it, or pass labels=")
    wanted = {name: file for name, file in beside.items() if file.exists() and (name != "labels" or labels is None)}
    arrays = {"features": read_npy(path)} | {name: read_npy(file) for name, file in wanted.items()}
    return _from_columns(arrays, _names(arrays.get("class_names"), beside["class_names"]), labels, source)


def _from_columns(
    arrays: dict[str, npt.NDArray[Any]], names: tuple[str, ...] | None, labels: Any, source: str
) -> Features:
    return Features.from_arrays(
        arrays["features"],
        arrays["labels"] if labels is None else labels,
        ids=arrays.get("ids"),
        class_names=names,
        predictions=arrays.get("predictions"),
        source=source,
    )
