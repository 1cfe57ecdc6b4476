"""Red-team tools: implant triggerless backdoors into one's own data, to see whether one's own pipeline finds them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clear._arrays import as_count, as_labels, to_numpy
from clear.features import evaluating
from clear.models import find_layer, last_linear
from clear.training import device_of, load_inputs

__all__ = ["Collision", "feature_collision", "flip_labels"]


@dataclass(frozen=True, slots=True)
class Collision:
    """Poisons and the geometry that they reached."""

    poisons: torch.Tensor
    """float32 (b, ...), on the CPU: the base images, changed."""
    distance_before: npt.NDArray[np.float64]
    """Feature distance of each base image to the target, float64 (b,)."""
    distance_after: npt.NDArray[np.float64]
    """The same after the change and the rounding, float64 (b,)."""
    largest_change: float
    """Largest change of a pixel, in the units of the images."""

    def __repr__(self) -> str:
        before, after = np.median(self.distance_before), np.median(self.distance_after)
        return (
            f"Collision({len(self.poisons)} poisons, median feature distance {before:.3g} -> {after:.3g}, "
            f"largest change {self.largest_change:.3g})"
        )


def flip_labels(
    labels: Any, n_flips: int, n_classes: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give random samples a random wrong label.

    Parameters
    ----------
    labels : array of int, shape (n,)
    n_flips : int
        From 1 to n.
    n_classes : int
        From 2.
    seed : int

    Returns
    -------
    poisoned : array of int64, shape (n,)
    rows : array of int64, shape (n_flips,)
        The flipped samples, ascending.

    Raises
    ------
    TypeError, ValueError
        Labels or counts out of range.

    Notes
    -----
    A network that memorises such labels misclassifies exactly these samples and no others: no trigger is involved.
    Zhang et al., "Understanding deep learning requires rethinking generalization" (ICLR 2017), show that it will.

    Examples
    --------
    >>> import numpy as np
    >>> from clear.attacks import flip_labels
    >>> poisoned, rows = flip_labels(np.zeros(6, np.int64), 2, n_classes=3, seed=0)
    >>> len(rows), int((poisoned != 0).sum())
    (2, 2)
    """
    classes = as_count(n_classes, "n_classes", low=2)
    given = as_labels(labels, len(to_numpy(labels)), classes=classes)
    count = as_count(n_flips, "n_flips", high=len(given), why=" (the number of samples)")
    rng = np.random.default_rng(as_count(seed, "seed", low=0))
    rows = np.sort(rng.choice(len(given), count, replace=False))
    poisoned = given.copy()
    poisoned[rows] = (given[rows] + rng.integers(1, classes, count)) % classes
    return poisoned, rows


def feature_collision(
    model: nn.Module,
    base_images: Any,
    target_image: Any,
    *,
    epsilon: float,
    steps: int = 200,
    learning_rate: float = 0.02,
    layer: str | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    levels: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Collision:
    """Move images of one class onto a target of another class in feature space, with small changes of the pixels.

    Trained on with their own, correct labels, they pull the target into their class: a clean-label attack.

    Parameters
    ----------
    model : nn.Module
        The feature extractor that the victim will use. Not changed.
    base_images : tensor or array of float, shape (b, ...)
        Images of the class that the target shall be taken for, as the model expects them.
    target_image : tensor or array of float, shape (...)
    epsilon : float
        Largest change of a pixel (l_inf), in the units of the images.
    steps : int
        Adam steps.
    learning_rate : float
        Of Adam, in the units of the images.
    layer : str, optional
        Dotted name of the module whose output is collided. Default: what enters the last `nn.Linear`.
    bounds : (float, float)
        Smallest and largest valid pixel.
    levels : int
        Poisons are rounded to this many equally spaced values between the bounds: 256 for 8-bit images.
    progress : callable, optional
        Called as f(step, steps).

    Returns
    -------
    Collision
        Poisons, within epsilon and the bounds and on the grid; feature distances before and after, measured on them.

    Raises
    ------
    TypeError, ValueError
        Wrong shapes, base images outside the bounds, or an unknown layer (names the candidates).

    Notes
    -----
    Deterministic. After Shafahi et al., "Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural Networks"
    (NeurIPS 2018), with an l_inf ball in place of their l2 penalty and Adam in place of forward-backward splitting. It
    works when the victim keeps the extractor frozen; it need not work otherwise. Cost: `steps` forward and backward
    passes of all base images at once.

    Examples
    --------
    >>> import torch
    >>> from clear.attacks import feature_collision
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> collision = feature_collision(net, torch.full((2, 4), 0.3), torch.full((4,), 0.6), epsilon=0.1)
    >>> bool((collision.distance_after < collision.distance_before).all()), round(collision.largest_change, 3) <= 0.1
    (True, True)
    """
    base, target = load_inputs(base_images).float(), load_inputs(target_image[None]).float()
    _check_collision(base, target, epsilon, learning_rate, bounds)
    steps, levels = as_count(steps, "steps"), as_count(levels, "levels", low=2)
    device = device_of(model)
    base, target = base.to(device), target.to(device)
    low, high = _grid_limits(base, epsilon, bounds, levels)
    with _features_of(model, layer) as features:
        goal = features(target).detach()
        before = (features(base) - goal).detach().norm(dim=1)
        images = base.clone().requires_grad_(True)
        adam = torch.optim.Adam([images], lr=learning_rate)
        for step in range(1, steps + 1):
            loss = (features(images) - goal).square().sum(1).sum()
            (images.grad,) = torch.autograd.grad(loss, [images])
            adam.step()
            with torch.no_grad():
                images.copy_(torch.minimum(torch.maximum(images, low), high))
            if progress is not None:
                progress(step, steps)
        poisons = _round_to_grid(images.detach(), bounds, levels)
        after = (features(poisons) - goal).detach().norm(dim=1)
    return Collision(
        poisons.cpu(),
        before.double().cpu().numpy(),
        after.double().cpu().numpy(),
        float((poisons - base).abs().max()),
    )


def _check_collision(
    base: torch.Tensor, target: torch.Tensor, epsilon: float, learning_rate: float, bounds: tuple[float, float]
) -> None:
    if base.shape[1:] != target.shape[1:]:
        raise ValueError(f"target_image has shape {tuple(target.shape[1:])}: want {tuple(base.shape[1:])}, the bases'")
    if not epsilon > 0 or not learning_rate > 0:
        raise ValueError(f"epsilon is {epsilon} and learning_rate {learning_rate}: want numbers above 0")
    lowest, highest = float(base.min()), float(base.max())
    if not (bounds[0] <= lowest and highest <= bounds[1]):
        raise ValueError(f"base_images range from {lowest:.3g} to {highest:.3g}: want values within bounds {bounds}")


def _grid_limits(
    base: torch.Tensor, epsilon: float, bounds: tuple[float, float], levels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ball around the base images, shrunk to grid values, so that rounding cannot leave it."""
    unit = (bounds[1] - bounds[0]) / (levels - 1)
    slack = 1e-4  # of a grid step, for float32 rounding
    low = torch.ceil((base - epsilon - bounds[0]) / unit - slack).clamp(min=0) * unit + bounds[0]
    high = torch.floor((base + epsilon - bounds[0]) / unit + slack).clamp(max=levels - 1) * unit + bounds[0]
    if (low > high).any():
        raise ValueError(f"epsilon is {epsilon}: want at least half a grid step ({unit / 2:.3g}); or raise levels")
    return low, high


def _round_to_grid(images: torch.Tensor, bounds: tuple[float, float], levels: int) -> torch.Tensor:
    unit = (bounds[1] - bounds[0]) / (levels - 1)
    return torch.round((images - bounds[0]) / unit) * unit + bounds[0]


@contextlib.contextmanager
def _features_of(model: nn.Module, layer: str | None) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Yield images -> features (b, d) that keep gradients; the model is in eval mode meanwhile."""
    seen: list[torch.Tensor] = []
    if layer is None:
        hook = last_linear(model)[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    else:
        hook = find_layer(model, layer).register_forward_hook(lambda module, args, output: seen.append(output))

    def features(images: torch.Tensor) -> torch.Tensor:
        seen.clear()
        model(images)
        return seen[-1].flatten(1)

    try:
        with evaluating(model, str(device_of(model))):
            yield features
    finally:
        hook.remove()
