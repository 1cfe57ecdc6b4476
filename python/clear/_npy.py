"""NPY and NPZ files without pickle and without eval: sizes are checked before anything is mapped or allocated."""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from clear._files import check_expansion, open_regular
from clear.errors import UnsafeFile, short

__all__ = ["check_zip", "read_npy", "read_npz"]

Array = npt.NDArray[Any]

MAGIC = b"\x93NUMPY"
MAX_HEADER = 1 << 16
MAX_DIMENSIONS = 8
MAX_BYTES = 1 << 60
MAX_MEMBERS = 4096
BLOCK = 1 << 20

# One entry of the header's dictionary. Fixed alternatives without nesting: matching takes linear time.
ENTRY = re.compile(
    r"\s*['\"](?P<key>descr|fortran_order|shape)['\"]\s*:\s*"
    r"(?:['\"](?P<descr>[^'\"]{1,32})['\"]|(?P<flag>True|False)|\((?P<shape>[0-9, ]{0,400})\))\s*(?:,|(?=\}))"
)
DTYPE = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248]|U[1-9][0-9]{0,5})")
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Header:
    """What an NPY header declares."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int
    """Bytes before the data."""

    @property
    def nbytes(self) -> int:
        """Bytes of the data, counted without overflow."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(path: str | os.PathLike[str], *, mapped: bool = True) -> Array:
    """Read an NPY file of plain numbers or strings; memory-mapped (read-only) unless told otherwise.

    Raises UnsafeFile, naming the file and the fault, when the header is not a plain one or the file is shorter or
    longer than it declares. Costs one header read; nothing is allocated before the check.
    """
    name = os.fspath(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, name)
        if header.offset + header.nbytes != size:
            raise UnsafeFile(f"{name}: has {size} bytes, but its header declares {header.offset + header.nbytes}")
        if header.nbytes == 0:
            return np.empty(header.shape, header.dtype)
        if mapped:
            array: Array = np.memmap(
                file,
                dtype=header.dtype,
                mode="r",
                offset=header.offset,
                shape=header.shape,
                order=header.order,
            )
            return _checked_text(array, name)
        return _read_data(file, header, name)


def read_npz(path: str | os.PathLike[str], keys: Collection[str] | None = None) -> dict[str, Array]:
    """Read the arrays of an NPZ archive (stored or deflated), or those named in `keys`, into memory.

    Raises UnsafeFile for damaged or encrypted archives, members that are not plain arrays, sizes that disagree with
    each other, and decompression bombs. Cost: the archive is read once.
    """
    name = os.fspath(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                members = check_zip(archive, name, size)
                arrays = {info.filename.removesuffix(".npy"): info for info in members}
                wanted = {key: info for key, info in arrays.items() if keys is None or key in keys}
                return {key: _read_member(archive, info, name) for key, info in wanted.items()}
        except UnsafeFile:
            raise
        except ZIP_ERRORS as error:
            raise UnsafeFile(f"{name}: damaged NPZ archive ({short(error)})") from None


def check_zip(archive: zipfile.ZipFile, name: str, size: int) -> list[zipfile.ZipInfo]:
    """Return the members of an archive of `size` bytes after refusing overlaps, doubles, encryption and bombs."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise UnsafeFile(f"{name}: holds {len(members)} members: want at most {MAX_MEMBERS}")
    if len({info.filename for info in members}) != len(members):
        raise UnsafeFile(f"{name}: two members have the same name")
    if sum(info.compress_size for info in members) > size:
        raise UnsafeFile(f"{name}: its members claim more bytes than the file has ({size})")
    for info in members:
        label = f"{name}[{info.filename[:80]!r}]"
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsafeFile(f"{label}: is encrypted or compressed in an unknown way: want stored or deflated")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise UnsafeFile(f"{label}: declares {info.file_size} bytes but stores {info.compress_size}")
        check_expansion(label, info.file_size, info.compress_size)
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Array:
    label = f"{name}[{info.filename[:80]!r}]"
    if not info.filename.endswith(".npy"):
        raise UnsafeFile(f"{label}: is not an array: want members named *.npy")
    with archive.open(info) as stream:
        header = _read_header(stream, label)
        if header.offset + header.nbytes != info.file_size:
            raise UnsafeFile(
                f"{label}: has {info.file_size} bytes, but its header declares {header.offset + header.nbytes}"
            )
        return _read_data(stream, header, label)


def _read_data(stream: IO[bytes], header: Header, name: str) -> Array:
    """Read the data in blocks; the pages of the array are committed only as bytes arrive."""
    array = np.empty(header.shape, header.dtype, order=header.order)
    # Bytes in memory order: the transpose of a column-major array is row-major.
    target = (array.T if header.order == "F" else array).reshape(-1).view(np.uint8)
    done = 0
    while done < len(target):
        block = stream.read(min(BLOCK, len(target) - done))
        if not block:
            raise UnsafeFile(f"{name}: ends after {done} of {len(target)} bytes of data")
        target[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if stream.read(1):
        raise UnsafeFile(f"{name}: goes on after its {len(target)} bytes of data")
    return _checked_text(array, name)


def _checked_text(array: Array, name: str) -> Array:
    """Refuse code points that no string can hold: NumPy would fail on them later, far from the file."""
    if array.dtype.kind == "U" and array.size:
        points = np.ascontiguousarray(array).reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if int(points.max()) > 0x10FFFF:
            raise UnsafeFile(f"{name}: holds text that is not Unicode")
    return array


def _read_header(stream: IO[bytes], name: str) -> Header:
    start = stream.read(8)
    if len(start) < 8 or start[:6] != MAGIC:
        raise UnsafeFile(f"{name}: is not an NPY file (it does not start with \\x93NUMPY)")
    if start[6] not in (1, 2, 3) or start[7] != 0:
        raise UnsafeFile(f"{name}: has NPY version {start[6]}.{start[7]}: want 1.0, 2.0 or 3.0")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > MAX_HEADER:
        raise UnsafeFile(f"{name}: has an NPY header of {length} bytes: want at most {MAX_HEADER}")
    text = stream.read(length)
    if len(text) < length:
        raise UnsafeFile(f"{name}: ends inside its NPY header")
    return _parse_header(text.decode("latin-1"), 8 + width + length, name)


def _parse_header(text: str, offset: int, name: str) -> Header:
    found: dict[str, re.Match[str]] = {}
    body = text.rstrip(" \n")
    position = 1
    while entry := ENTRY.match(body, position):
        if entry["key"] in found or entry[entry["key"].replace("fortran_order", "flag")] is None:
            raise UnsafeFile(f"{name}: has a malformed NPY header ({entry['key']})")
        found[entry["key"]] = entry
        position = entry.end()
    if len(found) != 3 or not body.startswith("{") or body[position:].strip() != "}":
        raise UnsafeFile(
            f"{name}: has an NPY header that is not a plain one (objects, structures and pickles are refused)"
        )
    dtype = _parse_dtype(found["descr"]["descr"], name)
    shape = _parse_shape(found["shape"]["shape"], dtype, name)
    return Header(dtype, shape, "F" if found["fortran_order"]["flag"] == "True" else "C", offset)


def _parse_dtype(descr: str, name: str) -> np.dtype[Any]:
    if not DTYPE.fullmatch(descr):
        raise UnsafeFile(f"{name}: has dtype {descr!r}: want plain numbers or strings (bool, int, float16-64, str)")
    return np.dtype(descr)


def _parse_shape(text: str, dtype: np.dtype[Any], name: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if parts[-1] == "":
        parts.pop()
    if not all(part.isdigit() and len(part) <= 18 for part in parts) or len(parts) > MAX_DIMENSIONS:
        raise UnsafeFile(f"{name}: has a malformed shape ({text[:60]})")
    shape = tuple(int(part) for part in parts)
    if math.prod(max(1, side) for side in shape) * dtype.itemsize > MAX_BYTES:
        raise UnsafeFile(f"{name}: has shape {shape}: too large for any machine")
    return shape
