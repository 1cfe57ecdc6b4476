"""Cosine and inner product: as exact as Euclidean distances, against the same kind of brute force."""

from __future__ import annotations

import numpy as np
import pytest
from oracles_neighbors import brute_force_by_class, brute_force_neighbors, measure_distances
from test_neighbors import HARD, assert_same, hard_rows, random_rows
from test_neighbors_agnosticism import SUPPORTED

import clear

METRICS = ["cosine", "inner_product"]


def test_the_oracle_measures_known_angles_and_products():
    rows = np.float32([[2, 0], [0, 3], [-1, 0], [0, 0]])
    assert measure_distances(np.float32([5, 0]), rows, "cosine").tolist() == [0.0, 1.0, 2.0, 1.0]
    assert measure_distances(np.float32([5, 0]), rows, "inner_product").tolist() == [10.0, 0.0, -5.0, 0.0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 3, 8, 17, 64, 130])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_plain_search_equals_brute_force(metric, d, k):
    base, queries = random_rows(700, d), random_rows(21, d, seed=1)
    wanted = brute_force_neighbors(queries, base, k, metric=metric)
    assert_same(clear.find_neighbors(queries, base, k=k, metric=metric), wanted)


@pytest.mark.parametrize("metric", METRICS)
def test_search_by_class_equals_brute_force(metric):
    base, queries = random_rows(600, 12) + 3, random_rows(19, 12, seed=1)
    labels, exclude = np.random.default_rng(2).integers(0, 9, 600), np.random.default_rng(4).integers(-1, 600, 19)
    index = clear.NeighborIndex(base, labels, n_classes=10, metric=metric)
    wanted = brute_force_by_class(queries, base, labels, 70, 10, exclude=exclude, metric=metric)
    assert_same(index.search_by_class(queries, k=70, exclude=exclude), wanted)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("d", [1, 13])
def test_hard_data_equal_brute_force(metric, kind, d):
    x = hard_rows(kind, 1500, d)
    x[[3, 700]] = 0
    queries = x[:1400:100]
    queries[1] = 0
    wanted = brute_force_neighbors(queries, x, 10, metric=metric)
    assert_same(clear.find_neighbors(queries, x, k=10, metric=metric), wanted)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1e20, 1e37])
def test_queries_of_any_length_equal_brute_force(metric, scale):
    base, queries = random_rows(900, 5), random_rows(9, 5, seed=1) * np.float32(scale)
    wanted = brute_force_neighbors(queries, base, 7, metric=metric)
    assert_same(clear.find_neighbors(queries, base, k=7, metric=metric), wanted)


def test_nearly_parallel_rows_are_told_apart():
    rng = np.random.default_rng(0)
    base = (1000 * np.ones((800, 16)) + rng.standard_normal((800, 16)) * 1e-3).astype(np.float32)
    wanted = brute_force_neighbors(base[:20], base, 30, metric="cosine")
    assert_same(clear.find_neighbors(base[:20], base, k=30, metric="cosine"), wanted)


def test_a_row_and_its_double_are_at_cosine_distance_zero():
    x = random_rows(50, 7)
    found = clear.NeighborIndex(np.vstack([x, 2 * x]), metric="cosine").search(x, k=2)
    assert found.distances.tolist() == [[0.0, 0.0]] * 50
    assert found.indices.tolist() == [[i, i + 50] for i in range(50)]


def test_the_tail_of_inner_products_is_minus_infinity():
    found = clear.NeighborIndex(np.float32([[2.0]]), metric="inner_product").search(np.float32([[-5.0]]), k=2)
    assert found.distances.tolist() == [[-10.0, -np.inf]]
    assert found.indices.tolist() == [[0, -1]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("isa", SUPPORTED)
def test_threads_and_instruction_sets_do_not_change_the_answer(metric, isa, monkeypatch):
    x = np.random.default_rng(0).integers(-1, 2, (3000, 20)).astype(np.float32)
    queries = x[:300:3]
    wanted = brute_force_neighbors(queries, x, 9, metric=metric)
    monkeypatch.setenv("CLEAR_ISA", isa)
    for threads in (1, 2, 7):
        index = clear.NeighborIndex(x, metric=metric)
        assert_same(index.search(queries, k=9, threads=threads), wanted)
        assert_same(index.search(queries[:3], k=9, threads=threads), (wanted[0][:3], wanted[1][:3]))


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match='metric="l1": want "euclidean", "cosine" or "inner_product"'):
        clear.NeighborIndex(random_rows(3, 2), metric="l1")
