"""A guard's latency and throughput: batches of 1 and 256 against 50,000 and 1,000,000 training samples.

    OMP_NUM_THREADS=1 python -m pytest bench/bench_guard.py --full --benchmark-json=guard.json

Time for each input; also CPU time, which other work on the machine disturbs less. Saving and loading are timed too.
The thresholds of the larger guard come from 20,000 of its rows: they cost minutes, and no answer takes longer for them.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from workloads import features

import clear
from clear.probing import training_collapse
from clear.reference import Reference

SIZES = {"50k": 50_000, "1M": 1_000_000}
TINY = 600
INPUTS = 512
SAMPLED = 20_000


@pytest.fixture(scope="module", params=SIZES)
def case(request, full, threads):
    n = SIZES[request.param] if full else TINY
    values, labels = features(n + INPUTS, 64 if full else 16, 10 if full else 4, seed=3)
    order = np.random.default_rng(0).permutation(len(values))
    values, labels = values[order], labels[order].astype(np.int64)
    training = clear.Features.from_arrays(values[:n], labels[:n])
    guard = clear.Guard.fit(training, threads=threads) if n < 100_000 else fit_on_sample(training, threads)
    return request.param, guard, values[n:], labels[n:]


def fit_on_sample(training, threads):
    reference = Reference(training, threads=threads)
    rows = np.sort(np.random.default_rng(0).choice(reference.units, SAMPLED, replace=False))
    return clear.Guard(reference, training_collapse(reference, rows=rows))


@pytest.mark.parametrize("size", [1, 256])
def test_latency(case, size, benchmark, full, threads):
    name, guard, values, labels = case
    starts = iter(range(0, 10**9, size))

    def ask():
        start = next(starts) % (INPUTS - size + 1)
        return guard(values[start : start + size], labels[start : start + size])

    begun, turns = time.process_time(), 10 if full else 2
    for _ in range(turns):
        ask()
    cpu = (time.process_time() - begun) / turns
    benchmark.group = f"guard, {name} training samples, batch {size}, each input"
    answers = benchmark.pedantic(ask, rounds=(200 if size == 1 else 10) if full else 2)
    assert answers.flagged.mean() < 0.5
    benchmark.extra_info.update(method="clear", threads=threads, problems=size, cpu_seconds=cpu / size)


def test_saving_and_loading(case, benchmark, tmp_path, full):
    name, guard, values, labels = case
    begun = time.perf_counter()
    guard.save(tmp_path)
    saved = time.perf_counter() - begun
    benchmark.group = f"guard, {name} training samples, loaded"
    loaded = benchmark.pedantic(clear.Guard.load, (tmp_path,), rounds=2 if full else 1)
    np.testing.assert_array_equal(loaded(values[:8], labels[:8]).score, guard(values[:8], labels[:8]).score)
    benchmark.extra_info.update(method="clear", save_seconds=saved)
