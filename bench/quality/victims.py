"""The attacked targets of a unit: poisons, the victim that was trained on them, and whether that was enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.quality.attacks import CRAFTED, Implanted, implant_all
from bench.quality.laboratory import (
    Laboratory,
    probabilities,
    start_of,
    train_head,
    trained_once,
    write_whole,
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Attacked:
    """One target and what became of it."""

    case: Implanted
    victim: nn.Module
    """A head on the extractor's features, or a whole network."""
    success: bool
    """The target is taken for the wrong class; without the poisons it was not."""
    clean_accuracy: float
    """Of the victim without any poison (heads), or of this victim."""


def attack_targets(lab: Laboratory, attack: str, count: int, steps: int, say: Say) -> Iterator[Attacked]:
    """Attack the first inputs that are classified correctly without poisons."""
    heads, count = CRAFTED[attack].victim == "head", CRAFTED[attack].together or count
    labels = lab.labels[lab.split.train]
    clean = _clean_victim(lab, attack, labels)
    asked = lab.features if heads else None
    rest = lab.split.rest if heads else lab.split.rest[: 3 * count]
    answers = probabilities(clean, lab.pixels(rest) if asked is None else asked[rest]).argmax(1)
    targets = rest[answers == lab.labels[rest]][:count].tolist()
    accuracy = _accuracy(lab, clean, lab.features) if heads else 0.0
    rng = np.random.default_rng([lab.seed, list(CRAFTED).index(attack)])
    aims = [(target, wrong_class(lab, target, number, rng)) for number, target in enumerate(targets, 1)]
    for number, case in enumerate(implant_all(lab, attack, aims, clean if heads else None, steps), 1):
        victim = _train_head(lab, case) if heads else _train_network(lab, case, attack)
        answer = probabilities(victim, case.goal[None] if heads else case.goal_pixels).argmax()
        success = int(answer) == case.taken_for
        say(f"{attack}: target {number} of {len(targets)}, {'succeeds' if success else 'fails'}")
        yield Attacked(case, victim, success, accuracy if heads else _accuracy(lab, victim, None))


def wrong_class(lab: Laboratory, target: int, number: int, rng: np.random.Generator) -> int:
    """What the attacker wants the target, the `number`th, to be taken for."""
    drawn = int(rng.choice(np.delete(np.arange(lab.data.classes), lab.labels[target])))
    if not lab.data.sizes.nearest:
        return drawn
    labels = lab.labels[lab.split.train]
    allowed = labels != lab.labels[target]
    if lab.data.sizes.rare and number % 2:
        allowed &= np.isin(labels, np.argsort(np.bincount(labels))[: lab.data.sizes.rare])
    rows = lab.split.train[allowed]
    return int(lab.labels[rows[np.linalg.norm(lab.features[rows] - lab.features[target], axis=1).argmin()]])


def poisoned_pixels(lab: Laboratory, case: Implanted) -> torch.Tensor:
    """The training images with what the attacker put in."""
    pixels = lab.pixels(lab.split.train)
    pixels[case.changed] = case.changed_pixels
    return pixels


def _clean_victim(lab: Laboratory, attack: str, labels: np.ndarray) -> nn.Module:
    how = CRAFTED[attack].victim
    if how == "head":
        return train_head(lab.features[lab.split.train], labels, lab.data.classes, lab.seed)
    if how == "network":
        return lab.extractor
    network, recipe = start_of(lab, how, lab.seed)
    path = lab.out / "cache" / f"{lab.data.name}-{lab.architecture}-seed{lab.seed}-scratch.safetensors"
    return trained_once(path, network, lambda: (lab.pixels(lab.split.train), labels), recipe, lab.seed)


def _train_head(lab: Laboratory, case: Implanted) -> nn.Module:
    path = _place(lab, case)
    if not path.exists():
        head = train_head(case.features, lab.labels[lab.split.train], lab.data.classes, lab.seed)
        write_whole(path, lambda target: save_file(head.state_dict(), target))
    loaded = nn.Linear(case.features.shape[1], lab.data.classes)
    loaded.load_state_dict(load_file(path))
    return loaded.eval()


def _train_network(lab: Laboratory, case: Implanted, attack: str) -> nn.Module:
    network, recipe = start_of(lab, CRAFTED[attack].victim, lab.seed)
    labels = lab.labels[lab.split.train]
    path = _place(lab, case)
    return trained_once(path, network, lambda: (poisoned_pixels(lab, case), labels), recipe, lab.seed)


def _place(lab: Laboratory, case: Implanted) -> Path:
    return lab.out / "cache" / "victims" / f"{case.training_set}.safetensors"


def _accuracy(lab: Laboratory, victim: nn.Module, features: np.ndarray | None) -> float:
    rows = lab.split.clean
    inputs = lab.pixels(rows) if features is None else features[rows]
    return float((probabilities(victim, inputs).argmax(1) == lab.labels[rows]).mean())
