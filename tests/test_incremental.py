"""New samples join a finished scan: as if all were scanned under what the finished one has fitted."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import faults
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
def works(old: Features, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Of two scans: one did not keep its neighbours, one did."""
    folders = {keep: tmp_path_factory.mktemp("work") for keep in (False, True)}
    for keep, folder in folders.items():
        clear.scan(old, workdir=folder, piece_rows=PIECE, keep_neighbors=keep)
    return folders


@pytest.fixture
def work(works: dict[bool, Path]) -> Path:
    return works[False]


@pytest.fixture
def kept(works: dict[bool, Path]) -> Path:
    return works[True]


def same(found: object, wanted: object) -> None:
    for field in dataclasses.fields(wanted):  # type: ignore[arg-type]
        np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name), err_msg=field.name)


def same_files(found: Path, wanted: Path) -> None:
    names = sorted(file.name for file in wanted.iterdir())
    assert sorted(file.name for file in found.iterdir()) == names
    for name in names:
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name


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


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_joining_gives_what_measuring_everything_gives(
    kind: str, keep: bool, old: Features, works: dict[bool, Path]
) -> None:
    joining = join_scan(join(old, *more_samples(kind, old)), works[keep])
    same(joining.wrap, of_all(joining.reference))


def test_what_is_searched_again_is_asked_only_where_it_was_not_kept(
    old: Features, works: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    search = Reference.nearest
    monkeypatch.setattr(
        Reference, "nearest", lambda self, *args, **also: asked.append(1) or search(self, *args, **also)
    )
    for keep in (True, False):
        join_scan(join(old, *more_samples("a few", old)), works[keep])
        assert bool(asked) is not keep


@pytest.mark.parametrize(
    "kinds", [("a few", "as many again"), ("a pocket's companions", "a few"), (KINDS[3], KINDS[3])]
)
def test_days_that_join_one_after_another_give_what_they_give_together(
    kinds: tuple[str, str], old: Features, kept: Path, tmp_path: Path
) -> None:
    first = join(old, *more_samples(kinds[0], old))
    both = join(first, *more_samples(kinds[1], old))
    one = clear.scan(first, previous=kept, workdir=tmp_path / "first")
    two = clear.scan(both, previous=tmp_path / "first", workdir=tmp_path / "both")
    together = clear.scan(both, previous=kept, workdir=tmp_path / "together")
    same(two.scores, together.scores)
    assert two.flags == together.flags
    assert two.joined is not None
    assert two.joined.n_before == len(first)
    assert f"are those of the first {len(old)};" in two.notes[0]
    assert [c.row for c in two.joined.changed] == np.flatnonzero(
        one.scores.level != two.scores.level[: len(first)]
    ).tolist()
    same_files(tmp_path / "both", tmp_path / "together")


@pytest.mark.parametrize(("stage", "least"), [("near new samples", 1), ("touched samples", 2 * PIECE)])
def test_a_join_that_was_interrupted_is_done_again(
    stage: str, least: int, old: Features, kept: Path, tmp_path: Path
) -> None:
    def stop(now: str, done: int, total: int) -> None:
        if now == stage and done >= least:
            raise KeyboardInterrupt

    features = join(old, *more_samples("as many again", old))
    with pytest.raises(KeyboardInterrupt):
        clear.scan(features, previous=kept, workdir=tmp_path / "all", progress=stop)
    more = join(features, old.values[:1] + 1, old.labels[:1])
    with pytest.raises(ValueError, match=r"not that of a finished scan|did not keep the neighbours.*the same previous"):
        clear.scan(more, previous=tmp_path / "all", workdir=tmp_path / "more")
    assert not (tmp_path / "more").exists()
    clear.scan(features, previous=kept, workdir=tmp_path / "all")
    clear.scan(features, previous=kept, workdir=tmp_path / "whole")
    same_files(tmp_path / "all", tmp_path / "whole")


def test_a_join_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """More of them: python tests/faults.py join --count 20"""
    pytest.importorskip("pyarrow", reason="the report extra is not installed")
    assert faults.kill_join(tmp_path, 2)["kills"] == 2


def test_a_folder_of_all_samples_wants_neighbours_that_were_kept(
    old: Features, works: dict[bool, Path], tmp_path: Path
) -> None:
    features = join(old, *more_samples("a few", old))
    with pytest.raises(ValueError, match=r"did not keep the neighbours.*keep_neighbors=True \(--keep-neighbors\)"):
        clear.scan(features, previous=works[False], workdir=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"the folder of the finished scan: want another one"):
        clear.scan(features, previous=works[True], workdir=works[True])
    for previous in (None, works[True]):
        with pytest.raises(ValueError, match="keep_neighbors goes with a workdir, and without approximate"):
            clear.scan(features, previous=previous, keep_neighbors=True)
    with pytest.raises(ValueError, match="keep_neighbors goes with a workdir, and without approximate"):
        clear.scan(old, workdir=tmp_path / "new", keep_neighbors=True, approximate="ivf")
    clear.scan(features, previous=works[True], workdir=tmp_path / "new")
    with pytest.raises(
        ValueError, match=r"begun with other inputs \(features, fitted\)"
    ):  # a scan of its own fits anew
        clear.scan(features, workdir=tmp_path / "new", piece_rows=PIECE)


@pytest.mark.parametrize("run_bytes", [1 << 26, 1])
def test_a_scan_whose_neighbours_are_kept_in_part_is_joined_as_if_none_were(
    run_bytes: int, old: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clear.class_index.RUN_BYTES", run_bytes)
    clear.scan(old, workdir=tmp_path / "work", piece_rows=PIECE)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "hulls" and done > len(old):
            raise KeyboardInterrupt

    if run_bytes == 1:  # all pieces of some classes
        with pytest.raises(KeyboardInterrupt):
            clear.scan(old, workdir=tmp_path / "work", piece_rows=PIECE, keep_neighbors=True, progress=stop)
        assert any((tmp_path / "work").glob("near-*"))
    else:
        clear.scan(old, workdir=tmp_path / "work", piece_rows=PIECE, keep_neighbors=True)
        next((tmp_path / "work").glob("near-*")).unlink()
    features = join(old, *more_samples("a few", old))
    joining = join_scan(features, tmp_path / "work")
    same(joining.wrap, of_all(joining.reference))
    with pytest.raises(ValueError, match="did not keep the neighbours of all its samples"):
        join_scan(features, tmp_path / "work", workdir=tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_neighbours_are_kept_when_a_finished_scan_is_asked_for_them_later(old: Features, tmp_path: Path) -> None:
    clear.scan(old, workdir=tmp_path, piece_rows=PIECE)
    assert not list(tmp_path.glob("near-*"))
    clear.scan(old, workdir=tmp_path, piece_rows=PIECE, keep_neighbors=True)
    features = join(old, *more_samples("a few", old))
    joining = join_scan(features, tmp_path)
    same(joining.wrap, of_all(joining.reference))


@pytest.mark.parametrize("run_bytes", [1 << 26, 1])
def test_neighbours_kept_by_classes_are_those_kept_at_once(
    run_bytes: int, old: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clear.class_index.RUN_BYTES", run_bytes)
    clear.scan(old, workdir=tmp_path / "work", piece_rows=PIECE, keep_neighbors=True)
    assert any((tmp_path / "work").glob("near-0-1-*")) is (run_bytes == 1)
    features = join(old, *more_samples("as many again", old))
    joining = join_scan(features, tmp_path / "work", workdir=tmp_path / "all")
    same(joining.wrap, of_all(joining.reference))
    again = join_scan(join(features, old.values[:9] + 1, old.labels[:9]), tmp_path / "all")
    same(again.wrap, of_all(again.reference))


def test_what_the_finished_scan_fitted_stays(old: Features, work: Path) -> None:
    before = Reference(old)
    joining = join_scan(join(old, *more_samples("as many again", old)), work)
    np.testing.assert_array_equal(joining.reference.preparation.mean, before.preparation.mean)
    np.testing.assert_array_equal(joining.reference.in_core[: len(old)], before.in_core)
    same(joining.wrap_before, of_all(before))


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
    with pytest.raises(ValueError, match="without max_seconds and approximate"):
        clear.scan(join(old, values, labels), previous=work, approximate="ivf")
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


@pytest.mark.parametrize("piece", ["core-00001.npz", "hulls-00002.npz", "crowds-00000.npz", "near-00001.npz"])
def test_a_damaged_piece_of_a_finished_scan_is_named(
    piece: str, old: Features, kept: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = shutil.copytree(kept, tmp_path / "work")
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
