"""The attacks as an attacker uses them: which images, how many, crafted on which networks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.quality.laboratory import Laboratory, extract, load_extractor, with_head, write_whole
from clear.attacks import Crafted, bullseye_polytope, convex_polytope, feature_collision, gradient_matching

EPSILON = {"digits": 0.2}
"""Largest change of a pixel, of the grey range: 0.1 where nothing else is said."""
SPREAD = 0.05
FROZEN = (
    "feature-collision",
    "bullseye-polytope",
    "convex-polytope",
    "gradient-matching",
    "bullseye-views",
    "bullseye-transfer",
    "feature-collision-15",
    "bullseye-spread",
)
"""Attacks on a new head above a frozen extractor."""
WHOLE = {"gradient-matching-whole": 25, "bullseye-whole": 25}
"""Attacks on a network that is fine-tuned as a whole, and their poisons."""
ATTACKS = (*FROZEN, "label-flips", *WHOLE)
POISONS = {"feature-collision-15": 15, "bullseye-spread": 10} | WHOLE
"""Five, where nothing else is said."""
SUBSTITUTES = {"resnet20": ("resnet32", "resnet44")}
"""Networks that transfer attacks are crafted on; for the small networks: two others of them."""


@dataclass(frozen=True)
class Implanted:
    """One target's poisons, and the features of the training set with them."""

    target: int
    """Row of the fresh images."""
    true: int
    taken_for: int
    features: np.ndarray
    """Of the training set, poisons included."""
    poisons: np.ndarray
    """Positions in the training set."""
    poison_pixels: torch.Tensor
    goal: np.ndarray
    """Features of the input that shall be misclassified, (d,)."""
    goal_pixels: torch.Tensor
    geometry: dict[str, float]

    def save(self, path: Path) -> None:
        """What cannot be had again without crafting."""
        arrays = {
            "poisons": self.poisons,
            "poison_features": self.features[self.poisons],
            "poison_pixels": self.poison_pixels.numpy(),
            "goal": self.goal,
            "goal_pixels": self.goal_pixels.numpy(),
            "geometry": np.array(json.dumps(self.geometry)),
        }
        write_whole(path, lambda partial: np.savez(partial, **arrays))


def implant_or_load(
    lab: Laboratory, attack: str, target: int, taken_for: int, clean_head: nn.Linear, steps: int, path: Path
) -> Implanted:
    """As `implant`; what was crafted before is read from `path`, so that a killed unit goes on where it stopped."""
    if not path.exists():
        implant(lab, attack, target, taken_for, clean_head, steps).save(path)
    with np.load(path) as kept:
        features = lab.features[lab.split.train].copy()
        features[kept["poisons"]] = kept["poison_features"]
        return Implanted(
            target=target,
            true=int(lab.labels[target]),
            taken_for=taken_for,
            features=features,
            poisons=kept["poisons"],
            poison_pixels=torch.from_numpy(kept["poison_pixels"]),
            goal=kept["goal"],
            goal_pixels=torch.from_numpy(kept["goal_pixels"]),
            geometry=json.loads(str(kept["geometry"])),
        )


def implant(lab: Laboratory, attack: str, target: int, taken_for: int, clean_head: nn.Linear, steps: int) -> Implanted:
    """Poison the training set of a laboratory for one target."""
    pixels = lab.pixels(target)
    rows, features = lab.split.train, lab.features[lab.split.train].copy()
    candidates = np.flatnonzero(lab.labels[rows] == taken_for)
    apart = np.linalg.norm(features[candidates] - lab.features[target], axis=1)
    bases = candidates[np.argsort(apart, kind="stable")[: POISONS.get(attack, 5)]]
    images, goal_pixels = lab.pixels(rows[bases]), pixels
    if attack == "bullseye-views":  # crafted for three views, used with a fourth
        goal_pixels = pixels.roll(1, dims=2)
        pixels = torch.cat([pixels, pixels.roll(1, dims=3), pixels.roll(-1, dims=3)])
    crafted = _craft(lab, attack, images, pixels, taken_for, clean_head, steps)
    features[bases] = extract(lab.extractor, crafted.poisons)
    return Implanted(
        target=target,
        true=int(lab.labels[target]),
        taken_for=taken_for,
        features=features,
        poisons=bases,
        poison_pixels=crafted.poisons,
        goal=extract(lab.extractor, goal_pixels)[0],
        goal_pixels=goal_pixels,
        geometry=_geometry(crafted),
    )


def _craft(
    lab: Laboratory,
    attack: str,
    images: torch.Tensor,
    pixels: torch.Tensor,
    taken_for: int,
    clean_head: nn.Linear,
    steps: int,
) -> Crafted:
    options: dict[str, Any] = {"epsilon": EPSILON.get(lab.data.name, 0.1), "steps": steps}
    if attack == "gradient-matching":
        victim, labels = with_head(lab.extractor, clean_head), np.full(len(images), taken_for)
        return gradient_matching(victim, images, labels, pixels, taken_for, scope="head", restarts=2, **options)
    if attack == "gradient-matching-whole":
        labels = np.full(len(images), taken_for)
        return gradient_matching(lab.extractor, images, labels, pixels, taken_for, restarts=2, **options)
    if attack == "bullseye-transfer":
        return bullseye_polytope(_substitutes(lab), images, pixels, **options)
    if attack == "bullseye-spread":
        return bullseye_polytope(lab.extractor, images, pixels, spread=SPREAD, **options)
    if attack == "convex-polytope":
        return convex_polytope(lab.extractor, images, pixels, **options)
    if attack.startswith("bullseye"):
        return bullseye_polytope(lab.extractor, images, pixels, **options)
    return feature_collision(lab.extractor, images, pixels, **options)


def _substitutes(lab: Laboratory) -> list[nn.Module]:
    others = [name for name in ("resnet", "vgg", "mobilenet") if name != lab.architecture][:2]
    names = SUBSTITUTES.get(lab.architecture, others)
    return [load_extractor(lab.data, name, lab.out, lab.folder) for name in names]


def _geometry(crafted: Crafted) -> dict[str, float]:
    """Each claimed distance over the same distance before; the cosine as it is."""
    after, before = crafted.after, crafted.before
    found = {
        "distance": float(np.median(after.distance / before.distance)),
        "hull": float(after.hull.mean() / before.hull.mean()),
        "center": float(after.center.mean() / before.center.mean()),
        "largest_change": crafted.largest_change,
    }
    if after.cosine is not None and before.cosine is not None:
        found |= {"cosine": float(after.cosine.mean()), "cosine_before": float(before.cosine.mean())}
    return found
