"""The second look through a network, against the same steps written out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

import clear  # noqa: E402
from clear.views import extract_views  # noqa: E402

pytestmark = pytest.mark.torch


def network() -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 3, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(3, 5, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(5, 4),
        )


def images(n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((n, 1, 8, 8), dtype=np.float32), rng.integers(0, 4, n)


def test_the_early_layer_is_the_last_before_the_image_is_made_smaller() -> None:
    pixels, labels = images()
    model = network()
    found = extract_views(model, (pixels, labels), batch_size=3)
    assert found.layer == "1"
    with torch.no_grad():
        expected = torch.nn.functional.adaptive_avg_pool2d(model[:2](torch.from_numpy(pixels)), 2).flatten(1)
    np.testing.assert_allclose(found.early, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert extract_views(model, (pixels, labels), layer="2").early.shape == (7, 20)


def test_drops_are_those_of_the_label_and_of_the_prediction() -> None:
    pixels, labels = images()
    model = network()
    found = extract_views(model, (pixels, labels), batch_size=3)
    x = torch.from_numpy(pixels)
    changed = [x.flip(3), x.roll(1, 2), x.roll(-1, 2), x.roll(1, 3), x.roll(-1, 3)]

    def margin(inputs: torch.Tensor, row: int, label: int) -> float:
        logs = model(inputs)[row].double().log_softmax(0)
        return float(max(logs[c] for c in range(4) if c != label) - logs[label])

    with torch.no_grad():
        predicted = model(x).argmax(1).numpy()
        for row in range(len(labels)):
            for given, drops in ((labels[row], found.label_drop), (predicted[row], found.prediction_drop)):
                expected = np.mean([margin(v, row, given) for v in changed]) - margin(x, row, given)
                assert drops[row] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_without_labels_both_drops_are_of_the_prediction() -> None:
    found = extract_views(network(), (images()[0], None))
    np.testing.assert_array_equal(found.label_drop, found.prediction_drop)


def test_hooks_are_gone_afterwards() -> None:
    model = network()
    extract_views(model, images())
    assert not any(module._forward_hooks for module in model.modules())


def test_what_the_last_linear_layer_sees_of_image_and_mirror_image_is_kept() -> None:
    pixels, labels = images()
    model = network()
    found = extract_views(model, (pixels, labels), batch_size=3)
    with torch.no_grad():
        for seen, inputs in ((found.late, pixels), (found.late_mirrored, pixels[..., ::-1].copy())):
            np.testing.assert_allclose(seen, model[:-1](torch.from_numpy(inputs)).numpy(), rtol=1e-5, atol=1e-6)
    assert extract_views(model[:-1], (pixels, labels)).late is None  # no linear layer


def test_features_that_fit_the_labels_have_to_say_more() -> None:
    pixels, labels = images(120)
    model = network()
    features, views = clear.extract_features(model, (pixels, labels)), extract_views(model, (pixels, labels))
    with torch.no_grad():
        right = model(torch.from_numpy(pixels)).argmax(1).numpy() == labels
    assert views.fitted == right.mean() < 0.99
    plain, seen = clear.scan(features).scores.suspicion, clear.scan(features, views=views).scores.suspicion
    assert (seen >= plain).all()
    bent = clear.scan(features, views=dataclasses.replace(views, prediction_drop=views.label_drop)).scores.suspicion
    lowered = bent < seen
    assert lowered.any()
    np.testing.assert_array_equal(bent[lowered], np.maximum(plain - 1, bent)[lowered])


def test_views_fit_a_scan_of_the_same_samples() -> None:
    data = images(120)
    model = network()
    views = extract_views(model, data)
    memorised = dataclasses.replace(views, label_drop=views.prediction_drop)
    result = clear.scan(clear.extract_features(model, data), views=memorised)
    assert memorised.fitted == 1
    assert np.isfinite(result.scores.views).all()


def test_what_cannot_be_looked_at_again_is_refused() -> None:
    pixels, labels = images()
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    with pytest.raises(ValueError, match="no layer before a smaller image"):
        extract_views(flat, (pixels, labels))
    with pytest.raises(ValueError, match="views want images"):
        extract_views(torch.nn.Linear(64, 4), (pixels.reshape(7, 64), labels), layer="")
    with pytest.raises(ValueError, match="labels reach 9"):
        extract_views(network(), (pixels, labels + 9 - labels.max()))
    with pytest.raises(ValueError, match="layer 'nowhere' is not in the model"):
        extract_views(network(), (pixels, labels), layer="nowhere")
