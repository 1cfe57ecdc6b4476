"""Answers do not depend on threads, instruction set or the grouping of queries: equality, not closeness."""

from __future__ import annotations

import numpy as np
import pytest

import clear

ISAS = ["baseline", "avx2", "avx512"]
SUPPORTED = ISAS[: ISAS.index(clear.build_info()["best_isa"]) + 1]
KINDS = ["normal", "lattice", "offset", "clusters"]  # tight clusters are scored in float32, the others as integers


def make_data(kind):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (3000, 20)).astype(float) if kind == "lattice" else rng.standard_normal((3000, 20))
    labels = rng.integers(0, 6, 3000)
    if kind == "clusters":
        x = rng.standard_normal((6, 20))[labels] + 1e-4 * x
    return (x + 3e4 * (kind == "offset")).astype(np.float32), labels


def search_all_ways(index, x, labels, m, threads):
    exclude = np.arange(m)
    return [
        index.search(x[:m], k=9, exclude=exclude, threads=threads),
        index.search(x[:m], k=9, exclude=exclude, within=labels[:m], threads=threads),
        index.search_by_class(x[:m], k=9, exclude=exclude, threads=threads),
    ]


def assert_equal_answers(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.distances, b.distances)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [100, 700])
def test_threads_do_not_change_the_answer(kind, m):
    x, labels = make_data(kind)
    index = clear.NeighborIndex(x, labels)
    wanted = search_all_ways(index, x, labels, m, 1)
    for threads in (2, 7):
        assert_equal_answers(search_all_ways(index, x, labels, m, threads), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", SUPPORTED)
def test_instruction_sets_do_not_change_the_answer(kind, isa, monkeypatch):
    x, labels = make_data(kind)
    monkeypatch.setenv("CLEAR_ISA", "baseline")
    index = clear.NeighborIndex(x, labels)
    wanted = search_all_ways(index, x, labels, 150, 1)
    monkeypatch.setenv("CLEAR_ISA", isa)
    assert clear.build_info()["isa"] == isa
    assert_equal_answers(search_all_ways(index, x, labels, 150, 1), wanted)
    assert_equal_answers(search_all_ways(clear.NeighborIndex(x, labels), x, labels, 150, 2), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_alone_or_together_get_the_same_answer(kind):
    x, labels = make_data(kind)
    index = clear.NeighborIndex(x, labels)
    together = index.search(x[:37], k=9)
    alone = [index.search(x[i : i + 1], k=9) for i in range(37)]
    np.testing.assert_array_equal(np.concatenate([one.indices for one in alone]), together.indices)
    np.testing.assert_array_equal(np.concatenate([one.distances for one in alone]), together.distances)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_merged_equal_the_plain_search(kind):
    x, labels = make_data(kind)
    index = clear.NeighborIndex(x, labels)
    plain, by_class = index.search(x[:50], k=9), index.search_by_class(x[:50], k=9)
    for i in range(50):
        distances, rows = by_class.distances[i].ravel(), by_class.indices[i].ravel()
        best = np.lexsort((rows, distances))[:9]
        np.testing.assert_array_equal(rows[best], plain.indices[i])


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    x, _ = make_data("normal")
    index = clear.NeighborIndex(x)
    monkeypatch.setenv("CLEAR_ISA", "sse9")
    with pytest.raises(ValueError, match="CLEAR_ISA=sse9: want baseline, avx2 or avx512"):
        index.search(x[:2], k=1)
