"""The hulls of a training set in pieces: each a function of the prepared set and a range of its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from clear._progress import Progress, track
from clear.collapse import Wrap, measure
from clear.config import SCAN_SCALE
from clear.prepare import Reference
from clear.work import PIECE_ROWS, Arrays, Work

__all__ = ["Engine", "LocalEngine", "Piece", "measure_in_pieces", "measure_piece"]

STAGE = "hulls"


class Engine(Protocol):
    """Something that computes pieces, in any order, and survives what may happen meanwhile."""

    def run(self, reference: Reference, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]: ...


class LocalEngine:
    """One piece after the other in this process; threads are inside the native code."""

    def run(self, reference: Reference, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]:
        for piece in pieces:
            yield piece, measure_piece(reference, piece)


class Piece(NamedTuple):
    """A range of the distinct samples of a training set."""

    number: int
    start: int
    stop: int


def measure_piece(reference: Reference, piece: Piece) -> Arrays:
    """Hull distances of one range of distinct samples; the same wherever and however often it is computed."""
    units = reference.units[piece.start : piece.stop]
    wrap = measure(reference, reference.rows[units], reference.labels[units], (SCAN_SCALE,), exclude=units)
    return {
        "pocket": wrap.pocket[0],
        "own": wrap.own[0],
        "own_size": wrap.own_size[0],
        "other": wrap.other,
        "other_label": wrap.other_label,
        "mates": wrap.mates,
    }


def measure_in_pieces(
    reference: Reference,
    *,
    work: Work | None = None,
    engine: Engine | None = None,
    piece_rows: int = PIECE_ROWS,
    progress: Progress = False,
) -> Wrap:
    """Measure all distinct samples; with `work` each piece is stored when done, and done ones are not repeated."""
    units = reference.units
    if work is None and engine is None:  # nothing to gain from pieces
        rows, labels = reference.rows[units], reference.labels[units]
        return measure(reference, rows, labels, (SCAN_SCALE,), exclude=units, progress=progress, stage=STAGE)
    starts = range(0, len(units), piece_rows)
    pieces = [Piece(i, start, min(len(units), start + piece_rows)) for i, start in enumerate(starts)]
    found = {} if work is None else _load_finished(work, pieces)
    missing = [piece for piece in pieces if piece.number not in found]
    with track(progress, STAGE, len(units)) as advance:
        advance(sum(len(arrays["other"]) for arrays in found.values()))
        _check_time(work, len(found), len(pieces))
        for piece, arrays in (engine or LocalEngine()).run(reference, missing):
            if work is not None:
                work.save(STAGE, piece.number, arrays)
            found[piece.number] = arrays
            advance(piece.stop - piece.start)
            _check_time(work, len(found), len(pieces))
    return _as_wrap([found[piece.number] for piece in pieces])


def _load_finished(work: Work, pieces: list[Piece]) -> dict[int, Arrays]:
    loaded = ((piece.number, work.load(STAGE, piece.number)) for piece in pieces)
    return {number: arrays for number, arrays in loaded if arrays is not None}


def _check_time(work: Work | None, done: int, count: int) -> None:
    if work is not None and done < count:
        work.check_time(STAGE, done, count)


def _as_wrap(parts: list[Arrays]) -> Wrap:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Wrap(
        [whole["pocket"]], [whole["own"]], [whole["own_size"]], whole["other"], whole["other_label"], whole["mates"]
    )
