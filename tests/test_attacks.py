"""The red-team tools change what they say and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="attacks need the torch extra")

from torch import nn  # noqa: E402

from clear.attacks import feature_collision, flip_labels  # noqa: E402

pytestmark = pytest.mark.torch


def make_network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def make_images(n: int, seed: int) -> torch.Tensor:
    grid = np.random.default_rng(seed).integers(0, 256, (n, 1, 6, 6))
    return torch.from_numpy(grid).float() / 255


def penultimate(network: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    return network.eval()[:-1](images).detach()


def test_exactly_the_reported_rows_are_flipped_and_every_one_is_wrong() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 200)
    poisoned, rows = flip_labels(labels, 40, 5, seed=3)
    assert np.array_equal(np.flatnonzero(poisoned != labels), rows)
    assert len(rows) == 40
    assert set(poisoned[rows]) == set(range(5))


def test_flips_depend_on_the_seed_alone_and_leave_the_given_labels_as_they_were() -> None:
    labels = np.zeros(50, dtype=np.int64)
    first, again, other = (flip_labels(labels, 10, 4, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not labels.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(5, int), 6, 2, 0), "n_flips is 6: want at least 1 and at most 5"),
        ((np.zeros(5, int), 1, 1, 0), "n_classes is 1: want at least 2"),
        ((np.full(5, 7), 1, 3, 0), r"labels\[0\] is 7"),
        ((np.zeros(5, int), 1, 2, -1), "seed is -1"),
    ],
)
def test_impossible_flips_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flip_labels(*arguments)


def test_poisons_stay_in_the_ball_on_the_grid_and_within_the_bounds() -> None:
    base = make_images(4, 0)
    base[0] = 0.0  # at the edge of the valid range
    collision = feature_collision(make_network(), base, make_images(1, 1)[0], epsilon=0.1, steps=30)
    change = (collision.poisons - base).abs().max().item()
    assert 0.05 < change <= 0.1 + 1e-6
    assert collision.largest_change == pytest.approx(change)
    assert torch.allclose(collision.poisons * 255, (collision.poisons * 255).round(), atol=1e-4)
    assert collision.poisons.min() >= 0
    assert collision.poisons.max() <= 1


def test_reported_distances_are_those_of_the_penultimate_features() -> None:
    network, base, target = make_network(), make_images(4, 0), make_images(1, 1)[0]
    collision = feature_collision(network, base, target, epsilon=0.2, steps=100)
    goal = penultimate(network, target[None])
    before = (penultimate(network, base) - goal).norm(dim=1)
    after = (penultimate(network, collision.poisons) - goal).norm(dim=1)
    np.testing.assert_allclose(collision.distance_before, before, rtol=1e-5)
    np.testing.assert_allclose(collision.distance_after, after, rtol=1e-4, atol=1e-6)
    assert (after < 0.5 * before).all()


def test_a_named_layer_is_collided_and_a_wrong_name_is_refused() -> None:
    network, base, target = make_network(), make_images(3, 0), make_images(1, 1)[0]
    collision = feature_collision(network, base, target, epsilon=0.1, steps=20, layer="1")
    goal = network[:2](target[None]).detach()
    after = (network[:2](collision.poisons).detach() - goal).norm(dim=1)
    np.testing.assert_allclose(collision.distance_after, after, rtol=1e-4)
    with pytest.raises(ValueError, match="layer 'head' is not in the model"):
        feature_collision(network, base, target, epsilon=0.1, layer="head")


def test_the_model_is_left_as_it_was() -> None:
    network = make_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    feature_collision(network, make_images(2, 0), make_images(1, 1)[0], epsilon=0.1, steps=5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": 0.1, "bounds": (0.5, 1.0)}, "base_images range from"),
        ({"epsilon": 0.1, "steps": 0}, "steps is 0"),
    ],
)
def test_impossible_collisions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_collision(make_network(), make_images(2, 0), make_images(1, 1)[0], **options)


def test_a_target_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_image has shape \(1, 5, 6\)"):
        feature_collision(make_network(), make_images(2, 0), torch.zeros(1, 5, 6), epsilon=0.1)
