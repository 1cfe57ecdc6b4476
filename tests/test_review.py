"""Review: what clean samples of one's own say about the predictions of a model from someone else."""

from __future__ import annotations

import numpy as np
import pytest
from samples import make_classes

import clear
from clear._review_evidence import lead_of_others

Features = clear.Features.from_arrays


def make_case(
    seed: int, wrong: int = 10, *, n: int = 400, m: int = 400, noise: float = 0.0
) -> tuple[clear.Features, clear.Features, np.ndarray, np.ndarray]:
    """Inputs of which the first `wrong` are misclassified, a clean reference, the true labels of both."""
    values, labels = make_classes(seed, per_class=(n + m) // 5, separation=1.2)
    rng = np.random.default_rng(seed)
    predictions = np.where(rng.random(len(labels)) < noise, rng.integers(0, 5, len(labels)), labels)
    predictions[n : n + wrong] = (labels[n : n + wrong] + 1 + rng.integers(0, 4, wrong)) % 5
    inputs = Features(values[n:], predictions[n:], predictions=predictions[n:])
    return inputs, Features(values[:n], labels[:n], predictions=predictions[:n]), labels[n:], labels[:n]


@pytest.mark.parametrize("seed", range(3))
def test_misclassified_inputs_are_flagged_and_get_their_label_back(seed: int) -> None:
    inputs, reference, truth, _ = make_case(seed)
    result = clear.review(inputs, reference)
    assert {flag.row for flag in result.flags} >= set(range(10))
    assert (result.suggested_labels[:10] == truth[:10]).all()
    assert [flag.score for flag in result.flags] == sorted((flag.score for flag in result.flags), reverse=True)
    assert all(flag.suggested_label != flag.label for flag in result.flags)


@pytest.mark.parametrize("missing", [2, 4])
def test_samples_of_ones_own_may_lack_any_class(missing: int) -> None:
    inputs, reference, truth, labels = make_case(0)
    held = reference.values[labels != missing], labels[labels != missing]
    result = clear.review(inputs, Features(*held, predictions=held[1]))
    known = (truth[:10] != missing) & (inputs.labels[:10] != missing)
    assert {flag.row for flag in result.flags} >= set(np.flatnonzero(known))
    assert (result.suggested_labels[:10][known] == truth[:10][known]).all()


@pytest.mark.parametrize("fpr", [0.01, 0.05])
def test_clean_inputs_are_flagged_at_the_rate_asked_for(fpr: float) -> None:
    flagged = []
    for seed in range(10):
        inputs, reference, _, _ = make_case(seed, wrong=0, n=500, m=1000, noise=0.05)
        flagged.append(len(clear.review(inputs, reference, fpr=fpr).flags) / 1000)
    assert 0.5 * fpr < np.mean(flagged) < 2 * fpr


def test_levels_are_those_of_the_held_out_reference() -> None:
    inputs, reference, _, _ = make_case(0, noise=0.05)
    result = clear.review(inputs, reference, fpr=0.05)
    expected = [(1 + (result.reference_scores >= score).sum()) / 401 for score in result.scores]
    np.testing.assert_allclose(result.levels, expected)
    flagged = np.isin(np.arange(400), [flag.row for flag in result.flags])
    assert np.array_equal(flagged, result.levels <= 0.05)
    assert np.array_equal(flagged, result.scores >= result.threshold)
    assert all(flag.level == result.levels[flag.row] for flag in result.flags)


def test_a_rate_that_the_reference_cannot_show_gives_no_flags_and_says_so() -> None:
    inputs, reference, _, _ = make_case(0)
    result = clear.review(inputs, reference, fpr=0.001)
    assert result.flags == ()
    assert "fpr 0.001 is below 1 / 401" in result.notes[0]


def test_every_number_of_threads_gives_the_same_answer() -> None:
    inputs, reference, _, _ = make_case(1)
    first, second = (clear.review(inputs, reference, threads=threads) for threads in (1, 3))
    assert np.array_equal(first.scores, second.scores)
    assert first.flags == second.flags


def test_confidence_in_a_wrong_prediction_makes_it_more_suspicious() -> None:
    inputs, reference, _, _ = make_case(2, noise=0.05)
    sure, unsure = np.full(400, 0.9), np.full(400, 0.9)
    sure[:10], unsure[:10] = 0.9999, 0.6
    own = np.random.default_rng(0).uniform(0.6, 0.999, 400)
    high, low = (
        clear.review(inputs, reference, confidence=c, reference_confidence=own).scores[:10] for c in (sure, unsure)
    )
    assert (high > low).all()


def test_a_label_without_reference_samples_is_not_judged() -> None:
    values, labels = make_classes(0)
    reference = Features(values, np.where(labels == 4, 3, labels), class_names=tuple("abcde"))
    result = clear.review(Features(values[:50], labels[:50], predictions=labels[:50]), reference)
    missing = labels[:50] == 4
    assert missing.any()
    assert np.array_equal(np.isnan(result.scores), missing)
    assert np.array_equal(np.isnan(result.levels), missing)
    assert not missing[[flag.row for flag in result.flags]].any()
    assert any(f"{missing.sum()} inputs were not judged" in note for note in result.notes)


def test_missing_predictions_are_noted() -> None:
    inputs, reference, _, truth = make_case(0)
    result = clear.review(Features(inputs.values, inputs.labels), Features(reference.values, truth))
    assert result.notes[:2] == (
        "inputs have no predictions: their labels were taken for them",
        "reference have no predictions: their labels were taken for them",
    )


def test_the_lead_of_other_classes() -> None:
    support = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [-np.inf, 3.0, 2.0]])
    np.testing.assert_array_equal(lead_of_others(support, np.array([1, 0, 0])), [-1.0, 2.0, np.nan])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fpr": 0.0}, "fpr is 0.0: want a number above 0 and below 1"),
        ({"fpr": True}, "fpr is True"),
        ({"confidence": np.ones(400)}, "confidence is given for one side only"),
        (
            {"confidence": np.ones(3), "reference_confidence": np.ones(400)},
            r"confidence has dtype float64 and shape \(3,\): want \(400,\)",
        ),
        (
            {"confidence": np.full(400, 1.5), "reference_confidence": np.ones(400)},
            "confidence holds values outside 0 to 1",
        ),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    inputs, reference, _, _ = make_case(0)
    with pytest.raises(ValueError, match=message):
        clear.review(inputs, reference, **options)


def test_other_widths_and_too_few_samples_are_refused() -> None:
    inputs, reference, _, truth = make_case(0)
    with pytest.raises(ValueError, match="inputs has 15 columns: want 16"):
        clear.review(Features(inputs.values[:, 1:], inputs.labels), reference)
    with pytest.raises(ValueError, match="reference has 9 samples: want at least 10"):
        clear.review(inputs, Features(reference.values[:9], truth[:9]))
