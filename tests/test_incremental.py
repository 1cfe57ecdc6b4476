"""New samples join a finished scan: as if all were scanned under what the finished one has fitted."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from samples import make_classes, make_pocket

import clear
from clear import Features, Level, UnsafeFile
from clear.check import check_report
from clear.cli import main
from clear.collapse import measure
from clear.config import SCAN_SCALE
from clear.crowd import with_far
from clear.incremental import hash_views, join_scan
from clear.reference import Reference
from clear.report import read_report, write_report
from clear.work import Work

PIECE = 64


def join(old: Features, new_values: np.ndarray, new_labels: np.ndarray) -> Features:
    return Features.from_arrays(np.concatenate([old.values, new_values]), np.concatenate([old.labels, new_labels]))


@pytest.fixture(scope="module")
def old() -> Features:
    planted = make_pocket(3)
    return Features.from_arrays(planted.values, planted.labels)


@pytest.fixture(scope="module")
def work(old: Features, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    clear.scan(old, workdir=folder, piece_rows=PIECE)
    return folder


def of_all(reference: Reference) -> object:
    """Hull distances of every sample among all rows, measured in one pass: what joining must give."""
    whole = Reference.restore(reference.parts())
    whole.far = reference.far
    units = whole.units
    return with_far(whole, measure(whole, whole.rows[units], whole.labels[units], (SCAN_SCALE,), exclude=units))


def more_samples(kind: str, old: Features) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    if kind == "a few":
        rows = rng.choice(len(old.labels), 5)
        return old.values[rows] + rng.normal(size=(5, 16)).astype(np.float32), old.labels[rows]
    if kind == "as many again":
        values, labels = make_classes(11)
        return values, labels
    if kind == "far away":
        return 1000 * np.eye(1, 16, dtype=np.float32), np.array([2])
    if kind == "copies, some with another label":
        return old.values[:6].copy(), np.concatenate([old.labels[:3], (old.labels[3:6] + 1) % 5])
    planted = make_pocket(3)  # "a pocket's companions": near the poisons, with the label that these should have
    return planted.target + 0.3 * rng.normal(size=(9, 16)).astype(np.float32), np.full(9, planted.target_label)


KINDS = ["a few", "as many again", "far away", "copies, some with another label", "a pocket's companions"]


@pytest.mark.parametrize("kind", KINDS)
def test_joining_gives_what_measuring_everything_gives(kind: str, old: Features, work: Path) -> None:
    features = join(old, *more_samples(kind, old))
    joining = join_scan(features, work)
    wanted = of_all(joining.reference)
    for field in dataclasses.fields(wanted):
        np.testing.assert_array_equal(
            getattr(joining.wrap, field.name), getattr(wanted, field.name), err_msg=field.name
        )


def test_what_the_finished_scan_fitted_stays(old: Features, work: Path) -> None:
    before = Reference(old)
    joining = join_scan(join(old, *more_samples("as many again", old)), work)
    np.testing.assert_array_equal(joining.reference.preparation.mean, before.preparation.mean)
    np.testing.assert_array_equal(joining.reference.in_core[: len(old)], before.in_core)
    wanted = of_all(before)
    for field in dataclasses.fields(wanted):
        np.testing.assert_array_equal(getattr(joining.wrap_before, field.name), getattr(wanted, field.name))


def test_little_is_measured_again_for_a_sample_that_is_near_to_nothing(old: Features, work: Path) -> None:
    joined = clear.scan(join(old, *more_samples("a few", old)), previous=work).joined
    assert joined is not None
    assert 0 < joined.measured_again < len(old)
    again = clear.scan(join(old, old.values[:1], old.labels[:1]), previous=work).joined  # a copy changes no hull
    assert again == clear.results.Joined(len(old), 0, ())


def test_changed_verdicts_are_those_that_differ_from_the_finished_scan(old: Features, work: Path) -> None:
    before = clear.scan(old)
    after = clear.scan(join(old, *more_samples("as many again", old)), previous=work)
    assert after.joined is not None
    wanted = {
        row: (Level(int(a)), Level(int(b)))
        for row, (a, b) in enumerate(zip(before.scores.level, after.scores.level, strict=False))
        if a != b
    }
    assert wanted  # other places of the classes: what stood out does not any more
    assert {change.row: (change.before, change.after) for change in after.joined.changed} == wanted
    assert f"{len(after.labels) - len(old.labels)} samples joined a scan of" in after.notes[0]


def test_a_new_pocket_is_found(work: Path, old: Features) -> None:
    rng = np.random.default_rng(1)
    centre = old.values[old.labels == 3][:2].mean(axis=0)
    values = (centre + 0.1 * rng.normal(size=(7, 16))).astype(np.float32)
    found = clear.scan(join(old, values, np.full(7, 4)), previous=work)
    flagged = {flag.row for flag in found.flags if flag.level == Level.CERTAIN}
    assert len(flagged & set(range(len(old), len(old) + 7))) >= 5


def test_its_report_is_read_back_and_holds(old: Features, work: Path, tmp_path: Path) -> None:
    features = join(old, *more_samples("as many again", old))
    clear.save_features(features, tmp_path / "all.npz")
    result = clear.scan(clear.open_features(tmp_path / "all.npz"), previous=work)
    written = write_report(result, tmp_path / "out", features_path=tmp_path / "all.npz")
    assert read_report(written.json).joined == result.joined
    assert check_report(written.json, features=features) == []


def test_what_cannot_be_joined_is_one_line(old: Features, work: Path, tmp_path: Path) -> None:
    values, labels = more_samples("a few", old)
    with pytest.raises(ValueError, match="want these first, then new ones"):
        clear.scan(old, previous=work)
    with pytest.raises(ValueError, match=r"begun with other inputs \(features\)"):
        clear.scan(join(Features.from_arrays(old.values + 1, old.labels), values, labels), previous=work)
    with pytest.raises(ValueError, match=r"begun with other inputs \(config\)"):
        clear.scan(join(old, values, labels), previous=work, config=clear.ScanConfig(hull_size=19))
    with pytest.raises(ValueError, match="labels"):
        clear.scan(join(old, values, np.full(5, 7)), previous=work)  # a class that was not there
    with pytest.raises(ValueError, match="without workdir"):
        clear.scan(join(old, values, labels), previous=work, workdir=tmp_path)
    with pytest.raises(FileNotFoundError):
        clear.scan(join(old, values, labels), previous=tmp_path)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "hulls" and done >= PIECE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clear.scan(old, workdir=tmp_path / "half", piece_rows=PIECE, progress=stop)
    with pytest.raises(ValueError, match=r"not that of a finished scan: piece 0 of stage 'crowds' is missing"):
        clear.scan(join(old, values, labels), previous=tmp_path / "half")


def test_joining_does_not_depend_on_the_threads_of_blas(old: Features, work: Path) -> None:
    from threadpoolctl import threadpool_limits

    values, labels = make_classes(12, per_class=300)
    margins = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            margins.append(join_scan(join(old, values, labels), work).reference.margin)
    np.testing.assert_array_equal(*margins)


@pytest.mark.parametrize("piece", ["core-00001.npz", "hulls-00002.npz", "crowds-00000.npz"])
def test_a_damaged_piece_of_a_finished_scan_is_named(
    piece: str, old: Features, work: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = shutil.copytree(work, tmp_path / "work")
    whole = (folder / piece).read_bytes()
    (folder / piece).write_bytes(whole[:-40] + bytes(8) + whole[-32:])
    with pytest.raises(UnsafeFile, match=rf"{piece}.*: scan the samples that were scanned again, with workdir="):
        join_scan(join(old, *more_samples("a few", old)), folder)
    assert not recwarn.list


def test_a_finished_scan_is_joined_under_other_budgets(old: Features, work: Path) -> None:
    config = clear.ScanConfig(false_flags=50.0, false_alarms=0.1, review_rate=0.1)
    features = join(old, *more_samples("a few", old))
    result = clear.scan(features, previous=work, config=config)
    assert result.config == config
    assert len(result.flags) > len(clear.scan(features, previous=work).flags)


def test_the_command_line_joins(old: Features, work: Path, tmp_path: Path, capsys) -> None:
    clear.save_features(join(old, *more_samples("a few", old)), tmp_path / "all.npz")
    assert main(["scan", str(tmp_path / "all.npz"), "--previous", str(work), "--json"]) in (0, 1, 2)
    assert f'"n_before": {len(old)}' in capsys.readouterr().out


def views_of(features: Features, doubted: slice) -> clear.Views:
    """A second look at the features themselves, which believes none of the labels of some samples."""
    drop = 0.1 + 0.01 * np.random.default_rng(1).random(len(features.labels))
    drop[doubted] = 30
    return clear.Views(features.values.astype(np.float32), drop, drop.copy(), "early")


def test_a_scan_with_views_is_joined_with_views_of_all(old: Features, tmp_path: Path) -> None:
    doubted = slice(300, 304)
    before = clear.scan(old, views=views_of(old, doubted), workdir=tmp_path / "work", piece_rows=PIECE)
    assert before.scores.level[doubted].all()
    assert not clear.scan(old).scores.level[doubted].any()
    features = join(old, *more_samples("far away", old))
    after = clear.scan(features, views=views_of(features, doubted), previous=tmp_path / "work")
    assert after.scores.level[doubted].all()
    assert after.joined is not None
    differing = np.flatnonzero(before.scores.level != after.scores.level[: len(old)])
    assert [change.row for change in after.joined.changed] == differing.tolist()

    with pytest.raises(ValueError, match=r"had views: want views of all samples"):
        clear.scan(features, previous=tmp_path / "work")
    with pytest.raises(ValueError, match=f"views has {len(old)} samples: want the {len(old) + 1} of the features"):
        clear.scan(features, views=views_of(old, doubted), previous=tmp_path / "work")
    with pytest.raises(ValueError, match=f"views of the first {len(old)} samples differ"):
        clear.scan(features, views=views_of(features, slice(9)), previous=tmp_path / "work")
    clear.scan(old, workdir=tmp_path / "work", piece_rows=PIECE)  # now finished without
    with pytest.raises(ValueError, match=r"had no views: want none here.*NAME\.views\.npz beside the features: move"):
        clear.scan(features, views=views_of(features, doubted), previous=tmp_path / "work")


def damage(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b'"sha256":[', b'"sha256":["a",'))


@pytest.mark.parametrize("harm", [Path.unlink, damage])
@pytest.mark.parametrize("seen", [False, True])
def test_a_scan_whose_record_of_views_is_lost_is_not_joined(
    harm, seen: bool, old: Features, work: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = shutil.copytree(work, tmp_path / "work")
    features = join(old, old.values[:1], old.labels[:1])
    harm(folder / "views.json")
    with pytest.raises(UnsafeFile, match=r"views\.json.*scan the samples that were scanned again, with workdir="):
        join_scan(features, folder, views=views_of(features, slice(9)) if seen else None)
    assert not recwarn.list


def test_the_record_of_views_is_there_before_any_piece(old: Features, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "cross-validated core":
            raise KeyboardInterrupt

    views = views_of(old, slice(9))
    with pytest.raises(KeyboardInterrupt):
        clear.scan(old, views=views, workdir=tmp_path, progress=stop)
    assert Work(tmp_path).read_views() == hash_views(views)
    with pytest.raises(KeyboardInterrupt):
        clear.scan(old, workdir=tmp_path, progress=stop)
    assert Work(tmp_path).read_views() == []
