"""`solve_hulls` and the checker: cases with known answers, properties, agnosticism, bad calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_hull import hull_distance, is_inside

from clear import HullStatus, solve_hulls
from clear.check import check_hull

IN, OUT, UNDECIDED, INVALID = HullStatus
MODES = ("decide", "distance")


def ask(vertices, point, **options):
    """Solve one problem, verify the proof, return the result."""
    v = np.atleast_2d(np.asarray(vertices, dtype=np.float32))
    z = np.asarray(point, dtype=np.float32)
    result = solve_hulls(z[None], v, np.arange(len(v))[None], **options)
    assert proof_of(result, 0, v, z) == []
    return result


def proof_of(result, s, v, z):
    return check_hull(
        v,
        z,
        weights=result.weights[s],
        direction=result.directions[s],
        lower=float(result.lower[s]),
        upper=float(result.upper[s]),
        status=int(result.status[s]),
        eps=float(result.eps[s]),
    )


def gauss(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unit(d, i, length=1.0):
    return np.eye(d, dtype=np.float32)[i] * np.float32(length)


def grid(values, d):
    return np.array(np.meshgrid(*[values] * d)).reshape(d, -1).T


def circle(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.c_[np.cos(angle), np.sin(angle)]


def plane_points():
    """60 points in a 3-dimensional subspace of R^16, a mix of them, and a unit normal of the subspace."""
    basis = np.linalg.qr(gauss(3, 16, 16))[0]
    v = gauss(4, 60, 3) @ basis[:3]
    return v, np.random.default_rng(5).dirichlet(np.ones(60)) @ v, basis[5]


def anisotropic():
    """Vertices that are 1e4 times longer along the first axis than along the last."""
    return gauss(6, 40, 8) * np.logspace(4, 0, 8).astype(np.float32)


def edge_cases():
    line = np.outer(np.linspace(0, 1, 40), [1, 2, 3])
    cross = np.vstack([np.eye(16), -np.eye(16)])
    cube = grid([0, 1], 6)
    lattice = grid([-1, 0, 1], 4)
    plane, in_plane, normal = plane_points()
    simplex = np.eye(12)
    far_from_origin = gauss(7, 30, 8) + 1000 / np.sqrt(8)
    pairs = np.vstack([gauss(8, 20, 6), gauss(8, 20, 6) + 1e-6])
    outlier = np.vstack([gauss(9, 20, 5), np.full(5, 1e4)])
    cloud = gauss(10, 20, 4)
    extreme = np.vstack([gauss(11, 20, 4), [50, 0, 0, 0]])
    middle = 0.5 * np.ones(6)
    cases = {
        "one vertex, equal": ([[1, 2]], [1, 2], IN),
        "one vertex, different": ([[1, 2]], [1, 2.5], OUT),
        "identical vertices, same": (np.ones((9, 4)), np.ones(4), IN),
        "identical vertices, off by 1e-3": (np.ones((9, 4)), np.ones(4) + [1e-3, 0, 0, 0], OUT),
        "a vertex": (cloud, cloud[7], IN),
        "a duplicated vertex": (np.vstack([cloud, cloud[7], cloud[7]]), cloud[7], IN),
        "segment, midpoint": ([[0, 0], [2, 4]], [1, 2], IN),
        "segment, 1 % beyond its end": ([[0, 0], [2, 4]], [2.02, 4.04], OUT),
        "segment, off by 1e-3": ([[0, 0], [2, 4]], [1.001, 2], OUT),
        "collinear, between two": (line, 0.51 * line[20] + 0.49 * line[21], IN),
        "collinear, past the end": (line, line[-1] * 1.001, OUT),
        "subspace, inside": (plane, in_plane, IN),
        "subspace, off its plane": (plane, in_plane + 1e-3 * normal, OUT),
        "cross-polytope, centre": (cross, np.zeros(16), IN),
        "cross-polytope, facet": (cross, np.full(16, 1 / 16), IN),
        "cross-polytope, facet * 1.001": (cross, np.full(16, 1.001 / 16), OUT),
        "cross-polytope, vertex * 1.001": (cross, unit(16, 3, 1.001), OUT),
        "cross-polytope, ridge": (cross, np.r_[np.full(4, 0.25), np.zeros(12)], IN),
        "cube, centre": (cube, middle, IN),
        "cube, on a facet": (cube, np.r_[1, middle[1:]], IN),
        "cube, above a facet": (cube, np.r_[1.001, middle[1:]], OUT),
        "cube, on an edge": (cube, np.r_[0.3, np.ones(5)], IN),
        "cube, corner": (cube, np.ones(6), IN),
        "lattice, centre": (lattice, np.zeros(4), IN),
        "lattice, facet": (lattice, [1, 0.25, -0.5, 0], IN),
        "simplex, barycentre": (simplex, np.full(12, 1 / 12), IN),
        "simplex, barycentre * 1.01": (simplex, np.full(12, 1.01 / 12), OUT),
        "offset 1000, inside": (far_from_origin, far_from_origin.mean(0), IN, 3e-3),
        "offset 1000, outside": (far_from_origin, far_from_origin[0] + unit(8, 0, 30), OUT, 3e-3),
        "scale 1e-15, inside": (cloud * 1e-15, cloud.mean(0) * 1e-15, IN),
        "scale 1e-15, outside": (cloud * 1e-15, cloud[0] * 1e-14, OUT),
        "scale 1e15, inside": (cloud * 1e15, cloud.mean(0) * 1e15, IN),
        "scale 1e15, outside": (cloud * 1e15, cloud[0] * 1e16, OUT),
        "anisotropic, inside": (anisotropic(), anisotropic().mean(0), IN),
        "anisotropic, beyond the short axis": (anisotropic(), anisotropic().mean(0) + unit(8, 7, 6), OUT),
        "near-duplicates": (pairs, pairs.mean(0), IN),
        "one outlier at 1e4": (outlier, outlier[:20].mean(0), IN, 1e-3),
        "circle, radius 0.9": (circle(200), circle(7)[2] * 0.9, IN),
        "circle, radius 1.001": (circle(200), circle(200)[5] * 1.001, OUT),
        "d = 1, inside": ([[0], [1], [3]], [2.5], IN),
        "d = 1, outside": ([[0], [1], [3]], [3.1], OUT),
        "an extreme vertex far from the rest": (extreme, [50, 0, 0, 0], IN),
    }
    assert len(cases) == 42
    return cases


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", edge_cases().values(), ids=edge_cases().keys())
def test_edge_cases_are_decided_as_geometry_says(case, mode):
    vertices, point, status, *eps = case
    result = ask(vertices, point, mode=mode, eps=eps[0] if eps else None)
    assert result.status[0] == status


@pytest.mark.parametrize("mode", MODES)
def test_a_hull_without_vertices_is_infinitely_far(mode):
    base = gauss(0, 3, 4)
    for members in (np.full((3, 2), -1), np.empty((3, 0), dtype=np.int64)):
        result = solve_hulls(base, base, members, mode=mode)
        assert (result.status == OUT).all()
        assert np.isposinf(result.lower).all()
        assert np.isposinf(result.upper).all()
        assert not result.directions.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["vertex", "point", "point without vertices"])
def test_nan_and_inf_are_invalid_and_spoil_no_other_answer(where, bad, mode):
    base, points = gauss(1, 8, 3), gauss(2, 2, 3)
    members = np.array([[0, 1, 2, -1], [3, 4, 5, 6]])
    if where == "vertex":
        base[1, 2] = bad
    else:
        points[0, 1] = bad
    if where == "point without vertices":
        members[0] = -1
    result = solve_hulls(points, base, members, mode=mode)
    assert result.status[0] == INVALID
    assert np.isnan([result.lower[0], result.upper[0]]).all()
    assert result.status[1] in (IN, OUT)
    assert proof_of(result, 1, base[3:7], points[1]) == []


def test_rows_that_no_problem_names_may_hold_nan():
    base = np.vstack([np.full((1, 2), np.nan), np.eye(2)]).astype(np.float32)
    assert solve_hulls(base[1:2], base, [[1, 2, -1]]).status[0] == IN


def test_eps_is_never_below_what_float32_can_mean():
    v = gauss(3, 10, 4) + 100
    floor = 4 * 2.0**-24 * np.sqrt((v.astype(float) ** 2).sum(1).max())
    assert ask(v, v[0], eps=0).eps[0] == pytest.approx(floor, rel=1e-6)
    assert ask(v, v[0], eps=0.5).eps[0] == 0.5


def test_the_default_eps_is_a_fraction_of_the_radius():
    v = gauss(4, 10, 4)
    radius = np.sqrt(((v - v.mean(0, dtype=float)) ** 2).sum(1).mean())
    for mode in MODES:
        assert ask(v, v[0], mode=mode).eps[0] == pytest.approx(1e-5 * radius, rel=1e-6)


@pytest.mark.parametrize("factor", [0.94, 0.99, 0.9999, 1.0001, 1.01, 1.06])
@pytest.mark.parametrize("mode", MODES)
def test_distances_close_to_eps_are_decided(mode, factor):
    square = grid([-1, 1], 2)
    plate, eps = np.c_[square, np.zeros(4)], 0.25 / factor
    result = ask(plate, [0.1, 0.2, 0.25], mode=mode, eps=eps, relative_tolerance=0.1)
    assert result.status[0] == (IN if factor < 1 else OUT)


@pytest.mark.parametrize("mode", MODES)
def test_a_distance_equal_to_eps_is_never_called_outside(mode):
    square = np.c_[grid([-1, 1], 2), np.zeros(4)]
    result = ask(square, [0.1, 0.2, 0.25], mode=mode, eps=0.25)
    assert result.status[0] in (IN, UNDECIDED)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e25, 1e37])
@pytest.mark.parametrize("mode", MODES)
def test_the_ends_of_the_range_of_float32_need_no_rescaling(mode, scale):
    square = grid([-1, 1], 2) * 8 * scale if scale < 1 else grid([-1, 1], 2) * scale
    side = np.float32(np.abs(square).max())
    assert ask(square, [0, 0], mode=mode).status[0] == IN
    result = ask(square, [2 * side, 0], mode=mode)
    assert result.status[0] == OUT
    assert result.lower[0] == pytest.approx(float(side), rel=1e-3, abs=0)


@pytest.mark.parametrize("relative_tolerance", [0.1, 1e-3, 1e-6])
@pytest.mark.parametrize(("k", "d"), [(1, 5), (2, 1), (5, 64), (20, 64), (50, 8), (70, 64), (70, 80), (130, 20)])
def test_distances_agree_with_least_squares(k, d, relative_tolerance):
    v, z = gauss(k, 6, k, d), gauss(d + 1, 6, d) * np.linspace(0, 2, 6, dtype=np.float32)[:, None]
    members = np.arange(6 * k).reshape(6, k)
    result = solve_hulls(z, v.reshape(-1, d), members, relative_tolerance=relative_tolerance)
    for s in range(6):
        truth = hull_distance(v[s], z[s])
        assert result.lower[s] <= truth * (1 + 1e-9) + 1e-12
        assert result.upper[s] >= truth * (1 - 1e-9) - 1e-7
        tight = result.upper[s] - result.lower[s] <= relative_tolerance * result.upper[s] * (1 + 1e-9)
        assert tight or result.upper[s] <= result.eps[s]
        assert proof_of(result, s, v[s], z[s]) == []


def test_statuses_agree_with_linear_programming():
    v, z = gauss(1, 40, 12, 4), 0.5 * gauss(2, 40, 4)
    result = solve_hulls(z, v.reshape(-1, 4), np.arange(480).reshape(40, 12), mode="decide")
    assert result.status.tolist() == [IN if is_inside(v[s], z[s]) else OUT for s in range(40)]
    assert 0 < (result.status == IN).sum() < 40


# Properties: small whole numbers force ties, duplicates and degenerate sets.

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def integer_sets(draw, largest=4):
    d = draw(st.integers(1, 5))
    k = draw(st.integers(1, 12))
    row = st.lists(st.integers(-largest, largest), min_size=d, max_size=d)
    vertices = np.array(draw(st.lists(row, min_size=k, max_size=k)), dtype=np.float32)
    return vertices, np.array(draw(row), dtype=np.float32)


@SETTINGS
@given(integer_sets(), st.sampled_from(MODES))
def test_convex_combinations_are_inside(problem, mode):
    v, _ = problem
    weights = np.random.default_rng(len(v)).dirichlet(np.ones(len(v)))
    assert ask(v, weights @ v, mode=mode).status[0] == IN


@SETTINGS
@given(integer_sets(), st.sampled_from(MODES))
def test_vertices_are_inside(problem, mode):
    v, _ = problem
    result = solve_hulls(v, v, np.tile(np.arange(len(v)), (len(v), 1)), mode=mode)
    assert (result.status == IN).all()
    assert (result.upper == 0).all()


@SETTINGS
@given(integer_sets())
def test_adding_a_row_never_turns_inside_to_outside(problem):
    v, z = problem
    few, all_rows = ask(v[:-1], z) if len(v) > 1 else None, ask(v, z)
    if few is not None:
        assert not (few.status[0] == IN and all_rows.status[0] == OUT)
        assert all_rows.lower[0] <= few.upper[0] * (1 + 1e-9) + 1e-12


@SETTINGS
@given(integer_sets(), st.integers(-8, 8), st.integers(-20, 20))
def test_translation_and_scaling_by_powers_of_two_change_nothing_but_the_scale(problem, shift, power):
    v, z = problem
    scale = np.float32(2.0**power)
    plain, moved = ask(v, z, eps=1e-3), ask((v + shift) * scale, (z + shift) * scale, eps=1e-3 * float(scale))
    assert plain.status[0] == moved.status[0]
    assert moved.upper[0] / float(scale) == pytest.approx(plain.upper[0], rel=2e-4, abs=1e-4)


@SETTINGS
@given(integer_sets(), st.sampled_from(MODES))
def test_permuted_vertices_give_the_same_answer(problem, mode):
    v, z = problem
    plain, permuted = ask(v, z, mode=mode), ask(v[::-1].copy(), z, mode=mode)
    assert plain.status[0] == permuted.status[0]
    if mode == "distance":
        assert permuted.upper[0] == pytest.approx(plain.upper[0], rel=2e-4, abs=1e-5)


@SETTINGS
@given(integer_sets())
def test_a_perturbed_certificate_does_not_verify(problem):
    v, z = problem
    result = ask(v, z)
    weights, direction = result.weights[0], result.directions[0]
    lower, upper = float(result.lower[0]), float(result.upper[0])
    heavier = weights.copy()
    heavier[0] += 1e-3
    assert check_hull(v, z, weights=heavier, upper=upper) != []
    assert check_hull(v, z, weights=weights, upper=upper + 1) != []
    if lower > 0:
        assert check_hull(v, z, direction=-direction, lower=lower) != []
        assert check_hull(v, z, direction=direction, lower=2 * lower) != []
        assert check_hull(v, z, direction=direction, lower=lower, upper=upper, status=IN, eps=lower / 2) != []
