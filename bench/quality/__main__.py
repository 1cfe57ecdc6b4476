"""Evaluate detection and repair.

    python -m bench.quality --quick                 digits, a small network, one seed, every attack: for the tests
    python -m bench.quality --data DIR [--fashion DIR] [--datasets ...] [--networks ...] [--attacks ...]
                            [--seeds 1 2 3] [--targets 20] [--craft]
    python -m bench.quality --full --data DIR ...     with as many targets and steps as in the papers, on a GPU
    python -m bench.quality --publish     take the units below --out into bench/results/quality.json and the document

DIR holds cifar10/{train,test}.parquet and models/resnet{20,32,44}-cifar10.safetensors (docs/real-runs.md). Each data
set, network, attack and seed is a unit with a result file of its own below --out: a run that was killed goes on where
it stopped, target by target. Poisons and victims are kept when the code of a defence changes; what it judged is not.
--craft stops where the defences begin.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.quality import datasets
from bench.quality.attacks import ATTACKS, MANY
from bench.quality.report import publish, summarise
from bench.quality.units import Unit, craft_unit, one_thread, run_unit

QUICK = {"targets": 1, "steps": 30}
USUAL = {"targets": 20, "steps": 200, "seeds": [1, 2, 3], "device": "cpu", "out": Path("out/quality")}
FULL = {"targets": 50, "steps": 4000, "seeds": [11, 12, 13], "device": "cuda", "out": Path("out/quality-full")}
"""What is not said: 50 targets and 4,000 steps as in Bullseye Polytope's evaluation."""
NETWORKS = {
    "fashion-mnist-50k": ["resnet"],
    "digit-pairs": ["resnet"],
    "fashion-mnist-rare": ["resnet"],
    "digits": ["resnet", "mlp"],
    "fashion-mnist": ["resnet", "vgg", "densenet", "mobilenet", "mlp"],
    "cifar10": ["resnet20", "vgg", "densenet", "mobilenet", "mlp"],
}
EVERY_ATTACK = ("none", *ATTACKS)
BRIEF = ("none", "feature-collision", "bullseye-polytope", "convex-polytope")
ATTACKS_ON = {
    "fashion-mnist-50k": (*BRIEF[:3], *MANY),
    "digit-pairs": (*BRIEF, "label-flips"),
    "fashion-mnist-rare": BRIEF,
}
"""What is run on a data set, where that is not every attack."""
EVERY_NETWORK = list(dict.fromkeys(network for networks in NETWORKS.values() for network in networks))


def plan(options: argparse.Namespace) -> list[Unit]:
    """The units of a run, those that matter most first."""
    if options.quick:
        return [Unit("digits", "mlp", attack, 0, **QUICK) for attack in EVERY_ATTACK]
    names = [
        (data, network, attack, seed)
        for seed in options.seeds
        for data, networks in reversed(NETWORKS.items())
        for network in networks
        for attack in ATTACKS_ON.get(data, EVERY_ATTACK)
    ]
    chosen = [set(options.datasets), set(options.networks), set(options.attacks)]
    return [
        Unit(*name, targets=options.targets, steps=options.steps)
        for name in names
        if all(part in wanted for part, wanted in zip(name, chosen, strict=False))
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    profiles = parser.add_mutually_exclusive_group()
    profiles.add_argument("--quick", action="store_true")
    profiles.add_argument(
        "--full", action="store_true", help="50 targets, 4,000 steps, on cuda, below out/quality-full"
    )
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--craft", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fashion", type=Path, default=datasets.FASHION)
    parser.add_argument("--datasets", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--networks", nargs="*", default=EVERY_NETWORK, choices=EVERY_NETWORK)
    parser.add_argument("--attacks", nargs="*", default=[*EVERY_ATTACK, *MANY], choices=[*EVERY_ATTACK, *MANY])
    parser.add_argument("--seeds", type=int, nargs="*")
    parser.add_argument("--targets", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", help="where networks run: cpu, cuda, ...")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    for name, value in (FULL if options.full else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.publish:
        publish(options.out)
        return 0
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch sees no GPU here; --device cpu does the same, in far more time")
    with one_thread():
        results = run_all(options)
    if not options.craft:
        sys.stdout.write("\n".join(summarise(results)) + "\n")
    return 0


def run_all(options: argparse.Namespace) -> list[Any]:
    """One unit after the other; those of absent data are skipped."""
    results, opened = [], Opened(options)
    units, started = plan(options), time.perf_counter()
    for number, unit in enumerate(units, 1):
        try:
            run = craft_unit if options.craft else run_unit
            results.append(run(unit, opened.get(unit.dataset), options.out, options.data, say))
        except datasets.Absent as reason:
            say(f"{unit.name}: skipped: {reason}")
        say(f"[{number} of {len(units)}, {time.perf_counter() - started:.0f} s]")
    return results


class Opened:
    """The data sets of a run, each opened once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._open: dict[str, Callable[[], datasets.Data]] = {
            "digits": datasets.digits,
            "digit-pairs": datasets.digit_pairs,
            "fashion-mnist": lambda: datasets.fashion(options.fashion),
            "fashion-mnist-rare": lambda: datasets.fashion_rare(options.fashion),
            "fashion-mnist-50k": lambda: datasets.fashion_50k(options.fashion),
            "cifar10": lambda: datasets.cifar10(options.data),
        }
        self._held: dict[str, datasets.Data] = {}
        self._device = options.device

    def get(self, name: str) -> datasets.Data:
        if name not in self._held:
            self._held[name] = replace(self._open[name](), device=self._device)
        return self._held[name]


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
