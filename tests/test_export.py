"""Scores as partitioned Parquet: every sample once, under its level, ordered by id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from samples import make_pocket

import clear
from clear.cli import main

pyarrow = pytest.importorskip("pyarrow.parquet", reason="the data extra is not installed")
planted = make_pocket(0)
IDS = np.array([f"s{i:04}" for i in np.random.default_rng(0).permutation(len(planted.labels))])
TRAINING = clear.Features.from_arrays(planted.values, planted.labels, ids=IDS)


def test_every_sample_is_in_the_partition_of_its_level(tmp_path: Path) -> None:
    result = clear.scan(TRAINING)
    files = clear.export_scores(result, tmp_path, file_rows=100)
    assert len(files) == len(set(files)) >= 5
    found = {}
    for file in files:
        table = pyarrow.ParquetFile(file).read().to_pydict()
        assert table["id"] == sorted(table["id"])
        level = clear.Level[file.parent.name.removeprefix("flagged=").upper()]
        assert set(table["level"]) == {level}
        found |= dict(zip(table["id"], table["score"], strict=True))
    assert found == dict(zip(IDS.tolist(), result.scores.score.tolist(), strict=True))


def test_an_older_export_is_replaced(tmp_path: Path) -> None:
    result = clear.scan(TRAINING)
    clear.export_scores(result, tmp_path, file_rows=10)
    files = clear.export_scores(result, tmp_path)
    assert sorted(tmp_path.rglob("*.parquet")) == sorted(files)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_interrupted_export_leaves_the_older_one_whole(tmp_path: Path, monkeypatch, calls: int) -> None:
    result = clear.scan(TRAINING)
    clear.export_scores(result, tmp_path, file_rows=300)
    (tmp_path / "flagged=none" / "mine.parquet").write_text("of someone else")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    real, left = pyarrow.write_table, calls

    def interrupted(*args: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(pyarrow, "write_table", interrupted)
    other = dataclasses.replace(result, scores=dataclasses.replace(result.scores, level=result.scores.level[::-1]))
    with pytest.raises(KeyboardInterrupt):
        clear.export_scores(other, tmp_path, file_rows=200)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_older_parts_go_when_the_new_ones_have_their_names(tmp_path: Path, monkeypatch) -> None:
    result = clear.scan(TRAINING)
    wanted = clear.export_scores(result, tmp_path / "wanted", file_rows=100)
    clear.export_scores(result, tmp_path / "scores", file_rows=50)
    unlink, removed = Path.unlink, []

    def interrupted(path: Path, *, missing_ok: bool = False) -> None:
        removed.append(path)
        if len(removed) == 2:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clear.export_scores(result, tmp_path / "scores", file_rows=100)
    for path in wanted:
        assert (tmp_path / "scores" / path.relative_to(tmp_path / "wanted")).read_bytes() == path.read_bytes()
    assert removed[1].exists()
    files = clear.export_scores(result, tmp_path / "scores", file_rows=100)
    assert sorted((tmp_path / "scores").rglob("part-*")) == sorted(files)


def test_the_command_line_writes_it_and_the_queries_of_the_documents_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    clear.save_features(TRAINING, "train.npz")
    assert main(["scan", "train.npz", "--parquet", "scores"]) == 1
    flags = clear.scan(TRAINING).flags
    wanted = {flag.id for flag in flags if flag.score == flags[0].score}  # a crowd's samples share it
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: the queries in docs/scaling.md are checked")
    polars = pytest.importorskip("polars", reason="polars is not installed: the queries in docs/scaling.md are checked")
    query = (
        "SELECT id FROM read_parquet('scores/**/*.parquet') WHERE flagged = 'certain' ORDER BY suspicion DESC LIMIT 1"
    )
    ((found,),) = duckdb.sql(query).fetchall()
    assert found in wanted
    scores = polars.scan_parquet("scores/**/*.parquet", hive_partitioning=True)
    top = scores.filter(polars.col("flagged") == "certain").sort("suspicion", descending=True).select("id").head(1)
    assert top.collect().item() in wanted


def test_what_would_keep_it_from_being_written_is_said_before_the_scan(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    clear.save_features(TRAINING, "train.npz")
    Path("file").write_text("no folder")
    monkeypatch.setattr("clear.detect.scan", None)
    assert main(["scan", "train.npz", "--parquet", "file/scores"]) == 3
    assert "file/scores" in capsys.readouterr().err
