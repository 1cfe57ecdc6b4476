"""Searches within classes: one left out for each query, many classes, tiny classes, large k."""

from __future__ import annotations

import numpy as np
import pytest
from oracles_neighbors import brute_force_by_class, brute_force_neighbors
from test_neighbors import HARD, assert_same, hard_rows, random_rows
from test_neighbors_agnosticism import SUPPORTED

import clear


def uneven_labels(n, classes, seed=0):
    """Class sizes from 0 to many: about half of the rows in the first classes, the rest anywhere."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.5, rng.integers(0, 3, n), rng.integers(0, classes, n))


def left_out(wanted, without, empty=np.inf):
    for i, label in enumerate(without):
        if label >= 0:
            wanted[0][i, label], wanted[1][i, label] = empty, -1
    return wanted


@pytest.mark.parametrize("isa", SUPPORTED)
@pytest.mark.parametrize("classes", [5, 200])
def test_every_class_but_one_equals_brute_force(classes, isa, monkeypatch):
    monkeypatch.setenv("CLEAR_ISA", isa)
    x, labels = random_rows(1500, 9), uneven_labels(1500, classes)
    queries, without = random_rows(40, 9, seed=1), np.random.default_rng(1).integers(-1, 5, 40)
    wanted = left_out(brute_force_by_class(queries, x, labels, 6, classes), without)
    index = clear.NeighborIndex(x, labels, n_classes=classes)
    for threads in (1, 2, 7):
        assert_same(index.search_by_class(queries, k=6, without=without, threads=threads), wanted)


def test_a_far_query_leaves_its_class_out_too():
    x, labels = random_rows(900, 5) * np.float32(1e-10), np.arange(900) % 3
    queries, without = random_rows(9, 5, seed=1) * np.float32(1e37), np.arange(9) % 3
    wanted = left_out(brute_force_by_class(queries, x, labels, 4, 3), without)
    assert_same(clear.NeighborIndex(x, labels).search_by_class(queries, k=4, without=without), wanted)


@pytest.mark.parametrize("value", [np.full(4, 3), np.zeros(3, int)])
def test_a_class_that_does_not_exist_cannot_be_left_out(value):
    index = clear.NeighborIndex(random_rows(9, 2), np.arange(9) % 3)
    with pytest.raises(ValueError, match="without"):
        index.search_by_class(random_rows(4, 2), k=1, without=value)


@pytest.mark.parametrize("isa", SUPPORTED)
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("k", [1, 4, 60])
def test_small_classes_equal_brute_force(k, metric, isa, monkeypatch):
    monkeypatch.setenv("CLEAR_ISA", isa)
    x, labels = random_rows(1200, 13), uneven_labels(1200, 90)
    queries, exclude = x[:30], np.arange(30)
    rows = np.flatnonzero(np.random.default_rng(3).random(1200) < 0.8)
    wanted = brute_force_by_class(queries, x, labels, k, 91, rows=rows, exclude=exclude, metric=metric)
    index = clear.NeighborIndex(x, labels, rows=rows, n_classes=91, metric=metric)
    for threads in (1, 2, 7):
        assert_same(index.search_by_class(queries, k=k, exclude=exclude, threads=threads), wanted)


@pytest.mark.parametrize("kind", HARD)
def test_small_classes_of_hard_data_equal_brute_force(kind):
    x = hard_rows(kind, 1500, 7)
    labels = np.arange(1500) % 40
    wanted = brute_force_by_class(x[::150], x, labels, 6, 40)
    index = clear.NeighborIndex(x, labels)
    assert_same(index.search_by_class(x[::150], k=6), wanted)
    within = np.arange(10)
    found = index.search(x[::150], k=6, within=within)
    assert_same(found, (wanted[0][within, within], wanted[1][within, within]))
    assert_same(index.search(x[::150], k=6), brute_force_neighbors(x[::150], x, 6))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_ten_thousand_classes_of_no_one_or_few_rows(dtype):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10_000, 9000)
    x = rng.standard_normal((9000, 5)).astype(dtype)
    index = clear.NeighborIndex(x, labels, n_classes=10_000)
    wide = x.astype(np.float32)
    wanted = brute_force_by_class(wide[:2], wide, labels, 3, 10_000)
    assert (wanted[1][:, :, 0] == -1).mean() > 0.3
    assert_same(index.search_by_class(x[:2], k=3), wanted)
    assert index.class_sizes.tolist() == np.bincount(labels, minlength=10_000).tolist()


@pytest.mark.parametrize("k", [1000, 1024])
def test_a_large_k_equals_brute_force_in_every_class(k):
    x, labels = random_rows(4000, 6), np.arange(4000) % 3
    x[2000:2600] = x[0]
    index = clear.NeighborIndex(x, labels)
    assert_same(index.search_by_class(x[:3], k=k), brute_force_by_class(x[:3], x, labels, k, 3))
    assert_same(index.search(x[:3], k=k), brute_force_neighbors(x[:3], x, k))


# --- a subset of the rows shares the packed panels ---


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_subset_is_searched_like_an_index_of_its_own(share, metric):
    x, labels = random_rows(3000, 8), uneven_labels(3000, 60)
    rng = np.random.default_rng(2)
    rows, mask = np.flatnonzero(rng.random(3000) < 0.9), rng.random(3000) < share
    whole = clear.NeighborIndex(x, labels, rows=rows, n_classes=60, metric=metric)
    part = whole.subset(mask)
    alone = clear.NeighborIndex(x, labels, rows=np.intersect1d(rows, np.flatnonzero(mask)), n_classes=60, metric=metric)
    assert part.class_sizes.tolist() == alone.class_sizes.tolist()
    assert part.n_rows == alone.n_rows
    assert_same(part.search(x[:40], k=5), alone.search(x[:40], k=5))
    assert_same(part.search(x[:40], k=5, within=labels[:40]), alone.search(x[:40], k=5, within=labels[:40]))
    assert_same(part.search_by_class(x[:40], k=5), alone.search_by_class(x[:40], k=5))


def test_a_subset_outlives_the_index_it_was_taken_from():
    x = random_rows(500, 4)
    part = clear.NeighborIndex(x).subset(np.arange(100, 500))
    assert_same(part.search(x[:5], k=3), brute_force_neighbors(x[:5], x, 3, rows=np.arange(100, 500)))


def test_a_subset_finds_only_rows_of_the_index():
    x = random_rows(50, 4)
    part = clear.NeighborIndex(x, rows=np.arange(10)).subset(np.arange(5, 50))
    assert np.sort(part.search(x[:1], k=50).indices[0])[-5:].tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="mask of shape"):
        part.subset(np.ones(10, bool))


def test_far_queries_of_a_subset_are_measured_within_it():
    x = random_rows(900, 5) * np.float32(1e-10)
    queries = random_rows(9, 5, seed=1) * np.float32(1e37)
    part = clear.NeighborIndex(x).subset(np.arange(0, 900, 2))
    assert_same(part.search(queries, k=7), brute_force_neighbors(queries, x, 7, rows=np.arange(0, 900, 2)))
