"""Arrays of a folder with a manifest: NPY files with the length and SHA-256 that the manifest says."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count
from clear._files import atomic_write, open_regular, sha256
from clear._npy import read_npy
from clear.errors import UnsafeFile

__all__ = ["REMEDY", "Array", "check_entry", "check_length", "check_part", "read_part", "require_shape", "write_part"]

Array = npt.NDArray[Any]
REMEDY = "make it again with the command that wrote it, or copy the file back"


def write_part(path: Path, array: Array) -> dict[str, Any]:
    """Write an array and return its entry for the manifest: file, bytes, sha256."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def check_entry(entry: Any, name: str) -> int:
    """Return the bytes of an entry that a manifest has under the file name expected, or raise a ValueError."""
    if entry["file"] != name or not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
        raise ValueError(f"bad file name or SHA-256: want the entry of {name}")
    return as_count(entry["bytes"], f"bytes of {name}")


def check_length(place: Path, entry: dict[str, Any]) -> None:
    """Refuse a file that is longer or shorter than the manifest says, or missing (FileNotFoundError)."""
    path = place / entry["file"]
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        what = f"is missing, but the manifest names it: {REMEDY}"
        raise FileNotFoundError(errno.ENOENT, what, str(path)) from None
    if found != entry["bytes"]:
        raise UnsafeFile(f"{path}: has {found} bytes, but the manifest says {entry['bytes']}: {REMEDY}")


def check_part(place: Path, entry: dict[str, Any]) -> None:
    """Refuse a file whose length or SHA-256 is not what the manifest says."""
    check_length(place, entry)
    _check_hash(place, entry)


def _check_hash(place: Path, entry: dict[str, Any]) -> None:
    path = place / entry["file"]
    if sha256(path) != entry["sha256"]:
        raise UnsafeFile(f"{path}: was changed after it was written: its SHA-256 differs from the manifest's: {REMEDY}")


def read_part(place: Path, entry: dict[str, Any]) -> Array:
    """Map an array once its length and SHA-256 are right."""
    check_length(place, entry)
    array = read_npy(place / entry["file"])
    _check_hash(place, entry)
    return array


def require_shape(array: Array, path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse an array that is not what the manifest says."""
    if array.shape != shape or array.dtype.str != dtype or not array.flags.c_contiguous:
        raise UnsafeFile(f"{path}: holds {array.dtype.str} {array.shape}, but the manifest says {dtype} {shape}")
