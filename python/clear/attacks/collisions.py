"""Clean-label attacks in feature space: feature collision, convex polytope, bullseye polytope."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch

from clear._arrays import as_count
from clear.attacks._crafting import (
    Ball,
    Crafted,
    Layer,
    Models,
    Search,
    SearchOptions,
    as_models,
    as_targets,
    descend,
    extracting,
    measure_geometry,
)
from clear.training import device_of, load_inputs

__all__ = ["bullseye_polytope", "convex_polytope", "feature_collision"]

Loss = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
"""(number of the model, features of the poisons (b, d), of the targets (t, d)) -> scalar."""

COEFFICIENT_STEPS = 50
"""Forward-backward steps on the coefficients for each step on the images; they start where they were left."""


def feature_collision(
    model: Models,
    base_images: Any,
    target_image: Any,
    *,
    layer: Layer = None,
    **search: Unpack[SearchOptions],
) -> Crafted:
    """Move images of one class onto a target of another class in feature space, with small changes of the pixels.

    Trained on with their own, correct labels, they pull the target into their class: a clean-label attack.

    Parameters
    ----------
    model : nn.Module or sequence of them
        The feature extractor that the victim will use, or several that stand in for one that is not at hand. Not
        changed.
    base_images : tensor or array of float, shape (b, ...)
        Images of the class that the target shall be taken for, as the model expects them.
    target_image : tensor or array of float, shape (...) or (t, ...)
        With several targets, base image i is moved onto target i modulo t.
    layer : str, optional
        Dotted name of the module whose output is collided, or one name for each model. Default: what enters the last
        `nn.Linear`.
    **search
        `epsilon` and, optionally, `steps`, `learning_rate`, `bounds`, `levels`, `progress`: see `SearchOptions`.

    Returns
    -------
    Crafted
        Poisons, within epsilon and the bounds and on the grid; the geometry before and after, measured on them.

    Raises
    ------
    TypeError, ValueError
        Wrong shapes, base images outside the bounds, or an unknown layer (names the candidates).

    Notes
    -----
    Deterministic. After Shafahi et al., "Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural Networks"
    (NeurIPS 2018), with an l_inf ball in place of their l2 penalty and Adam in place of forward-backward splitting. It
    works when the victim keeps the extractor frozen; it need not work otherwise. Cost: `steps` forward and backward
    passes of all base images at once, for each model.

    Examples
    --------
    >>> import torch
    >>> from clear.attacks import feature_collision
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> collision = feature_collision(net, torch.full((2, 4), 0.3), torch.full((4,), 0.6), epsilon=0.1)
    >>> bool((collision.distance_after < collision.distance_before).all()), round(collision.largest_change, 3) <= 0.1
    (True, True)
    """

    def loss(_: int, points: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        aim = goals[torch.arange(len(points)) % len(goals)]
        return (points - aim).square().sum() / goals.square().sum(1).mean()

    return _craft(model, base_images, target_image, layer, Search(**search), loss, "target_image")


def convex_polytope(
    model: Models,
    base_images: Any,
    target_images: Any,
    *,
    layer: Layer = None,
    **search: Unpack[SearchOptions],
) -> Crafted:
    """Place images of one class around a target of another, so that their convex hull in feature space holds it.

    A linear classifier that gives all of them their own, correct label must give it to the target too.

    Parameters
    ----------
    model : nn.Module or sequence of them
        One extractor, or several: the target is put into the hull in each feature space, with coefficients of its own,
        which makes the poisons carry over to other networks.
    base_images, layer, **search
        As in `feature_collision`.
    target_images : tensor or array of float, shape (...) or (t, ...)
        Several targets are put into the same hull.

    Returns
    -------
    Crafted
        `after.hull` says how far each target still is from the hull, in each model's features.

    Raises
    ------
    TypeError, ValueError
        As in `feature_collision`.

    Notes
    -----
    Deterministic. After Zhu et al., "Transferable Clean-Label Poisoning Attacks on Deep Neural Nets" (ICML 2019): steps
    on the images alternate with forward-backward splitting (a gradient step and the projection on the simplex) on the
    coefficients. Poisons whose coefficient has become zero are not moved any more; that is a property of the objective.

    Examples
    --------
    >>> import torch
    >>> from clear.attacks import convex_polytope
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> bases = torch.linspace(0.2, 0.8, 12).reshape(3, 4)
    >>> crafted = convex_polytope(net, bases, torch.tensor([0.5, 0.4, 0.5, 0.6]), epsilon=0.1)
    >>> bool((crafted.after.hull <= crafted.before.hull).all())
    True
    """
    kept: dict[int, torch.Tensor] = {}

    def loss(number: int, points: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        even = points.new_full((len(goals), len(points)), 1 / len(points))
        kept[number] = fit_coefficients(points.detach(), goals, kept.get(number, even))
        residual = (kept[number] @ points - goals).square().sum(1)
        return 0.5 * (residual / goals.square().sum(1)).mean()

    return _craft(model, base_images, target_images, layer, Search(**search), loss)


def bullseye_polytope(
    model: Models,
    base_images: Any,
    target_images: Any,
    *,
    layer: Layer = None,
    spread: float = 0.0,
    pocket: int | None = None,
    **search: Unpack[SearchOptions],
) -> Crafted:
    """Place images of one class around a target of another, so that their mean in feature space is the target.

    A convex polytope whose target sits in the middle, not at the edge: it survives small changes of the features.

    Parameters
    ----------
    model : nn.Module or sequence of them
        As in `convex_polytope`.
    base_images, layer, **search
        As in `feature_collision`.
    target_images : tensor or array of float, shape (...) or (t, ...)
        Several views of one object: the mean of the poisons is moved to the mean of the views (multi-target mode).
    spread : float
        Adaptive attack: reward poisons for keeping away from the target, with this weight, so that no handful of
        them wraps it tightly. 0 is the published attack.
    pocket : int, optional
        With a spread: reward instead the distance of the target to the hull of this many nearest poisons. It is the
        pocket that `clear.scan` and `clear.probe` look for, and has to be smaller than the number of poisons.

    Returns
    -------
    Crafted
        `after.center` says how far each target is from the mean of the poisons, in each model's features.

    Raises
    ------
    TypeError, ValueError
        As in `feature_collision`; a negative spread, a pocket without one or of more poisons than there are.

    Notes
    -----
    Deterministic. After Aghakhani et al., "Bullseye Polytope: A Scalable Clean-Label Poisoning Attack with Improved
    Transferability" (EuroS&P 2021).

    Examples
    --------
    >>> import torch
    >>> from clear.attacks import bullseye_polytope
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> bases = torch.linspace(0.2, 0.8, 12).reshape(3, 4)
    >>> crafted = bullseye_polytope(net, bases, torch.tensor([0.5, 0.4, 0.5, 0.6]), epsilon=0.1)
    >>> bool((crafted.after.center < crafted.before.center).all())
    True
    """
    if not 0 <= spread < math.inf or (pocket is not None and not spread):
        raise ValueError(f"spread is {spread}: want a number of at least 0, above 0 where a pocket is given")
    if pocket is not None:
        as_count(pocket, "pocket", high=len(base_images), why=" (the number of base_images)")

    def loss(_: int, points: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        goal = goals.mean(0)
        scale = goal.square().sum()
        miss = (points.mean(0) - goal).square().sum() / scale
        if not spread:
            return miss
        apart = (points - goal).square().sum(1)
        if pocket is not None:
            nearest = points[apart.argsort()[:pocket]]
            even = points.new_full((1, len(nearest)), 1 / len(nearest))
            apart = (fit_coefficients(nearest.detach(), goal[None], even) @ nearest - goal).square().sum(1)
        return miss - spread * torch.log(apart / scale + 1e-6).mean()

    return _craft(model, base_images, target_images, layer, Search(**search), loss)


def _craft(
    model: Models,
    base_images: Any,
    target_images: Any,
    layer: Layer,
    search: Search,
    loss: Loss,
    name: str = "target_images",
) -> Crafted:
    """Minimise the sum of a loss over the models, inside the ball."""
    models = as_models(model)
    base = load_inputs(base_images).float()
    targets = as_targets(base, target_images, name)
    device = device_of(models[0])
    base, targets = base.to(device), targets.to(device)
    ball = Ball(base, search)
    with extracting(models, layer) as extractors:
        with torch.no_grad():
            goals = [features(targets) for features in extractors]

        def total(images: torch.Tensor) -> torch.Tensor:
            losses = [loss(i, features(images), goals[i]).to(device) for i, features in enumerate(extractors)]
            return torch.stack(losses).sum()

        before = measure_geometry(extractors, base, targets)
        poisons = descend(ball, base, total, search)
        after = measure_geometry(extractors, poisons, targets)
    return Crafted(poisons.cpu(), before, after, float((poisons - base).abs().max()))


@torch.no_grad()
def fit_coefficients(
    points: torch.Tensor, goals: torch.Tensor, start: torch.Tensor, steps: int = COEFFICIENT_STEPS
) -> torch.Tensor:
    """Convex coefficients (t, b) that bring `coefficients @ points` near the goals: forward-backward splitting."""
    gram, products = points @ points.T, goals @ points.T
    bound = torch.linalg.matrix_norm(gram, ord=2).clamp(min=1e-12)
    coefficients = start
    for _ in range(steps):
        coefficients = project_on_simplex(coefficients - (coefficients @ gram - products) / bound)
    return coefficients


def project_on_simplex(rows: torch.Tensor) -> torch.Tensor:
    """Nearest point of the probability simplex to each row (Duchi et al. 2008)."""
    ordered = rows.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - 1
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    kept = (ordered * counts > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, kept - 1) / kept).clamp(min=0)
