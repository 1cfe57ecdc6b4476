"""Crowds: more samples around a point than are peeled off, in a class that a classifier has learnt them with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from samples import make_classes

import clear
from clear.check import check_report
from clear.collapse import measure
from clear.config import SCAN_SCALE
from clear.crowd import far_distances, find_crowds, nearest_far, with_far
from clear.far_rows import FAR_ROWS, FarRows
from clear.reference import Reference
from clear.report import read_report, write_report
from clear.results import Level


class Crowded(NamedTuple):
    training: clear.Features
    poisons: npt.NDArray[np.int64]
    target: npt.NDArray[np.float32]


def make_crowd(seed: int, poisons: int = 36, per_class: int = 100) -> Crowded:
    """Some samples of class 0 moved next to a point among class 1."""
    values, labels = make_classes(seed, per_class=per_class, separation=1.5)
    rng = np.random.default_rng(seed)
    target = values[rng.choice(np.flatnonzero(labels == 1), 3, replace=False)].mean(axis=0)
    rows = np.sort(rng.choice(np.flatnonzero(labels == 0), poisons, replace=False))
    values[rows] = target + 0.15 * rng.normal(size=(poisons, values.shape[1]))
    return Crowded(clear.Features.from_arrays(values, labels), rows, target.astype(np.float32))


@pytest.fixture(scope="module")
def crowded() -> Crowded:
    return make_crowd(3)


@pytest.fixture(scope="module")
def result(crowded: Crowded) -> clear.ScanResult:
    return clear.scan(crowded.training)


def test_a_crowd_is_certain_as_a_whole_and_gets_its_label(crowded: Crowded, result: clear.ScanResult) -> None:
    found = np.flatnonzero(np.isfinite(result.scores.crowd))
    assert found.tolist() == crowded.poisons.tolist()
    assert len(set(result.scores.crowd[found])) == 1
    assert (result.scores.level[found] == Level.CERTAIN).all()
    assert (result.scores.suggested_label[found] == 1).all()
    assert result.verdict == "poisoned"
    assert any("crowd" in note for note in result.notes)


def test_the_nearest_mates_alone_do_not_uncover_it(crowded: Crowded) -> None:
    reference = Reference(crowded.training)
    reference.in_core[:] = True  # a classifier that has learnt the crowd
    units = reference.units
    wrap = measure(reference, reference.rows, reference.labels, (SCAN_SCALE,), exclude=units)
    assert np.median(wrap.own[0][crowded.poisons]) < np.median(wrap.own[0]) / 2
    far = far_distances(reference, reference.rows, reference.labels, units)
    assert np.median(far[crowded.poisons]) > np.median(far)
    assert set(find_crowds(reference, with_far(reference, wrap)).at) == set(crowded.poisons)


@pytest.mark.parametrize("seed", range(6))
def test_clean_sets_have_no_crowd(seed: int) -> None:
    values, labels = make_classes(seed, per_class=100, separation=1.5)
    assert np.isnan(clear.scan(clear.Features.from_arrays(values, labels)).scores.crowd).all()


BESIDE_POISONS = pytest.mark.xfail(reason="a clean sample beside the poisons, far less suspicious, is certain, too")


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=BESIDE_POISONS), 3])
def test_a_group_no_larger_than_a_sample_and_what_is_peeled_off_is_left_to_the_ordinary_test(seed: int) -> None:
    few = make_crowd(seed, poisons=SCAN_SCALE.mates)
    found = clear.scan(few.training).scores
    assert np.isnan(found.crowd).all()
    assert set(np.argsort(-found.suspicion)[: SCAN_SCALE.mates]) == set(few.poisons.tolist())
    more = make_crowd(seed, poisons=SCAN_SCALE.mates + 4)
    crowd = clear.scan(more.training).scores.crowd
    assert set(more.poisons.tolist()) <= set(np.flatnonzero(np.isfinite(crowd)))
    assert set(np.flatnonzero(found.level == Level.CERTAIN)) == set(few.poisons.tolist())


def test_small_pockets_of_one_label_are_no_crowd_together() -> None:
    values, labels = make_classes(3, per_class=100, separation=1.5)
    rng = np.random.default_rng(3)
    moved = rng.choice(np.flatnonzero(labels == 0), (2, 15), replace=False)
    for rows, true in zip(moved, (1, 2), strict=True):
        target = values[rng.choice(np.flatnonzero(labels == true), 3, replace=False)].mean(axis=0)
        values[rows] = target + 0.15 * rng.normal(size=(15, values.shape[1]))
    found = clear.scan(clear.Features.from_arrays(values, labels))
    assert np.isnan(found.scores.crowd).all()
    assert {tuple(np.sort(rows)) for rows in moved} <= {pocket.rows for pocket in found.pockets}


def test_crowds_of_several_labels_are_found_one_after_another() -> None:
    values, labels = make_classes(5, per_class=400, separation=1.5)
    rng, moved = np.random.default_rng(5), []
    for label, true in ((0, 1), (2, 3)):
        target = values[rng.choice(np.flatnonzero(labels == true), 3, replace=False)].mean(axis=0)
        moved.append(rng.choice(np.flatnonzero(labels == label), 40, replace=False))
        values[moved[-1]] = target + 0.15 * rng.normal(size=(40, values.shape[1]))
    result = clear.scan(clear.Features.from_arrays(values, labels))
    found = np.flatnonzero(np.isfinite(result.scores.crowd))
    assert found.tolist() == np.sort(np.concatenate(moved)).tolist()
    assert [result.scores.suggested_label[rows[0]] for rows in moved] == [1, 3]


def test_near_copies_within_their_class_are_no_crowd() -> None:
    values, labels = make_classes(1, per_class=100)
    rows = np.flatnonzero(labels == 2)[:30]
    values[rows] = values[rows[0]] + 0.05 * np.random.default_rng(0).normal(size=(30, values.shape[1]))
    assert np.isnan(clear.scan(clear.Features.from_arrays(values, labels)).scores.crowd).all()


def test_the_target_of_a_crowd_is_flagged_by_the_probe_and_the_guard(crowded: Crowded) -> None:
    inputs = clear.Features.from_arrays(crowded.target[None], [0])
    found = clear.probe(inputs, crowded.training)
    assert np.isfinite(found.scores.crowd[0])
    assert found.flags[0].suggested_label == 1
    assert set(found.flags[0].mates) <= set(crowded.poisons.tolist())
    answers = clear.Guard.fit(crowded.training)(crowded.target[None], [0])
    assert (answers.flagged[0], answers.label[0], answers.score[0]) == (True, 1, found.scores.score[0])


def test_reports_of_crowds_are_read_and_checked(crowded: Crowded, result: clear.ScanResult, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    assert check_report(tmp_path, crowded.training) == []
    np.testing.assert_array_equal(read_report(tmp_path).scores.crowd, result.scores.crowd)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(crowded: Crowded, result: clear.ScanResult, threads: int) -> None:
    again = clear.scan(crowded.training, threads=threads)
    np.testing.assert_array_equal(again.scores.suspicion, result.scores.suspicion)
    assert again.flags == result.flags


def test_few_rows_are_core_rows_of_each_class_and_their_nearer_half_is_peeled_off() -> None:
    values, labels = make_classes(2, classes=3, per_class=150)
    labels[labels == 2] = np.where(np.arange(150) < 12, 2, 1)  # twelve are too few to be halved
    core = np.flatnonzero(np.arange(len(labels)) % 4 > 0)
    far = FarRows(values, labels, core, 4, 5, 0)
    points, asked = values[:40], labels[:40]
    exclude = np.arange(40)
    found = far.own(points, asked, exclude, 2)
    all_drawn = FarRows(values, labels, core, 4, FAR_ROWS, 0).others(points[:1], np.array([-1]), 1)[0]
    drawn = [np.sort(rows[rows >= 0]) for rows in all_drawn]
    assert [len(rows) for rows in drawn] == [100, 100, len(np.intersect1d(core, np.flatnonzero(labels == 2))), 0]
    assert all(set(rows) <= set(core) for rows in drawn)
    for point, label, rows, own in zip(points, asked, found, exclude, strict=True):
        others = drawn[label][drawn[label] != own]
        nearest = others[np.argsort(np.linalg.norm(values[others] - point, axis=1))]
        assert rows.tolist() == ([-1] * 5 if label == 2 else nearest[50:55].tolist())


def test_the_nearest_few_rows_are_of_another_label(crowded: Crowded) -> None:
    reference = Reference(crowded.training)
    rows = crowded.poisons[:5]
    distance, label, members = nearest_far(reference, reference.rows[rows], reference.labels[rows])
    assert (label == 1).all()
    assert (reference.labels[members] == 1).all()
    assert (distance < far_distances(reference, reference.rows[rows], reference.labels[rows], rows)).all()
    assert len(members[0]) <= FAR_ROWS
