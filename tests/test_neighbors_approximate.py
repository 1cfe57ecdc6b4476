"""Approximate searches: rows may be missed, but what is reported is true, and how much is missed is measured."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from oracles_neighbors import brute_force_by_class, brute_force_neighbors, measure_distances
from test_neighbors import assert_same, random_rows

import clear
from clear import Approximate
from clear._lists import train_centres
from clear.approximate import share_found
from clear.class_index import base_of

METRICS = ["euclidean", "cosine", "inner_product"]
X, QUERIES = random_rows(3000, 8), random_rows(60, 8, seed=1)
LABELS = np.arange(3000) % 3


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="needs faiss-cpu")


def assert_true_and_in_order(found, queries, base, metric):
    sign = -1 if metric == "inner_product" else 1
    for query, distances, rows in zip(queries, *found, strict=True):
        there = rows >= 0
        np.testing.assert_array_equal(distances[there], measure_distances(query, base[rows[there]], metric))
        assert len(set(rows[there])) == there.sum()
        order = np.lexsort((rows[there], sign * distances[there]))
        assert order.tolist() == list(range(there.sum()))
        assert (distances[~there] == sign * np.inf).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_distances_are_true_and_most_rows_are_found(method, metric, faiss):
    index = clear.NeighborIndex(X, metric=metric, approximate=method)
    found = index.search(QUERIES, k=10)
    assert_true_and_in_order(found, QUERIES, X, metric)
    wanted = brute_force_neighbors(QUERIES, X, 10, metric=metric)
    assert share_found(found.indices, wanted[1]) > 0.8
    assert index.recall(QUERIES, k=10) == share_found(found.indices, wanted[1])


@pytest.mark.parametrize("metric", METRICS)
def test_all_lists_probed_give_the_exact_answer(metric, faiss):
    index = clear.NeighborIndex(X, LABELS, metric=metric, approximate=Approximate(lists=20, probes=20))
    exact = clear.NeighborIndex(X, LABELS, metric=metric)
    exclude = np.arange(60)
    for threads in (1, 2):
        assert_same(
            index.search(X[:60], k=9, exclude=exclude, threads=threads), exact.search(X[:60], k=9, exclude=exclude)
        )
    assert_same(index.search(QUERIES, k=5, within=LABELS[:60]), exact.search(QUERIES, k=5, within=LABELS[:60]))
    found = index.search_by_class(QUERIES, k=5, without=LABELS[:60])
    assert_same(found, exact.search_by_class(QUERIES, k=5, without=LABELS[:60]))
    for some in (np.arange(0, 3000, 2), np.arange(0, 3000, 7)):  # shares the lists; has lists of its own
        part = index.subset(some)
        assert_same(part.search(QUERIES, k=5), exact.subset(some).search(QUERIES, k=5))
    assert index.recall(QUERIES, k=5, sample=7) == 1.0


def test_lists_are_the_same_for_every_number_of_threads_and_every_cut_of_the_queries():
    found = clear.NeighborIndex(X, LABELS, approximate="ivf").search_by_class(QUERIES, k=7, threads=1)
    index = clear.NeighborIndex(X, LABELS, approximate="ivf")
    for queries in np.array_split(np.arange(60), 7):
        part = index.search_by_class(QUERIES[queries], k=7, threads=3)
        assert_same(part, clear.Neighbors(found.distances[queries], found.indices[queries]))


def test_a_class_without_rows_gives_none():
    index = clear.NeighborIndex(X, LABELS, n_classes=5, approximate="ivf")
    assert (index.search_by_class(QUERIES, k=3).indices[:, 3:] == -1).all()
    assert (index.search(QUERIES, k=3, within=np.full(60, 4)).indices == -1).all()
    assert (clear.NeighborIndex(X[:0], approximate="ivf").search(QUERIES, k=3).indices == -1).all()


def test_float16_lists_give_the_exact_answer_when_all_are_probed(faiss):
    x = X.astype(np.float16)
    index = clear.NeighborIndex(x, approximate=Approximate(lists=5, probes=5))
    assert_same(index.search(QUERIES, k=4), brute_force_neighbors(QUERIES, x.astype(np.float32), 4))


def test_a_graph_is_searched_in_every_class(faiss):
    index = clear.NeighborIndex(X, LABELS, n_classes=4, approximate="hnsw")
    found = index.search_by_class(QUERIES, k=10, exclude=np.arange(60))
    wanted = brute_force_by_class(QUERIES, X, LABELS, 10, 4, exclude=np.arange(60))
    assert (found.indices[:, 3] == -1).all()
    assert share_found(found.indices, wanted[1]) > 0.9
    assert (LABELS[found.indices[:, 1]] == 1).all()


class Brought:
    """An index of the caller's: the first rows, some of them twice, in the wrong order, and nothing."""

    def search(self, x, k):
        rows = np.tile(np.r_[[5, -1, 5, 2999], np.arange(k - 4)[::-1]], (len(x), 1))
        return np.zeros(rows.shape), rows


def test_candidates_of_a_brought_index_are_measured_and_sorted():
    index = clear.NeighborIndex(X, approximate=Approximate(method=Brought(), candidates=50))
    rows = np.r_[np.arange(46), 2999]
    assert_same(index.search(QUERIES, k=6), brute_force_neighbors(QUERIES, X, 6, rows=rows))
    exclude = np.arange(60) % 46
    found = index.subset(np.arange(40)).search(QUERIES, k=6, exclude=exclude)
    assert_same(found, brute_force_neighbors(QUERIES, X, 6, rows=np.arange(40), exclude=exclude))
    assert 0 < index.recall(QUERIES, k=6) < 0.5


def test_an_exact_index_has_recall_one():
    assert clear.NeighborIndex(X).recall(QUERIES, k=3) == 1.0


def test_the_recall_counts_rows_that_exist():
    assert share_found(np.array([[1, 2, -1]]), np.array([[1, 3, -1]])) == 0.5
    assert share_found(np.array([[-1]]), np.array([[-1]])) == 1.0


def test_only_a_graph_needs_faiss_and_without_it_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert clear.NeighborIndex(X, approximate="ivf").recall(QUERIES, k=1) > 0.8
    index = clear.NeighborIndex(X, approximate="hnsw")
    with pytest.raises(clear.MissingExtra, match=r'this needs faiss: pip install "clear-pockets\[ann\]"'):
        index.search(QUERIES, k=1)


@pytest.mark.parametrize("method", ["tree", 3])
def test_an_unknown_method_is_refused(method):
    with pytest.raises(ValueError, match='approximate=.*: want "ivf", "hnsw" or an index'):
        clear.NeighborIndex(X, approximate=Approximate(method=method))


def test_rows_that_a_brought_index_makes_up_are_refused():
    class Wrong:
        def search(self, x, k):
            return np.zeros((len(x), k)), np.full((len(x), k), 3000)

    with pytest.raises(ValueError, match="row numbers that are not those of the base"):
        clear.NeighborIndex(X, approximate=Approximate(method=Wrong())).search(QUERIES, k=1)


def test_of_classes_far_from_a_group_only_the_nearest_lists_are_searched() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(6), 200)
    rows = (4 * rng.normal(size=(6, 8))[labels] + rng.normal(size=(1200, 8))).astype(np.float32)
    base = base_of(rows, labels, np.ones(1200, np.bool_), (0, 6))
    centres = train_centres(base, 5, seed=0, threads=1)
    apart = np.linalg.norm(centres.rows[:, None] - centres.rows[None], axis=2)
    near = apart.reshape(30, 6, 5).min(axis=2).argsort(axis=1)[:, :4]
    assert np.array_equal(np.sort(centres.near_classes(1)), np.sort(near))
    for label in range(6):
        every, some = centres.probes(label, 4, 1), centres.probes(label, 4, 1, far=1)
        is_near = (near == label).any(axis=1)
        assert np.array_equal(some[is_near], every[is_near])
        assert np.array_equal(some[~is_near, :1], every[~is_near, :1])
        assert (some[~is_near, 1:] == -1).all()


def test_probes_that_are_forgotten_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of(X, LABELS, np.ones(3000, np.bool_), (0, 3))
    centres = train_centres(base, 5, seed=0, threads=1)
    kept = [centres.probes(label, 3, 1) for label in range(3)]
    monkeypatch.setattr("clear._lists.PROBES_BYTES", 0)
    assert all(np.array_equal(centres.probes(label, 3, 1, far=3), kept[label]) for label in range(3))
    assert all(np.array_equal(centres.probes(label, 3, 1), kept[label]) for label in range(3))
