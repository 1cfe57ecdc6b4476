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
from clear._batches import as_source, iterate_batches
from clear._progress import Progress, track
from clear.features import default_preprocess, predict, running
from clear.models import last_linear

__all__ = [
    "Epoch",
    "Optimizer",
    "Scope",
    "accuracy",
    "as_dataset",
    "check_length",
    "device_of",
    "fit",
    "load_inputs",
    "seeded",
]

Ints = npt.NDArray[np.int64]
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
    """Share of them predicted as labelled while training, 0 to 1."""


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
    copies: Any = None,
    optimizer: Optimizer = "sgd",
    update_batch_norm: bool = True,
    progress: Progress = False,
) -> tuple[Epoch, ...]:
    """Train a classifier in place with cross-entropy.

    Parameters
    ----------
    model : nn.Module
        Maps inputs (b, ...) to logits (b, classes). Changed in place; in eval mode afterwards.
    inputs : tensor or array of float, shape (n, ...), or data set
        As `load_inputs` takes it; all of it is loaded.
    labels : array of int, shape (n,)
    epochs, batch_size : int
        Batches are of equal size, give or take one, and none of one sample where there are more: batch normalisation
        cannot use it.
    learning_rate : float
    seed : int
        Of the order of samples and of dropout. The caller's random state stays as it was.
    scope : {"network", "head"}
        Train every parameter, or the last `nn.Linear` only, with everything else in eval mode.
    copies : array of int, shape (n,), optional
        How often each sample occurs in an epoch; 0 leaves it out. Default: once each.
    optimizer : {"sgd", "adam"}
        SGD with momentum 0.9 and a cosine schedule, or Adam at a constant rate.
    update_batch_norm : bool
        Whether batch normalisation uses and updates the statistics of the batches (scope "network" only).
    progress : bool or callable
        As in `scan`, in epochs.

    Returns
    -------
    tuple of Epoch

    Raises
    ------
    TypeError, ValueError
        Wrong shapes, labels or options.

    Notes
    -----
    Same seed, device and number of torch threads: same weights.

    Examples
    --------
    >>> import torch
    >>> from clear.training import fit
    >>> history = fit(torch.nn.Linear(1, 2), torch.tensor([[-1.0], [1.0]]), [0, 1], epochs=50, learning_rate=0.5)
    >>> history[-1].accuracy
    1.0
    """
    samples = load_inputs(inputs, model=model)
    targets = torch.from_numpy(as_labels(labels, len(samples), classes=_outputs(model)))
    order = torch.from_numpy(_rows_of_an_epoch(copies, len(samples)))
    epochs, batch_size = as_count(epochs, "epochs"), as_count(batch_size, "batch_size")
    trained = _trained_parameters(model, scope)
    batches = min(-(-len(order) // batch_size), max(1, len(order) // 2))
    step = _make_step(trained, optimizer, learning_rate, epochs * batches)
    device = device_of(model)
    history = []
    with (
        seeded(seed, device) as generator,
        _only(model, trained),
        track(progress, f"train the {scope}", epochs, "epochs") as advance,
    ):
        _set_modes(model, scope, update_batch_norm)
        network, samples = (model, samples) if scope == "network" else _split_off_head(model, samples, batch_size)
        for number in range(1, epochs + 1):
            loss_sum, correct = 0.0, 0
            shuffled = order[torch.randperm(len(order), generator=generator)]
            for batch in torch.tensor_split(shuffled, batches):
                x, y = samples[batch], targets[batch].to(device)
                with running(x):
                    logits = network(x.to(device))
                    loss = nn.functional.cross_entropy(logits, y)
                    step(loss)
                loss_sum += float(loss.detach()) * len(batch)
                correct += int((logits.argmax(1) == y).sum())
            history.append(Epoch(number, loss_sum / len(order), correct / len(order)))
            advance(1)
    model.eval()
    return tuple(history)


def load_inputs(dataset: Any, *, rows: Any = None, model: nn.Module | None = None) -> torch.Tensor:
    """Return the inputs of a data set, or those of chosen rows, as one float tensor (n, ...) on the CPU.

    `dataset` is a tensor or array (n, ...), or what `extract_features` takes. Only the chosen rows are loaded. Images
    in uint8 go through `model.preprocess`.
    """
    preprocess = None if model is None else default_preprocess(model)
    parts = [batch.inputs for batch in iterate_batches(as_dataset(dataset), preprocess=preprocess, rows=rows)]
    if not parts:
        raise ValueError("inputs are empty: want at least one sample")
    inputs = torch.cat(parts)
    if not inputs.is_floating_point():
        raise TypeError(f"inputs have dtype {inputs.dtype}: want floating point, scaled as the model expects them")
    return inputs


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter, or the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def as_dataset(inputs: Any) -> Any:
    """Wrap a bare tensor or array as a data set without labels; anything else is a data set already."""
    if isinstance(inputs, torch.Tensor):
        return inputs.detach(), None
    if isinstance(inputs, (np.ndarray, list)):
        return to_numpy(inputs), None
    return inputs


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[torch.Generator]:
    """Fix what initial weights and dropout draw, and give the caller's random state back; yields a CPU generator."""
    as_count(seed, "seed", low=0)
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def accuracy(model: nn.Module, inputs: Any, labels: Any) -> float:
    """Return the share of samples that a model predicts as labelled, 0 to 1."""
    predicted = predict(model, as_dataset(inputs))
    if not len(predicted):
        raise ValueError("there are no samples to measure accuracy on: want at least one")
    return float((predicted == as_labels(labels, len(predicted))).mean())


def check_length(name: str, inputs: Any, n: int) -> None:
    """Raise a ValueError where a data set does not hold n samples."""
    got = as_source(as_dataset(inputs)).n
    if got != n:
        raise ValueError(f"{name} has {got} samples: want {n}, those that the result is about")


def _outputs(model: nn.Module) -> int | None:
    """Classes that the head knows; None where the model does not end in an `nn.Linear`."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return layers[-1].out_features if layers else None


def _rows_of_an_epoch(copies: Any, n: int) -> Ints:
    if copies is None:
        return np.arange(n)
    counts = as_labels(copies, n, "copies")
    if not counts.any():
        raise ValueError("copies is zero everywhere: nothing is left to train on")
    return np.repeat(np.arange(n), counts)


def _trained_parameters(model: nn.Module, scope: str) -> list[nn.Parameter]:
    if scope not in ("network", "head"):
        raise ValueError(f'scope is {scope!r}: want "network" or "head"')
    return list((model if scope == "network" else last_linear(model)[1]).parameters())


@torch.no_grad()
def _split_off_head(model: nn.Module, samples: torch.Tensor, batch_size: int) -> tuple[nn.Module, torch.Tensor]:
    """The last linear layer and what enters it, computed once: everything before it is frozen.

    Where the model's output is not that layer's output as it is, the model and the samples are returned unchanged.
    """
    head, device = last_linear(model)[1], device_of(model)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = head.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    entered = []
    try:
        for part in samples.split(batch_size):  # type: ignore[no-untyped-call]
            seen.clear()
            with running(part):
                output = model(part.to(device))
            if len(seen) != 1 or output is not seen[0][1]:
                return model, samples
            entered.append(seen[0][0].cpu())
    finally:
        hook.remove()
    return head, torch.cat(entered)


def _make_step(parameters: list[nn.Parameter], name: str, rate: float, steps: int) -> Callable[[torch.Tensor], None]:
    """Return what updates the parameters for a loss."""
    if not 0 < rate < 100:
        raise ValueError(f"learning_rate is {rate}: want a number above 0")
    if name not in ("sgd", "adam"):
        raise ValueError(f'optimizer is {name!r}: want "sgd" or "adam"')
    update: torch.optim.Optimizer
    schedule = None
    if name == "adam":
        update = torch.optim.Adam(parameters, lr=rate)
    else:
        update = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, steps)

    def step(loss: torch.Tensor) -> None:
        update.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        update.step()
        if schedule is not None:
            schedule.step()

    return step


@contextlib.contextmanager
def _only(model: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Let gradients flow to `trained` alone; afterwards every parameter is as trainable as before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    chosen = {id(parameter) for parameter in trained}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)
            parameter.grad = None


def _set_modes(model: nn.Module, scope: str, update_batch_norm: bool) -> None:
    model.train(scope == "network")
    if not update_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
