"""Where images come from: pixels in memory, or encoded images in the row groups of a Parquet file; and one decoder."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clear._parquet import open_parquet
from clear.errors import UnsafeFile, need, short

__all__ = ["ArrayStore", "ParquetStore", "Pixels", "Store", "encode_png"]

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
CACHE_BYTES = 1 << 30


class Store(Protocol):
    """Where images come from. Rows number the file."""

    def encoded(self, row: int) -> bytes: ...
    def pixels(self, row: int) -> Pixels: ...


class ArrayStore:
    """Pixels in memory."""

    def __init__(self, images: Pixels) -> None:
        self._images = images

    def pixels(self, row: int) -> Pixels:
        return np.asarray(self._images[row])

    def encoded(self, row: int) -> bytes:
        return encode_png(self.pixels(row), None)


class ParquetStore:
    """Encoded images of a Parquet file; row groups are read when first asked for, the least recently used dropped."""

    def __init__(self, path: str, column: str, starts: Sequence[int]) -> None:
        self._path, self._column, self._starts = path, column, np.asarray(starts)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def encoded(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._read(group)
            self._groups.move_to_end(group)
            while len(self._groups) > 1 and sum(chunk.nbytes for chunk in self._groups.values()) > CACHE_BYTES:
                self._groups.popitem(last=False)
            value = self._groups[group][row - int(self._starts[group])].as_py()
        if value is None:
            raise UnsafeFile(f"{self._path}: row {row} of column {self._column!r} holds no image bytes")
        return bytes(value)

    def pixels(self, row: int) -> Pixels:
        return _decode(self.encoded(row), f"{self._path}: image in row {row}")

    def _read(self, group: int) -> Any:
        arrow = need("pyarrow", extra="data")
        with open_parquet(self._path) as reader:
            table = reader.read_row_group(group, columns=[self._column], use_threads=False)
        images = table.column(0)
        if arrow.types.is_struct(images.type):
            images = arrow.chunked_array([chunk.field("bytes") for chunk in images.chunks])
        return images


def _decode(data: bytes, name: str) -> Pixels:
    """Decode one image file to uint8 (h, w, 1 or 3)."""
    image_module = need("PIL.Image", extra="data")
    try:
        with image_module.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnsafeFile(
                    f"{name} has {width} x {height} pixels: want at most {MAX_PIXELS} (decompression bomb?)"
                )
            if image.mode.startswith(("I", "F")):
                raise UnsafeFile(f"{name} has mode {image.mode}: want 8 bits a channel")
            grey = image.mode in ("L", "1", "LA")
            pixels = np.array(image.convert("L" if grey else "RGB"), dtype=np.uint8)  # writable, as torch wants
    except UnsafeFile:
        raise
    # Decoders of damaged data raise what they like (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise UnsafeFile(f"{name} is unreadable ({short(error)})") from None
    return pixels[:, :, None] if grey else pixels


def encode_png(pixels: Pixels, side: int | None) -> bytes:
    image = need("PIL.Image", extra="data").fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if side is not None:
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
