"""The demo's promise: both backdoors are there, are found, and are gone."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo needs the torch extra")

from clear.demo import EPSILON, FLIPS, POISONS, run_demo  # noqa: E402

pytestmark = pytest.mark.torch


def test_both_backdoors_are_there_are_found_and_are_gone() -> None:
    threads, state, lines = torch.get_num_threads(), torch.random.get_rng_state(), list[str]()
    outcome = run_demo(seed=3, threads=1, progress=lines.append)
    assert outcome.passed, "\n".join(lines)
    assert outcome.flips.fooled_before >= 0.9 * FLIPS
    assert outcome.collision.fooled_before == 1
    assert outcome.flips.fooled_after == outcome.collision.fooled_after == 0
    assert outcome.collision.target_flagged
    change = np.abs(outcome.poison_images.astype(int) - outcome.base_images).reshape(POISONS, -1).max(axis=1)
    assert (change > 0).all()
    assert (change <= 255 * EPSILON).all()
    assert torch.get_num_threads() == threads
    assert torch.equal(state, torch.random.get_rng_state())
    assert outcome.flips.reports == ()
