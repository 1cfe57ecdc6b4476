"""Benchmarks are tests: tiny by default, so that they cannot rot; the sizes that count with --full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workloads.py, for all benchmarks


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="benchmark the real sizes (minutes), not tiny ones")
    parser.addoption("--bench-threads", type=int, default=1, help="threads for ours and for every peer")


@pytest.fixture(scope="session")
def full(request):
    return request.config.getoption("--full")


@pytest.fixture(scope="session")
def threads(request):
    """Threads of ours and of every peer; limits the pools of the peers that are installed."""
    count = request.config.getoption("--bench-threads")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(count):
        yield count


@pytest.fixture
def run(benchmark, full):
    """Time a call: `run(call, **facts)` stores the facts beside the time and returns the answer."""

    def timed(call, **facts):
        benchmark.extra_info.update(facts)
        return benchmark.pedantic(call, rounds=5 if full else 1, warmup_rounds=1, iterations=1)

    return timed
