"""Ray gives what one process gives, and the death of a node changes nothing but the time."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from samples import make_pocket

import clear
from clear.cli import main
from clear.errors import MissingExtra
from clear.ray_engine import _is_here, _same_place

planted = make_pocket(3)
FEATURES = clear.Features.from_arrays(planted.values, planted.labels)


def test_an_engine_must_be_known_and_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='engine is \'dask\': want "local" or "ray"'):
        clear.scan(FEATURES, engine="dask")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='want engine="ray" with it'):
        clear.scan(FEATURES, address="auto")
    with pytest.raises(ValueError, match='node_memory is 9: want engine="ray" with it'):
        clear.scan(FEATURES, node_memory=9)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "clear-pockets\[ray\]"'):
        clear.scan(FEATURES, engine="ray", workdir=tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.filterwarnings("ignore")
def test_no_cluster_at_an_address_is_one_line(capsys, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray keeps the address of a cluster, even of a dead one
    clear.save_features(FEATURES, "train.npz")
    assert main(["scan", "train.npz", "--engine", "ray", "--address", "auto"]) == 3
    assert "no Ray cluster answers there" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head and a further node of one core each: three raylets with the node that each test adds."""
    pytest.importorskip("ray", reason="the ray extra is not installed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        warnings.simplefilter("ignore")  # what Ray warns about is not this package's
        with faults.small_cluster() as cluster:
            yield cluster


@pytest.mark.filterwarnings("ignore")
class TestANodeThatDies:
    """A head, two further nodes, one of them killed. More of them: python tests/faults.py ray --count 3, and so on."""

    def test_changes_no_result(self, tmp_path: Path, cluster: object) -> None:
        assert faults.kill_nodes(tmp_path, 1, cluster=cluster) == {"node deaths": 1, "in the middle": 1}

    def test_changes_no_result_of_a_set_in_shards(self, tmp_path: Path, cluster: object) -> None:
        assert faults.kill_shards(tmp_path, 1, cluster=cluster) == {"node deaths": 1, "in the middle": 1}

    @pytest.mark.torch
    def test_changes_no_feature(self, tmp_path: Path, cluster: object) -> None:
        pytest.importorskip("torch", reason="the torch extra is not installed")
        assert faults.kill_extractors(tmp_path, 1, cluster=cluster) == {"node deaths": 1, "in the middle": 1}


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_fails_is_named_with_its_rows(tmp_path: Path, cluster: object) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    inputs = np.ones((40, 3), np.float32)
    inputs[30] = np.nan
    with pytest.raises(clear.ClearError, match=r"shard 3 \(rows 24 to 32\) failed on Ray: .*nan or inf"):
        clear.extract_to_store(
            torch.nn.Linear(3, 2), (inputs, [0] * 40), tmp_path / "set", batch_size=4, shard_rows=8, engine="ray"
        )


@pytest.mark.filterwarnings("ignore")
def test_each_gpu_of_a_cluster_gets_an_actor_of_its_own(tmp_path: Path, cluster: object) -> None:
    """Nodes may say that they have GPUs: what is tested is who gets which, not the device."""
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")

    begun = tmp_path / "begun"
    begun.mkdir()

    class Tells(torch.nn.Module):  # the GPU that a sample is computed with
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, x: object) -> object:
            import os
            import time

            (begun / os.environ["CUDA_VISIBLE_DEVICES"]).touch()
            last = time.monotonic() + 60
            while len(list(begun.iterdir())) < 2 and time.monotonic() < last:
                time.sleep(0.01)  # until the other actor has begun, too
            return self.head(torch.tensor([float(os.environ["CUDA_VISIBLE_DEVICES"]), 0.0, 0.0]).expand(len(x), 3))

    inputs = np.ones((64, 3), np.float32), np.zeros(64, np.int64)
    node = cluster.add_node(num_cpus=3, num_gpus=2)  # type: ignore[attr-defined]
    features = clear.extract_to_store(Tells(), inputs, tmp_path / "set", batch_size=4, shard_rows=4, engine="ray")
    cluster.remove_node(node)  # type: ignore[attr-defined]
    assert set(np.asarray(features.values)[:, 0].tolist()) == {0.0, 1.0}


def test_a_single_file_is_not_extracted_by_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["features", "net.safetensors", "images.npz", "--architecture", "digits_cnn", "--engine", "ray"]
    assert main([*words, "--out", "set.npy"]) == 64
    assert "want a name without a suffix" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_lists_are_searched_on_nodes_that_hold_the_whole_set(cluster: object) -> None:
    how = clear.Approximate(lists=6, probes=4)
    local = clear.scan(FEATURES, approximate=how)
    remote = clear.scan(FEATURES, approximate=how, engine="ray", piece_rows=64)
    faults.same_results(local, remote)
    assert local.flags
    assert local.approximation.recall < 1
    assert local.approximation == remote.approximation
    with pytest.raises(clear.ClearError, match="too many for one node: approximate candidates want all of it"):
        clear.scan(FEATURES, approximate=how, engine="ray", node_memory=20_000)


@pytest.mark.filterwarnings("ignore")
def test_its_folder_of_work_is_that_of_one_process(tmp_path: Path, cluster: object) -> None:
    few = np.flatnonzero((FEATURES.labels != 2) | (np.cumsum(FEATURES.labels == 2) <= 6))
    features = clear.Features.from_arrays(FEATURES.values[few], FEATURES.labels[few])
    shards = {"engine": "ray", "node_memory": 20_000}
    options: list[dict[str, Any]] = [{}, {"engine": "ray"}, shards]
    for piece_rows in (100, 1000):  # of some samples, and of all
        found = []
        for number, option in enumerate(options):
            work = tmp_path / f"{number} {piece_rows}"
            clear.scan(features, workdir=work, piece_rows=piece_rows, keep_neighbors=True, **option)
            found.append({path.name: path.read_bytes() for path in work.iterdir()})
        assert found[0] == found[1] == found[2]
    files = {"core", "hulls", "near", "crowds", "manifest.json", "views.json"}
    assert {name.partition("-")[0] for name in found[0]} == files


@pytest.mark.filterwarnings("ignore")
def test_another_cluster_than_the_connected_one_is_refused(cluster: object) -> None:
    with pytest.raises(
        ValueError, match="address is '10.9.9.9:1', but this process is connected to the Ray cluster at"
    ):
        clear.scan(FEATURES, engine="ray", address="10.9.9.9:1")


@pytest.mark.parametrize(
    ("address", "connected", "same"),
    [
        ("localhost:6379", "10.0.0.5:6379", True),
        ("127.0.0.1:6379", "10.0.0.5:6379", True),
        ("head:6379", "10.0.0.5:6379", True),
        ("10.0.0.5:6379", "127.0.0.1:6379", True),
        ("head:6380", "10.0.0.5:6379", False),
        ("10.0.0.6:6379", "10.0.0.5:6379", False),
        ("localhost:6379", "10.0.0.6:6379", False),
        ("unknown:6379", "10.0.0.5:6379", False),
        ("unknown:6379", "unknown:6379", True),
        ("unknown:6379", "other:6379", False),
        ("6379", "10.0.0.5:6379", False),
        ("", "10.0.0.5:6379", False),
    ],
)
def test_a_cluster_is_known_by_all_names_of_its_host(address: str, connected: str, same: bool, monkeypatch) -> None:
    numbers = {"localhost": "127.0.0.1", "head": "10.0.0.5", "": "127.0.0.1"}

    def look_up(host: str) -> str:
        if host in ("unknown", "other"):
            raise socket.gaierror("Name or service not known")
        return numbers.get(host, host)

    monkeypatch.setattr("clear.ray_engine.socket.gethostbyname", look_up)
    monkeypatch.setattr("clear.ray_engine._is_here", {"127.0.0.1", "10.0.0.5"}.__contains__)
    assert _same_place(address, connected) == same


def test_this_machine_is_told_from_others() -> None:
    assert _is_here("127.0.0.1")
    assert not _is_here("203.0.113.77")  # kept for documents: nobody's
