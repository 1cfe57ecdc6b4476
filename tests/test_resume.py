"""A scan that was interrupted, in whatever way, goes on where it stopped and ends as if nothing had happened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import faults
import numpy as np
import pytest
from samples import make_pocket

import clear
from clear import Features, LimitReached, UnsafeFile
from clear.cli import main
from clear.cross_validation import fit_predict
from clear.reference import Reference
from clear.report import write_report
from clear.work import Work

PIECE = 64


@pytest.fixture(scope="module")
def training() -> Features:
    planted = make_pocket(3)
    copies = np.repeat(planted.poisons[:1], 3)
    return Features.from_arrays(
        np.concatenate([planted.values, planted.values[copies]]),
        np.concatenate([planted.labels, planted.labels[copies]]),
    )


@pytest.fixture(scope="module")
def undisturbed(training: Features, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return report_of(training, tmp_path_factory.mktemp("whole"))


def report_of(training: Features, folder: Path, **options: object) -> dict[str, bytes]:
    """The bytes of the report of a scan."""
    write_report(clear.scan(training, **options), folder / "report")
    return {path.name: path.read_bytes() for path in (folder / "report").iterdir()}


def pieces_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


@pytest.mark.parametrize("piece_rows", [1, PIECE, 10_000])
def test_pieces_change_no_byte_of_the_report(training, undisturbed, tmp_path, piece_rows) -> None:
    assert report_of(training, tmp_path, workdir=tmp_path / "work", piece_rows=piece_rows) == undisturbed


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupted_scan_goes_on(training, undisturbed, tmp_path, threads) -> None:
    work = tmp_path / "work"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "hulls" and done >= 2 * PIECE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clear.scan(training, workdir=work, piece_rows=PIECE, progress=stop)
    before = pieces_in(work)
    assert sum(name.startswith("hulls") for name in before) == 2
    assert report_of(training, tmp_path, workdir=work, piece_rows=PIECE, threads=threads) == undisturbed
    assert before.items() <= pieces_in(work).items()


def test_a_finished_scan_repeats_no_piece(training, undisturbed, tmp_path, monkeypatch) -> None:
    clear.scan(training, workdir=tmp_path / "work", piece_rows=PIECE)
    monkeypatch.setattr("clear.pieces.measure_run", None)
    monkeypatch.setattr("clear.cross_validation._fit_predict", None)
    assert report_of(training, tmp_path, workdir=tmp_path / "work", piece_rows=PIECE) == undisturbed


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room in a file")
def test_prepared_rows_in_a_file_are_the_same_and_leave_none_behind(
    training, undisturbed, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("clear.prepare.FILED_BYTES", 0)
    work = tmp_path / "work"
    rows = Reference(training, work=Work(work)).rows
    assert isinstance(rows.base, np.memmap)
    assert not isinstance(rows, np.memmap)
    assert report_of(training, tmp_path, workdir=tmp_path / "other", piece_rows=PIECE) == undisturbed
    assert {path.suffix for path in (tmp_path / "other").iterdir()} == {".json", ".npz"}


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room in a file")
def test_a_disk_without_room_for_them_names_the_folder(training, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clear.prepare.FILED_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=f"No space left on device: want room for .* bytes: '{tmp_path / 'work'}'"):
        clear.scan(training, workdir=tmp_path / "work")


def test_kills_lose_nothing(tmp_path: Path) -> None:
    """More of them: python tests/faults.py scan --count 20"""
    assert faults.kill_scan(tmp_path, 3)["kills"] == 3


@pytest.mark.torch
def test_killed_extractions_go_on(tmp_path: Path) -> None:
    """More of them: python tests/faults.py features --count 20"""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    assert faults.kill_extraction(tmp_path, 1)["kills"] == 1


def test_a_flipped_bit_in_what_any_piece_holds_is_noticed_and_that_piece_alone_computed_again(
    training, undisturbed, tmp_path
) -> None:
    work = tmp_path / "work"
    clear.scan(training, workdir=work, piece_rows=PIECE)
    rng = np.random.default_rng(0)
    for name in ["core-00001.npz", "hulls-00002.npz"]:
        for _ in range(3):
            before = pieces_in(work)
            data = bytearray((work / name).read_bytes())
            with np.load(work / name) as kept:
                content = max((kept[array].tobytes() for array in kept), key=len)
            data[data.index(content) + rng.integers(len(content))] ^= 1 << rng.integers(8)
            (work / name).write_bytes(data)
            with pytest.warns(RuntimeWarning, match=f"{name}.*computed again"):
                assert report_of(training, tmp_path, workdir=work, piece_rows=PIECE) == undisturbed
            after = pieces_in(work)
            assert {other for other in before if before[other] != after[other]} == {name}


def test_lost_and_exchanged_pieces_are_computed_again(training, undisturbed, tmp_path) -> None:
    work = tmp_path / "work"
    clear.scan(training, workdir=work, piece_rows=PIECE)
    (work / "hulls-00000.npz").unlink()
    assert report_of(training, tmp_path, workdir=work, piece_rows=PIECE) == undisturbed
    (work / "hulls-00001.npz").write_bytes((work / "hulls-00003.npz").read_bytes())
    with pytest.warns(RuntimeWarning, match="hulls-00001.npz is damaged, or of other inputs"):
        assert report_of(training, tmp_path, workdir=work, piece_rows=PIECE) == undisturbed


def test_a_piece_lost_after_it_was_stored_is_measured_again(training, undisturbed, tmp_path, monkeypatch) -> None:
    load, asked = Work.load, []

    def lose(self: Work, stage: str, piece: int) -> object:
        asked.append((stage, piece))
        return None if asked.count(("hulls", 1)) == 2 and asked[-1] == ("hulls", 1) else load(self, stage, piece)

    monkeypatch.setattr(Work, "load", lose)
    assert report_of(training, tmp_path, workdir=tmp_path / "work", piece_rows=PIECE) == undisturbed
    assert asked.count(("hulls", 1)) == 2


def test_a_damaged_manifest_is_named_and_the_pieces_are_kept_without_it(training, undisturbed, tmp_path) -> None:
    clear.scan(training, workdir=tmp_path, piece_rows=PIECE)
    data = (tmp_path / "manifest.json").read_bytes()
    for damaged in (data[:50], data.replace(b"classes", b"closses"), b"", b"[]"):
        (tmp_path / "manifest.json").write_bytes(damaged)
        with pytest.raises(UnsafeFile, match=r"manifest\.json.*delete that file \(finished pieces are kept\)"):
            clear.scan(training, workdir=tmp_path, piece_rows=PIECE)
    before = pieces_in(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert report_of(training, tmp_path, workdir=tmp_path, piece_rows=PIECE) == undisturbed
    assert pieces_in(tmp_path) == before


def test_other_inputs_are_refused_and_named(training, tmp_path) -> None:
    clear.scan(training, workdir=tmp_path, piece_rows=PIECE)
    values, labels = training.values.copy(), training.labels.copy()
    values[0] += 1
    labels[0] = (labels[0] + 1) % 5
    for other, options, named in (
        (Features.from_arrays(values, training.labels), {}, "features"),
        (Features.from_arrays(training.values, labels), {}, "labels"),
        (training, {"config": clear.ScanConfig(hull_size=19)}, "config"),
        (training, {"piece_rows": 65}, "piece_rows"),
    ):
        with pytest.raises(ValueError, match=rf"manifest.json was begun with other inputs \({named}\)"):
            clear.scan(other, **{"workdir": tmp_path, "piece_rows": PIECE} | options)


def test_a_full_disk_names_the_file_and_keeps_the_rest(training, undisturbed, tmp_path, monkeypatch) -> None:
    work = tmp_path / "work"
    save, room = np.savez, 7

    def full(*args: object, **arrays: np.ndarray) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **arrays)

    monkeypatch.setattr("clear.work.np.savez", full)
    with pytest.raises(OSError, match="No space left") as caught:
        clear.scan(training, workdir=work, piece_rows=PIECE)
    assert str(work / "hulls-00002.npz") == caught.value.filename
    assert not list(work.glob("*partial*"))
    monkeypatch.undo()
    before = pieces_in(work)
    assert len(before) == 7
    assert report_of(training, tmp_path, workdir=work, piece_rows=PIECE) == undisturbed
    assert before.items() <= pieces_in(work).items()


def test_time_up_leaves_work_to_go_on_with(training, undisturbed, tmp_path, monkeypatch) -> None:
    clock = iter(range(100_000))
    monkeypatch.setattr("clear.work.time.monotonic", lambda: next(clock))
    with pytest.raises(LimitReached, match=r"stopped after 9 seconds with 3 of 7 pieces of stage 'hulls' done"):
        clear.scan(training, workdir=tmp_path / "work", piece_rows=PIECE, max_seconds=9)
    assert report_of(training, tmp_path, workdir=tmp_path / "work", piece_rows=PIECE) == undisturbed


def test_limits_are_checked_before_anything_is_computed(training, tmp_path) -> None:
    with pytest.raises(ValueError, match="max_seconds is 1: want a workdir too"):
        clear.scan(training, max_seconds=1)
    for limit in (float("nan"), -5, "soon", True):
        with pytest.raises(ValueError, match=f"max_seconds is {limit!r}: want a number of at least 0"):
            clear.scan(training, workdir=tmp_path / "never", max_seconds=limit)
    assert not (tmp_path / "never").exists()
    with pytest.raises(MemoryError, match="max_memory allows 1 MiB"):
        clear.scan(training, max_memory=1 << 20)
    assert clear.scan(training, max_memory=1 << 30).n_samples == len(training)


def test_the_command_line_stops_at_its_limits_and_goes_on(training, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    clear.save_features(training, "train.npz")
    call = ["scan", "train.npz", "--workdir", "work", "--out", "out", "--piece-rows", "64"]
    assert main([*call, "--max-seconds", "0"]) == 4
    assert "the same call goes on from work" in capsys.readouterr().err
    assert main([*call, "--max-memory", "1MB"]) == 4
    assert "out of memory: the scan needs about" in capsys.readouterr().err
    assert main([*call, "--max-memory", "lots"]) == 3
    assert "want a size such as 4GiB" in capsys.readouterr().err
    assert main([*call, "--max-memory", "1GiB", "--max-seconds", "600"]) == 1
    (Path("work") / "hulls-00000.npz").write_bytes(b"")
    assert main(call) == 1
    assert "hulls-00000.npz" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["all classes at once", "one class at a time"])
def test_pieces_of_one_engine_serve_the_other(training, undisturbed, tmp_path, monkeypatch, first) -> None:
    """A scan in this process packs some classes of a large set at a time; tasks of a cluster pack all."""
    apart = first == "one class at a time"
    monkeypatch.setattr("clear.class_index.RUN_BYTES", 1 if apart else 1 << 30)
    clear.scan(training, workdir=tmp_path / "work", piece_rows=PIECE)
    assert len(pieces_in(tmp_path / "work")) == 5 + 7 * (5 if apart else 1) + 7
    monkeypatch.setattr("clear.class_index.RUN_BYTES", 1)
    if apart:
        monkeypatch.setattr(Reference, "divide", lambda self: None)
    monkeypatch.setattr("clear.pieces.measure_run", None)
    assert report_of(training, tmp_path, workdir=tmp_path / "work", piece_rows=PIECE) == undisturbed


def test_a_scan_goes_on_from_a_mixture_of_such_pieces(training, undisturbed, tmp_path, monkeypatch) -> None:
    work = tmp_path / "work"
    clear.scan(training, workdir=work, piece_rows=PIECE)
    for number in (2, 3, 6):
        (work / f"hulls-{number:05}.npz").unlink()
    monkeypatch.setattr("clear.class_index.RUN_BYTES", 1)
    assert report_of(training, tmp_path, workdir=work, piece_rows=PIECE) == undisturbed
    assert len(list(work.glob("hulls-*-*"))) == 3 * 5
    grown = Features.from_arrays(
        np.concatenate([training.values, training.values[:1]]), np.append(training.labels, training.labels[0])
    )
    assert clear.scan(grown, previous=work).joined.measured_again == 0


@pytest.mark.parametrize("run", ["", "-1-2"])
def test_a_damaged_piece_is_read_and_reported_once(training, tmp_path, monkeypatch, recwarn, run: str) -> None:
    if run:
        monkeypatch.setattr("clear.class_index.RUN_BYTES", 1)
    clear.scan(training, workdir=tmp_path, piece_rows=200)
    (tmp_path / f"hulls{run}-00001.npz").write_bytes(b"no archive")
    load, asked = Work.load, []
    monkeypatch.setattr(Work, "load", lambda self, *of: (asked.append(of), load(self, *of))[1])
    recwarn.clear()
    clear.scan(training, workdir=tmp_path, piece_rows=200)
    assert len(recwarn.list) == 1
    assert asked.count((f"hulls{run}", 1)) == 2  # damaged, and measured again: collected


def test_time_is_looked_at_between_folds_fitted_elsewhere(training, tmp_path, monkeypatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("clear.work.time.monotonic", lambda: next(clock))
    work = Work(tmp_path / "work", max_seconds=3)
    handed = []

    class Elsewhere:
        def fit_folds(self, rows, labels, folds):
            for fold, (picked, held_out) in folds.items():
                handed.append(fold)
                yield fold, fit_predict(rows[picked], labels[picked], rows[held_out], labels[held_out])

    with pytest.raises(LimitReached, match="2 of 5 pieces of stage 'core' done"):
        Reference(training, work=work, engine=Elsewhere())
    assert handed == [0, 1]
