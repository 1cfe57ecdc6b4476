"""A short, seeded run of the fuzzer; `python -m bench.fuzz_hull` runs it for longer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.fuzz_hull import FAMILIES, fuzz_batch, run, solve, violations  # noqa: E402


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_answer_to_hard_problems_is_proven(seed):
    counts, wrong = run(1700, seed)
    assert wrong == []
    assert min(counts["inside"], counts["outside"]) > 100


def test_the_fuzzer_notices_wrong_answers():
    rng = np.random.default_rng(0)
    batches = [fuzz_batch(rng) for _ in range(40)]
    assert {batch.family for batch in batches} == set(FAMILIES)
    for batch in batches:
        result = solve(batch)
        result.status[:] = 1 - result.status
        assert all(violations(batch, result, s) for s in range(len(batch.points)))
