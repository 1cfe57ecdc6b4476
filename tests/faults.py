"""Kill scans and extractions again and again; the end must be that of an undisturbed run, to the last byte.

python tests/faults.py scan --count 20
python tests/faults.py features --count 20
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from samples import make_classes

REPORT = ("report.json", "arrays.npz", "scores.parquet", "report.html")
SCAN = ["scan", "train.npy", "--threads", "1", "--piece-rows", "128"]
FEATURES = ["features", "net.safetensors", "images.npz", "--architecture", "digits_cnn", "--batch-size", "32"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "clear", *words]


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
    return None


def kill_scan(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Kill a scan until it has been killed `count` times; finished pieces must stay as they are."""
    values, labels = make_classes(seed, classes=6, per_class=600, d=24)
    np.save(folder / "train.npy", values)
    np.save(folder / "train.labels.npy", labels)
    subprocess.run(command(*SCAN, "--out", "whole"), cwd=folder, check=False, stdout=subprocess.DEVNULL)
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
        end = subprocess.run(command(*SCAN, "--workdir", work.name, "--out", "out"), cwd=folder, capture_output=True)
        assert end.returncode in (0, 1, 2), end.stderr.decode()
        same_bytes(folder / "whole", folder / "out", REPORT)
    return {"kills": killed, "scans": runs, "pieces kept": kept}


def kill_extraction(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Kill an extraction until it has been killed `count` times."""
    import torch
    from safetensors.torch import save_file

    from clear.architectures import digits_cnn

    torch.manual_seed(seed)
    save_file(digits_cnn().state_dict(), folder / "net.safetensors")
    rng = np.random.default_rng(seed)
    n = 3000
    np.savez(folder / "images.npz", images=rng.integers(0, 256, (n, 8, 8, 1), np.uint8), labels=np.arange(n) % 10)
    shards = ["--shard-rows", "64"]
    subprocess.run(command(*FEATURES, *shards, "--out", "whole"), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    chance, killed, runs = random.Random(seed), 0, 0
    while killed < count:
        runs += 1
        store = folder / f"set{runs}"
        while killed < count:
            arguments = [*FEATURES, *shards, "--out", store.name]
            if kill_at_random(arguments, folder, store, "values-*.npy", chance) is None:
                break
            killed += 1
        subprocess.run(command(*FEATURES, *shards, "--out", store.name), cwd=folder, check=True, capture_output=True)
        same_bytes(folder / "whole", store, sorted(path.name for path in (folder / "whole").iterdir()))
        left = {path.name for path in store.iterdir() if ".partial" not in path.name}
        assert left == {path.name for path in (folder / "whole").iterdir()}
    return {"kills": killed, "extractions": runs}


def same_bytes(wanted: Path, found: Path, names: list[str] | tuple[str, ...]) -> None:
    for name in names:
        assert (wanted / name).read_bytes() == (found / name).read_bytes(), f"{name} differs"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scan", "features"])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    run = {"scan": kill_scan, "features": kill_extraction}[chosen.what]
    with tempfile.TemporaryDirectory() as place:
        print(run(Path(place), chosen.count, chosen.seed))
