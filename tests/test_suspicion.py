"""The suspicion that a scan ranks by, against plain sums."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from samples import make_classes, make_pocket

import clear
from clear.cross_validation import cross_validate
from clear.pockets import excess_over, label_excess
from clear.reference import Reference
from clear.results import Level, Views
from clear.suspicion import suspicion_threshold
from clear.verdict import GROUP_TAIL, find_group, scan_verdict

Features = clear.Features.from_arrays


def standard(values: np.ndarray) -> np.ndarray:
    known = values[~np.isnan(values)]
    middle = np.median(known)
    mad, tail = np.median(np.abs(known - middle)), np.quantile(known, 0.9) - middle
    return (values - middle) / max(1.4826 * mad, tail / 1.2816)


@pytest.fixture(scope="module")
def planted() -> tuple[clear.ScanResult, np.ndarray, np.ndarray]:
    found = make_pocket(3)
    return clear.scan(Features(found.values, found.labels)), found.values, found.labels


def test_distance_is_that_to_the_mean_of_the_core_of_the_class(planted) -> None:
    result, values, labels = planted
    core = result.scores.in_core
    for c in np.unique(labels):
        mean = values[(labels == c) & core].astype(np.float64).mean(axis=0)
        expected = np.linalg.norm(values[labels == c] - mean, axis=1)
        np.testing.assert_allclose(result.scores.distance[labels == c], expected, rtol=1e-9)


def test_distance_of_huge_features_is_finite(planted) -> None:
    _, values, labels = planted
    result = clear.scan(Features(values.astype(np.float64) * 1e200, labels))
    assert np.isfinite(result.scores.distance).all()
    assert np.isfinite(result.scores.suspicion).all()


def test_margin_is_negative_where_the_label_is_predicted() -> None:
    values, labels = make_classes(1)
    labels[:9] = (labels[:9] + 1) % 5
    predicted, margin = cross_validate(values, labels, clear.ScanConfig(), threads=2)
    np.testing.assert_array_equal(predicted == labels, margin < 0)
    assert (margin[:9] > 0).mean() > 0.5


def test_a_label_that_the_other_folds_do_not_know_has_the_largest_margin() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 30 + [1] * 30 + [2])
    values = rng.normal(size=(61, 4)).astype(np.float32) + 4 * labels[:, None].astype(np.float32)
    _, margin = cross_validate(values, labels, clear.ScanConfig(), threads=1)
    assert margin.argmax() == 60
    assert np.isfinite(margin).all()


def test_suspicion_is_the_larger_of_alone_and_in_company(planted) -> None:
    scores = planted[0].scores
    distance = standard(scores.distance)
    assert standard(scores.margin).max() > 6
    doubted = standard(scores.reassignment) + np.minimum(standard(scores.margin), 6)
    wrong, odd = standard(doubted), standard(doubted + distance)
    assert 0 < (wrong > odd).sum() < len(wrong)
    alone = np.maximum(wrong, odd)
    assert standard(scores.collapse).max() > 6
    together = standard(np.minimum(standard(scores.collapse), 6) + distance + 2 * scores.support)
    nearer = scores.reassignment > 0
    assert ((together > alone) & ~nearer).any()
    expected = np.where(nearer, np.maximum(alone, together), alone)
    np.testing.assert_allclose(scores.suspicion, expected, rtol=1e-9, atol=1e-9)


def test_support_is_the_mean_of_the_four_most_pocketed_of_ten_mates(planted) -> None:
    result, values, labels = planted
    pocketed = np.minimum(standard(result.scores.collapse), 6) + standard(result.scores.distance)
    centred = values - values.astype(np.float64).mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for row in (0, 57, 200, planted[0].flags[0].row):
        others = np.flatnonzero((labels == labels[row]) & (np.arange(len(labels)) != row))
        mates = others[np.argsort(np.linalg.norm(unit[others] - unit[row], axis=1))[:10]]
        assert result.scores.support[row] == pytest.approx(np.sort(pocketed[mates])[-4:].mean())


def test_company_is_the_mean_of_the_five_most_collapsed_and_far_out_of_a_sample_and_its_ten_mates(planted) -> None:
    result, values, labels = planted
    together = standard(result.scores.collapse) + standard(result.scores.distance)
    centred = values - values.astype(np.float64).mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for row in (0, 57, 200):
        same = np.flatnonzero(labels == labels[row])
        near = same[np.argsort(np.linalg.norm(unit[same] - unit[row], axis=1))[:11]]
        assert row in near
        assert result.scores.company[row] == pytest.approx(np.sort(together[near])[-5:].mean())


def test_poisons_of_one_label_do_not_raise_the_bar_for_themselves() -> None:
    rng = np.random.default_rng(0)
    labels, values = np.repeat(np.arange(5), 200), rng.normal(size=1000)
    top, usual = label_excess(values, labels)
    assert 2 < usual.max() < 4
    assert top == labels[values.argmax()]
    crowd = np.where(labels == 3, np.maximum(values, rng.uniform(5, 6, 1000)), values)
    assert 5 < label_excess(crowd, labels)[1].max() < 7  # a fifth of all samples, and the others' spread stays 1


def test_groups_in_every_label_raise_the_bar_for_the_largest() -> None:
    rng = np.random.default_rng(0)
    labels, values = np.repeat(np.arange(5), 200), rng.normal(size=1000)
    values[::40] = 5.0  # five of every label
    values[0] = 6.0
    assert label_excess(np.where((labels > 0) & (values == 5), 0, values), labels)[1].max() > 5
    assert label_excess(values, labels)[1].max() < 3.5


def test_what_cannot_stand_out_is_nan() -> None:
    labels = np.repeat([0, 1], 40)
    few = np.random.default_rng(0).normal(size=80)  # 40 others are too few
    for values in (np.full(80, np.nan), np.zeros(80), few):
        assert np.isnan(label_excess(values, labels)[1]).all()
    assert np.isnan(excess_over(few, few[:49], 0.98)).all()
    assert np.isfinite(excess_over(few, few[:50], 0.98)).all()


def odd_groups(seed: int, of: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Five classes of 100; of some of them five samples sit half way to the next class."""
    values, labels = make_classes(seed, per_class=100)
    rng = np.random.default_rng(seed)
    for label in of:
        rows = np.flatnonzero(labels == label)[:5]
        middle = (values[labels == label].mean(axis=0) + values[labels == (label + 1) % 5].mean(axis=0)) / 2
        values[rows] = middle + rng.normal(scale=0.3, size=(5, values.shape[1]))
    return values, labels


def test_a_group_makes_the_verdict_poisoned_and_stands_out_less_among_others_like_it() -> None:
    values, labels = odd_groups(1, (2,))
    alone = clear.scan(Features(values, labels))
    among = clear.scan(Features(*odd_groups(1, (0, 1, 2, 3, 4))))
    assert alone.verdict == "poisoned"
    assert alone.scores.company.argmax() in np.flatnonzero(labels == 2)[:5]
    assert alone.scores.company.argmax() == alone.verdict_rows[0]
    assert len(set(alone.verdict_rows) & set(np.flatnonzero(labels == 2)[:5].tolist())) == 5
    assert any("spreads, 5 of them flagged" in note for note in alone.notes)
    assert excess_of(among) < excess_of(alone) / 2


def excess_of(result: clear.ScanResult) -> float:
    """Of the sample that the verdict asks about, over the samples outside its group."""
    company = result.scores.company
    return float(
        excess_over(company, np.delete(company, list(result.verdict_rows)), GROUP_TAIL)[result.verdict_rows[0]]
    )


@pytest.mark.parametrize("spreads", [(1, 3), (3, 1), (1, 1, 1, 1, 2.5), (1, 2)])
def test_classes_of_different_spread_are_no_groups(spreads: tuple[float, ...]) -> None:
    """A loose class collapses more than a tight one: few classes, or unequal ones, are not poisoned by that."""
    verdicts = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(len(spreads)), 150)
        centres, scale = 4 * rng.normal(size=(len(spreads), 32)), np.array(spreads)[labels][:, None]
        values = (centres[labels] + scale * rng.normal(size=(len(labels), 32))).astype(np.float32)
        verdicts.append(clear.scan(Features(values, labels)).verdict)
    assert "poisoned" not in verdicts


def test_a_group_without_flags_is_not_poisoned() -> None:
    values, labels = odd_groups(1, (2,))
    reference = Reference(Features(values, labels))
    scores = clear.scan(Features(values, labels)).scores
    group = find_group(reference, scores)
    assert scan_verdict(reference, scores, group) == "poisoned"
    quiet = dataclasses.replace(scores, level=np.zeros_like(scores.level))
    assert find_group(reference, quiet).flagged == 0
    assert scan_verdict(reference, quiet, find_group(reference, quiet)) == "undecided"


def test_weak_features_call_nothing_poisoned() -> None:
    values, labels = odd_groups(1, (2,))
    reference, scores = Reference(Features(values, labels)), clear.scan(Features(values, labels)).scores
    for certain in (scores, dataclasses.replace(scores, level=np.full_like(scores.level, Level.CERTAIN))):
        group = find_group(reference, certain)
        reference.core_accuracy = 0.9
        assert scan_verdict(reference, certain, group) == "poisoned"
        reference.core_accuracy = 0.6
        assert scan_verdict(reference, certain, group) == "undecided"


def test_samples_around_a_flagged_group_do_not_hide_it() -> None:
    """What stands out nearly as much in the group's own class may be the attacker's, too: near-copies, say."""
    values, labels = odd_groups(1, (2,))
    reference, result = Reference(Features(values, labels)), clear.scan(Features(values, labels))
    company = np.random.default_rng(0).normal(size=len(labels))
    company[np.setdiff1d(np.flatnonzero(labels == 2), result.verdict_rows)[:30]] = 6.5
    company[result.verdict_rows[0]] = 7.0
    hidden = dataclasses.replace(result.scores, company=company)
    group, above_all = find_group(reference, hidden), excess_of(dataclasses.replace(result, scores=hidden))
    assert group.rows == result.verdict_rows
    assert above_all < 3.75
    assert scan_verdict(reference, hidden, group) == "poisoned"
    quiet = dataclasses.replace(hidden, level=np.zeros_like(hidden.level))
    assert find_group(reference, quiet).excess == pytest.approx(above_all)


def test_flags_are_ordered_and_scored_by_suspicion(planted) -> None:
    result = planted[0]
    certain = [flag.score for flag in result.flags if flag.level == Level.CERTAIN]
    assert certain == sorted(certain, reverse=True)
    assert min(certain) > result.thresholds["certain"]
    assert all(flag.score == result.scores.suspicion[flag.row] for flag in result.flags)


def test_a_heavy_tail_raises_the_threshold_by_about_half_at_most() -> None:
    clean = np.random.default_rng(0).normal(size=2000)
    usual = suspicion_threshold(clean, 3.5)
    poisoned = np.concatenate([clean, np.full(60, 40.0)])
    assert usual < suspicion_threshold(poisoned, 3.5) < 1.7 * usual
    assert suspicion_threshold(np.zeros(50), 3.5) == np.inf
    assert np.isfinite(suspicion_threshold(clean, 1000.0))


def test_the_threshold_is_as_rare_among_many_as_among_a_thousand() -> None:
    rng = np.random.default_rng(1)
    above = {}
    for n in (1000, 100_000):
        draws = [rng.normal(size=n) for _ in range(200 if n == 1000 else 20)]
        above[n] = np.mean([(values > suspicion_threshold(values, 3.0)).sum() for values in draws])
    assert 0.5 < above[1000] < 2.5  # 1.35 if the spread were 1
    assert above[100_000] < 3 * above[1000]


def memorised(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Views]:
    """Features that fit wrong labels, and a second look that does not."""
    truth_values, truth = make_classes(seed)
    flips = np.arange(0, 60, 20)
    labels = truth.copy()
    labels[flips] = (truth[flips] + 1) % 5
    values = truth_values.copy()
    for row in flips:  # bent until the label fits
        values[row] = truth_values[np.flatnonzero(truth == labels[row])[-1 - row]] + 0.01
    drop = np.random.default_rng(seed).normal(size=len(labels))
    drop[flips] += 6
    return values, labels, flips, Views(truth_values, drop, drop, "layer")


def test_a_second_look_finds_labels_that_the_features_were_bent_to_fit() -> None:
    values, labels, flips, views = memorised(2)
    without = clear.scan(Features(values, labels))
    seen = clear.scan(Features(values, labels), views=views)
    assert not set(flips.tolist()) & {flag.row for flag in without.flags if flag.level == Level.CERTAIN}
    assert set(np.argsort(-seen.scores.suspicion)[:3].tolist()) == set(flips.tolist())
    assert np.isnan(without.scores.views).all()


def test_a_second_look_at_other_samples_is_refused() -> None:
    values, labels, _, views = memorised(2)
    with pytest.raises(ValueError, match=r"views has \d+ samples: want the 100"):
        clear.scan(Features(values[:100], labels[:100]), views=views)


def test_review_with_a_second_look_finds_what_the_features_hide() -> None:
    values, labels, flips, views = memorised(4)
    rows = np.random.default_rng(1).permutation(np.setdiff1d(np.arange(len(labels)), flips))
    own, asked = rows[: len(rows) // 2], np.concatenate([flips, rows[len(rows) // 2 :]])

    def part(chosen: np.ndarray) -> tuple[clear.Features, Views]:
        given = labels[chosen]
        seen = Views(views.early[chosen], views.label_drop[chosen], views.prediction_drop[chosen], "layer")
        return Features(values[chosen], given, predictions=given), seen

    (inputs, second), (reference, own_second) = part(asked), part(own)
    without = clear.review(inputs, reference, fpr=0.02)
    found = clear.review(inputs, reference, views=second, reference_views=own_second, fpr=0.02)
    assert {0, 1, 2} <= {flag.row for flag in found.flags}
    assert not {0, 1, 2} & {flag.row for flag in without.flags}
    assert {flag.row: flag.suggested_label for flag in found.flags}[0] == (labels[flips[0]] - 1) % 5
    with pytest.raises(ValueError, match="views are given for one side only"):
        clear.review(inputs, reference, views=second)
    with pytest.raises(ValueError, match=r"^views has \d+ samples"):
        clear.review(inputs, reference, views=own_second, reference_views=own_second)
