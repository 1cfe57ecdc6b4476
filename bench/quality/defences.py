"""What closes the backdoor, and what it costs: repairs from our flags, and what people do without any."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import clear
from bench.quality.attacks import Implanted
from bench.quality.laboratory import Laboratory, extract, probabilities, start_of
from clear.repair import repair_model
from clear.results import Level
from clear.training import fit

QUALITY = 75
CLEAN_EPOCHS = 20


def compress(pixels: torch.Tensor, quality: int = QUALITY) -> torch.Tensor:
    """JPEG and back: images float32 (n, c, h, w) in [0, 1]."""
    from PIL import Image

    def one(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, format="JPEG", quality=quality)
        return np.asarray(Image.open(buffer)).reshape(image.shape)

    images = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([one(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def compare_on_head(
    lab: Laboratory,
    case: Implanted,
    head: nn.Module,
    others: dict[str, nn.Module],
    found: tuple[clear.ScanResult, clear.ProbeResult],
    jpeg_clean: np.ndarray,
) -> dict[str, Any]:
    """After each defence of a head: is the target still taken for the wrong class, is it right, what did it cost.

    `head` is the victim, and `others` were trained in its place with a defence.
    """
    scanned, probed = found
    labels, seed = lab.labels[lab.split.train], lab.seed
    inputs = torch.from_numpy(case.features)
    clean, truth = lab.features[lab.split.clean], lab.labels[lab.split.clean]
    incoming = torch.from_numpy(np.concatenate([case.goal[None], clean]))
    of_target = replace(probed, flags=tuple(flag for flag in probed.flags if flag.row == 0))

    def repaired(found: Any, method: str, level: Level = Level.REVIEW) -> nn.Module:
        options = {"method": method, "scope": "head", "level": level, "seed": seed, "probed": incoming}
        return repair_model(head, inputs, labels, found, **options).model

    own = lab.split.own
    plain = copy.deepcopy(head)
    own_inputs = torch.from_numpy(lab.features[own])
    fit(plain, own_inputs, lab.labels[own], epochs=CLEAN_EPOCHS, seed=seed, scope="head", optimizer="adam")
    heads = {
        "none": head,
        "relabel from scan": repaired(scanned, "relabel"),
        "relabel certain from scan": repaired(scanned, "relabel", Level.CERTAIN),
        "relabel from probe": repaired(of_target, "relabel"),
        "relabel from both": repaired([of_target, scanned], "relabel"),
        "drop from scan": repaired(scanned, "drop"),
        "fine-tune on clean": plain,
        **others,
    }
    before = _accuracy(head, clean, truth)
    rows = {name: _outcome(model, case, case.goal, clean, truth, before) for name, model in heads.items()}
    jpeg_goal = extract(lab.extractor, compress(case.goal_pixels))[0]
    rows["JPEG of the input"] = _outcome(head, case, jpeg_goal, jpeg_clean, truth, before)
    return rows


def _outcome(
    model: nn.Module, case: Implanted, goal: np.ndarray, clean: np.ndarray, truth: np.ndarray, before: float
) -> dict[str, Any]:
    answer = int(probabilities(model, goal[None]).argmax())
    return {
        "still_taken": answer == case.taken_for,
        "right": answer == case.true,
        "accuracy_change": _accuracy(model, clean, truth) - before,
    }


def _accuracy(model: nn.Module, inputs: Any, truth: np.ndarray) -> float:
    return float((probabilities(model, inputs).argmax(1) == truth).mean())


@dataclass(frozen=True)
class Goals:
    """Inputs that a poisoned network misclassifies, and as what."""

    pixels: torch.Tensor
    wrong: np.ndarray
    flagged: np.ndarray
    """Whether the scan flagged them, where they are training samples."""


def compare_on_network(
    lab: Laboratory,
    victim: nn.Module,
    pixels: torch.Tensor,
    labels: np.ndarray,
    goals: Goals,
    found: dict[str, Any],
    how: str,
    probed: Any = None,
) -> dict[str, Any]:
    """After each defence of a whole network: goals still taken for the wrong class, and held-out accuracy."""
    clean, truth, seed = lab.pixels(lab.split.clean), lab.labels[lab.split.clean], lab.seed
    scanned, own = found["scan"], lab.split.own[:1000]
    kept = np.setdiff1d(np.arange(len(labels)), [flag.row for flag in scanned.flags])

    def repaired(result: Any, **options: Any) -> nn.Module:
        return repair_model(victim, pixels, labels, result, seed=seed, probed=probed, **options).model

    plain, (again, recipe) = copy.deepcopy(victim), start_of(lab, how, seed)
    fit(plain, lab.pixels(own), lab.labels[own], epochs=5, learning_rate=0.01, seed=seed)
    fit(again, pixels[kept], labels[kept], epochs=recipe.epochs, learning_rate=recipe.learning_rate, seed=seed)
    models = {"none": victim}
    models |= {f"relabel from {name}": repaired(result) for name, result in found.items()}
    if "probe" in found:
        models["relabel from both"] = repaired([found["probe"], scanned])
    models |= {
        "relabel certain from scan": repaired(scanned, level=Level.CERTAIN),
        "drop from scan": repaired(scanned, method="drop"),
        "retrain without flags": again,
        "fine-tune on clean": plain,
    }
    before = _accuracy(victim, clean, truth)
    rows = {name: _count(model, goals, goals.pixels, clean, truth, before) for name, model in models.items()}
    rows["JPEG of the input"] = _count(victim, goals, compress(goals.pixels), compress(clean), truth, before)
    return rows


def _count(
    model: nn.Module, goals: Goals, inputs: torch.Tensor, clean: torch.Tensor, truth: np.ndarray, before: float
) -> dict[str, Any]:
    still = probabilities(model, inputs).argmax(1) == goals.wrong
    return {
        "still_taken": int(still.sum()),
        "still_taken_of_flagged": int((still & goals.flagged).sum()),
        "flagged": int(goals.flagged.sum()),
        "of": len(still),
        "accuracy_change": _accuracy(model, clean, truth) - before,
    }
