"""Embedding columns: Parquet files and Hugging Face datasets, read batch by batch into one array, and written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import blocks
from clear._files import check_expansion, open_regular
from clear.errors import UnsafeFile, need, short

__all__ = [
    "ColumnNames",
    "class_names",
    "hugging_face_features",
    "open_parquet",
    "plain_column",
    "read_dataset",
    "read_parquet",
    "require_column",
    "write_parquet",
]

Array = npt.NDArray[Any]
Columns = dict[str, Array]
BATCH_ROWS = 1024
EMBEDDING_NAMES = ("embedding", "embeddings", "features", "feature")


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Turn what pyarrow says about a bad file into one line that names it."""
    arrow = need("pyarrow", extra="data")
    try:
        yield
    except UnsafeFile:
        raise
    except (arrow.ArrowException, OSError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise UnsafeFile(f"{name}: damaged or unreadable Parquet ({short(error)})") from None


@contextmanager
def open_parquet(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a Parquet file as `pyarrow.parquet.ParquetFile`; damage found while it is open becomes UnsafeFile."""
    parquet = need("pyarrow.parquet", extra="data")
    name = os.fspath(path)
    open_regular(path).close()
    with _damage_named(name), parquet.ParquetFile(path) as reader:
        metadata = reader.metadata
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if metadata.num_rows < 0 or min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
            raise UnsafeFile(f"{name}: declares {metadata.num_rows} rows, but its row groups {sum(groups)}")
        # Columns are not asked one by one: pyarrow aborts the process on some damaged column metadata.
        unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        check_expansion(name, max(unpacked, 8 * metadata.num_rows), os.stat(path).st_size)
        yield reader


def class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Return the class names that the `huggingface` metadata of an Arrow schema gives a label column, or None."""
    feature = hugging_face_features(schema).get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def hugging_face_features(schema: Any) -> dict[str, Any]:
    """Return the features that Hugging Face wrote into the metadata of an Arrow schema; {} where there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Which columns to read; "auto" looks for the usual names, None reads none."""

    embedding: str
    label: str
    id: str | None
    prediction: str | None
    read_labels: bool = True

    def resolve(self, schema: Any, source: str) -> dict[str, str]:
        """Return the column for each role, or raise a ValueError that lists what there is."""
        chosen = {"features": _find_embedding(schema, self.embedding, source)}
        if self.read_labels:
            chosen["labels"] = self.label
        for role, asked, usual in (("ids", self.id, "id"), ("predictions", self.prediction, "prediction")):
            if asked == "auto":
                asked = usual if usual in schema.names else None
            if asked is not None:
                chosen[role] = asked
        for name in chosen.values():
            require_column(schema, name, source)
        return chosen


def _find_embedding(schema: Any, column: str, source: str) -> str:
    types = need("pyarrow", extra="data").types
    lists = [field.name for field in schema if _is_list(types, field.type) and types.is_floating(field.type.value_type)]
    if column != "auto":
        require_column(schema, column, source)
        if column not in lists:
            kind = schema.field(column).type
            raise ValueError(f"{source}: column {column!r} has type {kind}: want a list of floating-point numbers")
        return column
    known = [name for name in EMBEDDING_NAMES if name in lists]
    if known or len(lists) == 1:
        return (known or lists)[0]
    got = lists or [f"{field.name}: {field.type}" for field in schema]
    raise ValueError(
        f"{source}: want one column with lists of floating-point numbers: pass column= (there is {str(got)[:300]})"
    )


def require_column(schema: Any, column: str, source: str) -> None:
    """Raise unless the schema has exactly one column of that name."""
    if schema.names.count(column) != 1:
        found = "no" if column not in schema.names else "more than one"
        raise ValueError(f"{source}: has {found} column {column!r}: want one of {schema.names}")


def read_parquet(path: str | os.PathLike[str], names: ColumnNames) -> tuple[Columns, tuple[str, ...] | None]:
    """Read the columns named into arrays by role, and the class names of the label column.

    Memory: the arrays returned, and one record batch of 1,024 rows.
    """
    source = os.fspath(path)
    with open_parquet(path) as reader:
        schema = reader.schema_arrow
        chosen = names.resolve(schema, source)
        n = reader.metadata.num_rows
        if n == 0:
            raise ValueError(f"{source}: has no rows")
        batches = reader.iter_batches(batch_size=BATCH_ROWS, columns=list(chosen.values()), use_threads=False)
        arrays = read_batches(batches, n, chosen, source, stored=os.stat(path).st_size)
        return arrays, class_names(schema, names.label)


def read_dataset(dataset: Any, names: ColumnNames, source: str) -> tuple[Columns, tuple[str, ...] | None]:
    """Read the same from a `datasets.Dataset`."""
    schema = dataset.features.arrow_schema
    chosen = names.resolve(schema, source)
    tables = dataset.select_columns(list(chosen.values())).with_format("arrow").iter(batch_size=BATCH_ROWS)
    batches = (batch for table in tables for batch in table.to_batches())
    return read_batches(batches, len(dataset), chosen, source), class_names(schema, names.label)


def read_batches(
    batches: Iterable[Any], n: int, chosen: dict[str, str], source: str, *, stored: int | None = None
) -> Columns:
    """Gather record batches of n rows in total into arrays by role: features (n, d), the others (n,)."""
    values: Array | None = None
    parts: dict[str, list[Array]] = {role: [] for role in chosen if role != "features"}
    start = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if start + batch.num_rows > n:
            raise UnsafeFile(f"{source}: holds more rows than the {n} it declares")
        what = f"{source}: column {chosen['features']!r}"
        rows = _embedding_rows(batch.column(chosen["features"]), start, what)
        if values is None:
            if stored is not None:
                check_expansion(what, n * rows.shape[1] * rows.itemsize, stored)
            values = np.empty((n, rows.shape[1]), rows.dtype)
        if rows.shape[1] != values.shape[1]:
            raise ValueError(f"{what}, row {start} has {rows.shape[1]} values: want {values.shape[1]}")
        values[start : start + len(rows)] = rows
        for role, chunks in parts.items():
            chunks.append(plain_column(batch.column(chosen[role]), start, f"{source}: column {chosen[role]!r}"))
        start += len(rows)
    if values is None or start != n:
        raise UnsafeFile(f"{source}: holds {start} rows, but declares {n}")
    return {"features": values} | {role: np.concatenate(chunks) for role, chunks in parts.items()}


def _embedding_rows(column: Any, start: int, what: str) -> Array:
    """View one batch of a list column as (rows, d)."""
    types = need("pyarrow", extra="data").types
    _refuse_nulls(column, start, what)
    if types.is_fixed_size_list(column.type):
        width = column.type.list_size
    else:
        lengths = np.diff(np.asarray(column.offsets))
        width = int(lengths[0])
        ragged = np.flatnonzero(lengths != width)
        if len(ragged):
            raise ValueError(
                f"{what}, row {start + ragged[0]} has {lengths[ragged[0]]} values: want {width}, as the rows before it"
            )
    flat = column.flatten()
    if flat.null_count:
        first = int(np.flatnonzero(np.asarray(flat.is_null()))[0])
        raise ValueError(f"{what}, row {start + first // max(1, width)} holds a null: want numbers only")
    return np.asarray(flat.to_numpy(zero_copy_only=True)).reshape(len(column), width)


def plain_column(column: Any, start: int, what: str) -> Array:
    """Return one batch of integers or strings as an array; dictionary-encoded strings are decoded."""
    types = need("pyarrow", extra="data").types
    _refuse_nulls(column, start, what)
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=True))
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    raise ValueError(f"{what} has type {column.type}: want integers (or strings, for ids)")


def _refuse_nulls(column: Any, start: int, what: str) -> None:
    if column.null_count:
        first = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise ValueError(
            f"{what}, row {start + first} is null ({column.null_count} in this batch): remove such rows first"
        )


def _is_list(types: ModuleType, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def write_parquet(path: Path, values: Array, plain: Columns, names: tuple[str, ...] | None) -> None:
    """Write `values` (n, d) as a fixed-size list column "embedding" beside plain columns, in blocks of about 16 MiB."""
    arrow = need("pyarrow", extra="data")
    parquet = need("pyarrow.parquet", extra="data")
    native = values.dtype.newbyteorder("=")
    kind = arrow.list_(arrow.from_numpy_dtype(native), values.shape[1])
    fields = [arrow.field("embedding", kind)]
    fields += [arrow.field(key, arrow.string() if a.dtype.kind == "U" else arrow.int64()) for key, a in plain.items()]
    features = {"label": {"names": list(names), "_type": "ClassLabel"}} if names else {}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    schema = arrow.schema(fields, metadata=metadata)
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks(len(values), values.shape[1] * values.itemsize):
            flat = np.ascontiguousarray(values[block], dtype=native).reshape(-1)
            columns = [arrow.FixedSizeListArray.from_arrays(arrow.array(flat), type=kind)]
            columns += [arrow.array(a[block], type=schema.field(key).type) for key, a in plain.items()]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
