"""`SharedHull`: answers of `solve_hulls` on all vertices, proofs over them all, agnosticism, edge cases, bad calls."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.fuzz_hull import FAMILIES, FLOOR, PLACES, place, vertex_set  # noqa: E402

import clear  # noqa: E402
from clear import HullStatus, SharedHull, solve_hulls  # noqa: E402
from clear.check import check_hull  # noqa: E402

IN, OUT, UNDECIDED, INVALID = HullStatus
MODES = ("decide", "distance")


def gauss(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def proof_of(result, i, vertices, point, rows=5000):
    """What `check_hull` says about answer i: the weights on their members, the direction on all vertices, in parts."""
    members = result.members[i][result.members[i] >= 0]
    direction, lower = result.directions[i], float(result.lower[i])
    found = check_hull(
        vertices[members],
        point,
        weights=result.weights[i, : len(members)],
        direction=direction,
        lower=lower,
        upper=float(result.upper[i]),
        status=int(result.status[i]),
        eps=float(result.eps[i]),
    )
    for start in range(0, len(vertices), rows):
        found += check_hull(vertices[start : start + rows], point, direction=direction, lower=lower)
    return found


def ask(vertices, points, **options):
    """Solve, verify every proof, return the result."""
    v = np.asarray(vertices, dtype=np.float32)
    z = np.atleast_2d(np.asarray(points, dtype=np.float32))
    result = SharedHull(v, threads=1).solve(z, **options)
    assert [proof_of(result, i, v, z[i]) for i in range(len(z))] == [[]] * len(z)
    return result


def assert_same_answers(result, vertices, points, **options):
    """Status and eps of `solve_hulls` on all vertices; bounds that agree with its bounds."""
    everything = np.tile(np.arange(len(vertices)), (len(points), 1))
    whole = solve_hulls(points, vertices, everything, **options)
    assert result.status.tolist() == whole.status.tolist()
    assert result.eps == pytest.approx(whole.eps, rel=1e-9)
    rounding = 1e-12 * np.abs(vertices).max(initial=0)
    assert (result.lower <= whole.upper * (1 + 1e-9) + rounding).all()
    assert (whole.lower <= result.upper * (1 + 1e-9) + rounding).all()


def hard_case(seed, family, k, d, points=12):
    """Vertices of a family, somewhere, at some scale, and points inside, on faces, outside and far."""
    rng = np.random.default_rng([seed, k, d])
    offset = rng.choice([0.0, 1.0, 1000.0]) * rng.standard_normal(d) / np.sqrt(d)
    scale = 10.0 ** rng.choice([0, rng.uniform(-15, 15)])
    v = ((vertex_set(rng, family, k, d) + offset) * scale).astype(np.float32)
    z = [place(rng, v.astype(float), str(rng.choice(PLACES))) for _ in range(points)]
    return v, np.stack(z).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_answers_are_those_of_all_vertices_at_once(family, mode):
    rng = np.random.default_rng(3)
    sizes = [(int(np.exp(rng.uniform(0, 7))), int(np.exp(rng.uniform(0, 4)))) for _ in range(25)]
    for seed, (k, d) in enumerate([*sizes, (1, 1), (1, 5), (2, 1), (3, 9), (400, 1), (300, 2)]):
        v, z = hard_case(seed, family, k, d)
        assert_same_answers(ask(v, z, mode=mode), v, z, mode=mode)


@pytest.mark.parametrize(("n", "d"), [(20000, 12), (40000, 2)])
@pytest.mark.parametrize("mode", MODES)
def test_answers_about_many_vertices_are_those_of_all_at_once(n, d, mode):
    v = gauss(1, n, d)
    z = np.vstack([0.5 * gauss(2, 4, d), 1.5 * gauss(3, 4, d), 4 * gauss(4, 4, d), v[:2]])
    result = ask(v, z, mode=mode)
    assert {IN, OUT} <= set(result.status.tolist())
    assert_same_answers(result, v, z, mode=mode)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-4, 1e-8])
def test_distance_mode_reaches_its_tolerance(tolerance):
    v = gauss(5, 20000, 6)
    z = np.vstack([2 * gauss(6, 20, 6), gauss(7, 20, 6)])
    result = ask(v, z, relative_tolerance=tolerance)
    loose = result.upper - result.lower > tolerance * result.upper
    floor = FLOOR * max(np.linalg.norm(v, axis=1).max(), np.linalg.norm(z, axis=1).max())
    assert not (loose & (result.upper > floor)).any()
    assert (result.status == OUT).sum() > 10


def test_undecided_is_left_only_where_eps_is_the_distance():
    v = gauss(8, 3000, 10)
    z = np.repeat(2 * gauss(9, 6, 10), 5, axis=0)
    distance = ask(v, z, relative_tolerance=1e-10).upper
    factor = np.tile([0.94, 1 - 1e-13, 1, 1 + 1e-13, 1.06], 6)
    result = ask(v, z, mode="decide", eps=factor * distance)
    assert (result.status[factor == 0.94] == OUT).all()
    assert (result.status[factor == 1.06] == IN).all()
    left = result.status == UNDECIDED
    assert (result.lower[left] > 0.999 * result.eps[left]).all()
    assert (result.upper[left] < 1.001 * result.eps[left]).all()


def workload():
    v = gauss(10, 20000, 16)
    return v, np.vstack([0.3 * gauss(11, 40, 16), 1.2 * gauss(12, 60, 16), 5 * gauss(13, 40, 16), v[:10]])


def bits(result, order=slice(None)):
    parts = (result.status, result.lower, result.upper, result.eps, result.members, result.weights, result.directions)
    return [part[order].tobytes() for part in parts]


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_threads_order_or_company(mode):
    v, z = workload()
    plain = SharedHull(v, threads=1).solve(z, mode=mode)
    assert len(set(plain.status.tolist())) == 2
    for threads in (2, 5):
        assert bits(SharedHull(v, threads=threads).solve(z, mode=mode)) == bits(plain)
    order = np.random.default_rng(0).permutation(len(z))
    assert bits(SharedHull(v, threads=2).solve(z[order], mode=mode)) == bits(plain, order)
    for i in (0, 60, 120):
        alone = SharedHull(v, threads=2).solve(z[i : i + 1], mode=mode)
        assert (alone.lower[0], alone.upper[0]) == (plain.lower[i], plain.upper[i])
        width = alone.members.shape[1]
        assert alone.members[0].tolist() == plain.members[i, :width].tolist()
        assert np.array_equal(alone.directions[0], plain.directions[i])


def test_answers_do_not_depend_on_the_instruction_set(monkeypatch):
    v, z = workload()
    levels = ["baseline", "avx2", "avx512"]
    levels = levels[: levels.index(clear.build_info()["best_isa"]) + 1]
    answers = []
    for level in levels:
        monkeypatch.setenv("CLEAR_ISA", level)
        answers.append(bits(SharedHull(v).solve(z[::3])))
    assert all(answer == answers[0] for answer in answers)


def edge_cases():
    line = np.outer(np.linspace(0, 1, 3000), [1, 2, 3])
    angle = 2 * np.pi * np.arange(30000) / 30000
    circle = np.c_[np.cos(angle), np.sin(angle)]
    copies = np.repeat([[0.0, 0], [1, 0], [0, 1]], 7000, axis=0)
    plane = np.linalg.qr(gauss(20, 16, 16))[0]
    flat = gauss(21, 4000, 3) @ plane[:3]
    lattice = np.array(np.meshgrid(*[[-1, 0, 1]] * 7)).reshape(7, -1).T
    outlier = np.vstack([gauss(22, 20000, 5), np.full(5, 1e4)])
    offset = gauss(23, 3000, 8) + 1000
    cloud = gauss(24, 3000, 20)
    return {
        "one vertex, equal": ([[1, 2]], [1, 2], IN),
        "one vertex, different": ([[1, 2]], [1, 2.5], OUT),
        "fewer vertices than dimensions, mix": (np.eye(12)[:4], np.r_[[0.25] * 4, [0] * 8], IN),
        "fewer vertices than dimensions, off": (np.eye(12)[:4], np.full(12, 0.1), OUT),
        "one dimension, inside": (gauss(25, 30000, 1), [0.7], IN),
        "one dimension, outside": (gauss(25, 30000, 1), [9], OUT),
        "collinear, between": (line, 0.51 * line[20] + 0.49 * line[21], IN),
        "collinear, past the end": (line, line[-1] * 1.001, OUT),
        "copies, inside": (copies, [0.3, 0.3], IN),
        "copies, on an edge": (copies, [0.5, 0.5], IN),
        "copies, outside": (copies, [0.51, 0.5], OUT),
        "all equal, the same": (np.ones((20000, 4)), np.ones(4), IN),
        "all equal, another": (np.ones((20000, 4)), [1, 1, 1, 1.001], OUT),
        "circle, inside": (circle, [0.7, 0.7], IN),
        "circle, outside": (circle, [0.71, 0.7105], OUT),
        "circle, a vertex": (circle, circle[1234], IN),
        "low rank, inside": (flat, flat[:9].mean(0), IN),
        "low rank, off": (flat, flat[:9].mean(0) + 1e-3 * plane[5], OUT),
        "lattice, centre": (lattice, np.zeros(7), IN),
        "lattice, facet": (lattice, [1, 0.25, -0.5, 0, 0, 0.3, 0], IN),
        "lattice, above a facet": (lattice, [1.001, 0.25, -0.5, 0, 0, 0.3, 0], OUT),
        "lattice, a corner": (lattice, np.ones(7), IN),
        "outlier, inside": (outlier, np.zeros(5), IN),
        "outlier, on the way to it": (outlier, np.full(5, 5e3), IN),
        "outlier, beside": (outlier, [5e3, 5e3, 5e3, 5e3, 5e3 + 20], OUT),
        "far from the origin, inside": (offset, np.full(8, 1000), IN),
        "far from the origin, outside": (offset, np.full(8, 1003), OUT),
        "tiny, inside": (1e-15 * cloud, np.zeros(20), IN),
        "tiny, outside": (1e-15 * cloud, np.full(20, 3e-15), OUT),
        "huge, outside": (1e15 * cloud, np.full(20, 3e15), OUT),
        "denormal, outside": (np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * 1e-42, [3e-42, 0], OUT),
        "the centroid": (np.vstack([np.eye(4), -np.eye(4)]), np.zeros(4), IN),
        "a vertex among many": (cloud, cloud[77], IN),
        "hopelessly far": (cloud, np.full(20, 1e30), OUT),
    }


@pytest.mark.parametrize("name", edge_cases())
@pytest.mark.parametrize("mode", MODES)
def test_edge_case(name, mode):
    vertices, point, status = edge_cases_once()[name]
    assert ask(vertices, point, mode=mode).status[0] == status


def edge_cases_once(known={}):  # noqa: B006 - built once, for speed
    known.update(known or edge_cases())
    return known


def test_no_vertices_is_outside_at_distance_inf():
    result = SharedHull(np.empty((0, 3), np.float32)).solve(np.zeros((2, 3), np.float32))
    assert result.status.tolist() == [OUT, OUT]
    assert result.upper.tolist() == result.lower.tolist() == [np.inf, np.inf]
    assert result.members.shape == (2, 0)


def test_no_points_no_answers():
    result = SharedHull(gauss(0, 10, 3)).solve(np.empty((0, 3), np.float32))
    assert result.members.shape == result.weights.shape == (0, 0)
    assert result.directions.shape == (0, 3)


def test_points_that_are_not_finite_are_invalid_and_disturb_nobody():
    v, z = gauss(30, 500, 4), gauss(31, 6, 4)
    spoilt = z.copy()
    spoilt[1, 2], spoilt[4, 0] = np.nan, np.inf
    plain, result = SharedHull(v).solve(z), SharedHull(v).solve(spoilt)
    others = [0, 2, 3, 5]
    assert result.status[[1, 4]].tolist() == [INVALID, INVALID]
    assert np.isnan(result.upper[[1, 4]]).all()
    assert (result.members[[1, 4]] == -1).all()
    assert result.upper[others].tolist() == plain.upper[others].tolist()


def test_a_false_proof_does_not_verify():
    v, z = workload()
    result = SharedHull(v).solve(z)
    outside = int(np.flatnonzero(result.status == OUT)[0])
    assert proof_of(result, outside, v, z[outside]) == []
    result.directions[outside] *= -1
    assert proof_of(result, outside, v, z[outside]) != []
    inside = int(np.flatnonzero(result.status == IN)[0])
    result.weights[inside, 0] += 1e-3
    assert proof_of(result, inside, v, z[inside]) != []


def test_proofs_hold_few_members():
    v, z = workload()
    result = SharedHull(v).solve(z)
    count = (result.members >= 0).sum(1)
    assert count.max() <= 17
    assert count.max() == result.members.shape[1]
    assert ((result.weights > 0) == (result.members >= 0)).all()


def test_certificates_cost_nothing_but_memory():
    v, z = workload()
    with_proof, without = SharedHull(v).solve(z), SharedHull(v).solve(z, certificates=False)
    assert without.members is without.weights is without.directions is None
    assert without.lower.tolist() == with_proof.lower.tolist()
    assert without.upper.tolist() == with_proof.upper.tolist()


def test_eps_is_the_callers_or_a_share_of_the_radius_but_never_below_float32():
    v, z = gauss(33, 200, 5), gauss(34, 3, 5)
    hull = SharedHull(v)
    radius = np.sqrt(((v.astype(float) - v.mean(0, dtype=float)) ** 2).sum(1).mean())
    assert hull.radius == pytest.approx(radius, rel=1e-12)
    assert hull.solve(z).eps == pytest.approx(np.full(3, 1e-5 * radius), rel=1e-12)
    assert hull.solve(z, eps=[0.1, 0.2, 0.3]).eps.tolist() == [0.1, 0.2, 0.3]
    largest = np.maximum(np.linalg.norm(v.astype(float), axis=1).max(), np.linalg.norm(z.astype(float), axis=1))
    assert hull.solve(z, eps=0).eps == pytest.approx(FLOOR * largest, rel=1e-12)


def test_signals_are_heard_while_solving():
    def stop(*_):
        raise TimeoutError

    v, z = gauss(35, 60000, 40), gauss(36, 20000, 40)
    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(TimeoutError):
            SharedHull(v).solve(z)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() > began


def test_other_layouts_and_precisions_are_taken():
    v, z = gauss(37, 300, 6), gauss(38, 5, 6)
    plain = SharedHull(v).solve(z)
    wide = np.zeros((300, 12), np.float64)
    wide[:, ::2] = v
    again = SharedHull(wide[:, ::2]).solve(np.asfortranarray(z))
    assert bits(again) == bits(plain)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SharedHull(np.zeros(3)), ValueError, r"vertices has shape \(3,\)"),
        (lambda: SharedHull(np.zeros((3, 2), int)), TypeError, "vertices has dtype int64"),
        (lambda: SharedHull([[0.0, np.nan]]), ValueError, r"vertices has nan or inf in 1 of 1 rows \(first: \[0\]\)"),
        (lambda: SharedHull([[0.0]], device="tpu"), ValueError, 'device="tpu"'),
        (lambda: SharedHull([[0.0]], threads=0), ValueError, "threads is 0"),
        (lambda: SharedHull([[0.0]]).solve([[0.0, 1.0]]), ValueError, "points has 2 columns: want 1"),
        (lambda: SharedHull([[0.0]]).solve([[0]]), TypeError, "points has dtype int64"),
        (lambda: SharedHull([[0.0]]).solve([[0.0]], mode="near"), ValueError, "mode is 'near'"),
        (lambda: SharedHull([[0.0]]).solve([[0.0]], eps=-1), ValueError, "eps holds a negative number"),
        (lambda: SharedHull([[0.0]]).solve([[0.0]], eps=[1, 2]), ValueError, r"eps has shape \(2,\)"),
        (lambda: SharedHull([[0.0]]).solve([[0.0]], relative_tolerance=0), ValueError, "relative_tolerance is 0"),
    ],
)
def test_bad_calls_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
