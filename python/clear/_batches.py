"""Any labelled data set as batches of tensors: images, torch data sets and loaders, Hugging Face data sets, arrays."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_ids, as_labels, to_numpy
from clear.errors import need
from clear.images import ImageDataset

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "Source", "as_source", "iterate_batches", "pixels"]

Ints = npt.NDArray[np.int64]
DECODERS = 4


class Batch(NamedTuple):
    """Consecutive or chosen samples of a data set."""

    rows: Ints
    """Positions in the data set, int64 (b,)."""
    inputs: Tensor
    """What the network takes, (b, ...), on the CPU."""
    labels: Ints | None
    """Class numbers, int64 (b,); None when the data set has none."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set reduced to what batches need."""

    n: int
    load: Callable[[Ints], tuple[Any, Any]] | None
    """Rows to (inputs, labels or None); None for a loader, which is iterated instead."""
    loader: Any = None
    ids: npt.NDArray[Any] | None = None
    class_names: tuple[str, ...] | None = None
    name: str | None = None
    file: str | None = None
    """All of it, on this machine."""
    threads: int = 0
    """Threads that may load at the same time; 0 where only the caller's thread is known to be safe."""


def iterate_batches(
    dataset: Any,
    batch_size: int = 256,
    preprocess: Callable[[Any], Any] | None = None,
    *,
    rows: Any = None,
) -> Iterator[Batch]:
    """Yield a data set in batches, in order, or in the order of `rows`.

    Parameters
    ----------
    dataset : ImageDataset, torch Dataset or DataLoader, datasets.Dataset, or (inputs, labels)
        Items are (input, label), or inputs alone; of arrays or tensors the labels may be None. A DataLoader must go
        through its data in order and keeps its own batch size. Images are decoded ahead, in threads.
    batch_size : int
        Samples in a batch; the last may be smaller.
    preprocess : callable, optional
        Maps the inputs of a batch, uint8 (b, h, w, c) for images, to a tensor; `Preprocess` is one.
    rows : array of int, optional
        Rows to yield, in this order (shuffled for training, say). Not for a DataLoader.

    Raises
    ------
    TypeError, ValueError
        Not such a data set; a loader that shuffles, drops or samples; uint8 images without `preprocess`.
    """
    source = as_source(dataset)
    size = as_count(batch_size, "batch_size")
    if source.load is None:
        if rows is not None:
            raise ValueError("rows: a DataLoader yields its own order; pass its dataset instead")
        yield from _from_loader(source, preprocess)
        return
    order = np.arange(source.n) if rows is None else as_ids(rows, len(rows), "rows", rows=source.n)
    load = source.load

    def make(chosen: Ints) -> Batch:
        return _batch(chosen, *load(chosen), preprocess)

    jobs = [order[start : start + size] for start in range(0, len(order), size)]
    yield from _ahead(make, jobs, source.threads) if source.threads else map(make, jobs)


def as_source(dataset: Any) -> Source:
    """Recognise a data set, or raise a TypeError that says what is wanted."""
    if isinstance(dataset, ImageDataset):
        return _from_images(dataset)
    if isinstance(dataset, tuple) and len(dataset) == 2:
        return _from_arrays(*dataset)
    if type(dataset).__module__.partition(".")[0] == "datasets":
        return _from_hugging_face(dataset)
    data = need("torch.utils.data", extra="torch")
    if isinstance(dataset, data.DataLoader):
        return _check_loader(dataset, data)
    if isinstance(dataset, data.IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        kind = type(dataset).__name__
        raise TypeError(
            f"dataset is a {kind}: want a data set with a length (torch, Hugging Face), or (inputs, labels)"
        )

    def load(rows: Ints) -> tuple[Any, Any]:
        items = [dataset[int(i)] for i in rows]
        if not isinstance(items[0], (tuple, list)):
            return items, None
        return [item[0] for item in items], [int(item[1]) for item in items]

    return Source(len(dataset), load)


def _from_images(images: ImageDataset) -> Source:
    def load(rows: Ints) -> tuple[Any, Any]:
        return [images.image(int(i)) for i in rows], images.labels[rows]

    threads = min(DECODERS, os.cpu_count() or 1)
    return Source(len(images), load, None, images.ids, images.class_names, images.source, images.file, threads)


def _from_arrays(inputs: Any, labels: Any) -> Source:
    n = len(inputs)
    known = None if labels is None else as_labels(labels, n)

    def load(rows: Ints) -> tuple[Any, Any]:
        return inputs[rows], None if known is None else known[rows]

    return Source(n, load)


def _from_hugging_face(dataset: Any) -> Source:
    kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"] or [n for n in kinds if n == "label"]
    if len(images) != 1 or len(classes) != 1:
        raise ValueError(f"dataset has columns {kinds}: want one Image and one ClassLabel; select_columns() picks them")
    image, label = images[0], classes[0]

    def load(rows: Ints) -> tuple[Any, Any]:
        part = dataset[rows.tolist()]
        return part[image], part[label]

    names = getattr(dataset.features[label], "names", None)
    return Source(len(dataset), load, class_names=tuple(names) if names else None)


def _check_loader(loader: Any, data: Any) -> Source:
    if isinstance(loader.dataset, data.IterableDataset):
        raise TypeError("dataset is a DataLoader without a length: want one over a map-style data set")
    if loader.drop_last or type(loader.sampler) is not data.SequentialSampler:
        raise ValueError("dataset is a DataLoader that shuffles, samples or drops: want shuffle=False, drop_last=False")
    return Source(len(loader.dataset), None, loader)


def _from_loader(source: Source, preprocess: Callable[[Any], Any] | None) -> Iterator[Batch]:
    start = 0
    for item in source.loader:
        inputs, labels = (item[0], item[1]) if isinstance(item, (tuple, list)) else (item, None)
        rows = np.arange(start, start + len(inputs))
        yield _batch(rows, inputs, labels, preprocess)
        start += len(rows)


def _batch(rows: Ints, inputs: Any, labels: Any, preprocess: Callable[[Any], Any] | None) -> Batch:
    known = None if labels is None else as_labels(labels, len(rows))
    stacked = _stack(inputs)
    if preprocess is not None:
        stacked = preprocess(stacked)
    torch = need("torch", extra="torch")
    if isinstance(stacked, np.ndarray):
        stacked = torch.from_numpy(np.require(stacked, dtype=stacked.dtype.newbyteorder("="), requirements=["C", "W"]))
    if not torch.is_tensor(stacked) or len(stacked) != len(rows):
        raise ValueError("images have different sizes: pass preprocess=Preprocess(..., size=(height, width))")
    if stacked.dtype == torch.uint8:
        raise ValueError("inputs are uint8 images: pass preprocess=Preprocess(mean, std, ...), as the net was trained")
    return Batch(rows, stacked, known)


def _stack(inputs: Any) -> Any:
    """One array or tensor, or a list of images when their shapes differ."""
    if not isinstance(inputs, list):
        return inputs
    torch = need("torch", extra="torch")
    if torch.is_tensor(inputs[0]):
        return torch.stack(inputs)
    arrays = [pixels(item) for item in inputs]
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays


def pixels(item: Any) -> npt.NDArray[Any]:
    """A PIL image as uint8 (h, w, c); arrays as they are."""
    if not hasattr(item, "convert"):
        return to_numpy(item)
    grey = item.mode in ("L", "1", "LA")
    array = np.array(item.convert("L" if grey else "RGB"))
    return array[:, :, None] if grey else array


def _ahead(make: Callable[[Ints], Batch], jobs: list[Ints], threads: int) -> Iterator[Batch]:
    """Yield make(job) in order while the next jobs are being made."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clear-decode")
    pending: deque[Future[Batch]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(make, job))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
