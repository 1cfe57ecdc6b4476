"""Extraction into a feature store, shard by shard: what was killed goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clear._arrays import as_count, as_threads, to_numpy
from clear._batches import Source, as_source, pixels
from clear._describe import describe, hash_tensors
from clear._files import MANIFEST, make_folder, sha256
from clear._progress import Progress, track
from clear._version import __version__
from clear.data import Features, open_features
from clear.errors import need
from clear.features import Extracted, Extraction, extract_rows
from clear.ray_engine import check_engine, open_engine
from clear.ray_extraction import extract_shards
from clear.store import SHARD_ROWS, add_shard, damaged_shards, read_manifest, start_store
from clear.work import hash_array

if TYPE_CHECKING:
    from torch import nn

__all__ = ["extract_to_store"]

SAMPLED_ITEMS = 64


def extract_to_store(
    model: nn.Module,
    dataset: Any,
    folder: str | os.PathLike[str],
    *,
    shard_rows: int = SHARD_ROWS,
    layer: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
    preprocess: Callable[[Any], Any] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    progress: Progress = False,
) -> Features:
    """Extract features as `extract_features` does, into a feature store; the same call goes on after a kill.

    Parameters
    ----------
    model, layer, batch_size, device, preprocess, progress
        As in `extract_features`.
    dtype : {"float32", "float16", "bfloat16"}
        Of the features. Those in bfloat16 are rounded to the nearest and read as float32.
    dataset : ImageDataset, torch Dataset, datasets.Dataset, or (inputs, labels)
        Rows must be reachable by number, so no DataLoader.
    folder : path
        Of the store. Shards in it are kept when they come from the same inputs: weights, options, version of this
        package, `preprocess` or else the model's own (its code, what it closes over, the state of objects, globals
        that it reads, but for what installed libraries read), and the data set: SHA-256 of its file, arrays or tensors
        (TensorDataset); the fingerprint of a Hugging Face data set; of any other one its length, labels (or `targets`)
        and ids, and 64 of its items, evenly spread from the first to the last. Other items may change without being
        noticed; a data set whose items are not the same each time (random augmentation) is refused.
    shard_rows : int
        Samples in a shard, rounded up to whole batches: at most so many are extracted again after a kill. A finished
        shard that is lost or damaged is named in a RuntimeWarning and extracted again, alone.
    engine : {"local", "ray"}
        Where the network runs: in this process, or in actors of a Ray cluster, one for each GPU or else for each core.
        A data set goes there as it is pickled: Parquet images and Hugging Face data sets by their path, which every
        node must be able to read, arrays whole.
    address : str, optional
        Of the Ray cluster ("auto" or "host:port"); default: one on this machine, for this call.

    Returns
    -------
    Features
        Memory-mapped, equal (==) to those of one undisturbed run; with Ray too, where its devices are like this one's.

    Raises
    ------
    ValueError
        As `extract_features`; also when the folder was begun with other inputs (what differs is named), the data set
        is a DataLoader, or its items are not the same each time.
    TypeError
        As `extract_features`; also when `preprocess` holds what has no description, such as an open file or a lock.
    """
    check_engine(engine, address)
    source = as_source(dataset)
    if source.load is None:
        raise ValueError("dataset is a DataLoader: pass its dataset, whose rows can be asked for by number")
    size = as_count(batch_size, "batch_size")
    step = -(-as_count(shard_rows, "shard_rows") // size) * size
    options = Extraction(layer, size, device, preprocess, "float32" if dtype == "bfloat16" else dtype)
    place = make_folder(folder)
    made_by = _identify(model, dataset, source, options, step)
    manifest = None
    if (place / MANIFEST).exists():  # the model tells the width only once it has run
        manifest = _begin(place, source, read_manifest(place)["width"], dtype, made_by)
    every = [range(start, min(source.n, start + step)) for start in range(0, source.n, step)]
    todo = list(range(len(every)))
    if manifest is not None:
        todo = [*damaged_shards(place, manifest), *todo[len(manifest["shards"]) :]]
    shards = [every[number] for number in todo]
    with open_engine(engine if shards else "local", address, as_threads(None)) as cluster:
        extract = _extract_here if cluster is None else extract_shards
        with (
            track(progress, "features", source.n) as advance,
            closing(extract(model, dataset, options, shards)) as parts,
        ):
            advance(source.n - sum(map(len, shards)))
            for number, shard, (values, labels, predictions) in zip(todo, shards, parts, strict=True):
                if manifest is None:
                    manifest = _begin(place, source, values.shape[1], dtype, made_by)
                ids = None if source.ids is None else source.ids[shard.start : shard.stop]
                manifest = add_shard(place, manifest, values, labels, ids=ids, predictions=predictions, number=number)
                advance(len(shard))
    return open_features(place)


def _extract_here(
    model: nn.Module, dataset: Any, options: Extraction, shards: Sequence[range]
) -> Generator[Extracted, None, None]:
    for shard in shards:
        yield extract_rows(model, dataset, options, rows=np.arange(shard.start, shard.stop))


def _begin(place: Path, source: Source, width: int, dtype: str, made_by: dict[str, Any]) -> dict[str, Any]:
    return start_store(
        place,
        rows=source.n,
        width=width,
        dtype=dtype,
        class_names=source.class_names,
        source=source.name,
        made_by=made_by,
    )


def _identify(model: nn.Module, dataset: Any, source: Source, options: Extraction, step: int) -> dict[str, Any]:
    """Name everything that the features depend on."""
    return {
        "version": __version__,
        "weights": hash_tensors(model.state_dict()),
        "network": type(model).__name__,
        "data": _hash_data(dataset, source),
        "layer": options.layer,
        "batch_size": options.batch_size,
        "device": options.device,
        "preprocess": _describe_preprocess(model, options),
        "shard_rows": step,
    }


def _describe_preprocess(model: nn.Module, options: Extraction) -> str:
    """What prepares the inputs: the function given, or else the model's own, without the model that it is bound to."""
    taken: Any = options.preprocess or getattr(model, "preprocess", None)
    if getattr(taken, "__self__", None) is model:
        taken = taken.__func__
    return describe(taken, "preprocess") if callable(taken) else ""


def _hash_data(dataset: Any, source: Source) -> str:
    total = hashlib.sha256(str(source.n).encode())
    if source.file is not None:
        total.update(sha256(source.file).encode())
    elif isinstance(dataset, tuple) and source.load is not None:
        for start in range(0, source.n, 4096):
            for part in source.load(np.arange(start, min(source.n, start + 4096))):
                total.update(np.ascontiguousarray(part).data if part is not None else b"none")
    elif hasattr(dataset, "_fingerprint"):
        total.update(str(dataset._fingerprint).encode())
    elif type(dataset) is need("torch.utils.data", extra="torch").TensorDataset:
        total.update(hash_tensors({str(i): tensor for i, tensor in enumerate(dataset.tensors)}).encode())
    else:
        total.update(_hash_some_items(source).encode())
    for column in (source.ids, getattr(dataset, "labels", getattr(dataset, "targets", None))):
        total.update(_hash_column(column).encode())
    return total.hexdigest()


def _hash_column(column: Any) -> str:
    """A hash of labels or ids. What is neither numbers nor text may be of any kind: it counts where it can be told."""
    with contextlib.suppress(ValueError):  # ragged
        array = to_numpy(column)
        if not array.dtype.hasobject:
            return hash_array(array)
    try:
        return describe(column, "dataset")
    except TypeError:
        return "unknown"


def _hash_some_items(source: Source) -> str:
    """A hash of items from the first to the last, which must be the same ones each time."""
    if source.load is None or source.n == 0:
        return ""
    rows = np.unique(np.linspace(0, source.n - 1, SAMPLED_ITEMS).astype(np.int64))
    first, second = (_hash_items(*source.load(rows)) for _ in range(2))
    if first != second:
        raise ValueError(
            "dataset gives other items each time (random augmentation?): the features in a store must be those of the "
            "same items; pass the data set without what is random in it"
        )
    return first


def _hash_items(inputs: Any, labels: Any) -> str:
    total = hashlib.sha256()
    for item in inputs:
        array = pixels(item)
        total.update((describe(item, "dataset") if array.dtype.hasobject else hash_array(array)).encode())
    total.update(str(None if labels is None else [int(label) for label in labels]).encode())
    return total.hexdigest()
