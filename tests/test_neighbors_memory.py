"""Searches in little memory: tiles of the base, blocks of queries, a budget that is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from oracles_neighbors import brute_force_by_class, brute_force_neighbors
from test_neighbors import HARD, assert_same, hard_rows, random_rows

import clear

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory in use as Linux tells it")


def in_tiles(monkeypatch, rows):
    """Let every index with a budget pack its rows `rows` at a time."""
    monkeypatch.setattr("clear._search.Base.row_bytes", lambda self: (32 << 20) // 3 // rows)
    return 32 << 20


@pytest.mark.parametrize("rows", [1, 7, 100, 1499, 1500])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_tiles_give_the_answer_of_the_whole(rows, metric, monkeypatch):
    x = np.random.default_rng(0).integers(-2, 3, (1500 if rows > 7 else 60, 6)).astype(np.float32)
    labels, queries = np.arange(len(x)) % 4, x[:20]
    found = np.random.default_rng(1).random(len(x)) < 0.8
    whole = clear.NeighborIndex(x, labels, rows=found, n_classes=5, metric=metric)
    budget = in_tiles(monkeypatch, rows)
    tiled = clear.NeighborIndex(x, labels, rows=found, n_classes=5, metric=metric, max_memory=budget)
    exclude, within, half = np.arange(20), labels[:20], np.arange(0, len(x), 2)
    for a, b in ((tiled, whole), (tiled.subset(half), whole.subset(half))):
        assert a.class_sizes.tolist() == b.class_sizes.tolist()
        assert_same(a.search(queries, k=9, exclude=exclude), b.search(queries, k=9, exclude=exclude))
        assert_same(a.search(queries, k=9, within=within), b.search(queries, k=9, within=within))
        assert_same(a.search_by_class(queries, k=9, without=within), b.search_by_class(queries, k=9, without=within))


@pytest.mark.parametrize("kind", HARD)
def test_tiles_of_hard_data_equal_brute_force(kind, monkeypatch):
    x = hard_rows(kind, 1500, 9)
    budget = in_tiles(monkeypatch, 400)
    found = clear.find_neighbors(x[::100], x, k=10, max_memory=budget)
    assert_same(found, brute_force_neighbors(x[::100], x, 10))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_memory_map_is_searched_in_tiles(dtype, monkeypatch, tmp_path):
    x, labels = random_rows(900, 7).astype(dtype), np.arange(900) % 3
    x.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", dtype, "r", shape=x.shape)
    index = clear.NeighborIndex(mapped, labels, max_memory=in_tiles(monkeypatch, 200))
    wide = x.astype(np.float32)
    assert_same(index.search_by_class(mapped[:30], k=5), brute_force_by_class(wide[:30], wide, labels, 5, 3))


def test_progress_counts_every_query_in_every_tile(monkeypatch):
    calls = []
    x = random_rows(500, 4)
    index = clear.NeighborIndex(x, max_memory=in_tiles(monkeypatch, 200))
    index.search(x, k=3, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("neighbors", 1500, 1500)
    assert [call[1] for call in calls] == sorted({call[1] for call in calls})


def test_a_budget_that_cannot_be_kept_is_refused():
    x = random_rows(100, 4)
    with pytest.raises(ValueError, match="max_memory is 1000: want at least 33554432"):
        clear.NeighborIndex(x, max_memory=1000)
    index = clear.NeighborIndex(x, np.arange(100), max_memory=32 << 20)
    with pytest.raises(
        ValueError, match="results take 152 MiB, too much for max_memory: search fewer queries at a time"
    ):
        index.search_by_class(np.zeros((1000, 4), np.float32), k=100)


BOUNDED = """
import threading, time
import numpy as np, clear
base = np.memmap({path!r}, {dtype!r}, "r", shape=(300_000, 64))
queries = np.memmap({path!r}, {dtype!r}, "r", shape=(20_000, 64))[:{m}]
labels = np.arange(len(base)) % 3
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) << 10
clear.NeighborIndex(base[:5000], max_memory=32 << 20).search(queries[:5], k=2, threads=2)
before = most = held()
def watch():
    global most
    while not done:
        most = max(most, held())
        time.sleep(0.002)
done = False
watcher = threading.Thread(target=watch)
watcher.start()
clear.NeighborIndex(base, labels, max_memory={budget}).search_by_class(queries, k=20, threads=2)
done = True
watcher.join()
print(most - before)
"""


@LINUX
@pytest.mark.parametrize(("dtype", "budget"), [("float32", 48 << 20), ("float64", 64 << 20)])
def test_the_memory_of_a_search_stays_within_its_budget(dtype, budget, tmp_path):
    path = tmp_path / "rows"
    with path.open("wb") as file:
        for seed in range(30):
            random_rows(10_000, 64, seed).astype(dtype).tofile(file)
    code = BOUNDED.format(path=str(path), dtype=dtype, budget=budget, m=200)
    used = int(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert (4 << 20) < used < budget


TILED_SEARCH = """
import numpy as np, clear
x = np.random.default_rng(0).standard_normal((200_000, 64)).astype(np.float32)
index = clear.NeighborIndex(x, max_memory=64 << 20)
print("searching", flush=True)
index.search(x[:100_000], k=10, threads=1)
"""


def test_a_search_in_tiles_stops_soon_after_ctrl_c():
    command = [sys.executable, "-c", TILED_SEARCH]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"searching\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        try:
            _, error = child.communicate(timeout=15)  # the whole search takes longer
        finally:
            child.kill()
    assert b"KeyboardInterrupt" in error
