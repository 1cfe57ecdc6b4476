"""The small training loop behind repair and demo: whole network or last layer, the same result for the same seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clear._arrays import as_count, as_labels, to_numpy

__all__ = ["Epoch", "accuracy", "as_inputs", "fit", "last_linear", "predict"]

Scope = Literal["network", "head"]
Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the data gave."""

    number: int
    """From 1."""
    loss: float
    """Mean cross-entropy over the samples of the pass."""
    accuracy: float
    """Share of them predicted as labelled, while training, 0 to 1."""


def as_inputs(value: Any, name: str = "inputs") -> torch.Tensor:
    """Return samples as one tensor (n, ...): a tensor, an array, or a map-style Dataset (first item of each entry)."""
    if isinstance(value, torch.Tensor):
        inputs = value.detach()
    elif isinstance(value, torch.utils.data.Dataset):
        inputs = _stack(value, name)
    else:
        inputs = torch.from_numpy(np.ascontiguousarray(to_numpy(value)))
    if not inputs.is_floating_point():
        raise TypeError(f"{name} has dtype {inputs.dtype}: want floating point, scaled as the model expects it")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"{name} has shape {tuple(inputs.shape)}: want (samples, ...) with at least one sample")
    return inputs


def _stack(dataset: Any, name: str) -> torch.Tensor:
    if not hasattr(dataset, "__len__"):
        raise TypeError(f"{name} is an iterable dataset: want one with a length, because repair picks samples by row")
    entries = (dataset[row] for row in range(len(dataset)))
    samples = [torch.as_tensor(entry[0] if isinstance(entry, (tuple, list)) else entry) for entry in entries]
    if not samples:
        raise ValueError(f"{name} is an empty dataset: want at least one sample")
    return torch.stack(samples)


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the last `nn.Linear` of a model: its head; what enters it are the penultimate features."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f'{type(model).__name__} has no nn.Linear, so it has no head: use scope="network"')
    return layers[-1]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer, or the CPU."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Fix what dropout draws, without touching the caller's random state; yields a generator for shuffling."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def fit(
    model: nn.Module,
    inputs: Any,
    labels: Any,
    *,
    epochs: int,
    learning_rate: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
    scope: Scope = "network",
    copies: npt.NDArray[np.int64] | None = None,
    optimizer: Optimizer = "sgd",
    update_batch_norm: bool = True,
    progress: bool | Callable[[Epoch], None] = False,
) -> tuple[Epoch, ...]:
    """Train a classifier in place with cross-entropy.

    Parameters
    ----------
    model : nn.Module
        Maps inputs (b, ...) to logits (b, classes). Changed in place; put into eval mode at the end.
    inputs : tensor or array of float, shape (n, ...), or Dataset
    labels : array of int, shape (n,)
    epochs : int
    learning_rate : float
    batch_size : int
    seed : int
        Of the order of samples and of dropout. The caller's random state is left as it was.
    scope : {"network", "head"}
        Train every parameter, or the last `nn.Linear` only (everything else in eval mode).
    copies : array of int, shape (n,), optional
        How often each sample occurs in an epoch; 0 leaves it out. Default: once each.
    optimizer : {"sgd", "adam"}
        SGD with momentum .9 and a cosine schedule, or Adam at a constant rate.
    update_batch_norm : bool
        Whether batch normalisation uses and updates the statistics of the batches (scope "network" only).
    progress : bool or callable
        True shows a bar; a callable gets every `Epoch`.

    Returns
    -------
    tuple of Epoch

    Raises
    ------
    TypeError, ValueError
        Wrong shapes, labels or options.

    Notes
    -----
    Same seed, same device, same number of torch threads: same weights.

    Examples
    --------
    >>> import torch
    >>> from clear.training import fit
    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> history = fit(torch.nn.Linear(1, 2), x, [0, 1], epochs=50, learning_rate=0.5)
    >>> history[-1].accuracy
    1.0
    """
    samples = as_inputs(inputs)
    device = device_of(model)
    targets = torch.from_numpy(as_labels(labels, len(samples)))
    order = torch.from_numpy(_schedule(copies, len(samples)))
    epochs, batch_size = as_count(epochs, "epochs"), as_count(batch_size, "batch_size")
    trained = _select(model, scope)
    steps = epochs * -(-len(order) // batch_size)
    update, advance = _make_optimizer(trained, optimizer, learning_rate, steps)
    history = []
    with seeded(seed, device) as generator, _only(model, trained), _bar(epochs, progress) as report:
        for number in range(1, epochs + 1):
            _set_modes(model, scope, update_batch_norm)
            loss_sum, correct = 0.0, 0
            for batch in order[torch.randperm(len(order), generator=generator)].split(batch_size):
                x, y = samples[batch].to(device), targets[batch].to(device)
                logits = model(x)
                loss = nn.functional.cross_entropy(logits, y)
                update.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
                update.step()
                advance()
                loss_sum += float(loss.detach()) * len(batch)
                correct += int((logits.argmax(1) == y).sum())
            history.append(Epoch(number, loss_sum / len(order), correct / len(order)))
            report(history[-1])
    model.eval()
    return tuple(history)


@torch.no_grad()
def predict(model: nn.Module, inputs: Any, *, batch_size: int = 512) -> npt.NDArray[np.int64]:
    """Return the model's predictions, int64 (n,), in eval mode; the model's mode is restored."""
    samples = as_inputs(inputs)
    device = device_of(model)
    training = model.training
    model.eval()
    try:
        parts = [model(batch.to(device)).argmax(1).cpu() for batch in samples.split(batch_size)]
    finally:
        model.train(training)
    return torch.cat(parts).numpy()


def accuracy(model: nn.Module, inputs: Any, labels: Any) -> float:
    """Return the share of samples predicted as labelled, 0 to 1."""
    predicted = predict(model, inputs)
    return float((predicted == as_labels(labels, len(predicted))).mean())


def _schedule(copies: Any, n: int) -> npt.NDArray[np.int64]:
    """Rows of one epoch, each as often as asked."""
    if copies is None:
        return np.arange(n)
    counts = as_labels(copies, n, "copies")
    if not counts.any():
        raise ValueError("copies is zero everywhere: nothing is left to train on")
    return np.repeat(np.arange(n), counts)


def _select(model: nn.Module, scope: str) -> list[nn.Parameter]:
    if scope not in ("network", "head"):
        raise ValueError(f'scope is {scope!r}: want "network" or "head"')
    return list((model if scope == "network" else last_linear(model)).parameters())


def _make_optimizer(
    parameters: list[nn.Parameter], name: str, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    if not 0 < rate < 100:
        raise ValueError(f"learning_rate is {rate}: want a number above 0")
    if name == "adam":
        return torch.optim.Adam(parameters, lr=rate), lambda: None
    if name != "sgd":
        raise ValueError(f'optimizer is {name!r}: want "sgd" or "adam"')
    sgd = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    return sgd, schedule.step


@contextlib.contextmanager
def _only(model: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Let gradients flow to `trained` alone; afterwards every parameter is as trainable as before."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    chosen = {id(parameter) for parameter in trained}
    try:
        for parameter in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, needed in before.items():
            parameter.requires_grad_(needed)
            parameter.grad = None


def _set_modes(model: nn.Module, scope: str, update_batch_norm: bool) -> None:
    model.train(scope == "network")
    if not update_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


@contextlib.contextmanager
def _bar(epochs: int, progress: bool | Callable[[Epoch], None]) -> Iterator[Callable[[Epoch], None]]:
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda epoch: None
        return
    from tqdm import tqdm

    with tqdm(total=epochs, desc="fine-tuning", unit="epoch") as bar:
        yield lambda epoch: bar.update(1)
