"""EPIC (Yang, Liu, Mirzasoleiman 2022): while a model trains, drop the samples that are alone in gradient space."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from torch import nn

from bench.quality.laboratory import EPOCHS, new_head, probabilities, train_head

DROP_AFTER = 10
"""Epochs before samples are dropped for the first time, and between one time and the next."""
SUBSET = 0.2
"""Medoids for each class, as a share of its samples."""
MOST_OF_A_CLASS = 1000
"""Of larger classes the greedy choice of medoids takes minutes."""


def train_with_epic(features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> nn.Linear | None:
    """A new head that drops isolated samples for good as it trains; None where classes are too large."""
    if np.bincount(labels).max() > MOST_OF_A_CLASS:
        return None
    head, kept = new_head(features.shape[1], classes, seed), np.arange(len(labels))
    for _ in range(EPOCHS // DROP_AFTER):
        train_head(features[kept], labels[kept], classes, seed, head=head, epochs=DROP_AFTER)
        gradients = probabilities(head, features[kept]) - np.eye(classes)[labels[kept]]
        kept = kept[~isolated(gradients, labels[kept])]
    return head


def isolated(gradients: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each sample is the medoid of a cluster of one, bool (n,).

    gradients float (n, classes): of the loss by the logits. The medoids of a class are chosen greedily, as those that
    lie nearest to all of it (facility location), and every sample belongs to its nearest one.
    """
    alone = np.zeros(len(labels), np.bool_)
    for label in np.flatnonzero(np.bincount(labels) > 1):
        rows = np.flatnonzero(labels == label)
        apart = cdist(gradients[rows], gradients[rows])
        nearest, medoids = np.full(len(rows), apart.max()), []
        for _ in range(max(1, round(SUBSET * len(rows)))):
            gain = np.maximum(nearest[:, None] - apart, 0).sum(axis=0)
            gain[medoids] = -1
            medoids.append(int(gain.argmax()))
            nearest = np.minimum(nearest, apart[:, medoids[-1]])
        owner = apart[:, medoids].argmin(axis=1)
        owner[medoids] = np.arange(len(medoids))
        single = np.flatnonzero(np.bincount(owner, minlength=len(medoids)) == 1)
        alone[rows[np.array(medoids)[single]]] = True
    return alone
