"""Label flips: no image is changed, the labels are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_labels, to_numpy

__all__ = ["flip_labels"]


def flip_labels(
    labels: Any, n_flips: int, n_classes: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give random samples a random wrong label.

    Parameters
    ----------
    labels : array of int, shape (n,)
    n_flips : int
        From 1 to n.
    n_classes : int
        From 2.
    seed : int

    Returns
    -------
    poisoned : array of int64, shape (n,)
    rows : array of int64, shape (n_flips,)
        The flipped samples, ascending.

    Raises
    ------
    TypeError, ValueError
        Labels or counts out of range.

    Notes
    -----
    A network that memorises such labels misclassifies exactly these samples and no others: no trigger is involved.
    Zhang et al., "Understanding deep learning requires rethinking generalization" (ICLR 2017), show that it will.

    Examples
    --------
    >>> import numpy as np
    >>> from clear.attacks import flip_labels
    >>> poisoned, rows = flip_labels(np.zeros(6, np.int64), 2, n_classes=3, seed=0)
    >>> len(rows), int((poisoned != 0).sum())
    (2, 2)
    """
    classes = as_count(n_classes, "n_classes", low=2)
    given = as_labels(labels, len(to_numpy(labels)), classes=classes)
    count = as_count(n_flips, "n_flips", high=len(given), why=" (the number of samples)")
    rng = np.random.default_rng(as_count(seed, "seed", low=0))
    rows = np.sort(rng.choice(len(given), count, replace=False))
    poisoned = given.copy()
    poisoned[rows] = (given[rows] + rng.integers(1, classes, count)) % classes
    return poisoned, rows
