"""Kill scans and extractions again and again; the end must be that of an undisturbed run, to the last byte.

python tests/faults.py scan --count 20
python tests/faults.py join --count 20
python tests/faults.py features --count 20
RAY_USAGE_STATS_ENABLED=0 python tests/faults.py ray --count 3
RAY_USAGE_STATS_ENABLED=0 python tests/faults.py ray-shards --count 3
RAY_USAGE_STATS_ENABLED=0 python tests/faults.py ray-features --count 3
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from samples import make_classes

import clear
from clear.cli import main

REPORT = ("report.json", "arrays.npz", "scores.parquet", "report.html")
SCAN = ["scan", "train.npy", "--threads", "1", "--piece-rows", "128"]
FEATURES = ["features", "net.safetensors", "images.npz", "--architecture", "digits_cnn", "--batch-size", "32"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "clear", *words]


def run_here(folder: Path, *words: str) -> None:
    """Run a command to its end, in this process."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert main(words) in (0, 1, 2)


def kill_at_random(arguments: list[str], folder: Path, finished: Path, pattern: str, rng: random.Random) -> int | None:
    """Run a command and kill it (-9) a moment after a random number of further files; None when it ended before."""
    wanted = len(list(finished.glob(pattern))) + rng.randrange(1, 6)
    process = subprocess.Popen(command(*arguments), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(finished.glob(pattern))) < wanted:
        time.sleep(0.002)
    time.sleep(rng.random() * 0.03)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return len(list(finished.glob(pattern)))
    assert process.returncode in (0, 1, 2), said.decode()
    assert b"No module named" not in said, said.decode()  # that is exit code 1 too
    return None


def kill_scan(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Kill a scan until it has been killed `count` times; finished pieces must stay as they are."""
    values, labels = make_classes(seed, classes=6, per_class=600, d=24)
    np.save(folder / "train.npy", values)
    np.save(folder / "train.labels.npy", labels)
    run_here(folder, *SCAN, "--out", "whole")
    rng, killed, runs, kept = random.Random(seed), 0, 0, 0
    while killed < count:
        runs += 1
        work = folder / f"work{runs}"
        before: dict[str, int] = {}
        while killed < count:
            done = kill_at_random([*SCAN, "--workdir", work.name], folder, work, "[ch]*.npz", rng)
            now = {path.name: path.stat().st_mtime_ns for path in work.glob("[ch]*.npz")}
            assert before.items() <= now.items(), "a finished piece was written again"
            before, kept = now, kept + len(before)
            if done is None:
                break
            killed += 1
        run_here(folder, *SCAN, "--workdir", work.name, "--out", "out")
        same_bytes(folder / "whole", folder / "out", REPORT)
    return {"kills": killed, "scans": runs, "pieces kept": kept}


def kill_join(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Kill joins of new samples, whose own folder of work the next samples join, until `count` were killed."""
    values, labels = make_classes(seed, classes=6, per_class=600, d=24)
    known = len(labels) - 100
    for name, part in (("old", slice(known)), ("train", slice(None))):
        np.save(folder / f"{name}.npy", values[part])
        np.save(folder / f"{name}.labels.npy", labels[part])
    run_here(folder, "scan", "old.npy", *SCAN[2:], "--workdir", "old", "--keep-neighbors")
    join = [*SCAN[:4], "--previous", "old"]
    run_here(folder, *join, "--workdir", "whole work", "--out", "whole")
    names = [path.name for path in (folder / "whole work").iterdir()]
    rng, killed, runs = random.Random(seed), 0, 0
    while killed < count:
        runs += 1
        work = folder / f"work{runs}"
        while killed < count:
            if kill_at_random([*join, "--workdir", work.name], folder, work, "*.npz", rng) is None:
                break
            killed += 1
        run_here(folder, *join, "--workdir", work.name, "--out", "out")
        same_bytes(folder / "whole", folder / "out", REPORT)
        same_bytes(folder / "whole work", work, names)
        assert {path.name for path in work.iterdir() if ".partial" not in path.name} == {*names}
    return {"kills": killed, "joins": runs}


def kill_extraction(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Kill an extraction until it has been killed `count` times."""
    import torch
    from safetensors.torch import save_file

    from clear.architectures import digits_cnn

    torch.manual_seed(seed)
    save_file(digits_cnn().state_dict(), folder / "net.safetensors")
    rng = np.random.default_rng(seed)
    n = 1000
    np.savez(folder / "images.npz", images=rng.integers(0, 256, (n, 8, 8, 1), np.uint8), labels=np.arange(n) % 10)
    shards = ["--shard-rows", "64"]
    run_here(folder, *FEATURES, *shards, "--out", "whole")
    chance, killed, runs = random.Random(seed), 0, 0
    while killed < count:
        runs += 1
        store = folder / f"set{runs}"
        while killed < count:
            arguments = [*FEATURES, *shards, "--out", store.name]
            if kill_at_random(arguments, folder, store, "values-*.npy", chance) is None:
                break
            killed += 1
        run_here(folder, *FEATURES, *shards, "--out", store.name)
        same_bytes(folder / "whole", store, sorted(path.name for path in (folder / "whole").iterdir()))
        left = {path.name for path in store.iterdir() if ".partial" not in path.name}
        assert left == {path.name for path in (folder / "whole").iterdir()}
    return {"kills": killed, "extractions": runs}


NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextlib.contextmanager
def small_cluster() -> Iterator[Any]:
    """A Ray cluster on this machine: a head and one further node of one core each, connected."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_one(cluster: Any, stage: str, share: float, deaths: list[int]) -> Callable[[str, int, int], None]:
    """A progress that kills the older of two nodes once that share of a stage is done, and notes what is left."""
    before = len(deaths)

    def kill(now: str, done: int, total: int) -> None:
        if now == stage and done >= share * total and len(deaths) == before:
            cluster.remove_node(next(node for node in cluster.worker_nodes), allow_graceful=False)
            deaths.append(total - done)

    return kill


def kill_nodes(
    folder: Path, count: int, seed: int = 0, *, cluster: Any = None, piece_rows: int = 64, **options: Any
) -> dict[str, int]:
    """Let a node of a Ray cluster on this machine die in the middle of a scan, `count` times, each in a new scan."""
    values, labels = make_classes(seed, classes=6, per_class=400, d=24)
    features = clear.Features.from_arrays(values, labels)
    wanted = clear.scan(features, threads=1)
    chance = random.Random(seed)
    deaths: list[int] = []
    with contextlib.nullcontext(cluster) if cluster else small_cluster() as cluster:
        for number in range(count):
            cluster.add_node(**NODE)
            stage = "cross-validated core" if number % 3 == 2 else "hulls"
            kill = kill_one(cluster, stage, chance.uniform(0.1, 0.8), deaths)
            work = folder / f"work{number}"
            chosen = {"engine": "ray", "piece_rows": piece_rows, "workdir": work} | options
            found = clear.scan(features, progress=kill, **chosen)
            same_results(wanted, found)
            assert len(list(work.glob("hulls-*.npz"))) == -(-len(labels) // piece_rows)
    return {"node deaths": len(deaths), "in the middle": sum(left > 0 for left in deaths)}


def kill_extractors(folder: Path, count: int, seed: int = 0, *, cluster: Any = None) -> dict[str, int]:
    """Let a node die in the middle of an extraction, `count` times; the stores must hold the same bytes."""
    import torch

    from clear.architectures import digits_cnn

    torch.manual_seed(seed)
    model, rng, n = digits_cnn(), np.random.default_rng(seed), 1000
    images = rng.normal(size=(n, 1, 8, 8)).astype(np.float32), np.arange(n) % 10
    options = {"batch_size": 32, "shard_rows": 64}
    clear.extract_to_store(model, images, folder / "whole", **options)
    chance = random.Random(seed)
    deaths: list[int] = []
    with contextlib.nullcontext(cluster) if cluster else small_cluster() as cluster:
        for number in range(count):
            cluster.add_node(**NODE)
            kill = kill_one(cluster, "features", chance.uniform(0.1, 0.7), deaths)
            clear.extract_to_store(model, images, folder / str(number), engine="ray", progress=kill, **options)
            same_bytes(folder / "whole", folder / str(number), [path.name for path in (folder / "whole").iterdir()])
    return {"node deaths": len(deaths), "in the middle": sum(left > 0 for left in deaths)}


def same_results(wanted: Any, found: Any) -> None:
    for field in dataclasses.fields(wanted.scores):
        np.testing.assert_array_equal(getattr(wanted.scores, field.name), getattr(found.scores, field.name))
    assert (wanted.flags, wanted.pockets, wanted.verdict) == (found.flags, found.pockets, found.verdict)


def same_bytes(wanted: Path, found: Path, names: list[str] | tuple[str, ...]) -> None:
    for name in names:
        assert (wanted / name).read_bytes() == (found / name).read_bytes(), f"{name} differs"


def kill_shards(folder: Path, count: int, seed: int = 0, *, cluster: Any = None) -> dict[str, int]:
    """As `kill_nodes`, with the training set in three shards."""
    return kill_nodes(folder, count, seed, cluster=cluster, node_memory=200_000, piece_rows=256)


RUNS = {
    "scan": kill_scan,
    "join": kill_join,
    "features": kill_extraction,
    "ray": kill_nodes,
    "ray-shards": kill_shards,
    "ray-features": kill_extractors,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(RUNS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(RUNS[chosen.what](Path(place), chosen.count, chosen.seed))
