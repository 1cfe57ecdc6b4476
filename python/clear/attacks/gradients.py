"""A clean-label attack on networks that are trained as a whole: gradient matching ("Witches' Brew")."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from clear._arrays import as_count, as_labels, to_numpy
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
from clear.features import evaluating
from clear.models import last_linear
from clear.training import Scope, _only, device_of, load_inputs, seeded

__all__ = ["gradient_matching"]

Augment = Callable[[torch.Tensor], torch.Tensor]


def gradient_matching(
    model: Models,
    base_images: Any,
    base_labels: Any,
    target_images: Any,
    adversarial_labels: Any,
    *,
    restarts: int = 4,
    scope: Scope = "network",
    layer: Layer = None,
    augment: Augment | None = None,
    seed: int = 0,
    **search_options: Unpack[SearchOptions],
) -> Crafted:
    """Change images so that training on them moves the weights as training on mislabelled targets would.

    No poison needs to look like the target, in pixels or in features.

    Parameters
    ----------
    model : nn.Module or sequence of them
        A trained classifier, or several; the victim fine-tunes it, or trains one like it. Not changed.
    base_images : tensor or array of float, shape (b, ...)
        Images of the class that the targets shall be taken for.
    base_labels : array of int, shape (b,)
        Their labels, which they keep.
    target_images : tensor or array of float, shape (...) or (t, ...)
    adversarial_labels : int, or array of int, shape (t,)
        What the targets shall be taken for.
    restarts : int
        Starting points: the base images, then random images of the ball. The best cosine is kept.
    scope : {"network", "head"}
        Whose gradient is matched: all parameters', or those of the last `nn.Linear`, for victims that train it alone.
    layer : str, optional
        Where `before` and `after` measure distances; the search does not use it. As in `feature_collision`.
    augment : callable, optional
        Differentiable; applied to the poisons in every step, as the victim will.
    seed : int
        Of the random starts, and of what `augment` draws from torch.
    **search_options
        `epsilon` and, optionally, `steps`, `learning_rate`, `bounds`, `levels`, `progress`: see `SearchOptions`. Adam
        sees the signs of the gradient, with a tenth of the rate after 3/8, 5/8 and 7/8 of the steps.

    Returns
    -------
    Crafted
        `after.cosine` is the alignment reached on each model, without augmentation, on the rounded poisons.

    Raises
    ------
    TypeError, ValueError
        As in `feature_collision`; labels that the models do not know.

    Notes
    -----
    The same seed gives the same poisons. After Geiping et al., "Witches' Brew: Industrial Scale Data Poisoning via
    Gradient Matching" (ICLR 2021). Cost: `restarts * steps` forward, backward and double-backward passes of all base
    images at once, for each model.

    Examples
    --------
    >>> import torch
    >>> from clear.attacks import gradient_matching
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    >>> bases, target = torch.full((2, 4), 0.3), torch.full((4,), 0.6)
    >>> crafted = gradient_matching(net, bases, [0, 0], target, 0, epsilon=0.2, steps=40)
    >>> bool(crafted.after.cosine[0] >= crafted.before.cosine[0])
    True
    """
    search = Search(**search_options)
    steps, rate = search_options.get("steps", 250), search_options.get("learning_rate", search.epsilon / 8)
    search = replace(search, steps=steps, learning_rate=rate)
    models, restarts = as_models(model), as_count(restarts, "restarts")
    base = load_inputs(base_images).float()
    targets = as_targets(base, target_images)
    given = torch.from_numpy(as_labels(base_labels, len(base), "base_labels"))
    wanted = torch.from_numpy(
        as_labels(_spread_over(adversarial_labels, len(targets)), len(targets), "adversarial_labels")
    )
    device = device_of(models[0])
    base, targets = base.to(device), targets.to(device)
    ball = Ball(base, search)
    with extracting(models, layer):
        pass  # an unknown layer is an error before the search
    with contextlib.ExitStack() as stack:
        generator = stack.enter_context(seeded(seed, device))
        brews = [stack.enter_context(_matching(net, scope, targets, wanted, given)) for net in models]
        images, cosines = base, _cosines(brews, base)
        before = cosines
        best = -np.inf
        for restart in range(restarts):

            def total(trial: torch.Tensor) -> torch.Tensor:
                seen = trial if augment is None else augment(trial)
                return torch.stack([(1 - cosine(seen, True)).to(device) for cosine in brews]).sum()

            start = base if restart == 0 else ball.draw(generator)
            place = {"done": restart * search.steps, "total": restarts * search.steps}
            trial = descend(ball, start, total, search, signed=True, **place)
            reached = _cosines(brews, trial)
            if reached.mean() > best:
                images, cosines, best = trial, reached, float(reached.mean())
    with extracting(models, layer) as extractors:
        first = measure_geometry(extractors, base, targets, before)
        last = measure_geometry(extractors, images, targets, cosines)
    return Crafted(images.cpu(), first, last, float((images - base).abs().max()))


def _spread_over(labels: Any, count: int) -> Any:
    values = to_numpy(labels)
    return np.full(count, values) if values.ndim == 0 else values


@contextlib.contextmanager
def _matching(
    model: nn.Module, scope: Scope, targets: torch.Tensor, wanted: torch.Tensor, given: torch.Tensor
) -> Iterator[Callable[[torch.Tensor, bool], torch.Tensor]]:
    """Yield (images, keep the graph?) -> cosine of the poisons' training gradient with the targets'."""
    if scope not in ("network", "head"):
        raise ValueError(f'scope is {scope!r}: want "network" or "head"')
    device = device_of(model)
    chosen = list((model if scope == "network" else last_linear(model)[1]).parameters())

    def gradient(images: torch.Tensor, labels: torch.Tensor, graph: bool) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        parts = torch.autograd.grad(loss, chosen, create_graph=graph, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    with evaluating(model, str(device)), _only(model, chosen):
        with torch.no_grad():
            classes = model(targets[:1].to(device)).shape[-1]
        as_labels(wanted, len(wanted), "adversarial_labels", classes=classes)
        as_labels(given, len(given), "base_labels", classes=classes)
        aim = nn.functional.normalize(gradient(targets, wanted, False), dim=0)

        def cosine(images: torch.Tensor, graph: bool) -> torch.Tensor:
            return nn.functional.normalize(gradient(images, given, graph), dim=0) @ aim

        yield cosine


def _cosines(brews: list[Callable[[torch.Tensor, bool], torch.Tensor]], images: torch.Tensor) -> Any:
    return np.array([float(cosine(images, False).detach()) for cosine in brews])
