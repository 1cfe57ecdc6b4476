"""From a model and a data set to features and predictions, batch by batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from clear._arrays import first_nonfinite_rows
from clear._batches import Batch, as_source, iterate_batches
from clear._progress import Progress, track
from clear.data import Features
from clear.errors import BackendUnavailable, need, short
from clear.models import find_layer, last_linear

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch import device as Device

__all__ = [
    "Batch",
    "Extracted",
    "Extraction",
    "default_preprocess",
    "evaluating",
    "extract_features",
    "extract_rows",
    "forward",
    "iterate_batches",
    "logits_of",
    "predict",
    "running",
]

Extracted = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.int64], npt.NDArray[np.int64] | None]
"""Features (m, d), labels (m,) and predictions (m,) or None."""
NO_MEMORY = ("out of memory", "allocate memory", "enough memory", "ALLOC_FAILED")


def extract_features(
    model: nn.Module,
    dataset: Any,
    *,
    layer: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
    preprocess: Callable[[Any], Any] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    progress: Progress = False,
) -> Features:
    """Run a data set through a model and return the features of one layer, with labels and predictions.

    Parameters
    ----------
    model : nn.Module
        Run in eval mode without gradients; its modes and device are as before afterwards, hooks are gone.
    dataset : ImageDataset, torch Dataset or DataLoader, datasets.Dataset, or (inputs, labels)
        As `iterate_batches` takes it. Without labels the predictions stand in for them.
    layer : str, optional
        Dotted name of the layer whose output is taken. Default: the input of the last `nn.Linear`, the penultimate
        features. Outputs (b, c, h, w) are averaged over space, (b, tokens, c) over tokens.
    batch_size : int
        Samples in a batch (a DataLoader keeps its own).
    device : str
        "cpu", "cuda", "cuda:1", ...; "auto" keeps a model that is on an accelerator, else takes CUDA where there is.
    preprocess : callable, optional
        As in `iterate_batches`. Default: `model.preprocess`, where the model has one, for uint8 images.
    dtype : {"float32", "float16"}
        Of the features.
    progress : bool or callable
        True shows a bar; a callable gets ("features", samples done, samples in total).

    Returns
    -------
    Features
        Written into one array of shape (n, d). Predictions are the argmax of the model's output, None where that is
        not (b, classes).

    Raises
    ------
    BackendUnavailable
        The device asked for is not there.
    ValueError
        Unknown layer, a layer that does not run once a batch, inputs of a shape that the model does not take, or
        features with nan or inf (layer and rows named).
    MemoryError
        The device is out of memory: smaller batches need less.

    Examples
    --------
    >>> import numpy as np, clear.architectures
    >>> from clear.features import extract_features
    >>> images = np.zeros((5, 8, 8, 1), np.uint8)
    >>> extract_features(clear.architectures.digits_cnn(), (images, [0, 1, 2, 3, 4]))
    Features((5, 64) float32, 5 classes)
    """
    source = as_source(dataset)
    options = Extraction(layer, batch_size, device, preprocess, dtype)
    values, labels, predictions = extract_rows(model, dataset, options, progress=progress)
    return Features.from_arrays(
        values, labels, ids=source.ids, class_names=source.class_names, predictions=predictions, source=source.name
    )


class Extraction(NamedTuple):
    """How features are taken; `extract_features` says what each means."""

    layer: str | None = None
    batch_size: int = 256
    device: str = "auto"
    preprocess: Callable[[Any], Any] | None = None
    dtype: str = "float32"


def extract_rows(
    model: nn.Module,
    dataset: Any,
    options: Extraction,
    *,
    rows: npt.NDArray[np.int64] | None = None,
    progress: Progress = False,
) -> Extracted:
    """Features, labels and predictions of consecutive rows of a data set; default: all."""
    if options.dtype not in ("float32", "float16"):
        raise ValueError(f'dtype is {options.dtype!r}: want "float32" or "float16"')
    n = as_source(dataset).n if rows is None else len(rows)
    if n == 0:
        raise ValueError("dataset is empty: want at least one sample")
    first = 0 if rows is None else int(rows[0])
    name = options.layer or f"input of {last_linear(model)[0]}"
    taken_rows: list[npt.NDArray[np.floating[Any]]] = []  # one (n, d) array, made when the first batch says how wide
    labels, predictions = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    with _capture(model, options.layer) as taken:

        def keep(batch: Batch, output: Any) -> None:
            values = _take(taken, name, len(batch.rows), options.dtype, int(batch.rows[0]))
            if not taken_rows:
                taken_rows.append(np.empty((n, values.shape[1]), options.dtype))
            at = batch.rows - first
            taken_rows[0][at] = values
            if batch.labels is not None:
                labels[at] = batch.labels
            logits = logits_of(output)
            if logits is not None:
                predictions[at] = logits.argmax(1).cpu().numpy()

        forward(model, dataset, keep, options, rows, progress, "features")
    known = None if (predictions < 0).any() else predictions
    if (labels < 0).any():
        if known is None:
            raise ValueError("dataset has no labels and the model's output is not (b, classes): want one of the two")
        labels = known
    return taken_rows[0], labels, known


def predict(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int = 256,
    device: str = "auto",
    preprocess: Callable[[Any], Any] | None = None,
    progress: Progress = False,
) -> npt.NDArray[np.int64]:
    """Return the class that a model predicts for every sample, int64 (n,); arguments as in `extract_features`."""
    predictions = np.zeros(as_source(dataset).n, dtype=np.int64)

    def keep(batch: Batch, output: Any) -> None:
        logits = logits_of(output)
        if logits is None:
            raise ValueError("the model's output is not a tensor (b, classes): predictions need logits")
        predictions[batch.rows] = logits.argmax(1).cpu().numpy()

    options = Extraction(batch_size=batch_size, device=device, preprocess=preprocess)
    forward(model, dataset, keep, options, None, progress, "predictions")
    return predictions


@contextmanager
def evaluating(model: nn.Module, device: str = "auto") -> Iterator[Device]:
    """Put a model in eval mode on a device; afterwards every module has its mode, and the model its device, back."""
    modes = {module: module.training for module in model.modules()}
    home = _home(model)
    target = _find_device(device, home)
    model.eval()
    try:
        model.to(target)
        yield target
    finally:
        model.to(home)
        for module, training in modes.items():
            module.training = training


@contextmanager
def running(inputs: Tensor) -> Iterator[None]:
    """Turn what torch says about a batch that does not fit, the network or the memory, into one line."""
    torch = need("torch", extra="torch")
    try:
        yield
    except (RuntimeError, IndexError) as error:
        shape = tuple(inputs.shape)
        if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY):
            raise MemoryError(f"a batch of shape {shape} does not fit: use a smaller batch_size") from error
        raise ValueError(f"the network does not take inputs of shape {shape}: {short(error)}") from error


def forward(
    model: nn.Module,
    dataset: Any,
    each: Callable[[Batch, Any], None],
    options: Extraction,
    rows: npt.NDArray[np.int64] | None,
    progress: Progress,
    stage: str,
) -> None:
    """Run all batches through the model and hand each one and its output to `each`."""
    torch = need("torch", extra="torch")
    n = as_source(dataset).n if rows is None else len(rows)
    with evaluating(model, options.device) as target, torch.no_grad(), track(progress, stage, n) as advance:
        floats = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        prepare = options.preprocess or default_preprocess(model)
        batches = iterate_batches(dataset, options.batch_size, prepare, rows=rows)
        for batch in batches:
            with running(batch.inputs):
                output = model(batch.inputs.to(target, floats if batch.inputs.is_floating_point() else None))
            each(batch, output)
            advance(len(batch.rows))


def default_preprocess(model: nn.Module) -> Callable[[Any], Any] | None:
    """The model's own preprocessing, for uint8 images; floating-point inputs are taken to be prepared."""
    own = getattr(model, "preprocess", None)
    if not callable(own):
        return None

    def prepare(inputs: Any) -> Any:
        images = isinstance(inputs, list) or "uint8" in str(inputs.dtype)
        return own(inputs) if images else inputs

    return prepare


@contextmanager
def _capture(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """Collect what the layer gives; pooled and copied at once, as the next layer may work in place."""
    taken: list[Tensor] = []

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken.append(_pool(args[0] if args else kwargs["input"], "input of the last nn.Linear"))

    def after(_: Any, args: Any, output: Any) -> None:
        taken.append(_pool(output, f"layer {layer!r}"))

    if layer is None:
        handle = last_linear(model)[1].register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = find_layer(model, layer).register_forward_hook(after)
    try:
        yield taken
    finally:
        handle.remove()


def _pool(values: Any, name: str) -> Tensor:
    """Reduce an output to (b, d): averaged over space (b, c, h, w, ...) or tokens (b, tokens, c)."""
    torch = need("torch", extra="torch")
    if not torch.is_tensor(values) or values.ndim < 2:
        kind = f"shape {tuple(values.shape)}" if torch.is_tensor(values) else f"type {type(values).__name__}"
        raise ValueError(f"{name} gives {kind}: want one tensor (b, d), (b, tokens, d) or (b, c, h, w)")
    dims = {2: (), 3: (1,)}.get(values.ndim, tuple(range(2, values.ndim)))
    pooled = values.mean(dim=dims) if dims else values
    return pooled.to("cpu", torch.float32, copy=True)  # type: ignore[no-any-return]


def _take(taken: list[Tensor], name: str, size: int, dtype: str, start: int) -> npt.NDArray[np.floating[Any]]:
    """Return the one thing captured in this batch as (size, d), checked."""
    if len(taken) != 1 or len(taken[0]) != size:
        got = f"ran {len(taken)} times" if len(taken) != 1 else f"gave {len(taken[0])} rows"
        raise ValueError(f"layer {name!r} {got} for a batch of {size}: name a layer that runs once a batch")
    with np.errstate(over="ignore"):
        values: npt.NDArray[np.floating[Any]] = taken.pop().numpy().astype(dtype, copy=False)
    bad, count = first_nonfinite_rows(values)
    if count:
        rows = [start + row for row in bad]
        raise ValueError(f"layer {name!r} gives nan or inf in {dtype} ({count} rows of a batch; first: {rows})")
    return values


def logits_of(output: Any) -> Tensor | None:
    torch = need("torch", extra="torch")
    values = getattr(output, "logits", output)
    return values if torch.is_tensor(values) and values.ndim == 2 else None


def _home(model: nn.Module) -> Device:
    torch = need("torch", extra="torch")
    cpu: Device = torch.device("cpu")
    return next((tensor.device for tensor in model.parameters()), cpu)


def _find_device(name: str, home: Device) -> Device:
    torch = need("torch", extra="torch")
    if name == "auto":
        return home if home.type != "cpu" else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f'device="{name}": want "auto", "cpu" or "cuda"')
    found: Device = torch.device(name)
    if found.type == "cuda" and (found.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise BackendUnavailable(f'device="{name}": torch sees no such CUDA device; use device="cpu" or "auto"')
    return found
