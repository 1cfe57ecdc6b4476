"""`solve_hulls`: the same bits however computed, layouts of inputs, bad calls, short native calls."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

import clear.hull
from clear import HullStatus, solve_hulls
from clear.check import check_hull

IN, OUT, UNDECIDED, INVALID = HullStatus
MODES = ("decide", "distance")


def gauss(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mixed_batch():
    """Problems of every regime over one base, with absent members and points inside, near and outside."""
    base, d = gauss(20, 400, 24), 24
    rng = np.random.default_rng(21)
    members = np.stack([rng.permutation(400)[:60] for _ in range(90)])
    members[30:60, 12:] = -1
    members[rng.random(members.shape) < 0.05] = -1
    points = gauss(22, 90, d)
    for s in range(0, 90, 3):
        rows = members[s][members[s] >= 0]
        points[s] = rng.dirichlet(np.ones(len(rows))) @ base[rows]
    points[1::3] *= 0.4
    return points, base, members


def wide_batch():
    """Problems with far fewer vertices than dimensions: float32 screens and proposes."""
    points, base, members = gauss(40, 60, 200), gauss(41, 300, 200), gauss(42, 60, 300).argsort(axis=1)[:, :50]
    for s in range(0, 60, 2):
        points[s] = np.random.default_rng(s).dirichlet(np.ones(50)) @ base[members[s]]
    return points, base, members


def bits(result):
    parts = (result.status, result.lower, result.upper, result.eps, result.weights, result.directions)
    return [part.tobytes() for part in parts]


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_threads_order_or_calls(mode, monkeypatch):
    points, base, members = mixed_batch()
    plain = solve_hulls(points, base, members, mode=mode, threads=1)
    assert 0 < (plain.status == IN).sum() < len(points)
    for threads in (2, 7):
        assert bits(solve_hulls(points, base, members, mode=mode, threads=threads)) == bits(plain)
    back = solve_hulls(points, base, members[::-1], owner=np.arange(len(points))[::-1], mode=mode)
    assert np.array_equal(back.weights[::-1], plain.weights)
    assert np.array_equal(back.directions[::-1], plain.directions)
    monkeypatch.setattr(clear.hull, "CALL_ELEMENTS", 1)
    monkeypatch.setattr(clear.hull, "CALL_SECONDS", 1e-9)
    assert bits(solve_hulls(points, base, members, mode=mode)) == bits(plain)


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_the_instruction_set(mode, monkeypatch):
    points, base, members = mixed_batch()
    levels = ["baseline", "avx2", "avx512"]
    levels = levels[: levels.index(clear._backend.build_info()["best_isa"]) + 1]
    answers = []
    for level in levels:
        monkeypatch.setenv("CLEAR_ISA", level)
        answers.append(bits(solve_hulls(points, base, members, mode=mode)))
    assert all(answer == answers[0] for answer in answers)


def test_float32_proposals_are_the_same_on_every_instruction_set_and_in_every_order(monkeypatch):
    points, base, members = wide_batch()
    plain = solve_hulls(points, base, members, mode="decide", eps=1e-3, threads=2)
    assert (plain.status == IN).sum() == 30
    assert (plain.status == OUT).sum() == 30
    back = solve_hulls(points, base, members[::-1], owner=np.arange(60)[::-1], mode="decide", eps=1e-3)
    assert np.array_equal(back.lower[::-1], plain.lower)
    assert np.array_equal(back.weights[::-1], plain.weights)
    for level in ["baseline", "avx2"][: 1 + (clear._backend.build_info()["best_isa"] != "baseline")]:
        monkeypatch.setenv("CLEAR_ISA", level)
        assert bits(solve_hulls(points, base, members, mode="decide", eps=1e-3)) == bits(plain)


@pytest.mark.parametrize("mode", MODES)
def test_nested_hulls_of_a_point_answer_as_separate_ones(mode):
    points, base, members = mixed_batch()
    fewer = members.copy()
    fewer[:, :20] = -1
    owner = np.repeat(np.arange(len(points)), 2)
    both = np.stack([fewer, members], axis=1).reshape(-1, members.shape[1])
    alone = bits(solve_hulls(points[owner], base, both, mode=mode))
    assert bits(solve_hulls(points, base, both, owner=owner, mode=mode)) == alone
    order = np.random.default_rng(30).permutation(len(owner))
    shuffled = solve_hulls(points, base, both[order], owner=owner[order], mode=mode, threads=3)
    assert shuffled.upper[np.argsort(order)].tobytes() == alone[2]


def test_certificates_cost_nothing_but_memory():
    points, base, members = mixed_batch()
    with_proof = solve_hulls(points, base, members)
    without = solve_hulls(points, base, members, certificates=False)
    assert without.weights is None
    assert without.directions is None
    assert np.array_equal(without.lower, with_proof.lower)
    assert np.array_equal(without.upper, with_proof.upper)


def test_denormals_survive_a_caller_that_flushes_them():
    torch = pytest.importorskip("torch", reason="sets the flush-to-zero mode of the processor")
    square = (np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * 1e-42).astype(np.float32)
    z = np.float32([[3e-42, 0]])
    torch.set_flush_denormal(True)
    try:
        result = solve_hulls(z, square, [[0, 1, 2, 3]], threads=1)
    finally:
        torch.set_flush_denormal(False)
    assert result.status[0] == OUT
    assert result.upper[0] == pytest.approx(2e-42, rel=1e-3, abs=0)


# The door.


def test_layout_and_precision_of_the_inputs_do_not_matter():
    points, base, members = mixed_batch()
    points, base = points.astype(np.float16), base.astype(np.float16)  # exact in every wider type
    plain = bits(solve_hulls(points, base, members))
    wide = np.asfortranarray(base.astype(np.float64))
    strided = np.repeat(base.astype(np.float32), 2, axis=0)[::2]
    frozen = base.astype(np.float32)
    frozen.flags.writeable = False
    swapped = base.astype(">f4")
    for variant in (wide, strided, frozen, swapped):
        assert bits(solve_hulls(points.astype(np.float64), variant, members.astype(np.int32))) == plain
    assert bits(solve_hulls(points, base, np.asfortranarray(members))) == plain


def test_a_batch_without_problems_gives_empty_answers():
    base = gauss(0, 3, 2)
    result = solve_hulls(base[:0], base, np.empty((0, 3), dtype=int))
    assert result.status.shape == (0,)
    assert result.weights.shape == (0, 3)
    assert result.directions.shape == (0, 2)
    assert repr(result) == "HullResult(0 problems, inside: 0, outside: 0, undecided: 0, invalid: 0)"


BASE = np.eye(3, dtype=np.float32)
BAD_CALLS = [
    ({"points": np.eye(3, dtype=int)}, TypeError, "points has dtype int64: want floating point"),
    ({"base": np.eye(3, dtype=complex)}, TypeError, "base has dtype complex128"),
    ({"points": np.ones((1, 4))}, ValueError, "points has 4 columns: want 3"),
    ({"base": np.ones(3)}, ValueError, r"base has shape \(3,\): want two dimensions"),
    ({"points": np.full((1, 3), 1e300)}, ValueError, "too large for float32"),
    ({"members": [0, 1, 2]}, ValueError, r"members has shape \(3,\): want two dimensions"),
    ({"members": [[0.0, 1.0]]}, TypeError, "members has dtype float64: want integers"),
    ({"members": [[0, 3]]}, ValueError, r"members\[1\] is 3: want row numbers below 3"),
    ({"members": [[0, -2]]}, ValueError, r"members\[1\] is -2"),
    ({"members": [[0, 1], [1, 2]]}, ValueError, "members has 2 rows for 1 points: pass owner"),
    ({"owner": [1]}, ValueError, r"owner\[0\] is 1: want row numbers below 1"),
    ({"owner": [-1]}, ValueError, r"owner\[0\] is -1"),
    ({"owner": [0, 0]}, ValueError, r"owner has shape \(2,\): want \(1,\)"),
    ({"mode": "certain"}, ValueError, "mode is 'certain': want"),
    ({"eps": -1.0}, ValueError, "eps holds a negative number"),
    ({"eps": np.nan}, ValueError, "eps holds a negative number, nan or inf"),
    ({"eps": [1.0, 2.0]}, ValueError, r"eps has shape \(2,\): want one number, or \(1,\)"),
    ({"relative_tolerance": 0.0}, ValueError, "relative_tolerance is 0.0: want a number between 0 and 1"),
    ({"relative_tolerance": np.nan}, ValueError, "relative_tolerance is nan"),
    ({"threads": 0}, ValueError, "threads is 0: want at least 1"),
    ({"threads": 1.5}, TypeError, "threads is 1.5: want a whole number"),
    ({"device": "tpu"}, ValueError, 'device="tpu"'),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_CALLS, ids=[str(bad[0]) for bad in BAD_CALLS])
def test_bad_calls_say_what_is_wrong(change, error, message):
    call = {"points": BASE[:1], "base": BASE, "members": [[0, 1, 2]], **change}
    with pytest.raises(error, match=message) as caught:
        solve_hulls(call.pop("points"), call.pop("base"), call.pop("members"), **call)
    assert not re.search("\n", str(caught.value))


def test_native_calls_grow_to_the_wanted_length_and_no_further(monkeypatch):
    sizes = []

    class Slow:
        def solve_hulls(self, points, base, storage, owner, members, eps, *, outputs, **options):
            sizes.append(len(members))
            time.sleep(1e-4 * len(members))
            for output in outputs:
                output[:] = 0

    monkeypatch.setattr(clear.hull, "get_backend", lambda device: Slow())
    monkeypatch.setattr(clear.hull, "CALL_SECONDS", 0.01)
    monkeypatch.setattr(clear.hull, "CALL_ELEMENTS", 10)
    result = solve_hulls(np.ones((500, 1)), np.ones((1, 1)), np.zeros((500, 1), dtype=int))
    assert sum(sizes) == 500
    assert sizes[0] == 10
    assert max(sizes) <= 100  # 0.01 s at 1e-4 s each
    assert (result.status == IN).all()


@pytest.mark.parametrize("mode", ["distance", "decide"])
@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_vertices_kept_in_16_bits_give_the_answers_of_their_float32(storage, mode):
    torch = pytest.importorskip("torch", reason="numpy has no bfloat16")
    rng = np.random.default_rng(5)
    kept = torch.from_numpy(rng.normal(size=(300, 37)).astype(np.float32)).to(getattr(torch, storage))
    wide = kept.float().numpy()
    members = rng.integers(0, 300, (60, 24))
    members[:, 20:] = -1
    members[1::2, :8] = members[::2, :8]
    members[1::2, 8:] = -1  # nested hulls of one point
    owner = np.repeat(np.arange(30), 2)
    points = wide[rng.integers(0, 300, 30)] * 0.5
    for base in (kept, kept.numpy()) if storage == "float16" else (kept,):
        expected, found = (solve_hulls(points, b, members, owner=owner, mode=mode) for b in (wide, base))
        for name in ("status", "lower", "upper", "eps", "weights", "directions"):
            assert np.array_equal(getattr(expected, name), getattr(found, name)), name


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_infinite_vertices_kept_in_16_bits_are_invalid(storage):
    torch = pytest.importorskip("torch", reason="numpy has no bfloat16")
    base = torch.tensor([[0.0, 0], [1, 0], [float("inf"), 1]], dtype=getattr(torch, storage))
    result = solve_hulls([[0.5, 1.0], [0.5, 1.0]], base, [[0, 1], [1, 2]])
    assert result.status.tolist() == [OUT, INVALID]


def test_vertex_sets_may_be_given_as_they_are():
    rng = np.random.default_rng(6)
    sets, points = rng.normal(size=(7, 5, 3)).astype(np.float32), rng.normal(size=(7, 3)).astype(np.float32)
    by_rows = solve_hulls(points, sets.reshape(35, 3), np.arange(35).reshape(7, 5))
    for given in (sets, sets.tolist()):
        direct = solve_hulls(points, given)
        assert np.array_equal(direct.upper, by_rows.upper)
        assert np.array_equal(direct.weights, by_rows.weights)
    with pytest.raises(ValueError, match=r"base has shape \(7, 5\): want \(problems, vertices, features\), or pass"):
        solve_hulls(points, sets[:, :, 0])


@pytest.mark.parametrize(("k", "d"), [(1024, 4096), (1024, 1), (1, 4096), (1024, 300)])
def test_the_largest_problems_are_proven(k, d):
    rng = np.random.default_rng(7)
    vertices = rng.normal(size=(k, d)).astype(np.float32)
    points = np.stack([vertices.mean(axis=0), vertices[0] + 10])
    for mode in ("decide", "distance"):
        result = solve_hulls(points, np.stack([vertices, vertices]), mode=mode)
        assert result.status.tolist() == [IN, OUT]
        for i in range(2):
            proof = {"weights": result.weights[i], "direction": result.directions[i], "lower": result.lower[i]}
            proof |= {"upper": result.upper[i], "status": int(result.status[i]), "eps": result.eps[i]}
            assert check_hull(vertices, points[i], **proof) == []
