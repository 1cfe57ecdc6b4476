"""Pieces of a training set that no node holds whole: its shards are searched one by one, what was found is measured.

The nearest rows of the whole are the nearest among those of its shards, in any grouping; equal distances are ordered by
row number. So each piece becomes tasks: search every shard, merge, gather the rows found from each shard, measure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np

from clear.config import SCAN_SCALE, ScanConfig
from clear.neighbors import NeighborIndex, Neighbors, merge_neighbors
from clear.pieces import Piece, measure_piece
from clear.prepare import Ints, Rows, row_type
from clear.reach import KEPT, Found, Replay
from clear.reference import Reference
from clear.work import Arrays, hash_array

__all__ = ["Keyed", "Shards", "measure_sharded"]

GATHERED = 128 << 20
"""Bytes that the rows found for a part of a piece may take in a task."""


class Keyed:
    """Something known by its key, so that a worker process unpacks equal ones once."""

    key: str

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and other.key == self.key


class Shard(Keyed):
    """Consecutive rows of a prepared training set."""

    def __init__(self, reference: Reference, start: int, stop: int) -> None:
        own = slice(start, stop)
        self.start, self.n_classes = start, reference.n_classes
        self.rows, self.labels, self.in_core = reference.rows[own], reference.labels[own], reference.in_core[own]
        self.distinct = reference.representative[own] == np.arange(start, stop)
        self.key = f"{start} {hash_array(self.rows)} {hash_array(self.in_core)}"


class Question(NamedTuple):
    """Distinct samples, and what of the whole training set their measuring depends on."""

    points: Rows
    labels: Ints
    numbers: Ints
    class_sizes: Ints
    config: ScanConfig
    rows: int
    keep: bool


class Shards:
    """A training set in the object store, in `count` shards, and the tasks that work on them."""

    def __init__(
        self, reference: Reference, count: int, put: Callable[[Any], Any], task: Callable[[Callable[..., Any]], Any]
    ) -> None:
        cuts = np.unique(np.linspace(0, len(reference.rows), count + 1).astype(np.int64)).tolist()
        self.reference = reference
        self.stored = [put(Shard(reference, start, stop)) for start, stop in pairwise(cuts)]
        self.search, self.merge, self.gather = task(search_shard), task(merge_found), task(gather_rows)
        self.measure, self.join = task(measure_found), task(join_parts)


def measure_sharded(shards: Shards, piece: Piece) -> list[Any]:
    """Hand out the tasks of a piece; the last of them returns what `measure_piece` does."""
    reference = shards.reference
    width, size = reference.rows.shape[1], reference.config.hull_size
    found = 2 * SCAN_SCALE.mates + size + reference.n_classes * size
    step = max(1, GATHERED // (found * (4 * width + 16)))
    tickets, parts = [], []
    for start in range(piece.start, piece.stop, step):
        units = reference.units[start : min(piece.stop, start + step)]
        points, labels = reference.rows[units], reference.labels[units]
        question = Question(
            points, labels, units, reference.class_sizes, reference.config, len(reference.rows), piece.keep
        )
        searched = [shards.search.remote(shard, question) for shard in shards.stored]
        merged = shards.merge.remote(*searched)
        gathered = [shards.gather.remote(shard, merged) for shard in shards.stored]
        parts.append(shards.measure.remote(question, merged, *gathered))
        tickets += [*searched, merged, *gathered]
    return [*tickets, *parts, shards.join.remote(*parts)]


def search_shard(shard: Shard, question: Question) -> Found:
    """Nearest rows in one shard."""
    every, core = _pack(shard)
    points, labels, numbers, config = question.points, question.labels, question.numbers, question.config
    here = (numbers >= shard.start) & (numbers < shard.start + len(shard.rows))
    own = np.where(here, numbers - shard.start, -1)
    peeled = SCAN_SCALE.mates + config.hull_size
    found = (
        every.search(points, k=SCAN_SCALE.mates, within=labels, exclude=own, threads=1),
        core.search(points, k=peeled, within=labels, exclude=own, threads=1),
        core.search_by_class(points, k=config.hull_size, without=labels, threads=1),
    )
    return Found(*(Neighbors(d, np.where(rows >= 0, rows + shard.start, -1)) for d, rows in found))


@lru_cache(maxsize=1)
def _pack(shard: Shard) -> tuple[NeighborIndex, NeighborIndex]:
    every = NeighborIndex(shard.rows, shard.labels, rows=shard.distinct, n_classes=shard.n_classes)
    return every, every.subset(shard.in_core)


def merge_found(*found: Found) -> Found:
    """The nearest among those of shards, which come in the order of their rows."""
    return Found(*(merge_neighbors(parts) for parts in zip(*found, strict=True)))


def gather_rows(shard: Shard, found: Found) -> tuple[Ints, Rows]:
    """Numbers, in order, and values of the rows found that this shard has."""
    numbers = np.unique(np.concatenate([near.indices.ravel() for near in found]))
    numbers = numbers[(numbers >= shard.start) & (numbers < shard.start + len(shard.rows))]
    return numbers, shard.rows[numbers - shard.start]


def measure_found(question: Question, found: Found, *gathered: tuple[Ints, Rows]) -> Arrays:
    """What `measure_piece` gives, from the rows found alone: numbered anew, behind the samples themselves."""
    m, run = len(question.points), (0, len(question.class_sizes))
    numbers = np.concatenate([part for part, _ in gathered])
    found = Found(*(Neighbors(d, np.where(rows >= 0, m + np.searchsorted(numbers, rows), -1)) for d, rows in found))
    known = Replay(run, dict(zip(KEPT, found, strict=True))).as_index()
    reference = SimpleNamespace(
        config=question.config,
        n_classes=run[1],
        class_sizes=question.class_sizes,
        rows=np.concatenate([question.points, *(rows for _, rows in gathered)]),
        labels=question.labels,
        order=np.arange(m),
        order_groups=None,
        index=lambda _: known,
        threads=1,
    )
    arrays = measure_piece(cast("Reference", reference), Piece(0, 0, m, keep=question.keep))
    for name in {"mates", *KEPT} & arrays.keys():
        near = arrays[name]
        arrays[name] = np.full(near.shape, -1, row_type(question.rows))
        arrays[name][near >= 0] = numbers[near[near >= 0] - m]
    return arrays


def join_parts(*parts: Arrays) -> Arrays:
    """The parts of a piece as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
