"""Exact nearest neighbours: the answer is that of the definition, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_neighbors import brute_force_by_class, brute_force_neighbors, measure_distances

import clear


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[0].dtype == np.float64
    assert found[1].dtype == np.int64


def random_rows(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


# --- the oracle ---


def test_the_oracle_measures_a_known_triangle():
    assert measure_distances(np.float32([0, 0]), np.float32([[3, 4], [0, 0]])).tolist() == [5.0, 0.0]


def test_the_oracle_orders_ties_by_row_and_fills_the_tail():
    base = np.float32([[1], [5], [-1], [2]])
    distances, indices = brute_force_neighbors(np.float32([[0]]), base, 5, exclude=np.array([3]))
    assert indices.tolist() == [[0, 2, 1, -1, -1]]
    assert distances.tolist() == [[1.0, 1.0, 5.0, np.inf, np.inf]]


def test_the_oracle_searches_each_class_and_only_the_rows_given():
    base, labels = np.float32([[0], [1], [2], [3]]), np.array([0, 1, 0, 1])
    _, indices = brute_force_by_class(np.float32([[0]]), base, labels, 2, 2, rows=np.array([0, 2, 3]))
    assert indices.tolist() == [[[0, 2], [3, -1]]]


# --- answers equal the oracle ---


@pytest.mark.parametrize("d", [1, 3, 8, 17, 64, 130])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_plain_search_equals_brute_force(d, k):
    base, queries = random_rows(700, d), random_rows(21, d, seed=1)
    assert_same(clear.find_neighbors(queries, base, k=k), brute_force_neighbors(queries, base, k))


@pytest.mark.parametrize("classes", [1, 2, 9, 60])
def test_search_by_class_equals_brute_force(classes):
    base, queries = random_rows(600, 12), random_rows(19, 12, seed=1)
    labels = np.random.default_rng(2).integers(0, classes, 600)
    rows = np.flatnonzero(np.random.default_rng(3).random(600) < 0.7)
    exclude = np.random.default_rng(4).integers(-1, 600, 19)
    index = clear.NeighborIndex(base, labels, rows=rows, n_classes=classes)
    wanted = brute_force_by_class(queries, base, labels, 11, classes, rows=rows, exclude=exclude)
    assert_same(index.search_by_class(queries, k=11, exclude=exclude), wanted)


def test_within_searches_the_class_named_for_each_query():
    base, labels = random_rows(500, 9), np.arange(500) % 7
    queries, within = random_rows(40, 9, seed=1), np.random.default_rng(2).integers(-1, 7, 40)
    found = clear.NeighborIndex(base, labels).search(queries, k=5, within=within)
    for i, label in enumerate(within):
        rows = np.flatnonzero((labels == label) | (label < 0))
        wanted = brute_force_neighbors(queries[i : i + 1], base, 5, rows=rows)
        assert_same((found.distances[i : i + 1], found.indices[i : i + 1]), wanted)


def test_results_keep_the_numbering_of_the_base_when_rows_are_chosen():
    base = random_rows(300, 6)
    mask = np.random.default_rng(1).random(300) < 0.3
    wanted = brute_force_neighbors(base, base, 4, rows=np.flatnonzero(mask))
    assert_same(clear.NeighborIndex(base, rows=mask).search(base, k=4), wanted)
    assert_same(clear.NeighborIndex(base, rows=np.flatnonzero(mask)[::-1]).search(base, k=4), wanted)


def test_a_row_is_not_its_own_neighbor_by_default():
    base = random_rows(200, 5)
    assert_same(clear.find_neighbors(base, k=3), brute_force_neighbors(base, base, 3, exclude=np.arange(200)))


def test_the_largest_k_equals_brute_force():
    base, queries = random_rows(4500, 4), random_rows(3, 4, seed=1)
    assert_same(clear.find_neighbors(queries, base, k=4096), brute_force_neighbors(queries, base, 4096))


HARD = {
    "offset": lambda x, rng: x + 1e6,
    "lattice": lambda x, rng: rng.integers(-1, 2, x.shape),
    "duplicates": lambda x, rng: x[rng.integers(0, 3, len(x))],
    "all equal": lambda x, rng: np.full(x.shape, 0.3),
    "1e30": lambda x, rng: x * 1e30,
    "1e-20": lambda x, rng: x * 1e-20,
    "denormals": lambda x, rng: x * 1e-43,
    "one far row": lambda x, rng: np.vstack([x[:-1], 1e30 * x[-1:]]),
    "all scales": lambda x, rng: x * 10.0 ** rng.integers(-35, 36, (len(x), 1)),
    "nearest last": lambda x, rng: x[np.argsort(-(x**2).sum(1))],
}


def hard_rows(kind, n, d):
    """Data that float32 scores find hard, by name."""
    rng = np.random.default_rng(5)
    return HARD[kind](rng.standard_normal((n, d)), rng).astype(np.float32)


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("d", [1, 13])
def test_hard_data_equal_brute_force(kind, d):
    x = hard_rows(kind, 1500, d)
    queries = x[::100]
    assert_same(clear.find_neighbors(queries, x, k=10), brute_force_neighbors(queries, x, 10))
    labels = np.arange(1500) % 3
    wanted = brute_force_by_class(queries, x, labels, 6, 3)
    assert_same(clear.NeighborIndex(x, labels).search_by_class(queries, k=6), wanted)


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e37])
def test_queries_far_beyond_the_base_equal_brute_force(scale):
    base = random_rows(900, 5) * np.float32(1e-10)
    queries = random_rows(9, 5, seed=1) * np.float32(scale)
    assert_same(clear.find_neighbors(queries, base, k=7), brute_force_neighbors(queries, base, 7))


def test_rows_one_float32_step_apart_are_told_apart():
    rng = np.random.default_rng(0)
    base = np.full((400, 64), 1000.0, np.float32)
    towards = rng.integers(0, 2000, 400).astype(np.float32)
    base[np.arange(400), rng.integers(0, 64, 400)] = np.nextafter(np.float32(1000), towards)
    assert_same(clear.find_neighbors(base[:20], base, k=30), brute_force_neighbors(base[:20], base, 30))


# --- properties ---

small_rows = st.integers(1, 4).flatmap(
    lambda d: st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=2, max_size=40)
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=small_rows, k=st.integers(1, 12))
def test_ties_equal_brute_force_and_a_smaller_k_is_a_prefix(rows, k):
    x = np.array(rows, dtype=np.float32)
    index = clear.NeighborIndex(x)
    found, longer = index.search(x, k=k), index.search(x, k=k + 1)
    assert_same(found, brute_force_neighbors(x, x, k))
    np.testing.assert_array_equal(longer.indices[:, :k], found.indices)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=small_rows, shift=st.integers(-(2**20), 2**20))
def test_translation_by_integers_changes_nothing(rows, shift):
    x = np.array(rows, dtype=np.float32)
    moved = x + np.float32(shift)
    assert_same(clear.NeighborIndex(moved).search(moved, k=3), clear.NeighborIndex(x).search(x, k=3))


def test_the_order_of_the_base_changes_only_the_numbers():
    base, queries = random_rows(800, 10), random_rows(15, 10, seed=1)
    order = np.random.default_rng(2).permutation(800)
    found = clear.find_neighbors(queries, base[order], k=20)
    np.testing.assert_array_equal(order[found.indices], clear.find_neighbors(queries, base, k=20).indices)


# --- sizes and layouts at the edge ---


def test_one_row_is_found_and_the_tail_is_empty():
    found = clear.NeighborIndex(np.float32([[2.0]])).search(np.float32([[5.0]]), k=3)
    assert found.distances.tolist() == [[3.0, np.inf, np.inf]]
    assert found.indices.tolist() == [[0, -1, -1]]


def test_k_may_be_all_rows():
    x = random_rows(100, 3)
    assert_same(clear.find_neighbors(x[:5], x, k=100), brute_force_neighbors(x[:5], x, 100))


def test_an_empty_class_has_no_neighbors():
    index = clear.NeighborIndex(random_rows(10, 3), np.zeros(10, int), n_classes=3)
    found = index.search_by_class(random_rows(2, 3, seed=1), k=2)
    assert (found.indices[:, 1:] == -1).all()
    assert np.isinf(found.distances[:, 1:]).all()
    assert index.class_sizes.tolist() == [10, 0, 0]
    assert (index.search(random_rows(2, 3), k=2, within=np.array([1, 2])).indices == -1).all()


def test_zero_rows_and_zero_queries_are_answered():
    nothing = np.empty((0, 4), np.float32)
    found = clear.NeighborIndex(nothing).search(random_rows(3, 4), k=2)
    assert found.indices.tolist() == [[-1, -1]] * 3
    assert clear.NeighborIndex(random_rows(3, 4)).search(nothing, k=2).indices.shape == (0, 2)
    assert clear.NeighborIndex(random_rows(3, 4)).search_by_class(nothing, k=2).indices.shape == (0, 1, 2)


def test_an_index_without_searchable_rows_finds_none():
    found = clear.NeighborIndex(random_rows(5, 2), rows=np.zeros(5, bool)).search(random_rows(2, 2), k=1)
    assert found.indices.tolist() == [[-1], [-1]]


LAYOUTS = {
    "columns apart": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "fortran": np.asfortranarray,
    "negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype(np.float64),
    "lists": lambda x: x.tolist(),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_answer(name):
    x = random_rows(60, 8)
    value = LAYOUTS[name](x)
    assert_same(clear.NeighborIndex(value).search(value, k=5), brute_force_neighbors(x, x, 5))


def test_read_only_and_memory_mapped_rows_are_searched_in_place(tmp_path):
    x = random_rows(60, 8)
    x.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=x.shape)
    assert_same(clear.NeighborIndex(mapped).search(mapped, k=5), brute_force_neighbors(x, x, 5))


def test_float16_is_widened_exactly():
    x = random_rows(50, 6).astype(np.float16)
    wide = x.astype(np.float32)
    assert_same(clear.NeighborIndex(x).search(x, k=4), brute_force_neighbors(wide, wide, 4))


@pytest.mark.torch
def test_bfloat16_tensors_are_widened_exactly():
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    x = torch.from_numpy(random_rows(50, 6)).bfloat16()
    wide = x.float().numpy()
    assert_same(clear.NeighborIndex(x).search(x, k=4), brute_force_neighbors(wide, wide, 4))


@pytest.mark.torch
def test_denormals_count_even_where_torch_flushes_them():
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    x = hard_rows("denormals", 300, 4)
    wanted = brute_force_neighbors(x, x, 5)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        found = clear.NeighborIndex(x).search(x, k=5, threads=2)
    finally:
        torch.set_flush_denormal(False)
    assert_same(found, wanted)
