"""One unit: a data set, an architecture, an attack and a seed; its result is one JSON file, and not run twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clear
from bench.quality.attacks import CRAFTED, FLIPS, MISTAKES, WHOLE
from bench.quality.clean import run_clean_sets, run_wrong_labels
from bench.quality.code import defence_hash
from bench.quality.datasets import Data
from bench.quality.flips import run_flips
from bench.quality.heads import HeadDefence
from bench.quality.laboratory import Laboratory, open_laboratory, write_whole
from bench.quality.victims import Attacked, Say, attack_targets
from bench.quality.whole import defend_network


@dataclass(frozen=True)
class Unit:
    dataset: str
    architecture: str
    attack: str
    seed: int
    targets: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.architecture}-{self.attack}-seed{self.seed}"

    @property
    def code(self) -> str:
        """Hash of the code that judges it."""
        return defence_hash(whole=self.attack in (*FLIPS, *WHOLE))


def run_unit(unit: Unit, data: Data, out: Path, folder: Path | None, say: Say) -> dict[str, Any]:
    """Run a unit, or read its result where the same code has run the same one; write it."""
    path = out / "units" / f"{unit.name}.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["unit"] == asdict(unit) and known.get("code") == unit.code:
            say(f"{unit.name}: done before")
            return known
    started, cpu = time.perf_counter(), time.process_time()
    lab = open_laboratory(data, unit.architecture, unit.seed, out, folder)
    if unit.attack == "none":
        found = run_clean_sets(lab)
    elif unit.attack == MISTAKES:
        found = run_wrong_labels(lab, unit.targets)
    elif unit.attack in FLIPS:
        found = run_flips(lab, unit.attack, say)
    else:
        found = run_targets(lab, unit, say)
    result = {
        "unit": asdict(unit),
        "code": unit.code,
        "version": clear.__version__,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        **found,
    }
    return _write(path, result)


def craft_unit(unit: Unit, data: Data, out: Path, folder: Path | None, say: Say) -> None:
    """Only what does not depend on any defence: poisons and victims go to the cache."""
    if unit.attack not in CRAFTED:
        return
    lab = open_laboratory(data, unit.architecture, unit.seed, out, folder)
    won = [attacked.success for attacked in attack_targets(lab, unit.attack, unit.targets, unit.steps, lambda _: None)]
    say(f"{unit.name}: {sum(won)} of {len(won)} succeed")


def run_targets(lab: Laboratory, unit: Unit, say: Say) -> dict[str, Any]:
    """Attack; defend where that succeeds. What was judged before by the same code is read."""
    defend: Callable[[Attacked], dict[str, Any]]
    heads = CRAFTED[unit.attack].victim == "head"
    defend = HeadDefence(lab) if heads else lambda attacked: defend_network(lab, CRAFTED[unit.attack].victim, attacked)
    rows, accuracies = [], []
    for attacked in attack_targets(lab, unit.attack, unit.targets, unit.steps, say):
        case = attacked.case
        row: dict[str, Any] = {"target": case.target, "true": case.true, "taken_for": case.taken_for}
        row |= {"success": attacked.success, "geometry": case.geometry}
        if attacked.success:
            path = lab.out / "cache" / "judged" / unit.code / f"{case.name}.json"
            if not path.exists():
                _write(path, defend(attacked))
            row |= json.loads(path.read_text(encoding="utf-8"))
        rows.append(row)
        accuracies.append(attacked.clean_accuracy)
    return {"clean_accuracy": float(np.mean(accuracies)), "rows": rows}


def _write(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(result)
    write_whole(path, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    return json.loads(text)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch and of BLAS: the same sums in the same order everywhere, and no waiting for busy cores."""
    import sklearn.linear_model  # noqa: F401 - brings the libraries that are held
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
