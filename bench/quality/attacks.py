"""The attacks as an attacker uses them: which images, how many, crafted on which networks, against which victims."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from bench.quality.laboratory import (
    SCRATCH,
    Laboratory,
    extract,
    load_extractor,
    new_network,
    trained_once,
    with_head,
    write_whole,
)
from clear.attacks import Crafted, bullseye_polytope, convex_polytope, feature_collision, gradient_matching

Family = Literal["collision", "convex", "bullseye", "gradients"]


@dataclass(frozen=True)
class Attack:
    """What an attacker does, beside what the data set sets (`datasets.Sizes`)."""

    family: Family
    victim: Literal["head", "network", "scratch"] = "head"
    """A new head on a frozen extractor, the extractor fine-tuned with its head, or a new network."""
    poisons: int | None = None
    """None: as the data set says."""
    views: bool = False
    """Crafted for three views of the target, used with a fourth."""
    transfer: bool = False
    """Crafted on other networks."""
    spread: float = 0.0
    pocket: int | None = None
    copies: int = 0
    """Near-copies of the clean samples of the wrong class next to the target, put in beside the poisons."""
    together: int = 0
    """Poisons for so many targets lie in one training set."""
    epsilon: float | None = None
    """None: as the data set says."""


PUBLISHED: dict[str, Attack] = {
    "feature-collision": Attack("collision"),
    "bullseye-polytope": Attack("bullseye"),
    "convex-polytope": Attack("convex"),
    "gradient-matching": Attack("gradients"),
    "feature-collision-15": Attack("collision", poisons=15),
    "bullseye-views": Attack("bullseye", views=True),
    "bullseye-transfer": Attack("bullseye", transfer=True),
}
ADAPTIVE: dict[str, Attack] = {
    "bullseye-spread": Attack("bullseye", poisons=10, spread=0.05),
    "bullseye-hull": Attack("bullseye", poisons=16, spread=0.05, pocket=8),
    "collision-crowd": Attack("collision", poisons=40),
    "bullseye-copies": Attack("bullseye", copies=15),
}
"""By an attacker who knows the rule: no single poison near the target; the hull that K looks at kept away from it; more
poisons than are peeled off, so that the own class stays next to the target; copies in the place of the peeled mates."""
WHOLE: dict[str, Attack] = {
    "gradient-matching-whole": Attack("gradients", "network", poisons=25),
    "bullseye-whole": Attack("bullseye", "network", poisons=25),
    "gradient-matching-scratch": Attack("gradients", "scratch", poisons=25),
}
FROZEN = PUBLISHED | ADAPTIVE
MANY: dict[str, Attack] = {
    "feature-collision-50": Attack("collision", poisons=50),
    "bullseye-50": Attack("bullseye", poisons=50),
    "bullseye-500": Attack("bullseye", poisons=100, together=5),
}
"""For large training sets: a handful of poisons among thousands of a class does not bend a linear layer."""
BENCHMARK: dict[str, Attack] = {"bullseye-benchmark": Attack("bullseye", poisons=25, epsilon=8 / 255)}
"""The budget of poisoning-benchmark's transfer setting (Schwarzschild et al. 2021)."""
CRAFTED = FROZEN | WHOLE | MANY | BENCHMARK
"""New ones come last: the place of an attack seeds its draws."""
FLIPS = ("label-flips", "label-flips-scratch")
MISTAKES = "wrong-labels"
"""Nobody's attack: labels flipped in sets that no network learns from. What a scan sees does not depend on a victim."""
ATTACKS = (*FROZEN, MISTAKES, *FLIPS, *WHOLE, *BENCHMARK)
SUBSTITUTES = {"resnet20": ("resnet32", "resnet44")}
"""Networks that transfer attacks are crafted on; for the small networks: two others of them."""
NOISE = 1 / 255
"""Of the near-copies: enough to make no two of them equal."""


@dataclass(frozen=True)
class Implanted:
    """One target's poisons, and the features of the training set with them."""

    name: str
    """Of what was crafted, in the cache."""
    training_set: str
    """Name of the training set, which targets may share."""
    target: int
    """Row of the fresh images."""
    true: int
    taken_for: int
    features: np.ndarray
    """Of the training set, poisons included."""
    poisons: np.ndarray
    """Positions in the training set of what was crafted."""
    changed: np.ndarray
    """Positions of all that the attacker put in: the poisons first, then near-copies, or other targets' poisons."""
    changed_pixels: torch.Tensor
    goal: np.ndarray
    """Features of the input that shall be misclassified, (d,)."""
    goal_pixels: torch.Tensor
    geometry: dict[str, float]


def implant_all(
    lab: Laboratory, attack: str, aims: list[tuple[int, int]], clean_head: nn.Linear | None, steps: int
) -> Iterator[Implanted]:
    """Poison a training set for each target and its wrong class, or one set for all of them."""
    if not CRAFTED[attack].together:
        for target, taken_for in aims:
            yield implant(lab, attack, target, taken_for, clean_head, steps)
        return
    used = np.zeros(0, np.int64)
    cases = []
    for target, taken_for in aims:
        cases.append(implant(lab, attack, target, taken_for, clean_head, steps, used))
        used = np.concatenate([used, cases[-1].changed])
    features = lab.features[lab.split.train].copy()
    for case in cases:
        features[case.changed] = case.features[case.changed]
    for i, case in enumerate(cases):
        ordered = [case, *cases[:i], *cases[i + 1 :]]
        yield replace(
            case,
            name=f"{case.name}-of-{len(cases)}",
            training_set=f"{cases[0].name}-of-{len(cases)}",
            features=features,
            changed=np.concatenate([one.changed for one in ordered]),
            changed_pixels=torch.cat([one.changed_pixels for one in ordered]),
        )


def implant(
    lab: Laboratory,
    attack: str,
    target: int,
    taken_for: int,
    clean_head: nn.Linear | None,
    steps: int,
    used: np.ndarray | None = None,
) -> Implanted:
    """Poison the training set of a laboratory for one target; what was crafted before is read from the cache.

    Crafting knows nothing of any defence: what it gives is kept when the defences change. Positions `used` for other
    targets stay as they are.
    """
    made = CRAFTED[attack]
    count = made.poisons or lab.data.sizes.poisons
    budget = f"{count}-{_epsilon(lab, made):g}-{steps}"
    name = f"{lab.data.name}-{lab.architecture}-seed{lab.seed}-{attack}-{budget}-{target}-{taken_for}"
    path = lab.out / "cache" / "crafted" / f"{name}.npz"
    if not path.exists():
        arrays = _craft_case(lab, made, count, target, taken_for, clean_head, steps, used)
        write_whole(path, lambda partial: np.savez(partial, **arrays))
    with np.load(path) as kept:
        features = lab.features[lab.split.train].copy()
        features[kept["changed"]] = kept["changed_features"]
        return Implanted(
            name=name,
            training_set=name,
            target=target,
            true=int(lab.labels[target]),
            taken_for=taken_for,
            features=features,
            poisons=kept["changed"][:count],
            changed=kept["changed"],
            changed_pixels=torch.from_numpy(kept["changed_pixels"]),
            goal=kept["goal"],
            goal_pixels=torch.from_numpy(kept["goal_pixels"]),
            geometry=json.loads(str(kept["geometry"])),
        )


def _epsilon(lab: Laboratory, made: Attack) -> float:
    return lab.data.sizes.epsilon if made.epsilon is None else made.epsilon


def _craft_case(
    lab: Laboratory,
    made: Attack,
    count: int,
    target: int,
    taken_for: int,
    clean_head: nn.Linear | None,
    steps: int,
    used: np.ndarray | None = None,
) -> dict[str, Any]:
    """What cannot be had again without crafting. The bases are the nearest images of the wrong class."""
    pixels, rows = lab.pixels(target), lab.split.train
    features = lab.features[rows]
    candidates = np.setdiff1d(np.flatnonzero(lab.labels[rows] == taken_for), [] if used is None else used)
    apart = np.linalg.norm(features[candidates] - lab.features[target], axis=1)
    nearest = candidates[np.argsort(apart, kind="stable")]
    goal_pixels = pixels
    if made.views:
        goal_pixels = pixels.roll(1, dims=2)
        pixels = torch.cat([pixels, pixels.roll(1, dims=3), pixels.roll(-1, dims=3)])
    crafted = _craft(lab, made, lab.pixels(rows[nearest[:count]]), pixels, taken_for, clean_head, steps)
    changed = np.concatenate([nearest[:count], nearest[::-1][: made.copies]])
    copied = lab.pixels(rows[nearest[count : count + made.copies]]) if made.copies else crafted.poisons[:0]
    generator = torch.Generator().manual_seed(target)
    noise = NOISE * torch.randint(-1, 2, copied.shape, generator=generator)
    images = torch.cat([crafted.poisons, (copied + noise).clamp(0, 1)])
    return {
        "changed": changed,
        "changed_features": extract(lab.extractor, images),
        "changed_pixels": images.numpy(),
        "goal": extract(lab.extractor, goal_pixels)[0],
        "goal_pixels": goal_pixels.numpy(),
        "geometry": np.array(json.dumps(_geometry(crafted))),
    }


def _craft(
    lab: Laboratory,
    made: Attack,
    images: torch.Tensor,
    pixels: torch.Tensor,
    taken_for: int,
    clean_head: nn.Linear | None,
    steps: int,
) -> Crafted:
    options: dict[str, Any] = {"epsilon": _epsilon(lab, made), "steps": steps}
    models = _substitutes(lab) if made.transfer else [lab.extractor]
    if made.family == "gradients":
        if made.victim == "head":
            assert clean_head is not None
            models = [with_head(model, clean_head) for model in models]
        elif made.victim == "scratch":
            models = [_twin(lab)]
        scope = "head" if made.victim == "head" else "network"
        labels = np.full(len(images), taken_for)
        return gradient_matching(models, images, labels, pixels, taken_for, scope=scope, restarts=2, **options)
    if made.family == "bullseye":
        return bullseye_polytope(models, images, pixels, spread=made.spread, pocket=made.pocket, **options)
    return {"convex": convex_polytope, "collision": feature_collision}[made.family](models, images, pixels, **options)


def _substitutes(lab: Laboratory) -> list[nn.Module]:
    others = [name for name in ("resnet", "vgg", "mobilenet") if name != lab.architecture][:2]
    names = SUBSTITUTES.get(lab.architecture, others)
    return [load_extractor(lab.data, name, lab.out, lab.folder) for name in names]


def _twin(lab: Laboratory) -> nn.Module:
    """The attacker's own network, trained on the clean training set from another start."""
    rows, seed = lab.split.train, 1000 + lab.seed
    path = lab.out / "cache" / f"{lab.data.name}-{lab.architecture}-seed{lab.seed}-twin.safetensors"
    network = new_network(lab.data, lab.architecture, seed)
    return trained_once(path, network, lambda: (lab.pixels(rows), lab.labels[rows]), SCRATCH, seed)


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
