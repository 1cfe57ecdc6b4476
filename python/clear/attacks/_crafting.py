"""What the crafted attacks share: the ball around the base images, the descent inside it, and the geometry reached."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clear._arrays import as_count
from clear.features import evaluating, running
from clear.hull import solve_hulls
from clear.models import find_layer, last_linear
from clear.training import device_of, load_inputs

__all__ = [
    "Layer",
    "Ball",
    "Crafted",
    "Geometry",
    "Models",
    "Search",
    "SearchOptions",
    "as_models",
    "as_targets",
    "extracting",
    "measure_geometry",
]

Floats = npt.NDArray[np.float64]
Models = nn.Module | Sequence[nn.Module]
Extractor = Callable[[torch.Tensor], torch.Tensor]
Progress = Callable[[int, int], None] | None

DECAYS = (3 / 8, 5 / 8, 7 / 8)
"""Shares of the steps after which a signed descent takes steps a tenth as long (Geiping et al. 2021)."""


Layer = str | None | Sequence[str | None]
"""Name of a layer, for all models or one for each; None: what the last `nn.Linear` is given."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where poisons lie relative to their targets, in features (or, for gradient matching, training gradients)."""

    distance: Floats
    """Of each poison to the nearest target, features of the first model, float64 (b,)."""
    hull: Floats
    """Of each target to the hull of the poisons, float64 (models, targets): what a convex polytope makes small."""
    center: Floats
    """Of each target to the mean of the poisons, float64 (models, targets): what a bullseye makes small."""
    cosine: Floats | None = None
    """Between the gradient that the poisons give and the one that misclassifies the targets, float64 (models,)."""


@dataclass(frozen=True, slots=True)
class Crafted:
    """Poisons and the geometry that they reached."""

    poisons: torch.Tensor
    """float32 (b, ...), on the CPU: the base images, changed, within epsilon and the bounds, on the grid."""
    before: Geometry
    """Of the base images."""
    after: Geometry
    """Of the poisons, after rounding."""
    largest_change: float
    """Largest change of a pixel, in the units of the images."""

    @property
    def distance_before(self) -> Floats:
        """Feature distance of each base image to the nearest target, float64 (b,)."""
        return self.before.distance

    @property
    def distance_after(self) -> Floats:
        """The same after the change and the rounding, float64 (b,)."""
        return self.after.distance

    def __repr__(self) -> str:
        before, after = np.median(self.distance_before), np.median(self.distance_after)
        hull = f"{self.before.hull.mean():.3g} -> {self.after.hull.mean():.3g}"
        return (
            f"Crafted({len(self.poisons)} poisons, median feature distance {before:.3g} -> {after:.3g}, "
            f"target to their hull {hull}, largest change {self.largest_change:.3g})"
        )


class SearchOptions(TypedDict, total=False):
    """What every crafted attack takes by keyword, beside its own options. Only `epsilon` must be given."""

    epsilon: Required[float]
    """Largest change of a pixel (l_inf), in the units of the images."""
    steps: int
    """Adam steps, of each restart where there are several. Default: 200 (gradient matching: 250)."""
    learning_rate: float
    """Of Adam, in the units of the images. Default: 0.02 (gradient matching: epsilon / 8)."""
    bounds: tuple[float, float]
    """Smallest and largest valid pixel. Default: (0, 1)."""
    levels: int
    """Poisons are rounded to this many equally spaced values between the bounds. Default: 256, for 8-bit images."""
    progress: Progress
    """Called as f(step, steps). Default: None."""


@dataclass(frozen=True, slots=True)
class Search:
    """How the poisons are looked for: `SearchOptions` with their defaults; checked when made."""

    epsilon: float
    steps: int = 200
    learning_rate: float = 0.02
    bounds: tuple[float, float] = (0.0, 1.0)
    levels: int = 256
    progress: Progress = None

    def __post_init__(self) -> None:
        as_count(self.steps, "steps")
        as_count(self.levels, "levels", low=2)
        if not self.epsilon > 0 or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"epsilon is {self.epsilon} and learning_rate {self.learning_rate}: want numbers above 0")
        if not -math.inf < self.bounds[0] < self.bounds[1] < math.inf:
            raise ValueError(f"bounds are {self.bounds}: want the smallest and the largest valid pixel")


class Ball:
    """The images within epsilon of the base images, within the bounds and on the grid of pixel values."""

    def __init__(self, base: torch.Tensor, search: Search) -> None:
        lowest, highest = float(base.min()), float(base.max())
        floor, ceiling = search.bounds
        if not (floor <= lowest and highest <= ceiling):
            raise ValueError(
                f"base_images range from {lowest:.3g} to {highest:.3g}: want values within bounds {search.bounds}"
            )
        self.base, self.floor, self.levels = base, floor, search.levels
        self.unit = unit = (ceiling - floor) / (search.levels - 1)
        slack = 1e-4  # of a grid step, for float32 rounding
        self.low = torch.ceil((base - search.epsilon - floor) / unit - slack).clamp(min=0) * unit + floor
        self.high = (
            torch.floor((base + search.epsilon - floor) / unit + slack).clamp(max=self.levels - 1) * unit + floor
        )
        if (self.low > self.high).any():
            raise ValueError(
                f"epsilon is {search.epsilon}: want at least half a grid step ({unit / 2:.3g}); or raise levels"
            )

    def clip(self, images: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(images, self.low), self.high)

    def round(self, images: torch.Tensor) -> torch.Tensor:
        return torch.round((images - self.floor) / self.unit) * self.unit + self.floor

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Uniformly random images of the ball."""
        share = torch.rand(self.base.shape, generator=generator).to(self.base.device)
        return self.low + share * (self.high - self.low)


def descend(
    ball: Ball,
    start: torch.Tensor,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    search: Search,
    *,
    signed: bool = False,
    done: int = 0,
    total: int | None = None,
) -> torch.Tensor:
    """Adam inside the ball, from `start`; returns images on the grid. `signed` feeds it the signs of the gradient.

    `done` and `total` place these steps among all that progress is told of.
    """
    images = ball.clip(start.detach().clone()).requires_grad_(True)
    adam = torch.optim.Adam([images], lr=search.learning_rate)
    decays = {round(search.steps * share) for share in DECAYS} if signed else set()
    for step in range(1, search.steps + 1):
        with running(images):
            (gradient,) = torch.autograd.grad(loss_of(images), [images])
        images.grad = gradient.sign() if signed else gradient
        adam.step()
        with torch.no_grad():
            images.copy_(ball.clip(images))
        if step in decays:
            adam.param_groups[0]["lr"] *= 0.1
        if search.progress is not None:
            search.progress(done + step, total or search.steps)
    return ball.round(images.detach())


def as_models(model: Models) -> list[nn.Module]:
    """One model or several, as a list."""
    models = [model] if isinstance(model, nn.Module) else list(model)
    if not models or not all(isinstance(item, nn.Module) for item in models):
        raise TypeError(f"model is {type(model).__name__}: want an nn.Module or a sequence of them, at least one")
    return models


def as_targets(base: torch.Tensor, target_images: Any, name: str = "target_images") -> torch.Tensor:
    """Target images as (t, ...); one alone may come without its leading dimension."""
    shape = tuple(np.shape(target_images))
    wanted = tuple(base.shape[1:])
    if shape == wanted:
        target_images = target_images[None]
    elif shape[1:] != wanted or not shape[0]:
        raise ValueError(f"{name} has shape {shape}: want {wanted}, the bases', or (targets, *{wanted})")
    targets = load_inputs(target_images).float()
    if not torch.isfinite(targets).all():
        raise ValueError(f"{name} hold nan or inf: want finite values")
    return targets


@contextlib.contextmanager
def extracting(models: list[nn.Module], layer: str | None | Sequence[str | None]) -> Iterator[list[Extractor]]:
    """Yield, for each model, images -> features (b, d) that keep gradients; models are in eval mode meanwhile."""
    layers = [layer] * len(models) if layer is None or isinstance(layer, str) else list(layer)
    if len(layers) != len(models):
        raise ValueError(f"layer names {len(layers)} layers: want one, or one for each of the {len(models)} models")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_features_of(*pair)) for pair in zip(models, layers, strict=True)]


@contextlib.contextmanager
def _features_of(model: nn.Module, layer: str | None) -> Iterator[Extractor]:
    seen: list[torch.Tensor] = []
    if layer is None:
        hook = last_linear(model)[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    else:
        hook = find_layer(model, layer).register_forward_hook(lambda module, args, output: seen.append(output))
    device = device_of(model)

    def features(images: torch.Tensor) -> torch.Tensor:
        seen.clear()
        model(images.to(device))
        return seen[-1].flatten(1)

    try:
        with evaluating(model, str(device)):
            yield features
    finally:
        hook.remove()


@torch.no_grad()
def measure_geometry(
    extractors: list[Extractor], images: torch.Tensor, targets: torch.Tensor, cosine: Floats | None = None
) -> Geometry:
    """Feature distances, hull distances (certified, by the compiled solver) and distances to the mean."""
    hulls, centers, nearest = [], [], np.empty(0)
    for i, features in enumerate(extractors):
        points, goals = (features(part).double().cpu().numpy() for part in (images, targets))
        if i == 0:
            nearest = np.linalg.norm(points[:, None] - goals[None], axis=2).min(axis=1)
        centers.append(np.linalg.norm(goals - points.mean(axis=0), axis=1))
        members = np.tile(np.arange(len(points)), (len(goals), 1))
        hulls.append(solve_hulls(goals, points, members, certificates=False, threads=1).upper)
    return Geometry(nearest, np.stack(hulls), np.stack(centers), cosine)
