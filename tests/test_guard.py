"""A guard answers as the probe does, from as many threads as ask, also after it was saved; damage is named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from samples import make_classes, make_pocket

import clear
from clear import Approximate, Features, Guard, UnsafeFile
from clear._documents import write_document
from clear.reference import Reference

planted = make_pocket(1)
TRAINING = Features.from_arrays(planted.values, planted.labels, class_names=tuple("abcde"))
RNG = np.random.default_rng(0)
INPUTS = np.concatenate([[planted.target], TRAINING.values[::9], TRAINING.values[::7] + 0.1]).astype(np.float32)
PREDICTIONS = np.concatenate([[0], TRAINING.labels[::9], TRAINING.labels[::7]])


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard.fit(TRAINING, threads=1)


def assert_answers_as_the_probe(guard: Guard, training: Features, inputs: np.ndarray, predictions: np.ndarray) -> None:
    answers = guard(inputs, predictions)
    found = clear.probe(Features.from_arrays(inputs, predictions, predictions=predictions), training)
    flags = {flag.row: flag for flag in found.flags}
    assert np.flatnonzero(answers.flagged).tolist() == sorted(flags)
    np.testing.assert_array_equal(answers.score, found.scores.score)
    for row in range(len(inputs)):
        wanted = (flags[row].suggested_label, flags[row].mates) if row in flags else (predictions[row], ())
        assert (answers.label[row], answers.support[row]) == wanted


def test_it_answers_as_the_probe_does(guard: Guard) -> None:
    assert_answers_as_the_probe(guard, TRAINING, INPUTS, PREDICTIONS)
    first = guard(INPUTS[:1], PREDICTIONS[:1])
    assert first.flagged.tolist() == [True]
    assert first.label[0] == planted.target_label
    assert set(first.support[0]) & set(planted.poisons.tolist())


def test_wide_features_are_projected_alike(tmp_path: Path) -> None:
    values, labels = make_classes(2, d=300)
    training = Features.from_arrays(values, labels)
    Guard.fit(training).save(tmp_path)
    assert_answers_as_the_probe(Guard.load(tmp_path), training, values[::11] + np.float32(0.2), labels[::11])


def test_a_saved_guard_finds_candidates_as_it_did(guard: Guard, tmp_path: Path) -> None:
    how = Approximate(lists=6, probes=1, seed=3)
    approximate = Guard.fit(Reference(TRAINING, approximate=how))
    approximate.save(tmp_path)
    loaded = Guard.load(tmp_path)
    assert loaded.reference.approximate == how
    answers, exact = loaded(INPUTS, PREDICTIONS), guard(INPUTS, PREDICTIONS)
    np.testing.assert_array_equal(answers.score, approximate(INPUTS, PREDICTIONS).score)
    assert (answers.score != exact.score).any()  # one list of six misses some neighbours


def test_a_batch_is_judged_as_its_samples_are(guard: Guard) -> None:
    whole = guard(INPUTS, PREDICTIONS)
    for row in (0, 5, 40):
        alone = guard(INPUTS[row : row + 1], PREDICTIONS[row : row + 1])
        assert (alone.score[0], alone.label[0], alone.support[0]) == (
            whole.score[row],
            whole.label[row],
            whole.support[row],
        )
    assert len(guard(INPUTS[:0], PREDICTIONS[:0]).flagged) == 0


def test_what_was_saved_answers_the_same(guard: Guard, tmp_path: Path) -> None:
    for _ in range(2):  # the second replaces the first
        guard.save(tmp_path / "guard")
        loaded = Guard.load(tmp_path / "guard", threads=2)
        np.testing.assert_array_equal(loaded(INPUTS, PREDICTIONS).score, guard(INPUTS, PREDICTIONS).score)
        assert loaded(INPUTS, PREDICTIONS).support == guard(INPUTS, PREDICTIONS).support
        assert len(list((tmp_path / "guard").iterdir())) == 6
    assert repr(loaded) == "Guard(400 training samples, 5 classes)"


def test_saving_deletes_only_what_the_older_guard_lists(guard: Guard, tmp_path: Path) -> None:
    guard.save(tmp_path / "guard")
    path = tmp_path / "guard" / "manifest.json"
    for name in ("mine-00000.npy", "values-00003.npy", "../mine.npy"):
        (tmp_path / "guard" / name).write_text("mine")
    document = json.loads(path.read_text())
    del document["digest"]
    write_document(path, document | {"number": "/../../mine"})  # as an attacker would
    with pytest.raises(UnsafeFile, match=r"manifest\.json is damaged: number is"):
        guard.save(tmp_path / "guard")
    write_document(path, document | {"files": document["files"] | {"mine": document["files"]["mean"]}})
    guard.save(tmp_path / "guard")
    for name in ("mine-00000.npy", "values-00003.npy", "../mine.npy"):
        assert (tmp_path / "guard" / name).read_text() == "mine"
    assert not (tmp_path / "guard" / "mean-00000.npy").exists()
    assert (tmp_path / "guard" / "mean-00004.npy").exists()


def test_threads_do_not_disturb_each_other(guard: Guard) -> None:
    wanted = guard(INPUTS, PREDICTIONS)
    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(lambda _: guard(INPUTS, PREDICTIONS), range(32)):
            np.testing.assert_array_equal(answers.score, wanted.score)
            assert answers.support == wanted.support


@pytest.mark.parametrize(
    ("inputs", "predictions", "message"),
    [
        (INPUTS[:, :-1], PREDICTIONS, "inputs has 15 columns: want 16"),
        (np.full_like(INPUTS, np.nan), PREDICTIONS, "nan or inf"),
        (INPUTS, PREDICTIONS[:-1], "predictions has shape"),
        (INPUTS, PREDICTIONS + 5, "class numbers from 0 and below 5"),
    ],
)
def test_bad_inputs_are_one_line(guard: Guard, inputs, predictions, message) -> None:
    with pytest.raises(ValueError, match=message):
        guard(inputs, predictions)


def test_damage_is_named(guard: Guard, tmp_path: Path) -> None:
    guard.save(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(4):
            data = bytearray(whole)
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            path.write_bytes(data)
            with pytest.raises(UnsafeFile, match=path.name):
                Guard.load(tmp_path)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UnsafeFile, match=path.name):
            Guard.load(tmp_path)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=path.name):
            Guard.load(tmp_path)
        path.write_bytes(whole)
    assert Guard.load(tmp_path)(INPUTS, PREDICTIONS).flagged[0]


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ([0.0] * 4, "want 5 classes"),
        ([0.0] * 4 + [-0.5], "raised by 0 or more"),
        ([0.0] * 4 + ["inf"], "raised by 0 or more"),
    ],
)
def test_centers_of_other_classes_are_refused(guard: Guard, tmp_path: Path, raised: list, message: str) -> None:
    guard.save(tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_text())
    assert max(document["centers"][0][2]) > 0
    document["centers"][1][2] = raised
    write_document(tmp_path / "manifest.json", {key: document[key] for key in document if key != "digest"})
    with pytest.raises(UnsafeFile, match=message):
        Guard.load(tmp_path)


def test_a_save_that_fails_leaves_the_older_guard(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.save(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clear._parts.np.save", full)
        with pytest.raises(OSError, match=r"No space left on device.*rows-00001\.npy"):
            guard.save(tmp_path)
    assert Guard.load(tmp_path)(INPUTS, PREDICTIONS).flagged[0]
