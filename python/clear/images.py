"""Labelled images from Parquet (as Hugging Face writes them) or NPZ, decoded when asked for; their preprocessing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import as_labels
from clear._image_stores import ArrayStore, ParquetStore, Pixels, Store, encode_png
from clear._npy import read_npz
from clear._parquet import (
    class_names,
    hugging_face_features,
    open_parquet,
    plain_column,
    require_column,
)
from clear._urls import local_path
from clear.errors import UnsafeFile, need

__all__ = ["ImageDataset", "Preprocess", "open_images"]

LABEL_NAMES = ("label", "labels", "fine_label")


class ImageDataset:
    """Labelled images; a map-style dataset for torch. Made by `open_images`.

    `dataset[i]` is (pixels, label): uint8 (height, width, channels) with 1 or 3 channels, and an int. Reading is
    thread-safe, and works in forked and spawned workers.
    """

    def __init__(
        self,
        store: Store,
        labels: npt.NDArray[np.int64],
        ids: npt.NDArray[Any],
        names: tuple[str, ...] | None,
        file: str,
    ) -> None:
        self._store = store
        self._rows = np.arange(len(labels))
        self.labels = labels
        """Class numbers, int64 (n,)."""
        self.ids = ids
        """Names of the images, int64 or str (n,); by default their rows in the file."""
        self.class_names = names
        self.file = file
        """The local file that is read."""
        self.source = file
        """The path or URL that was opened."""
        self.quarantined: tuple[tuple[int, str], ...] = ()
        """Rows of the file that were left out as unreadable, and why."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        return self.image(i), int(self.labels[i])

    def __iter__(self) -> Iterator[tuple[Pixels, int]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        classes = len(self.class_names) if self.class_names else len(np.unique(self.labels))
        return f"ImageDataset({len(self)} images, {classes} classes, {self.source})"

    def image(self, i: int) -> Pixels:
        """Decode image i: uint8 (height, width, channels)."""
        return self._store.pixels(int(self._rows[i]))

    def encoded(self, i: int) -> bytes:
        """Return image i as a compressed file: the bytes as stored, or a PNG of stored pixels."""
        return self._store.encoded(int(self._rows[i]))

    def thumbnail_png(self, i: int, side: int = 96) -> bytes:
        """Return image i as a PNG, shrunk to at most `side` pixels a side (never enlarged)."""
        return encode_png(self.image(i), side)

    def leave_out_unreadable(self) -> None:
        """Decode everything once; move the images that cannot be decoded to `quarantined`."""
        bad = []
        for i, row in enumerate(self._rows):
            try:
                self.image(i)
            except UnsafeFile as error:
                bad.append((int(row), str(error)))
        keep = ~np.isin(self._rows, [row for row, _ in bad])
        self._rows, self.labels, self.ids = self._rows[keep], self.labels[keep], self.ids[keep]
        self.quarantined += tuple(bad)


def open_images(
    path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    quarantine: bool = False,
) -> ImageDataset:
    """Open labelled images.

    Parameters
    ----------
    path : path or URL
        `.parquet` with encoded images as Hugging Face writes them (struct<bytes, path>, or plain binary), or `.npz`
        with `images`, uint8 (n, h, w) or (n, h, w, 1 or 3), `labels`, and perhaps `ids` and `class_names`.
    image_column, label_column : str, optional
        Parquet columns. Default: what the Hugging Face metadata names, else the only column of encoded images, and
        "label", "labels" or "fine_label".
    id_column : str, optional
        Parquet column of unique ids. Default: row numbers.
    quarantine : bool
        Decode everything once now, and leave out (and list) what is unreadable instead of failing at it later.

    Returns
    -------
    ImageDataset
        Reads labels now, images when asked for; keeps at most the compressed bytes (up to 1 GiB) in memory.

    Raises
    ------
    UnsafeFile
        The file is damaged; later, an image is: the message names its row. Images above 64 megapixels are refused.
    TypeError, ValueError
        Missing columns, wrong types, null labels.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from clear.images import open_images
    >>> path = tempfile.mkdtemp() + "/images.npz"
    >>> np.savez(path, images=np.zeros((3, 8, 8), np.uint8), labels=[0, 1, 0])
    >>> pixels, label = open_images(path)[1]
    >>> pixels.shape, label
    ((8, 8, 1), 1)
    """
    suffix, local = Path(path).suffix, local_path(path)
    if suffix == ".npz":
        dataset = _from_npz(local)
    elif suffix in (".parquet", ".pq"):
        dataset = _from_parquet(local, image_column, label_column, id_column)
    else:
        raise ValueError(f"{path}: suffix {suffix!r} is not known: want .parquet or .npz")
    dataset.source = os.fspath(path)
    if len(np.unique(dataset.ids)) != len(dataset):
        raise ValueError(f"{path}: ids repeat: want {len(dataset)} different ones")
    if quarantine:
        dataset.leave_out_unreadable()
    return dataset


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How images become the input of a net: scaled to [0, 1], resized, then normalised channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    """Height and width; other images are resized (bilinear, antialiased). None keeps them as they are."""
    channels: int = 3
    """1 or 3; grey images are repeated for 3, colours become luma for 1."""

    def __call__(self, images: Any) -> Any:
        """Map uint8 images, (b, h, w, c) or a sequence of (h, w, c), to a float32 tensor (b, channels, h, w)."""
        torch = need("torch", extra="torch")
        if isinstance(images, (list, tuple)) and len({image.shape for image in images}) > 1:
            return torch.cat([self([image]) for image in images])
        batch = torch.from_numpy(np.stack(images)) if not torch.is_tensor(images) else images
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[3] not in (1, 3):
            raise ValueError(
                f"images have dtype {batch.dtype} and shape {tuple(batch.shape)}: want uint8 (b, h, w, 1 or 3)"
            )
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32).div_(255)  # strides stay channels-last: faster
        if pixels.shape[1] == 3 and self.channels == 1:
            pixels = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif pixels.shape[1] != self.channels:
            pixels = pixels.repeat(1, self.channels, 1, 1)
        if self.size is not None and tuple(pixels.shape[2:]) != self.size:
            resize = torch.nn.functional.interpolate
            pixels = resize(pixels, self.size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (pixels.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)


def _from_npz(path: str) -> ImageDataset:
    arrays = read_npz(path, ("images", "labels", "ids", "class_names"))
    for key in ("images", "labels"):
        if key not in arrays:
            raise ValueError(f"{path}: has no array {key!r}: want images and labels")
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise ValueError(
            f"{path}: images has dtype {images.dtype} and shape {images.shape}: want uint8 (n, h, w[, 1 or 3])"
        )
    images = images[..., None] if images.ndim == 3 else images
    names = tuple(str(name) for name in arrays["class_names"].ravel()) if "class_names" in arrays else None
    labels = as_labels(arrays["labels"], len(images), classes=len(names) if names else None)
    ids = arrays.get("ids", np.arange(len(images)))
    if ids.shape != labels.shape or ids.dtype.kind not in "iuU":
        raise ValueError(
            f"{path}: ids has dtype {ids.dtype} and shape {ids.shape}: want {labels.shape} integers or strings"
        )
    return ImageDataset(ArrayStore(images), labels, ids, names, path)


def _from_parquet(path: str, image: str | None, label: str | None, id_column: str | None) -> ImageDataset:
    with open_parquet(path) as reader:
        schema, metadata = reader.schema_arrow, reader.metadata
        image, label = _image_column(schema, image, path), _label_column(schema, label, path)
        plain = [label] if id_column is None else [label, id_column]
        for name in plain:
            require_column(schema, name, path)
        table = reader.read(columns=plain, use_threads=False).combine_chunks()
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if table.num_rows != sum(sizes) or table.num_rows == 0:
        raise UnsafeFile(f"{path}: holds {table.num_rows} labels for {sum(sizes)} rows")
    columns = {name: plain_column(table.column(name).chunk(0), 0, f"{path}: column {name!r}") for name in plain}
    names = class_names(schema, label)
    labels = as_labels(columns[label], len(table), f"{path}: column {label!r}", classes=len(names) if names else None)
    ids = np.arange(len(table)) if id_column is None else columns[id_column]
    starts = np.cumsum([0, *sizes])[:-1]
    return ImageDataset(ParquetStore(path, image, starts.tolist()), labels, ids, names, path)


def _image_column(schema: Any, column: str | None, path: str) -> str:
    features = hugging_face_features(schema)
    encoded = [field.name for field in schema if _holds_bytes(field.type)]
    declared = [n for n in encoded if isinstance(features.get(n), dict) and features[n].get("_type") == "Image"]
    choices = [column] if column else declared or encoded
    if len(choices) != 1 or choices[0] not in encoded:
        asked = f"column {column!r} holds no encoded images" if column else "want one column of encoded images"
        raise ValueError(f"{path}: {asked} (struct<bytes, path> or binary): columns like that are {encoded}")
    require_column(schema, choices[0], path)
    return choices[0]


def _label_column(schema: Any, column: str | None, path: str) -> str:
    if column is not None:
        return column
    classes = [name for name in schema.names if class_names(schema, name)]
    usual = [name for name in LABEL_NAMES if name in schema.names]
    if not usual and len(classes) != 1:
        raise ValueError(f"{path}: has no column {LABEL_NAMES[0]!r}: pass label_column, one of {schema.names}")
    return usual[0] if usual else classes[0]


def _holds_bytes(kind: Any) -> bool:
    types = need("pyarrow", extra="data").types
    if types.is_struct(kind):
        kind = next((field.type for field in kind if field.name == "bytes"), None)
    return kind is not None and bool(types.is_binary(kind) or types.is_large_binary(kind))
