"""Rows kept in 16 bits give the answers of the float32 rows that they stand for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from oracles_neighbors import brute_force_by_class, brute_force_neighbors
from test_neighbors import assert_same, random_rows
from test_neighbors_agnosticism import SUPPORTED

import clear
from clear._stored import StoredRows, as_stored

METRICS = ["euclidean", "cosine", "inner_product"]


def to_bfloat16(x):
    """Bits of float32 rows cut to bfloat16, and the float32 rows that they stand for."""
    bits = (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def accept_bfloat16_bits(monkeypatch):
    """Let `NeighborIndex` take `StoredRows`: NumPy alone has no bfloat16 to hand over."""

    def as_is(value, name, *, width=None):
        return value if isinstance(value, StoredRows) else as_stored(value, name, width=width)

    monkeypatch.setattr("clear.neighbors.as_stored", as_is)


DATA = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "offset": lambda rng, shape: 1000 + rng.standard_normal(shape),
    "lattice": lambda rng, shape: rng.integers(-1, 2, shape),
    "denormal halves": lambda rng, shape: rng.standard_normal(shape) * 1e-6,
    "large": lambda rng, shape: rng.standard_normal(shape).clip(-3, 3) * 2e4,
}


@pytest.mark.parametrize("isa", SUPPORTED)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", DATA)
def test_float16_rows_give_the_answers_of_float32(kind, metric, isa, monkeypatch):
    monkeypatch.setenv("CLEAR_ISA", isa)
    x = DATA[kind](np.random.default_rng(0), (900, 19)).astype(np.float16)
    wide, labels = x.astype(np.float32), np.arange(900) % 4
    x[7] = wide[7] = 0
    index, wanted = clear.NeighborIndex(x, labels, metric=metric), clear.NeighborIndex(wide, labels, metric=metric)
    for threads in (1, 2, 7):
        assert_same(index.search(x[:50], k=9, threads=threads), wanted.search(wide[:50], k=9))
        assert_same(index.search_by_class(x[:50], k=5, threads=threads), wanted.search_by_class(wide[:50], k=5))
    assert_same(index.search(x[:9], k=9), brute_force_neighbors(wide[:9], wide, 9, metric=metric))


@pytest.mark.parametrize("isa", SUPPORTED)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-39, 1.0, 1e37])
def test_bfloat16_rows_give_the_answers_of_float32(metric, scale, isa, monkeypatch):
    monkeypatch.setenv("CLEAR_ISA", isa)
    bits, wide = to_bfloat16(random_rows(700, 11) * np.float32(scale))
    accept_bfloat16_bits(monkeypatch)
    index = clear.NeighborIndex(StoredRows(bits, True), metric=metric)
    assert_same(index.search(wide[:40], k=8), brute_force_neighbors(wide[:40], wide, 8, metric=metric))


@pytest.mark.torch
def test_bfloat16_tensors_are_kept_in_16_bits():
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tensor = torch.from_numpy(random_rows(300, 6)).bfloat16()
    stored = as_stored(tensor, "base")
    assert (stored.storage, stored.values.dtype) == ("bfloat16", np.uint16)
    wide = tensor.float().numpy()
    np.testing.assert_array_equal(stored.widen(), wide)
    labels = np.arange(300) % 3
    found = clear.NeighborIndex(tensor, labels).search_by_class(tensor[:20], k=4)
    assert_same(found, brute_force_by_class(wide[:20], wide, labels, 4, 3))


@pytest.mark.torch
def test_a_bfloat16_value_that_is_not_finite_is_refused_with_its_row():
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tensor = torch.ones((5, 2), dtype=torch.bfloat16)
    tensor[3, 1] = float("inf")
    with pytest.raises(ValueError, match=r"base has nan or inf in 1 of 5 rows \(first: \[3\]\)"):
        clear.NeighborIndex(tensor)
    with pytest.raises(ValueError, match=r"queries has shape \(2,\): want two dimensions"):
        clear.NeighborIndex(tensor[:2]).search(tensor[0], k=1)


def test_float16_rows_in_any_order_are_read():
    x = random_rows(60, 8).astype(np.float16)
    wanted = brute_force_neighbors(x.astype(np.float32), x.astype(np.float32), 5)
    for value in (np.asfortranarray(x), x.astype(">f2"), np.repeat(x, 2, axis=1)[:, ::2]):
        assert_same(clear.NeighborIndex(value).search(value, k=5), wanted)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory in use as Linux tells it")
def test_an_index_takes_half_the_memory_of_float32_rows_in_either_precision():
    code = """
import numpy as np, clear
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024
kept = []
for dtype in (np.float32, np.float16):
    x = np.random.default_rng(0).standard_normal((60_000, 256), dtype=np.float32).astype(dtype)
    before = held()
    kept.append(clear.NeighborIndex(x))
    print((held() - before) / (x.size * 4))
"""
    shares = list(map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split()))
    assert len(shares) == 2
    assert all(0.4 < share < 0.65 for share in shares)
