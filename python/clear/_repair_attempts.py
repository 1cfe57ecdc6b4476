"""How long, and among how many clean samples, a repair trains: attempts are measured, the best one is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from clear.training import Epoch, Scope

__all__ = ["Attempt", "best_attempt", "schedule"]

# (epochs, clean samples): longer among more clean samples closes more and forgets less, at more cost.
LADDER: dict[Scope, tuple[tuple[int, int], ...]] = {
    "network": ((5, 1000), (8, 2000), (12, 4000)),
    "head": ((20, 1000), (40, 2000), (80, 4000)),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One fine-tuning of a copy of the model, from the start."""

    epochs: int
    clean_samples: int
    held: int
    """Certain samples and probed inputs still predicted as before."""
    accuracy: float | None
    """On the held-out data, 0 to 1; None without any."""
    within_budget: bool


Trained = tuple[Attempt, nn.Module, tuple[Epoch, ...]]


def schedule(scope: Scope, epochs: int | None, clean_samples: int | None) -> tuple[tuple[int, int], ...]:
    """What to attempt, in order: the ladder, or one attempt where the caller chose the epochs."""
    ladder = LADDER[scope]
    if epochs is not None:
        return ((epochs, ladder[0][1] if clean_samples is None else clean_samples),)
    return tuple((e, c if clean_samples is None else clean_samples) for e, c in ladder)


def best_attempt(
    steps: Sequence[tuple[int, int]], train: Callable[[int, int], Trained]
) -> tuple[Trained | None, tuple[Attempt, ...]]:
    """Train step by step until nothing is held within the budget, or a longer attempt closed no more.

    Returns the attempt that holds the fewest samples within the budget, the earlier of equals (None: no attempt was
    within it), and all attempts.
    """
    best: Trained | None = None
    made: list[Attempt] = []
    for epochs, clean_samples in steps:
        trained = train(epochs, clean_samples)
        attempt = trained[0]
        made.append(attempt)
        if not attempt.within_budget:
            continue
        if best is not None and attempt.held >= best[0].held:
            break
        best = trained
        if attempt.held == 0:
            break
    return best, tuple(made)
