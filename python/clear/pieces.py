"""The hulls of a training set in pieces: functions of the prepared set, a range of its samples and some classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from clear._arrays import forget
from clear._progress import Progress, track
from clear.class_index import Run, class_runs
from clear.collapse import Wrap, empty_wrap, keep_nearer, measure_run
from clear.config import SCAN_SCALE
from clear.prepare import Ints
from clear.reach import KEPT, OTHERS, Recorder
from clear.reference import Reference, positions
from clear.work import PIECE_ROWS, Arrays, Work, cut

__all__ = [
    "LOCAL_ROWS",
    "NEAR",
    "Engine",
    "LocalEngine",
    "Piece",
    "add_piece",
    "all_classes",
    "cut_pieces",
    "has_parts",
    "measure_in_pieces",
    "measure_piece",
    "of_run",
    "save_piece",
    "stored_parts",
]

STAGE, NEAR = "hulls", "near"
BY_CLASS = ("reach", OTHERS)
LOCAL_ROWS = 1 << 14
"""Samples in a piece that is not stored."""


class Engine(Protocol):
    """Something that computes pieces, in any order, and survives what may happen meanwhile."""

    def run(self, reference: Reference, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]: ...


class LocalEngine:
    """One piece after the other in this process; threads are inside the native code."""

    def run(self, reference: Reference, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]:
        for piece in pieces:
            yield piece, measure_piece(reference, piece)


class Piece(NamedTuple):
    """A range of the distinct samples of a training set in their order, measured against a run of its classes."""

    number: int
    start: int
    stop: int
    run: Run | None = None
    """None for all classes."""
    keep: bool = False
    """Whether the rows that the hulls were chosen from are kept, too (`reach.KEPT`)."""


def measure_piece(reference: Reference, piece: Piece) -> Arrays:
    """Hull distances of one range of distinct samples; the same wherever and however often it is computed.

    Against a run of classes: own hulls and mates of the samples with a label of the run, in order.
    """
    units = reference.order[piece.start : piece.stop]
    run = piece.run or (0, reference.n_classes)
    labels, groups = reference.labels[units], reference.order_groups
    recorder = Recorder(reference.index(run), labels, len(reference.rows) if piece.keep else None)
    wrap = measure_run(
        reference,
        recorder.as_index(),
        reference.rows[units],
        labels,
        (SCAN_SCALE,),
        exclude=units,
        groups=None if groups is None else groups[piece.start : piece.stop].astype(np.int64),
    )
    mine = of_run(labels, run)
    return {
        "pocket": wrap.pocket[0][mine],
        "own": wrap.own[0][mine],
        "own_size": wrap.own_size[0][mine],
        "other": wrap.other,
        "other_label": wrap.other_label,
        "mates": wrap.mates[mine],
        **recorder.reach(),
        **recorder.kept(),
    }


def measure_in_pieces(
    reference: Reference,
    *,
    work: Work | None = None,
    engine: Engine | None = None,
    piece_rows: int = PIECE_ROWS,
    keep: bool = False,
    progress: Progress = False,
) -> Wrap:
    """Measure all distinct samples; with `work` each piece is stored when done, and done ones are not repeated.

    The entries of the result are those of `reference.units`. keep: store the rows that hulls were chosen from, too.
    """
    count = len(reference.units)
    if work is None and engine is None:
        piece_rows = max(piece_rows, LOCAL_ROWS)  # nothing to gain from small ones
    runs = [None] if len(reference.runs) == 1 else reference.runs
    ranges = cut_pieces(count, piece_rows)
    pieces = [piece._replace(run=run, keep=keep) for run in runs for piece in ranges]  # one index at a time
    engine = engine or LocalEngine()
    with track(progress, STAGE, count * len(reference.runs)) as advance:
        if work is not None:
            _store_pieces(reference, work, pieces, engine, advance)
            reference.release()
        # only now: until here memory went to the index
        wrap = empty_wrap(count, 1, len(reference.rows), reference.place)
        if work is None:
            for piece, arrays in engine.run(reference, pieces):
                add_piece(reference, wrap, piece, arrays)
                advance(piece.stop - piece.start)
        else:
            with track(progress, "collect", len(ranges), "pieces") as collected:
                for whole in ranges:
                    stored = stored_parts(reference, work, whole)
                    for piece, arrays in stored or engine.run(reference, [whole._replace(run=run) for run in runs]):
                        add_piece(reference, wrap, piece, arrays)
                    collected(1)
    forget(wrap.mates)
    return wrap


def _store_pieces(
    reference: Reference, work: Work, pieces: list[Piece], engine: Engine, advance: Callable[[int], None]
) -> None:
    """Measure and store the pieces that are not stored yet, by whichever engine, as long as there is time."""
    ranges = dict.fromkeys(piece._replace(run=None) for piece in pieces)
    stored = {whole.number: _stored_runs(reference, work, whole) for whole in ranges}
    missing = []
    for piece in pieces:
        if stored[piece.number] & {None, piece.run}:
            advance(piece.stop - piece.start)
        else:
            missing.append(piece)
    done = len(pieces) - len(missing)
    _check_time(work, done, len(pieces))
    for piece, arrays in engine.run(reference, missing):
        save_piece(work, piece, arrays)
        del arrays  # before the next are made
        advance(piece.stop - piece.start)
        done += 1
        _check_time(work, done, len(pieces))


def cut_pieces(count: int, piece_rows: int) -> list[Piece]:
    """Ranges of distinct samples, for all classes."""
    return [Piece(i, part.start, part.stop) for i, part in enumerate(cut(count, piece_rows))]


def _stored_runs(reference: Reference, work: Work, whole: Piece) -> set[Run | None]:
    """The runs of classes that are stored of a range of samples: None alone where that is all. Each is loaded once."""
    if _is_stored(work, whole):
        return {None}
    runs = class_runs(reference.class_sizes, reference.rows.shape[1])
    found = {run for run in runs if _is_stored(work, whole._replace(run=run))}
    return {None} if len(found) == len(runs) else {*found}


def _is_stored(work: Work, piece: Piece) -> bool:
    stages = (STAGE, NEAR) if piece.keep else (STAGE,)
    return all(work.load(*name_piece(piece, stage)) is not None for stage in stages)


def stored_parts(reference: Reference, work: Work, whole: Piece, stage: str = STAGE) -> list[tuple[Piece, Arrays]]:
    """What is stored of a range of samples: one piece for all classes, or one for each run; empty if any is missing."""
    for runs in ([None], class_runs(reference.class_sizes, reference.rows.shape[1])):
        parts = []
        for piece in (whole._replace(run=run) for run in runs):
            arrays = work.load(*name_piece(piece, stage))
            if arrays is None:
                break
            parts.append((piece, arrays))
        else:
            return parts
    return []


def all_classes(reference: Reference, parts: list[tuple[Piece, Arrays]], names: Sequence[str]) -> Arrays:
    """Arrays of a range of samples for all classes: those of one piece, or put together from pieces of runs."""
    whole, arrays = parts[0]
    if whole.run is None:
        return {name: arrays[name] for name in names}
    labels = reference.labels[reference.order[whole.start : whole.stop]]
    return {name: _of_runs(labels, reference.n_classes, parts, name) for name in names}


def _of_runs(labels: Ints, classes: int, parts: list[tuple[Piece, Arrays]], name: str) -> npt.NDArray[Any]:
    """An array with an entry for every sample, (m, ...), or, if it is one of `BY_CLASS`, for every class of it, too."""
    of_runs = [(piece.run or (0, classes), arrays[name]) for piece, arrays in parts]
    if name in BY_CLASS:
        return np.concatenate([array for _, array in of_runs], axis=1)  # runs come in the order of the classes
    mine = np.concatenate([of_run(labels, run) for run, _ in of_runs])
    stored = np.concatenate([array for _, array in of_runs if len(array)])
    whole = np.empty_like(stored)
    whole[mine] = stored
    return whole


def has_parts(work: Work, whole: Piece, runs: list[Run], stage: str = STAGE) -> bool:
    """Whether there are files of a range of samples, sound or not: one for all classes, or one for each run."""
    parts = [whole._replace(run=run) for run in runs]
    return work.has(*name_piece(whole, stage)) or all(work.has(*name_piece(part, stage)) for part in parts)


def save_piece(work: Work, piece: Piece, arrays: Arrays) -> None:
    """Store a piece; the rows that its hulls were chosen from first, in a file of their own."""
    near = {name: arrays[name] for name in KEPT if name in arrays}
    if near:
        work.save(*name_piece(piece, NEAR), near)
    work.save(*name_piece(piece), {name: array for name, array in arrays.items() if name not in near})


def name_piece(piece: Piece, stage: str = STAGE) -> tuple[str, int]:
    """Stage and number under which a piece is stored."""
    return (stage if piece.run is None else f"{stage}-{piece.run[0]}-{piece.run[1]}"), piece.number


def of_run(labels: Ints, run: Run) -> Ints:
    """Positions of the labels of a run."""
    return np.flatnonzero((labels >= run[0]) & (labels < run[1]))


def add_piece(reference: Reference, wrap: Wrap, piece: Piece, arrays: Arrays) -> None:
    """Enter a piece in the result; those of a range of samples come in any order of their runs."""
    units = reference.order[piece.start : piece.stop]
    at = positions(reference, units)
    keep_nearer(wrap, at, arrays["other"], arrays["other_label"])
    at = at[of_run(reference.labels[units], piece.run or (0, reference.n_classes))]
    wrap.pocket[0][at], wrap.own[0][at] = arrays["pocket"], arrays["own"]
    wrap.own_size[0][at], wrap.mates[at] = arrays["own_size"], arrays["mates"]


def _check_time(work: Work, done: int, count: int) -> None:
    if done < count:
        work.check_time(STAGE, done, count)
