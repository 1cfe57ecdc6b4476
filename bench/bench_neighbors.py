"""Exact nearest neighbours against faiss, scikit-learn and torch: one group is one workload, all in one run.

python -m bench.bench_neighbors --out neighbors.json          plain and by class, interleaved with peers, one thread
pytest bench/bench_neighbors.py --full --benchmark-json=out.json -k "variant or lists"      the other tables
pytest bench/bench_neighbors.py --benchmark-disable           everything at tiny sizes, as tests

Building an index is not timed, for ours and for the peers. Every row stores `recall`: the share of the true
neighbours (of a float64 brute force, on a sample of the queries) that the method returned; ours must find
all of them, at equal distances.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from oracles_neighbors import brute_force_by_class, brute_force_neighbors  # noqa: E402
from workloads import class_search, plain_search  # noqa: E402

import clear  # noqa: E402
from bench.interleave import interleaved  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers' own imports

SAMPLE = 20

# --- methods: build(base, threads) -> search(queries, k) -> (distances, indices) ---


def build_clear(base, threads):
    index = clear.NeighborIndex(base)
    return lambda queries, k: index.search(queries, k=k, threads=threads)


def build_faiss(base, threads):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return lambda queries, k: index.search(queries, k)


def build_sklearn(base, threads):
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    index = neighbors.NearestNeighbors(algorithm="brute").fit(base)
    return lambda queries, k: index.kneighbors(queries, k)


def build_torch(base, threads):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_num_threads(threads)
    rows = torch.from_numpy(base)
    half = -0.5 * (rows * rows).sum(1)

    def search(queries, k, block=512):
        found = [torch.addmm(half, part, rows.T).topk(k) for part in torch.from_numpy(queries).split(block)]
        return tuple(torch.cat(parts).numpy() for parts in zip(*found, strict=True))

    return search


METHODS = {"clear": build_clear, "faiss": build_faiss, "sklearn": build_sklearn, "torch": build_torch}


def one_index_per_class(build, base, labels, classes, threads):
    """What a user of a peer writes: an index for each class, searched in turn."""
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    searches = [build(base[rows], threads) for rows in members]

    def search(queries, k):
        found = [one(queries, k) for one in searches]
        indices = [rows[part] for rows, (_, part) in zip(members, found, strict=True)]
        return np.stack([d for d, _ in found], axis=1), np.stack(indices, axis=1)

    return search


def recall(indices, wanted):
    """Share of the wanted rows that were returned."""
    pairs = zip(indices.reshape(-1, indices.shape[-1]), wanted.reshape(-1, wanted.shape[-1]), strict=True)
    return float(np.mean([np.isin(want, got).mean() for got, want in pairs]))


def judge(facts, name, found, wanted):
    """Store the recall on the sample; ours must equal the oracle."""
    distances, indices = found
    facts["recall"] = round(recall(indices[:SAMPLE], wanted[1]), 6)
    assert facts["recall"] > 0.99
    if name == "clear":
        np.testing.assert_array_equal(indices[:SAMPLE], wanted[1])
        np.testing.assert_array_equal(distances[:SAMPLE], wanted[0])


# --- workloads: (n, queries, d, k), and tiny ones with the same names ---

PLAIN = {
    "n=50k m=5000 d=64 k=10": (50_000, 5000, 64, 10),
    "n=50k m=5000 d=64 k=50": (50_000, 5000, 64, 50),
    "n=200k m=2500 d=64 k=10": (200_000, 2500, 64, 10),
    "n=50k m=100 d=64 k=10": (50_000, 100, 64, 10),
    "n=50k m=300 d=64 k=10": (50_000, 300, 64, 10),
    "n=50k m=1500 d=64 k=10": (50_000, 1500, 64, 10),
    "n=50k m=1000 d=512 k=10": (50_000, 1000, 512, 10),
    "n=50k m=1000 d=512 k=50": (50_000, 1000, 512, 50),
    "n=200k m=1000 d=512 k=10": (200_000, 1000, 512, 10),
}
BY_CLASS = {
    "n=50k m=2500 d=64 C=10 k=50": (50_000, 2500, 64, 10, 50),
    "n=50k m=2500 d=64 C=100 k=50": (50_000, 2500, 64, 100, 50),
    "n=50k m=1000 d=64 C=1000 k=20": (50_000, 1000, 64, 1000, 20),
    "n=50k m=1000 d=512 C=10 k=50": (50_000, 1000, 512, 10, 50),
    "n=50k m=1000 d=512 C=100 k=50": (50_000, 1000, 512, 100, 50),
}


@functools.lru_cache(maxsize=1)
def plain_case(n, m, d, k):
    base, queries = plain_search(n, m, d)
    return base, queries, brute_force_neighbors(queries[:SAMPLE], base, k)


@functools.lru_cache(maxsize=1)
def class_case(n, m, d, classes, k):
    base, labels, queries = class_search(n, m, d, classes)
    return base, labels, queries, brute_force_by_class(queries[:SAMPLE], base, labels, k, classes)


def class_search_of(name, base, labels, classes, threads):
    """The search within every class of one method."""
    if name == "clear":
        index = clear.NeighborIndex(base, labels, n_classes=classes)
        return functools.partial(index.search_by_class, threads=threads)
    return one_index_per_class(METHODS[name], base, labels, classes, threads)


def rows_of(kind, workloads):
    """Every workload with every method; one group, hence one table, for each workload."""
    return [
        pytest.param(group, name, id=f"{group} {name}", marks=pytest.mark.benchmark(group=f"neighbors {kind} {group}"))
        for group in workloads
        for name in METHODS
    ]


@pytest.mark.parametrize(("group", "name"), rows_of("plain", PLAIN))
def test_plain_search(group, name, run, benchmark, full, threads):
    n, m, d, k = PLAIN[group] if full else (1500, 40, PLAIN[group][2], PLAIN[group][3])
    base, queries, wanted = plain_case(n, m, d, k)
    search = METHODS[name](base, threads)
    found = run(lambda: search(queries, k), method=name, n=n, m=m, d=d, k=k, threads=threads)
    judge(benchmark.extra_info, name, found, wanted)


@pytest.mark.parametrize(("group", "name"), rows_of("by class", BY_CLASS))
def test_search_by_class(group, name, run, benchmark, full, threads):
    n, m, d, classes, k = BY_CLASS[group] if full else (1000, 30, BY_CLASS[group][2], 5, BY_CLASS[group][4])
    base, labels, queries, wanted = class_case(n, m, d, classes, k)
    search = class_search_of(name, base, labels, classes, threads)
    facts = {"method": name, "n": n, "m": m, "d": d, "classes": classes, "k": k, "threads": threads}
    found = run(lambda: search(queries, k=k), **facts)
    judge(benchmark.extra_info, name, found, wanted)


# --- one workload, one thing changed: precision, metric, threads, instruction set ---

VARIANT = (50_000, 2500, 64, 10)
VARIANTS = {
    "float16": ["clear", "clear float32", "faiss float16"],
    "cosine": ["clear", "faiss unit rows", "sklearn"],
    "2 threads": ["clear", "clear 1 thread", "faiss"],
    "avx2": ["clear", "clear avx512"],
}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def build_faiss_inner(base, threads):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(unit(base))
    return lambda queries, k: index.search(unit(queries), k)


def build_faiss_float16(base, threads):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexScalarQuantizer(base.shape[1], faiss.ScalarQuantizer.QT_fp16)
    index.train(base)
    index.add(base)
    return lambda queries, k: index.search(queries, k)


def build_sklearn_cosine(base, threads):
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    index = neighbors.NearestNeighbors(algorithm="brute", metric="cosine").fit(base)
    return lambda queries, k: index.kneighbors(queries, k)


def build_variant(kind, name, base, threads):
    """The search of one row of a table."""
    if name == "faiss":
        return build_faiss(base, threads)
    if name == "faiss float16":
        return build_faiss_float16(base, threads)
    if name == "faiss unit rows":
        return build_faiss_inner(base, threads)
    if name == "sklearn":
        return build_sklearn_cosine(base, threads)
    rows = base.astype(np.float16) if (kind, name) == ("float16", "clear") else base
    index = clear.NeighborIndex(rows, metric="cosine" if kind == "cosine" else "euclidean")
    return lambda queries, k: index.search(queries, k=k, threads=threads)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(
            kind,
            name,
            id=f"{kind} {name}",
            marks=pytest.mark.benchmark(group=f"neighbors {kind} n=50k m=2500 d=64 k=10"),
        )
        for kind, names in VARIANTS.items()
        for name in names
    ],
)
def test_variant(kind, name, run, benchmark, full, threads, monkeypatch):
    from threadpoolctl import threadpool_limits

    if kind == "avx2":
        if clear.build_info()["best_isa"] != "avx512":
            pytest.skip("this processor has no AVX-512 to compare with")
        monkeypatch.setenv("CLEAR_ISA", "avx2" if name == "clear" else "avx512")
    cores = 2 if kind == "2 threads" and name != "clear 1 thread" else threads
    n, m, d, k = VARIANT if full else (1500, 40, 64, 10)
    base, queries = plain_search(n, m, d)
    if kind == "float16":
        base = base.astype(np.float16).astype(np.float32)
    metric = "cosine" if kind == "cosine" else "euclidean"
    wanted = brute_force_neighbors(queries[:SAMPLE], base, k, metric=metric)
    with threadpool_limits(cores):
        search = build_variant(kind, name, base, cores)
        found = run(lambda: search(queries, k), method=name, n=n, m=m, d=d, k=k, threads=cores)
    judge(benchmark.extra_info, name, found, wanted)


# --- approximate on request: inverted lists of the same number and probes ---


def build_lists(base, lists):
    index = clear.NeighborIndex(base, approximate=clear.Approximate(lists=lists, probes=16))
    index.search(base[:1], k=1)  # the lists are built when first needed
    return index


def build_faiss_lists(base, lists):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(base.shape[1]), base.shape[1], lists)
    index.train(base)
    index.add(base)
    index.nprobe = 16
    return index


@pytest.mark.parametrize("name", ["clear", "faiss", "clear exact"])
@pytest.mark.benchmark(group="neighbors ivf n=200k m=20000 d=64 k=10, 16 probes")
def test_lists(name, run, benchmark, full, threads):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    n, m, d, k, lists = (200_000, 20_000, 64, 10, 1024) if full else (2000, 50, 64, 10, 20)
    base, queries = plain_search(n, m, d)
    if name == "faiss":
        index = build_faiss_lists(base, lists)
        search = functools.partial(index.search, k=k)
    else:
        index = build_lists(base, lists) if name == "clear" else clear.NeighborIndex(base)
        search = functools.partial(index.search, k=k, threads=threads)
    found = run(lambda: search(queries), method=name, n=n, m=m, d=d, k=k, threads=threads)
    wanted = clear.NeighborIndex(base).search(queries[:200], k=k).indices
    benchmark.extra_info["recall"] = round(recall(found[1][:200], wanted), 4)
    assert benchmark.extra_info["recall"] > 0.5


def test_the_sweep_measures_every_point(tmp_path):
    import json

    from sweep_neighbors import AXES, sweep

    path = tmp_path / "scaling.json"
    sweep(path, tiny=True)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert {row["axis"] for row in rows} == set(AXES)
    assert all(row["seconds"] > 0 and row["gflops"] > 0 for row in rows)


# --- the real sizes, interleaved ---


def compare(group, searches, queries, k, wanted):
    """Rows of one workload for bench/report.py."""
    calls = {name: functools.partial(search, queries, k=k) for name, search in searches.items()}
    rows, found = interleaved(f"neighbors {group}", calls, rounds=3)
    for row in rows:
        judge(row["facts"], row["method"], found[row["method"]], wanted)
    ratios = {row["method"]: row["median_seconds"] / rows[0]["median_seconds"] for row in rows}
    print(group, {name: round(ratio, 2) for name, ratio in ratios.items()}, flush=True)
    return rows


def main():
    """Time plain search and search by class."""
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Neighbour search, ours and peers in turns, one thread.")
    parser.add_argument("--out", type=Path, help="JSON for bench/report.py")
    options = parser.parse_args()
    rows = []
    for group, (n, m, d, k) in PLAIN.items():
        base, queries, wanted = plain_case(n, m, d, k)
        with threadpool_limits(1):
            searches = {name: build(base, 1) for name, build in METHODS.items()}
            rows += compare(f"plain {group}", searches, queries, k, wanted)
    for group, (n, m, d, classes, k) in BY_CLASS.items():
        base, labels, queries, wanted = class_case(n, m, d, classes, k)
        with threadpool_limits(1):
            searches = {name: class_search_of(name, base, labels, classes, 1) for name in METHODS}
            rows += compare(f"by class {group}", searches, queries, k, wanted)
    if options.out is not None:
        options.out.write_text(json.dumps({"rows": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
