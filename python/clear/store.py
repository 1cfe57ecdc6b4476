"""Features in a folder: typed shards that stay memory-mapped, and a manifest with their lengths and SHA-256.

manifest.json         what the shards are; entries for finished ones only; with a digest of its own
values-00000.npy      (rows, width), float16, float32, float64, or bfloat16 (as uint16)
labels-00000.npy      int64 (rows,); so too predictions-*.npy and, unless ids are row numbers, ids-*.npy

Files are numbered from the manifest's `first`, which is 0 unless the store has replaced another.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, blocks, first_nonfinite_rows
from clear._documents import damage_named, read_document, read_older, write_document
from clear._files import MANIFEST, make_folder, remove_leftovers
from clear._npy import MAX_HEADER, read_npy
from clear._parts import REMEDY, Array, check_entry, check_length, check_part, read_part, require_shape, write_part
from clear._rows import ShardedRows
from clear.errors import UnsafeFile

__all__ = [
    "DTYPES",
    "SHARD_ROWS",
    "add_shard",
    "damaged_shards",
    "finished_rows",
    "open_store",
    "read_manifest",
    "start_store",
    "write_store",
]

SCHEMA = "clear-features/1"
WHAT = "feature store"
SHARD_ROWS = 1 << 16
DTYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "bfloat16": "<u2"}
"""How values of a type are stored."""
ROLES = ("values", "labels", "ids", "predictions")
MAX_MANIFEST = 64 << 20
MAX_ROWS = 1 << 40
MAX_WIDTH = 1 << 24

Manifest = dict[str, Any]


def start_store(
    folder: str | os.PathLike[str],
    *,
    rows: int,
    width: int,
    dtype: str,
    class_names: tuple[str, ...] | None = None,
    source: str | None = None,
    made_by: dict[str, Any] | None = None,
) -> Manifest:
    """Begin a store of `rows` rows, or go on with one that the same inputs have begun (`made_by` says which).

    Returns the manifest. Raises ValueError when the folder holds a store of something else. Without `made_by` a store
    that is there stays, until the manifest of the new one, whose shards are numbered after its own, is written. Shards
    of a store whose manifest was deleted do not stay.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: want one of {list(DTYPES)}")
    place = make_folder(folder)
    remove_leftovers(place)
    older = read_older(place / MANIFEST, SCHEMA, what=WHAT, limit=MAX_MANIFEST)
    if older is None and made_by is not None:
        _remove(_orphans(place))
    manifest: Manifest = {
        "schema": SCHEMA,
        "rows": as_count(rows, "rows", high=MAX_ROWS),
        "width": as_count(width, "width", high=MAX_WIDTH),
        "dtype": dtype,
        "class_names": None if class_names is None else list(class_names),
        "source": source,
        "made_by": made_by,
        "first": 0 if made_by is not None else 1 + max(_shard_files(place).values(), default=-1),
        "shards": [],
    }
    if older is None:
        write_document(place / MANIFEST, manifest)
    elif made_by is not None:
        found = read_manifest(place)
        for name, wanted in manifest.items():
            if name not in ("shards", "source") and found[name] != wanted:  # the data's hash is in made_by
                what = _difference(found[name], wanted) if name == "made_by" else name
                raise ValueError(
                    f"{place / MANIFEST} was begun with other inputs ({what} differs): want the same command, or a new "
                    "folder"
                )
        return found
    return manifest


def finished_rows(manifest: Manifest) -> int:
    """Rows in finished shards."""
    return sum(shard["rows"] for shard in manifest["shards"])


def damaged_shards(folder: str | os.PathLike[str], manifest: Manifest) -> list[int]:
    """Finished shards with a file that is missing or damaged, each named in a warning. Reads all files."""
    damaged = []
    for number, shard in enumerate(manifest["shards"]):
        try:
            for entry in shard["files"].values():
                check_part(Path(folder), entry)
        except (UnsafeFile, FileNotFoundError) as error:
            found = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            found = found.removesuffix(f": {REMEDY}")
            warnings.warn(f"{found}; this shard is made again", RuntimeWarning, stacklevel=3)
            damaged.append(number)
    return damaged


def add_shard(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    values: Array,
    labels: Array,
    *,
    ids: Array | None = None,
    predictions: Array | None = None,
    number: int | None = None,
) -> Manifest:
    """Write the next shard and enter it in the manifest, which is returned; a kill leaves all of it or nothing.

    values (rows, width); labels int64 (rows,); ids int64 or str (rows,), None where they are the row numbers. With
    `number` it takes the place of a finished shard that is damaged.
    """
    turn = len(manifest["shards"]) if number is None else number
    grown = _write_shard(Path(folder), manifest, turn, values, labels, ids=ids, predictions=predictions)
    write_document(Path(folder) / MANIFEST, grown)
    return grown


def _write_shard(
    place: Path,
    manifest: Manifest,
    turn: int,
    values: Array,
    labels: Array,
    *,
    ids: Array | None = None,
    predictions: Array | None = None,
) -> Manifest:
    """Write the files of a shard; returns the manifest that has it, which is not written yet."""
    arrays = {"values": _encode(values, manifest["dtype"]), "labels": np.asarray(labels, dtype="<i8")}
    if ids is not None:
        arrays["ids"] = ids if ids.dtype.kind == "U" else np.asarray(ids, dtype="<i8")
    if predictions is not None:
        arrays["predictions"] = np.asarray(predictions, dtype="<i8")
    files = {}
    for role, array in arrays.items():
        files[role] = write_part(place / f"{role}-{manifest['first'] + turn:05}.npy", array)
    shards = list(manifest["shards"])
    shards[turn : turn + 1] = [{"rows": len(values), "files": files}]
    return manifest | {"shards": shards}


def write_store(
    folder: str | os.PathLike[str],
    values: Array,
    plain: dict[str, Array],
    class_names: tuple[str, ...] | None,
    *,
    source: str | None = None,
    dtype: str | None = None,
    shard_rows: int = SHARD_ROWS,
) -> None:
    """Write (n, d) values, read in blocks, and `plain` columns (labels, ids, predictions) as a store.

    A store that is there, perhaps the one that the values are mapped from, is replaced at once, when the manifest of
    the new one gets its name; a folder with a manifest of something else is refused.
    """
    n, width = values.shape
    kind = values.dtype.newbyteorder("=").name if dtype is None else dtype
    place, step = Path(folder), as_count(shard_rows, "shard_rows")
    replaced = (place / MANIFEST).exists()
    manifest = start_store(folder, rows=n, width=width, dtype=kind, class_names=class_names, source=source)
    older = list(_shard_files(place)) if replaced else _orphans(place)
    ids = plain.get("ids")
    numbered = ids is not None and ids.dtype.kind != "U" and np.array_equal(ids, np.arange(n))
    for turn, start in enumerate(range(0, n, step)):
        part = slice(start, min(n, start + step))
        columns = {name: plain[name][part] for name in ("ids", "predictions") if plain.get(name) is not None}
        if numbered:
            del columns["ids"]
        manifest = _write_shard(place, manifest, turn, values[part], plain["labels"][part], **columns)
    write_document(place / MANIFEST, manifest)
    _remove(older)


def open_store(folder: str | os.PathLike[str]) -> tuple[dict[str, Array], tuple[str, ...] | None, str | None]:
    """Open a finished store: arrays by role (features, labels, ids?, predictions?), class names, and where it is from.

    Features are an array (one shard) or `ShardedRows`, memory-mapped. Lengths are compared with the manifest now, the
    SHA-256 of labels, ids and predictions too; that of a shard of features when its rows are first asked for, as are
    nan and inf. Each fault is an UnsafeFile that names the file.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    shards, done = manifest["shards"], finished_rows(manifest)
    if done != manifest["rows"]:
        raise ValueError(
            f"{place} is unfinished: {done} of {manifest['rows']} rows are written; run the command that began it again"
        )
    for shard in shards:
        for entry in shard["files"].values():
            check_length(place, entry)
    columns = {
        role: np.concatenate([_read_column(place, shard, role) for shard in shards])
        for role in ROLES[1:]
        if role in shards[0]["files"]
    }
    columns["features"] = _open_values(place, manifest)
    names = manifest["class_names"]
    return columns, None if names is None else tuple(names), manifest["source"]


def _open_values(place: Path, manifest: Manifest) -> Array:
    ready: dict[int, Array] = {}
    brain = manifest["dtype"] == "bfloat16"

    def load(piece: int) -> Array:
        if piece not in ready:
            ready[piece] = _read_values(place, manifest, piece)
        return ready[piece]

    sizes = [shard["rows"] for shard in manifest["shards"]]
    if len(sizes) == 1 and not brain:
        return load(0)
    rows: Any = (
        ShardedRows(sizes, manifest["width"], "<f4", load, widen_bfloat16)
        if brain
        else ShardedRows(sizes, manifest["width"], DTYPES[manifest["dtype"]], load)
    )
    return cast("Array", rows)


def _read_values(place: Path, manifest: Manifest, piece: int) -> Array:
    """Map the values of a shard once their hash is right; values that are not finite are a fault of the file."""
    shard = manifest["shards"][piece]
    path = place / shard["files"]["values"]["file"]
    values = read_part(place, shard["files"]["values"])
    require_shape(values, path, (shard["rows"], manifest["width"]), DTYPES[manifest["dtype"]])
    rows, count = _nonfinite_rows(values)
    if count:
        raise UnsafeFile(f"{path}: has nan or inf in {count} of {len(values)} rows (first: {rows})")
    return values


def _nonfinite_rows(stored: Array) -> tuple[list[int], int]:
    """The first rows with nan or inf among values as they are stored, and how many there are."""
    if stored.dtype.kind == "f":
        return first_nonfinite_rows(stored)
    parts = blocks(len(stored), stored.shape[1] * 2)
    bad = [p.start + int(i) for p in parts for i in np.flatnonzero(((stored[p] & 0x7F80) == 0x7F80).any(axis=1))]
    return bad[:5], len(bad)


def _read_column(place: Path, shard: dict[str, Any], role: str) -> Array:
    entry = shard["files"][role]
    column = read_part(place, entry)
    text = role == "ids" and column.dtype.kind == "U"
    require_shape(column, place / entry["file"], (shard["rows"],), column.dtype.str if text else "<i8")
    return column


def read_manifest(place: Path) -> Manifest:
    """Read and check a manifest: types, ranges, names of files, lengths that agree with the numbers of rows."""
    path = place / MANIFEST
    with damage_named(path):
        manifest = read_document(path, SCHEMA, what=WHAT, limit=MAX_MANIFEST)
        del manifest["digest"]
        names, source, made_by = manifest["class_names"], manifest["source"], manifest["made_by"]
        as_count(manifest.setdefault("first", 0), "first", low=0, high=MAX_ROWS)
        rows = as_count(manifest["rows"], "rows", high=MAX_ROWS)
        as_count(manifest["width"], "width", high=MAX_WIDTH)
        if manifest["dtype"] not in DTYPES or not isinstance(manifest["shards"], list):
            raise ValueError(f"dtype is {str(manifest['dtype'])[:40]!r}: want one of {list(DTYPES)}, and shards a list")
        if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
            raise ValueError("class_names are not strings")
        if not isinstance(source, str | None) or not isinstance(made_by, dict | None):
            raise ValueError("source is not a string, or made_by not an object")
        for number, shard in enumerate(manifest["shards"]):
            _check_entry(shard, number, manifest)
        if finished_rows(manifest) > rows:
            raise ValueError(f"the shards have {finished_rows(manifest)} rows: want at most {rows}")
    return manifest


def _check_entry(shard: dict[str, Any], number: int, manifest: Manifest) -> None:
    count = as_count(shard["rows"], f"rows of shard {number}", high=MAX_ROWS)
    files = shard["files"]
    row_bytes = {"values": manifest["width"] * np.dtype(DTYPES[manifest["dtype"]]).itemsize, "ids": 4}
    if not {"values", "labels"} <= set(files) <= set(ROLES) or set(files) != set(manifest["shards"][0]["files"]):
        raise ValueError(f"shard {number} has files {sorted(files)}")
    for role, entry in files.items():
        least = count * row_bytes.get(role, 8)
        size = check_entry(entry, f"{role}-{manifest['first'] + number:05}.npy")
        if size < least or (role != "ids" and size > least + MAX_HEADER + 12):
            raise ValueError(f"shard {number}: {count} rows do not fit {size} bytes of {role}")


def _encode(values: Array, dtype: str) -> Array:
    """Values as they are stored; a ValueError where some are nan or inf, or become so."""
    brain = dtype == "bfloat16"
    with np.errstate(over="ignore"):
        stored: Array = np.ascontiguousarray(values, dtype="<f4" if brain else DTYPES[dtype])
    rows, count = _nonfinite_rows(stored)
    if brain and not count:
        stored = narrow_bfloat16(stored)
        rows, count = _nonfinite_rows(stored)
    if count:
        raise ValueError(
            f"values have nan or inf as {dtype} in {count} of {len(values)} rows of a shard (first: {rows}): "
            "remove or rescale them first"
        )
    return stored


def widen_bfloat16(stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """float32 values of bfloat16 ones (their upper halves), exact."""
    return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """bfloat16 nearest to finite float32 values, ties to even, as uint16."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def _difference(found: Any, wanted: Any) -> str:
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return "made_by"
    return ", ".join(sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key)))


def _shard_files(place: Path) -> dict[Path, int]:
    """Files of shards in the folder of a store, also those that a killed writer has left, with their numbers."""
    found = {path: re.fullmatch(rf"({'|'.join(ROLES)})-(\d{{5,}})\.npy", path.name) for path in place.iterdir()}
    return {path: int(match[2]) for path, match in found.items() if match}


def _orphans(place: Path) -> list[Path]:
    """Files of whole shards in a folder without a manifest: values and labels that fit. What others have left stays."""
    files = _shard_files(place)
    return [path for path, number in files.items() if _is_shard(place, number)]


def _is_shard(place: Path, number: int) -> bool:
    try:
        values, labels = (read_npy(place / f"{role}-{number:05}.npy") for role in ROLES[:2])
    except (OSError, ValueError):
        return False
    kinds = values.dtype.str in DTYPES.values() and labels.dtype.str == "<i8"
    return kinds and values.ndim == 2 and labels.shape == values.shape[:1]


def _remove(files: Iterable[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
