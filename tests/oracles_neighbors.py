"""Nearest neighbours by the definition, in NumPy float64: written to be read, and tested itself."""

from __future__ import annotations

import numpy as np


def measure_distances(query, rows):
    """Distances from one query (d,) to rows (r, d): float64, summed in the order of csrc/clear/exact.hpp."""
    difference = rows.astype(np.float64) - query.astype(np.float64)
    part = np.zeros((8, len(rows)))
    for t, column in enumerate(difference.T):
        part[t % 8] += column * column
    squared = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]))
    return np.sqrt(squared)


def brute_force_neighbors(queries, base, k, *, rows=None, exclude=None):
    """The k nearest of `rows` for every query, by (distance, row); the tail is (+inf, -1)."""
    rows = np.arange(len(base)) if rows is None else np.asarray(rows)
    distances = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        admissible = rows if exclude is None else rows[rows != exclude[i]]
        found = measure_distances(query, base[admissible])
        order = np.lexsort((admissible, found))[:k]
        distances[i, : len(order)] = found[order]
        indices[i, : len(order)] = admissible[order]
    return distances, indices


def brute_force_by_class(queries, base, labels, k, classes, *, rows=None, exclude=None):
    """`brute_force_neighbors` within every class: (m, classes, k)."""
    rows = np.arange(len(base)) if rows is None else np.asarray(rows)
    members = [rows[labels[rows] == c] for c in range(classes)]
    found = [brute_force_neighbors(queries, base, k, rows=those, exclude=exclude) for those in members]
    return np.stack([d for d, _ in found], axis=1), np.stack([i for _, i in found], axis=1)
