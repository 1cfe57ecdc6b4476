"""The oracles, on cases that a reader can check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from oracles_hull import hull_distance, is_inside

TRIANGLE = [[0, 0], [4, 0], [0, 3]]


@pytest.mark.parametrize(
    ("point", "distance"),
    [((1, 1), 0), ((0, 0), 0), ((2, 1.5), 0), ((2, -2), 2), ((-3, -4), 5), ((4, 3), 12 / 5), ((7, 0), 3)],
)
def test_distances_to_a_triangle(point, distance):
    assert hull_distance(TRIANGLE, point) == pytest.approx(distance, abs=1e-12)
    assert is_inside(TRIANGLE, point) == (distance == 0)


def test_the_distance_to_a_single_vertex_is_euclidean():
    assert hull_distance([[1, 2, 2]], [0, 0, 0]) == pytest.approx(3)
    assert hull_distance([[1, 2, 2]], [1, 2, 2]) == 0


def test_the_distance_does_not_depend_on_the_scale():
    assert hull_distance(np.array(TRIANGLE) * 1e20, np.array([4, 3]) * 1e20) == pytest.approx(2.4e20)
