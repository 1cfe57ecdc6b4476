"""The door of the neighbour search: bad calls, long calls, signals, forks, imports."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import clear
from clear import _search as module

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
INDEX = clear.NeighborIndex(X, np.array([0, 0, 1, 1, 1, 1]))
BAD_CALLS = {
    "integers": (
        lambda: clear.NeighborIndex(np.ones((3, 2), int)),
        TypeError,
        "base has dtype int64: want float",
    ),
    "nan": (
        lambda: clear.NeighborIndex(np.float32([[0], [np.nan]])),
        ValueError,
        "base has nan or inf in 1 of 2",
    ),
    "inf query": (
        lambda: INDEX.search(X * np.inf, k=1),
        ValueError,
        "queries has nan or inf in 6 of 6",
    ),
    "one axis": (
        lambda: clear.NeighborIndex(X[0]),
        ValueError,
        r"base has shape \(3,\): want two dimensions",
    ),
    "no columns": (
        lambda: clear.NeighborIndex(X[:, :0]),
        ValueError,
        "want at least one feature",
    ),
    "too large": (
        lambda: clear.NeighborIndex(X.astype(float) * 1e300),
        ValueError,
        "too large for float32",
    ),
    "width": (
        lambda: INDEX.search(X[:, :2], k=1),
        ValueError,
        "queries has 2 columns: want 3",
    ),
    "k zero": (
        lambda: INDEX.search(X, k=0),
        ValueError,
        "k is 0: want at least 1 and at most 4096",
    ),
    "k large": (
        lambda: INDEX.search(X, k=4097),
        ValueError,
        "k is 4097: want at least 1 and at most 4096",
    ),
    "k float": (
        lambda: INDEX.search(X, k=2.0),
        TypeError,
        "k is 2.0: want a whole number",
    ),
    "k above rows": (
        lambda: clear.find_neighbors(X, k=6),
        ValueError,
        "k is 6: want at least 1 and at most 5",
    ),
    "labels": (
        lambda: clear.NeighborIndex(X, np.zeros(5, int)),
        ValueError,
        r"labels has shape \(5,\): want \(6,",
    ),
    "label": (
        lambda: clear.NeighborIndex(X, np.arange(6), n_classes=3),
        ValueError,
        r"labels\[3\] is 3 \(3 such",
    ),
    "n_classes": (
        lambda: clear.NeighborIndex(X, n_classes=0),
        ValueError,
        "n_classes is 0: want at least 1",
    ),
    "rows": (
        lambda: clear.NeighborIndex(X, rows=np.array([9])),
        ValueError,
        r"rows\[0\] is 9: want row numbers",
    ),
    "mask": (
        lambda: clear.NeighborIndex(X, rows=np.ones(4, bool)),
        ValueError,
        r"mask of shape \(4,\): want \(6,",
    ),
    "exclude": (
        lambda: INDEX.search(X, k=1, exclude=np.full(6, 6)),
        ValueError,
        r"exclude\[0\] is 6",
    ),
    "exclude shape": (
        lambda: INDEX.search(X, k=1, exclude=np.arange(2)),
        ValueError,
        r"exclude has shape \(2,",
    ),
    "within": (
        lambda: INDEX.search(X, k=1, within=np.full(6, 2)),
        ValueError,
        r"within\[0\] is 2",
    ),
    "within float": (
        lambda: INDEX.search(X, k=1, within=np.zeros(6)),
        TypeError,
        "within has dtype float64",
    ),
    "threads": (
        lambda: INDEX.search(X, k=1, threads=0),
        ValueError,
        "threads is 0: want at least 1",
    ),
    "device": (
        lambda: clear.NeighborIndex(X, device="gpu"),
        ValueError,
        'device="gpu": want "auto" or "cpu"',
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_refused_with_the_reason(name):
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call()


def assert_same(found, wanted):
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.distances, wanted.distances)


def test_results_print_their_shapes():
    assert repr(INDEX.search(X, k=2)) == "Neighbors(distances=(6, 2) float64, indices=(6, 2) int64)"


def test_long_searches_are_cut_into_calls_with_the_same_answer(monkeypatch):
    x, labels = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32), np.arange(300) % 4
    index = clear.NeighborIndex(x, labels)
    searches = [
        lambda: index.search(x, k=3),
        lambda: index.search(x, k=3, within=labels),
        lambda: index.search_by_class(x, k=3),
    ]
    whole = [search() for search in searches]
    monkeypatch.setattr(module, "CALL_WORK", 1e4)
    for search, wanted in zip(searches, whole, strict=True):
        assert_same(search(), wanted)


@pytest.mark.parametrize("work", [[], [0.0, 0.0], [1.0] * 7, [5.0, 0.0, 0.0, 100.0, 1.0], [1e9]])
def test_calls_cover_every_query_once_in_order(work, monkeypatch):
    monkeypatch.setattr(module, "CALL_WORK", 2.0)
    slices = list(module.call_slices(np.array(work)))
    assert [i for part in slices for i in range(len(work))[part]] == list(range(len(work)))
    assert 1 <= len(slices) <= max(1, len(work))


def test_calls_share_the_work_evenly(monkeypatch):
    monkeypatch.setattr(module, "CALL_WORK", 30.0)
    assert [part.stop - part.start for part in module.call_slices(np.ones(100))] == [25, 25, 25, 25]


LONG_SEARCH = """
import numpy as np, clear
x = np.random.default_rng(0).standard_normal((100_000, 128)).astype(np.float32)
index = clear.NeighborIndex(x)
print("searching", flush=True)
index.search(x, k=10, threads=1)
"""


def test_a_long_search_stops_soon_after_ctrl_c():
    command = [sys.executable, "-c", LONG_SEARCH]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"searching\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        try:
            _, error = child.communicate(timeout=30)  # the whole search takes longer
        finally:
            child.kill()
    assert b"KeyboardInterrupt" in error


def _compare_in_child(wanted):
    assert_same(INDEX.search(X, k=2, threads=2), wanted)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # a thread of another library may be alive
def test_a_forked_child_searches_after_its_parent_did():
    big = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
    clear.find_neighbors(big, k=3, threads=2)  # enough work for threads
    child = multiprocessing.get_context("fork").Process(
        target=_compare_in_child, args=(INDEX.search(X, k=2, threads=2),)
    )
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_importing_clear_does_not_import_torch():
    code = "import sys, clear; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_a_system_that_gives_no_more_threads_gets_the_same_answer() -> None:
    code = """
import resource, sys
import numpy as np, clear
x = np.random.default_rng(0).standard_normal((4000, 8)).astype(np.float32)
index = clear.NeighborIndex(x)
wanted = index.search(x, k=3, threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 29), resource.RLIM_INFINITY))  # room for one more thread
found = index.search(x, k=3, threads=16)
assert np.array_equal(found.indices, wanted.indices)
print("same")
"""
    large_stacks = ["sh", "-c", 'ulimit -s 1048576 && exec "$0" -c "$1"']  # a thread asks for 1 GiB
    done = subprocess.run([*large_stacks, sys.executable, code], capture_output=True, text=True, check=False)
    assert done.stdout == "same\n", done.stderr
