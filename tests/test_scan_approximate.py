"""Scans and probes with approximate candidates: what is missed is measured and written down, the rest is as always."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import make_classes, make_pocket
from test_scan import finds, same_scores

import clear
from clear import Approximate, Features
from clear.agreement import compare_scan
from clear.cli import main
from clear.collapse import Wrap
from clear.crowd import with_far
from clear.pieces import measure_in_pieces
from clear.reference import Reference
from clear.report import read_report, write_report
from clear.results import Scores
from clear.suspicion import score_hulls, score_samples

ALL = Approximate(lists=4, probes=4, far_probes=4)
SOME = Approximate(lists=6, probes=2)
planted = make_pocket(3)
TRAINING = Features.from_arrays(planted.values, planted.labels)


@pytest.fixture
def runs_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack one class at a time, as large scans do."""
    monkeypatch.setattr("clear.class_index.RUN_BYTES", 1)


def written(result: clear.ScanResult, folder: Path) -> dict[str, bytes]:
    write_report(result, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_class_at_a_time_gives_the_same_report(tmp_path, monkeypatch) -> None:
    together = written(clear.scan(TRAINING), tmp_path / "together")
    monkeypatch.setattr("clear.class_index.RUN_BYTES", 1)
    assert written(clear.scan(TRAINING), tmp_path / "apart") == together
    work = tmp_path / "work"
    assert written(clear.scan(TRAINING, workdir=work, piece_rows=64), tmp_path / "pieces") == together
    assert len(list(work.glob("hulls-*"))) == 5 * 7
    (work / "hulls-2-3-00001.npz").unlink()
    assert written(clear.scan(TRAINING, workdir=work, piece_rows=64), tmp_path / "again") == together


def test_when_every_list_is_searched_scores_are_those_of_exact_neighbours() -> None:
    exact, found = clear.scan(TRAINING), clear.scan(TRAINING, approximate=ALL)
    assert same_scores(exact, found)
    assert (found.flags, found.pockets, found.verdict) == (exact.flags, exact.pockets, exact.verdict)
    assert exact.approximation is None
    assert dataclasses.asdict(found.approximation) == {
        "method": "ivf",
        "lists": 4,
        "probes": 4,
        "far_probes": 4,
        "candidates": None,
        "seed": 0,
        "sampled": 400,
        "recall": 1.0,
        "same_level": 1.0,
        "flagged": len(exact.flags),
        "flagged_same_level": 1.0,
        "same_suggestion": 1.0,
    }


def test_what_is_missed_is_measured_and_the_pocket_still_found() -> None:
    larger = make_pocket(3, per_class=200)
    features = Features.from_arrays(larger.values, larger.labels)
    result = clear.scan(features, approximate=Approximate(lists=12, probes=5))
    assert 0.5 < result.approximation.recall < 0.99
    assert 0.9 < result.approximation.same_level <= 1
    assert finds(result, larger.poisons)


def test_the_comparison_with_exact_neighbours_leaves_what_was_measured_as_it_was() -> None:
    reference = Reference(TRAINING, approximate=SOME)
    wrap = with_far(reference, measure_in_pieces(reference))
    before = copy.deepcopy(wrap)
    exact = measure_in_pieces(reference.exact())
    seen = []

    def score(found: Wrap) -> tuple[Scores, float]:
        seen.append(copy.deepcopy(found))
        return score_samples(reference, score_hulls(reference, found), None)

    compare_scan(reference, wrap, score)
    assert same_wrap(wrap, before)
    assert same_wrap(seen[0], before)
    assert same_wrap(seen[1], exact)  # 400 samples: all are drawn
    assert not same_wrap(before, exact)


def same_wrap(one: Wrap, other: Wrap) -> bool:
    parts = [
        (*each.pocket, *each.own, *each.own_size, each.other, each.other_label, each.mates) for each in (one, other)
    ]
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(*parts, strict=True))


def test_neither_threads_nor_pieces_nor_runs_change_a_byte(tmp_path, monkeypatch) -> None:
    whole = written(clear.scan(TRAINING, approximate=SOME, threads=1), tmp_path / "whole")
    options = {"approximate": SOME, "workdir": tmp_path / "work", "piece_rows": 64, "threads": 3}
    assert written(clear.scan(TRAINING, **options), tmp_path / "pieces") == whole
    (tmp_path / "work" / "hulls-00003.npz").unlink()
    assert written(clear.scan(TRAINING, **options), tmp_path / "again") == whole
    monkeypatch.setattr("clear.class_index.RUN_BYTES", 1)
    assert written(clear.scan(TRAINING, approximate=SOME, threads=2), tmp_path / "apart") == whole


def test_the_folder_of_an_exact_scan_is_not_that_of_an_approximate_one(tmp_path) -> None:
    clear.scan(TRAINING, workdir=tmp_path / "exact")
    clear.scan(TRAINING, workdir=tmp_path / "lists", approximate=SOME)
    for folder, how in (("exact", SOME), ("lists", None), ("lists", ALL)):
        with pytest.raises(ValueError, match=r"begun with other inputs \(approximate\)"):
            clear.scan(TRAINING, workdir=tmp_path / folder, approximate=how)


def test_a_graph_finds_the_pocket() -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    result = clear.scan(TRAINING, approximate="hnsw")
    assert result.approximation.recall > 0.9
    assert finds(result, planted.poisons)


def test_a_report_holds_the_recall_and_the_checker_reads_it(tmp_path) -> None:
    result = clear.scan(TRAINING, approximate=ALL)
    report = write_report(result, tmp_path)
    assert result.approximation.flagged
    assert read_report(report.json).approximation == result.approximation
    assert "neighbours found" in report.html.read_text()
    assert clear.check_report(report.json, TRAINING) == []
    document = json.loads(report.json.read_text())
    for name, value in (("recall", 1.5), ("same_level", 0.12345), ("sampled", 401), ("flagged", 400)):
        document["approximation"] = dataclasses.asdict(result.approximation) | {name: value}
        report.json.write_text(json.dumps(document))
        assert any("approximation: " in line for line in clear.check_report(report.json, TRAINING)), name


def test_a_probe_says_what_it_missed(runs_of_a_class) -> None:
    clean, labels = make_classes(3)
    inputs = Features.from_arrays(
        np.concatenate([planted.target[None], clean[::5]]), np.concatenate([[0], labels[::5]])
    )
    exact = clear.probe(inputs, TRAINING)
    found = clear.probe(inputs, TRAINING, approximate=ALL)
    np.testing.assert_array_equal(found.scores.score, exact.scores.score)
    assert (found.approximation.recall, found.approximation.flagged) == (1.0, len(exact.flags))
    some = clear.probe(inputs, TRAINING, approximate=SOME)
    assert some.approximation.recall < 1
    assert 0.5 < some.approximation.same_level <= 1


def test_what_cannot_be_is_refused_before_anything_is_computed(monkeypatch, tmp_path) -> None:
    for options, said in (
        ({"approximate": "tree"}, 'want "ivf", "hnsw"'),
        ({"approximate": Approximate(method=object.__new__(Index))}, "a brought index does not hold"),
        ({"approximate": Approximate(probes=0)}, "probes is 0: want at least 1"),
        ({"approximate": Approximate(far_probes=0)}, "far_probes is 0: want at least 1"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            clear.scan(TRAINING, workdir=tmp_path / "work", **options)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(clear.MissingExtra, match=r'pip install "clear-pockets\[ann\]"'):
        clear.scan(TRAINING, approximate="hnsw")


class Index:
    def search(self, x, k):
        raise AssertionError


def test_the_command_line_knows_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    clear.save_features(TRAINING, "train.npz")
    assert main(["scan", "train.npz", "--approximate", "ivf", "--probes", "1", "--out", "out"]) == 1
    assert "of the neighbours found; " in capsys.readouterr().out
    assert main(["check", "out", "train.npz"]) == 0
    assert main(["scan", "train.npz", "--approximate", "ivf", "--json"]) == 1
    assert '"recall": 1.0' in capsys.readouterr().out
    assert main(["scan", "train.npz", "--probes", "1"]) == 64
