"""The red-team tools change what they say and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="attacks need the torch extra")

from torch import nn  # noqa: E402

import clear  # noqa: E402
from clear.architectures import digits_cnn  # noqa: E402
from clear.attacks import (  # noqa: E402
    Crafted,
    bullseye_polytope,
    convex_polytope,
    feature_collision,
    flip_labels,
    gradient_matching,
)
from clear.attacks.collisions import fit_coefficients, project_on_simplex  # noqa: E402
from clear.training import fit, seeded  # noqa: E402

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


POLYTOPES = [feature_collision, convex_polytope, bullseye_polytope]


def craft(attack: object, network: nn.Module, base: torch.Tensor, targets: torch.Tensor, **options: object) -> Crafted:
    """Any of the crafted attacks, towards class 0."""
    if attack is gradient_matching:
        return gradient_matching(network, base, np.zeros(len(base), int), targets, 0, restarts=2, **options)
    return attack(network, base, targets, **options)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images / 16 * 255) / 255
    return torch.from_numpy(pixels).float()[:, None], data.target.astype(np.int64)


@pytest.fixture(scope="module")
def network(digits: tuple[torch.Tensor, np.ndarray]) -> nn.Module:
    with seeded(0):
        model = digits_cnn()
    fit(model, digits[0][:800], digits[1][:800], epochs=6, learning_rate=0.05)
    return model


@pytest.fixture(scope="module")
def scene(digits: tuple[torch.Tensor, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Six fours, and a seven that shall be taken for one."""
    pixels, labels = digits
    fours, sevens = np.flatnonzero(labels[800:] == 4), np.flatnonzero(labels[800:] == 7)
    return pixels[800:][fours[:6]], pixels[800:][sevens[0]], 4


def features_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = model.linear.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(images)
    hook.remove()
    return seen[0].detach()


def test_a_convex_polytope_wraps_the_target_without_touching_it(network: nn.Module, scene: tuple) -> None:
    base, target, _ = scene
    crafted = convex_polytope(network, base, target, epsilon=0.5)
    points, goal = features_of(network, crafted.poisons), features_of(network, target[None])
    hull = clear.solve_hulls(goal.numpy(), points.numpy(), [list(range(len(base)))])
    assert crafted.after.hull[0, 0] == pytest.approx(hull.upper[0], rel=1e-3)
    assert crafted.after.hull[0, 0] < 0.3 * crafted.before.hull[0, 0]
    assert crafted.after.hull[0, 0] < 0.8 * crafted.after.distance.min()


def test_the_middle_of_a_bullseye_is_the_target(network: nn.Module, scene: tuple) -> None:
    base, target, _ = scene
    crafted = bullseye_polytope(network, base, target, epsilon=0.5)
    middle = features_of(network, crafted.poisons).mean(0)
    miss = (middle - features_of(network, target[None])[0]).norm()
    assert crafted.after.center[0, 0] == pytest.approx(float(miss), rel=1e-3)
    assert crafted.after.center[0, 0] < 0.3 * crafted.before.center[0, 0]
    assert crafted.after.center[0, 0] < convex_polytope(network, base, target, epsilon=0.5).after.center[0, 0]


def test_several_views_of_one_object_share_a_bullseye(network: nn.Module, scene: tuple) -> None:
    base, target, _ = scene
    views = torch.stack([target, target.roll(1, dims=-1), target.roll(-1, dims=-1)])
    crafted = bullseye_polytope(network, base, views, epsilon=0.5)
    middle = features_of(network, crafted.poisons).mean(0)
    before = features_of(network, base).mean(0)
    goal = features_of(network, views).mean(0)
    assert crafted.after.center.shape == (1, 3)
    assert (middle - goal).norm() < 0.4 * (before - goal).norm()


def test_spread_poisons_keep_the_bullseye_but_stay_away_from_it(network: nn.Module, scene: tuple) -> None:
    base, target, _ = scene
    plain = bullseye_polytope(network, base, target, epsilon=0.5)
    spread = bullseye_polytope(network, base, target, epsilon=0.5, spread=0.05)
    assert spread.after.distance.min() > 3 * plain.after.distance.min()
    assert spread.after.center[0, 0] < 0.3 * spread.before.center[0, 0]


def test_a_pocket_that_is_looked_for_is_kept_away_from_the_target(network: nn.Module, scene: tuple) -> None:
    base, target, _ = scene

    def hull_of_three_nearest(crafted: Crafted) -> float:
        points, goal = features_of(network, crafted.poisons), features_of(network, target[None])
        nearest = (points - goal).norm(dim=1).argsort()[:3]
        return float(clear.solve_hulls(goal.numpy(), points.numpy(), [nearest.tolist()]).upper[0])

    plain = bullseye_polytope(network, base, target, epsilon=0.5, spread=0.02)
    aware = bullseye_polytope(network, base, target, epsilon=0.5, spread=0.02, pocket=3)
    assert hull_of_three_nearest(aware) > hull_of_three_nearest(plain)
    assert aware.after.center[0, 0] < 0.5 * aware.before.center[0, 0]


@pytest.mark.parametrize("scope", ["head", "network"])
def test_matched_gradients_point_where_the_targets_would(network: nn.Module, scene: tuple, scope: str) -> None:
    base, target, label = scene
    labels = np.full(len(base), label)
    crafted = gradient_matching(network, base, labels, target, label, epsilon=0.5, steps=60, restarts=1, scope=scope)

    def gradient(images: torch.Tensor) -> torch.Tensor:
        module = network if scope == "network" else network.linear
        loss = nn.functional.cross_entropy(network(images), torch.full((len(images),), label))
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])

    cosine = nn.functional.cosine_similarity(gradient(crafted.poisons), gradient(target[None]), dim=0)
    assert crafted.after.cosine[0] == pytest.approx(float(cosine), abs=1e-4)
    assert crafted.after.cosine[0] > crafted.before.cosine[0] + 0.2


def test_two_models_are_both_poisoned(network: nn.Module, scene: tuple) -> None:
    base, target, label = scene
    with seeded(1):
        other = digits_cnn().eval()
    crafted = bullseye_polytope([network, other], base, target, epsilon=0.5, layer=["linear", "fc"])
    assert crafted.after.center.shape == crafted.after.hull.shape == (2, 1)
    assert (crafted.after.center < 0.7 * crafted.before.center).all()
    matched = gradient_matching([network, other], base, [label] * 6, target, label, epsilon=0.5, steps=20, restarts=1)
    assert (matched.after.cosine > matched.before.cosine).all()


@pytest.mark.parametrize("attack", [*POLYTOPES, gradient_matching])
def test_every_attack_keeps_ball_grid_and_bounds_and_is_deterministic(attack: object) -> None:
    base, target = make_images(4, 0), make_images(1, 1)[0]
    base[0] = 1.0
    first, again = (craft(attack, make_network(), base, target, epsilon=0.1, steps=8) for _ in range(2))
    assert torch.equal(first.poisons, again.poisons)
    assert 0.02 < first.largest_change <= 0.1 + 1e-6
    assert (first.poisons - base).abs().max() <= 0.1 + 1e-6
    assert torch.allclose(first.poisons * 255, (first.poisons * 255).round(), atol=1e-4)
    assert 0 <= first.poisons.min() <= first.poisons.max() <= 1


def test_each_base_of_a_collision_goes_to_its_own_target() -> None:
    network, base, targets = make_network(), make_images(4, 0), make_images(2, 1)
    crafted = feature_collision(network, base, targets, epsilon=0.3, steps=150)
    distances = torch.cdist(penultimate(network, crafted.poisons), penultimate(network, targets))
    assert distances.argmin(1).tolist() == [0, 1, 0, 1]


def test_matching_gradients_leaves_model_and_random_state_alone() -> None:
    network = make_network().train()
    network[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    craft(gradient_matching, network, make_images(2, 0), make_images(1, 1), epsilon=0.1, steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == [False, True, True, True]
    assert all(module.training for module in network.modules())


def test_progress_counts_the_steps_of_all_restarts() -> None:
    told: list[tuple[int, int]] = []
    options = {"epsilon": 0.1, "steps": 3, "progress": lambda done, total: told.append((done, total))}
    craft(gradient_matching, make_network(), make_images(2, 0), make_images(1, 1), **options)
    assert told == [(i, 6) for i in range(1, 7)]


def test_the_projection_on_the_simplex_is_the_nearest_point_of_it() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3))).double()
    found = project_on_simplex(rows)
    steps = np.linspace(0, 1, 101)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12])
    nearest = torch.cdist(rows, torch.from_numpy(grid)).min(1).values
    assert torch.allclose(found.sum(1), torch.ones(40).double())
    assert (found >= 0).all()
    assert ((rows - found).norm(dim=1) <= nearest + 1e-9).all()


def test_fitted_coefficients_reach_the_hull_distance() -> None:
    rng = np.random.default_rng(0)
    points, goals = rng.normal(size=(6, 10)).astype(np.float32), rng.normal(size=(3, 10)).astype(np.float32)
    coefficients = fit_coefficients(torch.from_numpy(points), torch.from_numpy(goals), torch.full((3, 6), 1 / 6), 500)
    reached = np.linalg.norm(coefficients.numpy() @ points - goals, axis=1)
    hulls = clear.solve_hulls(goals, points, [list(range(6))] * 3)
    np.testing.assert_allclose(reached, hulls.upper, rtol=1e-3)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (convex_polytope, {"layer": ["1", "1"]}, "layer names 2 layers: want one, or one for each of the 1 models"),
        (bullseye_polytope, {"spread": -1.0}, "spread is -1.0"),
        (bullseye_polytope, {"pocket": 2}, "spread is 0.0: want .* above 0 where a pocket is given"),
        (bullseye_polytope, {"spread": 0.1, "pocket": 3}, "pocket is 3: want at least 1 and at most 2"),
        (bullseye_polytope, {"spread": float("inf")}, "spread is inf"),
        (gradient_matching, {"scope": "body"}, "scope is 'body'"),
        (gradient_matching, {"layer": "none"}, "none"),
        (feature_collision, {"bounds": (0, 0)}, r"bounds are \(0, 0\): want the smallest and the largest"),
        (feature_collision, {"learning_rate": float("inf")}, "learning_rate inf: want numbers above 0"),
    ],
)
def test_impossible_options_are_refused(attack: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        craft(attack, make_network(), make_images(2, 0), make_images(1, 1), epsilon=0.1, steps=2, **options)


def test_targets_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="target_images? hold nan or inf: want finite values"):
        feature_collision(make_network(), make_images(2, 0), make_images(1, 1) * np.nan, epsilon=0.1)


def test_gradient_matching_measures_distances_at_the_layer_asked_for() -> None:
    """A network may end in something else than a linear layer."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 8), torch.nn.Flatten())
    bases, target = torch.rand(2, 1, 8, 8), torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="name a layer"):
        gradient_matching(network, bases, [0, 0], target, 1, epsilon=0.1, steps=2)
    crafted = gradient_matching(network, bases, [0, 0], target, 1, epsilon=0.1, steps=2, restarts=1, layer="0")
    assert crafted.after.distance.shape == (2,)


def test_labels_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"adversarial_labels\[0\] is 7 \(1 such\): want class numbers from 0 and below 3"
    ):
        gradient_matching(make_network(), make_images(2, 0), [0, 0], make_images(1, 1), 7, epsilon=0.1)


@pytest.mark.parametrize("attack", [feature_collision, gradient_matching])
def test_epsilon_has_to_be_given_and_unknown_options_are_refused(attack: object) -> None:
    for options, name in (({}, "epsilon"), ({"epsilon": 0.1, "speed": 2}, "speed")):
        with pytest.raises(TypeError, match=name):
            craft(attack, make_network(), make_images(2, 0), make_images(1, 1), **options)


def test_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="model is list: want an nn.Module or a sequence of them"):
        convex_polytope([], make_images(2, 0), make_images(1, 1), epsilon=0.1)
