"""A second look at samples through the network itself: changed views of them, and an earlier layer.

A label that a network was made to memorise bends the last layer until it fits. Views that the network has not memorised
(mirrored, shifted) and a layer that is bent less still tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clear._batches import Batch, as_source
from clear._progress import Progress
from clear.errors import need
from clear.features import Extraction, default_preprocess, forward, logits_of
from clear.models import find_layer, last_linear
from clear.results import Views

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["extract_views"]

Floats = npt.NDArray[np.float64]

CELLS = 2
"""Outputs of the earlier layer are averaged over 2 x 2 parts of the image."""
SHIFT = 16
"""A view is shifted by one 16th of the image's side."""


def extract_views(
    model: nn.Module,
    dataset: Any,
    *,
    layer: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
    preprocess: Callable[[Any], Any] | None = None,
    progress: Progress = False,
) -> Views:
    """Ask a network about changed views of images, and take an earlier layer of it.

    For a network that may have been poisoned as a whole, where no other network can serve as a reference: pass the
    result to `scan` (of the training images) or to `review` (of incoming ones, and of one's own).

    Parameters
    ----------
    model, batch_size, device, preprocess, progress
        As in `extract_features`.
    dataset
        As in `extract_features`, of images; a DataLoader must give the same samples every time.
    layer : str, optional
        Dotted name of the earlier layer. Default: the last one before the image is made smaller for the last time.

    Returns
    -------
    Views
        Outputs of the layer, averaged over 2 x 2 parts of the image; what the last linear layer sees of the image and
        of its mirror image; and how much less the network believes in labels and predictions when the image is
        mirrored or shifted.

    Raises
    ------
    ValueError
        As `extract_features`; also when inputs are not images, or no such layer is found.

    Notes
    -----
    The network runs six times on every image: as it is, mirrored, and shifted by a 16th of its side four ways (what
    leaves on one side enters on the other).

    Examples
    --------
    >>> import numpy as np, clear.architectures
    >>> from clear.views import extract_views
    >>> images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    >>> found = extract_views(clear.architectures.digits_cnn(), (images, [0, 1, 2, 3, 4]))
    >>> found.early.shape[0], found.label_drop.shape
    (5, (5,))
    """
    n = as_source(dataset).n
    prepare = preprocess or default_preprocess(model)

    def changed(view: Callable[[Tensor], Tensor]) -> Extraction:
        return Extraction(
            batch_size=batch_size,
            device=device,
            preprocess=lambda inputs: view(_as_images(inputs if prepare is None else prepare(inputs))),
        )

    name = layer or _find_early_layer(model, dataset, changed(lambda images: images))
    labels = np.full(n, -1, np.int64)

    def run(view: Callable[[Tensor], Tensor]) -> Floats:
        found: list[Floats] = []

        def keep(batch: Batch, output: Any) -> None:
            logits = logits_of(output)
            if logits is None:
                raise ValueError("the model's output is not a tensor (b, classes): views need logits")
            found.append(logits.double().log_softmax(dim=1).cpu().numpy())
            if batch.labels is not None:
                labels[batch.rows] = batch.labels

        forward(model, dataset, keep, changed(view), None, progress, "views")
        return np.concatenate(found)

    late = _find_last_linear(model)
    with _outputs_of(find_layer(model, name), name) as parts, _inputs_of(late) as seen_late:
        plain = run(lambda images: images)
    early = _one_row_each(parts, n, name)
    predictions = plain.argmax(axis=1)
    labels = np.where(labels < 0, predictions, labels)
    if labels.max() >= plain.shape[1]:
        raise ValueError(f"labels reach {labels.max()}: the model knows classes 0 to {plain.shape[1] - 1}")
    drops = np.zeros((2, n))
    mirrored: list[npt.NDArray[np.float32]] = []
    for number, view in enumerate(_views()):
        with _inputs_of(late if number == 0 else None) as inputs:
            seen = run(view)
        mirrored += inputs
        for i, given in enumerate((labels, predictions)):
            drops[i] += (_margin(seen, given) - _margin(plain, given)) / len(_views())
    return Views(early, drops[0], drops[1], name, *_whole(seen_late, mirrored, n))


def _one_row_each(parts: list[npt.NDArray[np.float32]], n: int, name: str) -> npt.NDArray[np.float32]:
    early = np.concatenate(parts)
    if len(early) != n:
        raise ValueError(f"layer {name!r} gave {len(early)} rows for {n} images: name a layer that runs once a batch")
    return early


def _whole(
    plain: list[npt.NDArray[np.float32]], mirrored: list[npt.NDArray[np.float32]], n: int
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """Both together; None where they are not one row for each image."""
    if {sum(map(len, plain)), sum(map(len, mirrored))} != {n}:
        return None, None
    return np.concatenate(plain), np.concatenate(mirrored)


@contextmanager
def _outputs_of(module: nn.Module, name: str) -> Iterator[list[npt.NDArray[np.float32]]]:
    """What the module gives while the network runs, batch after batch."""
    parts: list[npt.NDArray[np.float32]] = []
    handle = module.register_forward_hook(lambda _, __, output: parts.append(_pool(output, name)))
    try:
        yield parts
    finally:
        handle.remove()


@contextmanager
def _inputs_of(module: nn.Module | None) -> Iterator[list[npt.NDArray[np.float32]]]:
    """What the module is given while the network runs, batch after batch; nothing without a module."""
    parts: list[npt.NDArray[np.float32]] = []

    def keep(_: Any, inputs: tuple[Any, ...]) -> None:
        if inputs and getattr(inputs[0], "ndim", 0) == 2:
            parts.append(_pool(inputs[0], "the last linear one"))

    handle = None if module is None else module.register_forward_pre_hook(keep)
    try:
        yield parts
    finally:
        if handle is not None:
            handle.remove()


def _find_last_linear(model: nn.Module) -> nn.Module | None:
    try:
        return last_linear(model)[1]
    except ValueError:
        return None


def _views() -> list[Callable[[Tensor], Tensor]]:
    """The mirror image first."""

    def shift(axis: int, sign: int) -> Callable[[Tensor], Tensor]:
        return lambda images: images.roll(sign * max(1, round(images.shape[axis] / SHIFT)), dims=axis)

    return [lambda images: images.flip(3), *(shift(axis, sign) for axis in (2, 3) for sign in (1, -1))]


def _as_images(inputs: Any) -> Tensor:
    torch = need("torch", extra="torch")
    images = inputs if torch.is_tensor(inputs) else torch.as_tensor(np.asarray(inputs))
    if images.ndim != 4:
        raise ValueError(f"inputs have shape {tuple(images.shape)}: views want images (b, channels, height, width)")
    return images  # type: ignore[no-any-return]


def _margin(log_probabilities: Floats, given: npt.NDArray[np.int64]) -> Floats:
    """Log probability of the likeliest other label less that of the given one."""
    at = np.arange(len(given))
    others = log_probabilities.copy()
    others[at, given] = -np.inf
    return np.asarray(others.max(axis=1) - log_probabilities[at, given])


def _pool(output: Any, name: str) -> npt.NDArray[np.float32]:
    torch = need("torch", extra="torch")
    if not torch.is_tensor(output) or output.ndim not in (2, 3, 4):
        raise ValueError(f"layer {name!r} does not give one tensor (b, d), (b, tokens, d) or (b, c, h, w)")
    if output.ndim == 4:
        output = torch.nn.functional.adaptive_avg_pool2d(output.float(), CELLS).flatten(1)
    elif output.ndim == 3:
        output = output.mean(dim=1)
    return output.to("cpu", torch.float32, copy=True).numpy()  # type: ignore[no-any-return]


def _find_early_layer(model: nn.Module, dataset: Any, options: Extraction) -> str:
    """The last layer whose output is larger, in height, than the last map of the network; by running one image."""
    sizes: list[tuple[str, int]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            if getattr(output, "ndim", 0) == 4 and output.shape[2] > 1:
                sizes.append((name, int(output.shape[2])))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        _run_one(model, dataset, options)
    finally:
        for handle in handles:
            handle.remove()
    larger = [name for name, size in sizes if size > sizes[-1][1]]
    if not larger:
        raise ValueError("no layer before a smaller image was found: name an earlier layer with layer=")
    return larger[-1]


def _run_one(model: nn.Module, dataset: Any, options: Extraction) -> None:
    rows = None if as_source(dataset).load is None else np.zeros(1, np.int64)
    forward(model, dataset, lambda *_: None, options, rows, False, "views")
