"""Ray gives what one process gives, and the death of a node changes nothing but the time."""

from __future__ import annotations

from pathlib import Path

import faults
import pytest
from samples import make_pocket

import clear
from clear.cli import main
from clear.errors import MissingExtra

planted = make_pocket(3)
FEATURES = clear.Features.from_arrays(planted.values, planted.labels)


def test_an_engine_must_be_known_and_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='engine is \'dask\': want "local" or "ray"'):
        clear.scan(FEATURES, engine="dask")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='want engine="ray" with it'):
        clear.scan(FEATURES, address="auto")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "clear-pockets\[ray\]"'):
        clear.scan(FEATURES, engine="ray", workdir=tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.filterwarnings("ignore")  # what Ray warns about is not this package's
def test_a_node_that_dies_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head, two further nodes, one of them killed. More of them: python tests/faults.py ray --count 3"""
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    assert faults.kill_nodes(tmp_path, 1) == {"node deaths": 1, "in the middle": 1}


@pytest.mark.filterwarnings("ignore")
def test_no_cluster_at_an_address_is_one_line(capsys, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.chdir(tmp_path)
    clear.save_features(FEATURES, "train.npz")
    assert main(["scan", "train.npz", "--engine", "ray", "--address", "auto"]) == 3
    assert "no Ray cluster answers there" in capsys.readouterr().err.splitlines()[-1]
