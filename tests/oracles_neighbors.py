"""Nearest neighbours by the definition, in NumPy float64: written to be read, and tested itself."""

from __future__ import annotations

import numpy as np


def sum_columns(terms):
    """Sum (r, d) float64 terms over d in the order of csrc/clear/exact.hpp."""
    part = np.zeros((8, len(terms)))
    for t, column in enumerate(terms.T):
        part[t % 8] += column
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]))


def measure_products(query, rows):
    """Inner products of one query (d,) with rows (r, d), float64."""
    return sum_columns(rows.astype(np.float64) * query.astype(np.float64))


def measure_distances(query, rows, metric="euclidean"):
    """What is reported for one query (d,) and rows (r, d), float64: distances, or inner products."""
    if metric == "euclidean":
        return np.sqrt(sum_columns((rows.astype(np.float64) - query.astype(np.float64)) ** 2))
    products = measure_products(query, rows)
    if metric == "inner_product":
        return products
    squares = measure_products(query, query[None]) * sum_columns(rows.astype(np.float64) ** 2)
    zero = (query == 0).all() | (rows == 0).all(axis=1)
    return np.where(zero, 1.0, np.clip(1 - products / np.sqrt(np.where(zero, 1.0, squares)), 0, 2))


def brute_force_neighbors(queries, base, k, *, rows=None, exclude=None, metric="euclidean"):
    """The k nearest of `rows` for every query, by (distance, row); the tail is (+inf, -1).

    For inner products the largest are the nearest, and the tail is (-inf, -1).
    """
    sign = -1.0 if metric == "inner_product" else 1.0
    rows = np.arange(len(base)) if rows is None else np.asarray(rows)
    distances = np.full((len(queries), k), sign * np.inf)
    indices = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        admissible = rows if exclude is None else rows[rows != exclude[i]]
        found = measure_distances(query, base[admissible], metric)
        order = np.lexsort((admissible, sign * found))[:k]
        distances[i, : len(order)] = found[order]
        indices[i, : len(order)] = admissible[order]
    return distances, indices


def brute_force_by_class(queries, base, labels, k, classes, *, rows=None, exclude=None, metric="euclidean"):
    """`brute_force_neighbors` within every class: (m, classes, k)."""
    rows = np.arange(len(base)) if rows is None else np.asarray(rows)
    members = [rows[labels[rows] == c] for c in range(classes)]
    found = [brute_force_neighbors(queries, base, k, rows=those, exclude=exclude, metric=metric) for those in members]
    return np.stack([d for d, _ in found], axis=1), np.stack([i for _, i in found], axis=1)
