"""The checker, on proofs that hold and proofs that do not."""

from __future__ import annotations

import numpy as np

from clear import HullStatus
from clear.check import check_hull

IN, OUT, UNDECIDED, INVALID = HullStatus


def test_the_checker_proves_nothing_without_a_proof():
    v, z = np.eye(2), np.array([2.0, 0.0])
    assert check_hull(v, z, upper=1.0) == ["upper: no weights to prove it"]
    assert check_hull(v, z, lower=0.5) == ["lower: the direction proves 0.0, less than 0.5"]
    assert check_hull(v, z, weights=[0.5, 0.4], upper=1.0)[0].startswith("weights:")
    assert check_hull(v, z, weights=[1.5, -0.5], upper=1.0)[0].startswith("weights:")
    assert check_hull(v, z, lower=0, upper=1, weights=[1, 0], status=INVALID) != []
    assert check_hull(v, z * np.nan, status=IN) != []
    assert check_hull(v[:0], z, status=IN) != []
    assert check_hull(v, z, lower=2.0, upper=1.0, weights=[1, 0], direction=[-1, 0]) != []
    proven = {"weights": [1, 0], "direction": [-1, 0], "lower": 0.9, "upper": 1.0, "eps": 0.5}
    assert check_hull(v, z, status=OUT, **proven) == []
    assert check_hull(v, z, status=UNDECIDED, **proven) != []
