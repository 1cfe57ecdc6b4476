"""The scan and the probe as a user sees them."""

from __future__ import annotations

import dataclasses
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import make_classes, make_pocket

import clear
from clear.budgets import stands_out
from clear.check import check_report
from clear.collapse import BLOCK_BYTES, FEW, collapse, distances, measure, nearest_other
from clear.config import PROBE_SCALES
from clear.probing import training_collapse
from clear.reference import Reference
from clear.report import write_report
from clear.results import Level
from clear.verdict import find_group, scan_verdict

Features = clear.Features.from_arrays
DATA = Path(__file__).parent / "data"


def certain_rows(result: clear.ScanResult) -> list[int]:
    return sorted(flag.row for flag in result.flags if flag.level == Level.CERTAIN)


def finds(result: clear.ScanResult, poisons: np.ndarray, strays: int = 2) -> bool:
    """Every poison is certain, and at most `strays` clean samples are."""
    found = set(certain_rows(result))
    return set(poisons.tolist()) <= found and len(found) <= len(poisons) + strays


def same_scores(a: clear.ScanResult, b: clear.ScanResult) -> bool:
    fields = ("collapse", "reassignment", "score", "group", "suggested_label", "level", "in_core")
    return all(np.array_equal(getattr(a.scores, f), getattr(b.scores, f), equal_nan=True) for f in fields)


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_pocket_is_found_with_its_label_and_its_samples(seed: int) -> None:
    planted = make_pocket(seed)
    result = clear.scan(Features(planted.values, planted.labels))
    assert result.verdict == "poisoned"
    assert finds(result, planted.poisons)
    pocket = result.pockets[0]
    assert set(planted.poisons.tolist()) <= set(pocket.rows)
    assert len(pocket.rows) <= len(planted.poisons) + 2
    assert (pocket.label, pocket.suggested_label) == (0, planted.target_label)
    assert set(result.flags[0].mates[:5]) <= set(planted.poisons.tolist())


def test_clean_data_get_a_clean_verdict() -> None:
    verdicts, certain = [], 0
    for seed in range(10):
        result = clear.scan(Features(*make_classes(seed, per_class=100)))
        verdicts.append(result.verdict)
        certain += len(certain_rows(result))
    assert "poisoned" not in verdicts
    assert certain <= 10  # 2 in 1000, over 5000 samples


def test_the_largest_of_more_samples_has_to_stand_out_more() -> None:
    assert stands_out(4.5, 20) == stands_out(4.5, 1000) == 4.5
    chance = [n * 0.5 * math.erfc(stands_out(4.5, n) / math.sqrt(2)) for n in (1000, 50_000, 10_000_000)]
    assert chance == pytest.approx([chance[0]] * 3, rel=1e-6)


def test_a_flipped_label_is_the_first_to_review_and_gets_its_own_label_back() -> None:
    values, labels = make_classes(3)
    truth = int(labels[7])
    labels[7] = (truth + 1) % 5
    first = clear.scan(Features(values, labels)).flags[0]
    assert (first.row, first.label, first.suggested_label) == (7, (truth + 1) % 5, truth)


def test_scores_do_not_depend_on_threads_or_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = make_pocket(5)
    features = Features(planted.values, planted.labels)
    expected = clear.scan(features, threads=1)
    for threads in (2, 7):
        assert same_scores(expected, clear.scan(features, threads=threads))
    for isa in ("baseline", "avx2", "avx512"):
        if isa == "avx2" and clear.build_info()["best_isa"] == "baseline":
            break
        monkeypatch.setenv("CLEAR_ISA", isa)
        assert same_scores(expected, clear.scan(features))
        if isa == clear.build_info()["best_isa"]:
            break


def test_exact_copies_count_once_and_share_their_scores() -> None:
    planted = make_pocket(1)
    copies = np.repeat(planted.poisons[:2], 3)
    values = np.concatenate([planted.values, planted.values[copies], planted.values[200:203]])
    labels = np.concatenate([planted.labels, planted.labels[copies], planted.labels[200:203]])
    result = clear.scan(Features(values, labels))
    n = len(planted.values)
    np.testing.assert_array_equal(result.scores.score[n : n + 6], result.scores.score[copies])
    assert finds(result, np.array([*planted.poisons.tolist(), *range(n, n + 6)]))
    assert {*planted.poisons.tolist(), *range(n, n + 6)} <= set(result.pockets[0].rows)
    assert "9 of 409 samples are exact duplicates" in " ".join(result.notes)


def test_ids_are_the_users_own() -> None:
    planted = make_pocket(2)
    ids = np.array([f"img-{i}" for i in range(len(planted.labels))])
    result = clear.scan(Features(planted.values, planted.labels, ids=ids))
    assert {flag.id for flag in result.flags if flag.level == Level.CERTAIN} == set(ids[planted.poisons].tolist())


def test_small_classes_are_lowered_and_reported_and_never_certain() -> None:
    values, labels = make_classes(4)
    keep = (labels != 4) | (np.cumsum(labels == 4) <= 12)
    result = clear.scan(Features(values[keep], labels[keep]))
    assert any("neighbourhoods were lowered in 1 classes" in note for note in result.notes)
    rare = labels[keep] == 4
    assert np.isfinite(result.scores.score[rare]).all()
    assert not (result.scores.level[rare] == Level.CERTAIN).any()


def test_a_class_too_small_to_peel_is_left_unscored_and_reported() -> None:
    values, labels = make_classes(4)
    keep = (labels != 4) | (np.cumsum(labels == 4) <= 1)
    result = clear.scan(Features(values[keep], labels[keep]))
    assert np.isnan(result.scores.score[labels[keep] == 4]).all()
    assert any("1 samples were not scored" in note for note in result.notes)


def test_an_empty_class_is_reported_and_never_suggested() -> None:
    values, labels = make_classes(4)
    labels[labels == 4] = 5
    result = clear.scan(Features(values, labels))
    assert result.n_classes == 6
    assert "class 4 has no samples" in result.notes
    assert not (result.scores.suggested_label == 4).any()


@pytest.mark.parametrize(
    ("n", "certain", "verdict"),
    [(2000, 0, "clean"), (2000, 1, "undecided"), (8000, 3, "clean"), (8000, 4, "undecided"), (8000, 80, "poisoned")],
)
def test_certain_samples_alone_count_by_their_share(n: int, certain: int, verdict: str) -> None:
    values, labels = make_classes(2, classes=4, per_class=n // 4, d=8)
    reference = Reference(Features(values, labels))
    scores = clear.scan(Features(values, labels)).scores
    level = np.zeros(n, np.int8)
    level[np.random.default_rng(0).choice(n, certain, replace=False)] = Level.CERTAIN
    quiet = dataclasses.replace(scores, level=level, company=np.random.default_rng(1).uniform(size=n))
    group = find_group(reference, quiet)
    assert scan_verdict(reference, quiet, group) == verdict
    crowd = np.full(n, np.nan)
    crowd[:5] = 6.0
    assert scan_verdict(reference, dataclasses.replace(quiet, crowd=crowd), group) != "clean"


def test_weak_features_make_the_verdict_undecided() -> None:
    rng = np.random.default_rng(0)
    result = clear.scan(Features(rng.normal(size=(300, 8)).astype(np.float32), rng.integers(0, 3, 300)))
    assert result.core_accuracy < 0.7
    assert any(note.startswith("weak features") for note in result.notes)
    assert result.verdict == "undecided"


def test_wide_features_are_projected_and_the_pocket_is_still_found() -> None:
    planted = make_pocket(6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(300, 300)))[0][:16]
    result = clear.scan(Features((planted.values @ turn).astype(np.float32), planted.labels))
    assert result.preparation.components is not None
    assert result.preparation.components.shape == (64, 300)
    assert finds(result, planted.poisons)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_floating_dtypes_find_the_same_pocket(dtype: str) -> None:
    planted = make_pocket(7)
    result = clear.scan(Features(planted.values.astype(dtype), planted.labels))
    assert finds(result, planted.poisons)


def test_a_memory_map_gives_the_same_result_as_the_array(tmp_path: Path) -> None:
    planted = make_pocket(8)
    np.save(tmp_path / "x.npy", planted.values)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    features = Features(mapped, planted.labels)
    assert isinstance(features.values, np.memmap)
    assert same_scores(clear.scan(features), clear.scan(Features(planted.values, planted.labels)))


def test_working_memory_does_not_grow_with_classes_times_samples() -> None:
    values, labels = make_classes(0, classes=200, per_class=25, d=8)
    clear.scan(Features(values[:2000], labels[:2000] % 20))  # imports are not what is measured
    tracemalloc.start()
    clear.scan(Features(values, labels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * BLOCK_BYTES < 5000 * 200 * 20 * 24  # what all (sample, class) neighbourhoods together would take
    assert peak < 3 * BLOCK_BYTES


def test_a_probe_flags_the_target_and_names_its_poisons() -> None:
    planted = make_pocket(9)
    clean, clean_labels = make_classes(9)
    inputs = Features(np.concatenate([planted.target[None], clean[::5]]), np.concatenate([[0], clean_labels[::5]]))
    result = clear.probe(inputs, Features(planted.values, planted.labels))
    assert result.flags[0].row == 0
    assert result.flags[0].suggested_label == planted.target_label
    assert set(result.flags[0].mates[:5]) <= set(planted.poisons.tolist())
    assert (result.scores.level[1:] == Level.CERTAIN).mean() < 0.05


def test_a_probe_measures_small_classes_from_their_own_lower_quartile(tmp_path: Path) -> None:
    values, labels = make_classes(4, per_class=300)
    rare = np.flatnonzero(labels == 4)
    kept = np.setdiff1d(np.arange(len(labels)), rare[18:])
    reference = clear.Reference(Features(values[kept], labels[kept]))
    own, classes, rows = reference.labels, range(5), np.arange(len(kept))
    wrap = measure(reference, reference.rows, own, PROBE_SCALES, exclude=rows, others=False)
    inputs = Features(values[rare[18:]], labels[rare[18:]])
    result = clear.probe(inputs, reference)
    centers = training_collapse(reference)
    for i, center in enumerate(centers[:-1]):
        k = collapse(wrap, i)
        above = [np.nanquantile(k[own == c], 0.25) - np.nanquantile(k, 0.25) for c in classes]
        np.testing.assert_allclose(center.raised, np.maximum(above, 0))
        assert center.raised[4] > center.spread > 5 * max(center.raised[:4])
        assert result.thresholds[f"collapse_raised_{PROBE_SCALES[i].mates}_4"] == center.raised[4]
    z = [(result.scores.collapse - center.median - center.raised[4]) / center.spread for center in centers]
    assert np.isclose(result.scores.score, z).any(axis=0).all()
    write_report(result, tmp_path)
    assert check_report(tmp_path, reference.features, inputs=inputs) == []


def test_a_probe_uses_predictions_before_labels() -> None:
    planted = make_pocket(9)
    inputs = clear.Features.from_arrays(planted.target[None], np.array([1]), predictions=np.array([0]))
    assert clear.probe(inputs, Features(planted.values, planted.labels)).labels.tolist() == [0]


def test_a_probe_notes_that_labels_stood_in_for_predictions() -> None:
    values, labels = make_classes(3, classes=3, per_class=30)
    reference = clear.Reference(Features(values, labels), threads=1)
    noted = [
        any("their labels were taken" in note for note in clear.probe(inputs, reference).notes)
        for inputs in (Features(values[:4], labels[:4]), Features(values[:4], labels[:4], predictions=labels[:4]))
    ]
    assert noted == [True, False]


@pytest.mark.parametrize("kind", ["a class of one sample", "weak features"])
def test_a_probe_that_cannot_tell_is_undecided_and_says_why(kind: str, tmp_path: Path) -> None:
    values, labels = make_classes(4)
    if kind == "weak features":
        labels = np.random.default_rng(0).permutation(labels)
        inputs = Features(values[:1] + 0.5, labels[:1])
    else:
        keep = (labels != 4) | (np.cumsum(labels == 4) <= 1)
        inputs = Features(values[labels == 4][2:5], [4, 4, 4])
        values, labels = values[keep], labels[keep]
    clear.save_features(Features(values, labels), tmp_path / "training.npz")
    clear.save_features(inputs, tmp_path / "inputs.npz")
    training, inputs = clear.open_features(tmp_path / "training.npz"), clear.open_features(tmp_path / "inputs.npz")
    result = clear.probe(inputs, training)
    assert (result.verdict, result.flags) == ("undecided", ())
    said = "3 inputs could not be judged" if kind == "a class of one sample" else "weak features"
    assert any(said in note and "undecided, not clean" in note for note in result.notes)
    written = write_report(result, tmp_path / "out", features_path=tmp_path / "training.npz")
    assert clear.read_report(written.json).core_accuracy == result.core_accuracy
    assert check_report(written.json, training, inputs=inputs) == []


def test_a_gap_in_the_class_numbers_is_allowed_up_to_a_thousand() -> None:
    values, labels = make_classes(3, classes=3, per_class=30)
    assert clear.Reference(Features(values, np.where(labels == 2, 999, labels)), threads=1).n_classes == 1000


def test_a_training_sample_probed_is_not_its_own_mate() -> None:
    values, labels = make_classes(10)
    result = clear.probe(Features(values, labels), Features(values, labels))
    assert (result.scores.level == Level.CERTAIN).mean() < 0.02


def test_a_prepared_reference_gives_the_same_probe() -> None:
    planted = make_pocket(11)
    inputs = Features(planted.target[None], np.array([0]))
    training = Features(planted.values, planted.labels)
    once = clear.probe(inputs, training)
    again = clear.probe(inputs, clear.Reference(training))
    assert once.flags == again.flags


PREPARING = ["read and check", "mean", "prepare"]
JUDGING = ["crowds", "class means", "distances to class means", "certificates", "nearest mates"]


def reported(**options: Any) -> tuple[dict[str, tuple[int, int]], int]:
    """The last that a scan says of each of its stages, and the number of samples."""
    planted, seen = make_pocket(3), {}
    features = Features(planted.values, planted.labels)
    clear.scan(features, progress=lambda stage, done, total: seen.__setitem__(stage, (done, total)), **options)
    return seen, len(features)


def test_progress_reports_every_stage_to_a_callable() -> None:
    seen, n = reported()
    assert list(seen) == [*PREPARING, "cross-validated core", "hulls", *JUDGING]
    assert seen["hulls"] == seen["crowds"] == seen["prepare"] == (n, n)
    assert seen["cross-validated core"] == (5, 5)


def test_progress_reports_lists_and_what_they_miss(tmp_path: Path) -> None:
    seen, _ = reported(approximate="ivf", workdir=tmp_path / "work")
    of_lists = ["lists", "nearest lists"]
    compared = [*JUDGING[:3], "exact hulls", "recall"]
    assert list(seen) == [*PREPARING, "cross-validated core", *of_lists, "hulls", "collect", *compared, *JUDGING[3:]]
    assert all(done == total for done, total in seen.values())


def test_progress_reports_the_margins_of_views() -> None:
    planted = make_pocket(3)
    drop = np.zeros(len(planted.labels))
    seen, _ = reported(views=clear.Views(planted.values, drop, drop, "early", planted.values, planted.values))
    assert seen["margins of views"] == (5, 5)
    assert list(seen)[-3:] == ["margins of views", "certificates", "nearest mates"]


def test_progress_reports_every_stage_of_a_probe() -> None:
    planted, seen = make_pocket(3), []
    training, n = clear.Features.from_arrays(planted.values, planted.labels), 6
    inputs = clear.Features.from_arrays(planted.values[planted.poisons[:n]], planted.labels[planted.poisons[:n]])
    reference = clear.Reference(training, approximate="ivf")
    assert clear.probe(inputs, reference, progress=lambda *told: seen.append(told)).flags
    judging = ["equal samples", "probe", "crowds"]
    stages = ["read and check", "training collapse", "crowds", "prepare", *judging, "certificates"]
    stages += ["prepare", *judging, "recall"]
    assert [stage for i, (stage, *_) in enumerate(seen) if i == 0 or stage != seen[i - 1][0]] == stages
    assert ("equal samples", n, n) in seen


def test_progress_reports_every_stage_of_joining(tmp_path: Path) -> None:
    planted = make_pocket(3)
    n = len(planted.labels)
    old = clear.Features.from_arrays(planted.values[:-5], planted.labels[:-5])
    again = ["touched hulls", "hulls of other labels"]
    for keep in (False, True):
        clear.scan(old, workdir=tmp_path, keep_neighbors=keep)
        seen, _ = reported(previous=tmp_path)
        joining = ["collect", "near new samples", "touched samples", *([] if keep else again), "new samples"]
        assert list(seen)[: len(PREPARING) + len(joining)] == [*PREPARING, *joining]
        assert seen["near new samples"] == (n - 5, n - 5)
    assert seen["touched samples"] == (n - 5, n - 5)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    hits = int(positive.sum())
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * (len(scores) - hits)))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
@pytest.mark.parametrize("separation", [0.0, 0.5, 1.5])
def test_the_nearest_hull_is_that_of_all_hulls_measured(separation: float, tolerance: float) -> None:
    """Most hulls are only proven to lie farther than the nearest. Two labels have the same rows, one few, one none."""
    values, labels = make_classes(3, separation=separation)
    kept = np.flatnonzero((labels != 4) | (np.arange(len(labels)) % 10 == 0))
    values, labels = values[kept], labels[kept]
    values[labels == 1] = values[labels == 0]
    config = clear.ScanConfig(hull_tolerance=tolerance)
    reference = Reference(Features(values, labels, class_names=tuple("abcdef")), config=config)
    reference.in_core[:] = True
    rows, asked = reference.rows, reference.labels
    distance, label, vertices = nearest_other(reference, rows, asked)
    members = reference.index((0, 6)).others(rows, asked, config.hull_size, None).indices
    flat, owner = members.reshape(-1, members.shape[2]), np.repeat(np.arange(len(rows)), 6)
    every = distances(reference, rows, flat, owner).reshape(-1, 6)
    np.testing.assert_array_equal(label, every.argmin(axis=1))
    np.testing.assert_array_equal(distance, every.min(axis=1))
    np.testing.assert_array_equal(vertices, members[np.arange(len(rows)), label])
    assert ((every == every.min(axis=1, keepdims=True)).sum(axis=1) == 2)[asked > 1].any()  # ties, of 0 and 1

    some = np.nextafter(every.min(axis=1), np.inf)[owner]  # nearest hulls are measured, all farther ones need not be
    told = distances(reference, rows, flat, owner, beyond=some).reshape(-1, 6)
    near = every <= some.reshape(-1, 6)
    np.testing.assert_array_equal(told[near], every[near])
    assert (np.isinf(told) | (told == every)).all()
    assert np.isinf(told[~near & np.isfinite(every)]).mean() > 0.5
    at_bar = distances(reference, rows, flat, owner, beyond=every.ravel())
    np.testing.assert_array_equal(at_bar, every.ravel())  # none is farther than itself


def test_of_equally_near_hulls_that_of_the_smaller_label_counts() -> None:
    """On a circle: both hulls begin at the same row, and the one with the smaller label looks farther."""
    angles = np.array([0.5, 1.2, 0.5, 0.8, 0.0, 4.2, 4.3, 4.4])
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    values = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    features = Features(np.concatenate([values, -values]), np.concatenate([labels, labels]))  # the mean is 0
    reference = Reference(features, config=clear.ScanConfig(hull_size=2, pca_width=2))
    reference.in_core[:] = True
    distance, label, vertices = nearest_other(reference, reference.rows[4:5], np.array([2]))
    np.testing.assert_allclose(distance, 2 * np.sin(0.25), rtol=1e-6)
    assert (label.tolist(), vertices.tolist()) == ([0], [[0, 1]])
    many = nearest_other(reference, np.repeat(reference.rows[4:5], FEW, axis=0), np.full(FEW, 2))
    assert all((part == one).all() for part, one in zip(many, (distance, label, vertices), strict=True))


def test_the_literal_reading_is_inverted_while_the_collapse_separates() -> None:
    """Far from the own hull and near another's: poisons of a pocket look the opposite, their mates are the own hull."""
    with np.load(DATA / "feature_collision.npz") as stored:
        values, labels, poison_values, poison_rows = (
            stored[k] for k in ("values", "labels", "poison_values", "poison_rows")
        )
    for moved, rows in zip(poison_values, poison_rows, strict=True):
        poisoned = values.astype(np.float32)
        poisoned[rows] = moved
        is_poison = np.isin(np.arange(len(labels)), rows)
        result = clear.scan(Features(poisoned, labels))
        index = clear.NeighborIndex(poisoned, labels)
        near = index.search_by_class(poisoned, k=20, exclude=np.arange(len(labels)))
        m, classes, k = near.indices.shape
        hulls = clear.solve_hulls(
            poisoned, poisoned, near.indices.reshape(-1, k), owner=np.repeat(np.arange(m), classes), certificates=False
        )
        distance = hulls.upper.reshape(m, classes)
        own = distance[np.arange(m), labels].copy()
        distance[np.arange(m), labels] = np.inf
        literal = np.log(own) - np.log(distance.min(axis=1))
        assert auroc(literal, is_poison) < 0.1
        assert auroc(result.scores.collapse, is_poison) > 0.99


X, Y = make_classes(0, per_class=10)
NAN = X.copy()
NAN[[3, 17], 2] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: clear.scan(Features(NAN, Y)), ValueError, r"nan or inf in 2 of 50 rows \(first: \[3, 17\]\)"),
        (lambda: clear.scan(Features(X, np.zeros(50, int))), ValueError, "labels hold 1 class: want at least two"),
        (lambda: clear.scan(Features(X[:5], Y[:5])), ValueError, "features has 5 samples: want at least 10"),
        (
            lambda: clear.scan(Features(X, np.where(np.arange(50) == 7, 3_000_000, Y))),
            ValueError,
            r"labels\[7\] is 3000000: want class numbers from 0 without large gaps; renumber them",
        ),
        (lambda: clear.scan(Features(X, np.where(np.arange(50) == 7, 1000, Y))), ValueError, r"labels\[7\] is 1000"),
        (
            lambda: clear.scan(Features(np.ones((60, 4), np.float32), np.repeat([0, 1, 2], 20))),
            ValueError,
            r"features has 3 distinct samples among 60: want at least 10 \(twice the folds\)",
        ),
        (lambda: Features(X, Y[:-1]), ValueError, r"labels has shape \(49,\): want \(50,\)"),
        (lambda: Features(X, Y - 1), ValueError, r"labels\[\d+\] is -1 .*class numbers from 0"),
        (lambda: Features(X, Y.astype(float)), TypeError, "labels has dtype float64: want integers"),
        (lambda: Features(X.astype(int), Y), TypeError, "features has dtype int64: want floating point"),
        (lambda: Features(X[:, 0], Y), ValueError, r"features has shape \(50,\): want two dimensions"),
        (lambda: Features(X, Y, ids=np.zeros(50, int)), ValueError, "ids repeat"),
        (lambda: Features(X, Y, class_names=("a", "b")), ValueError, "class numbers from 0 and below 2"),
        (
            lambda: clear.probe(Features(X[:, :4], Y), Features(X, Y)),
            ValueError,
            "inputs has 4 columns: want 16",
        ),
        (
            lambda: clear.probe(Features(X[:1], np.array([9])), Features(X, Y)),
            ValueError,
            r"predictions\[0\] is 9 .*below 5",
        ),
        (lambda: clear.scan(Features(X, Y), threads=0), ValueError, "threads is 0: want at least 1"),
        (lambda: clear.ScanConfig(hull_size=1), ValueError, "hull_size is 1: want at least 2"),
        (lambda: clear.ScanConfig(review_rate=0.7), ValueError, "review_rate is 0.7: want a number from 0.0 to 0.5"),
        (lambda: clear.ScanConfig(folds=2.5), TypeError, "folds is 2.5: want a whole number"),
    ],
)
def test_bad_input_is_named(call, error: type[Exception], message: str) -> None:  # noqa: ANN001
    with pytest.raises(error, match=message) as caught:
        call()
    assert not re.search("\n", str(caught.value))


def test_settings_come_from_toml_and_unknown_ones_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "scan.toml"
    path.write_text("review_rate = 0.01\nhull_size = 10\n")
    assert clear.ScanConfig.from_toml(path) == clear.ScanConfig(review_rate=0.01, hull_size=10)
    path.write_text("hulls = 3\n")
    with pytest.raises(ValueError, match="unknown setting 'hulls'"):
        clear.ScanConfig.from_toml(path)
