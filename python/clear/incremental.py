"""New samples join a finished scan: they are measured, and of the old ones those that a new one comes near to.

What is fitted stays that of the finished scan: mean and projection, classes, the classifier that picks the core (of new
samples: its first fold's), and the few rows that stand for a class in the test for crowds. Measured under these, every
number is the one that a scan of all samples would give: a new sample changes an old one's hull only where it is nearer
than the farthest row that the hull was chosen from, and this distance is kept in the pieces (`clear.reach`). A scan
that kept these rows, too, is joined without searching the old ones again (`clear.kept`), and what joined it can be kept
as the folder of a finished scan of all, which the next samples join.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_labels
from clear._documents import damage_named, read_document
from clear._files import MANIFEST
from clear._progress import Progress, track
from clear.class_index import class_runs
from clear.collapse import Wrap, empty_wrap
from clear.config import ScanConfig
from clear.cross_validation import STAGE as CORE
from clear.cross_validation import predict, split_folds
from clear.crowd import STAGE as CROWDS
from clear.crowd import far_distances
from clear.data import Features
from clear.far_rows import FarRows
from clear.kept import FurtherPieces, New, kept_parts
from clear.neighbors import NeighborIndex
from clear.pieces import (
    NEAR,
    STAGE,
    Piece,
    add_piece,
    all_classes,
    cut_pieces,
    has_parts,
    measure_piece,
    stored_parts,
)
from clear.prepare import (
    Ints,
    Rows,
    apply_preparation,
    describe_samples,
    distinct_rows,
    find_representatives,
    fit_preparation,
    thin_classes,
)
from clear.reach import KEPT
from clear.reference import Parts, Reference, scan_inputs
from clear.results import Preparation, Views
from clear.touched import TOUCHED, SearchedPart, find_touched, measure_part
from clear.work import MAX_MANIFEST, PIECE_ROWS, SCHEMA, Arrays, Work, cut, hash_array

__all__ = ["Joining", "hash_views", "join_scan"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
REACH = ("reach", "own_reach")
"""Distances within which a new row changes a hull of an old sample; see `Recorder.reach`."""
FITTED = "fitted"
"""Of the samples of a folder of work: how many of the first the mean, projection and classifiers were fitted to."""


@dataclass(frozen=True, slots=True)
class Joining:
    """All samples, measured, and the old ones as the finished scan had them."""

    reference: Reference
    wrap: Wrap
    before: Reference
    """Stands in for the finished scan's reference: rows' labels, core and copies, without indices."""
    wrap_before: Wrap
    measured_again: int
    """Distinct old samples of which a hull was measured again."""
    fitted: int
    """Of so many of the first samples is what stays as it was fitted."""


class Finished(NamedTuple):
    """What the manifest of a finished scan says."""

    samples: int
    fitted: int
    classes: int
    piece_rows: int

    def inputs(self, rows: Rows, labels: Ints, config: ScanConfig) -> dict[str, Any]:
        """What the pieces of a scan of these rows depend on, of which the first were fitted to."""
        fitted = {} if self.fitted == self.samples else {FITTED: self.fitted}
        return scan_inputs(rows, labels, self.classes, config) | fitted


class Prepared(NamedTuple):
    """All samples, as the finished scan prepared its own."""

    preparation: Preparation
    rows: Rows
    labels: Ints
    representative: Ints
    units: Ints


def join_scan(
    features: Features,
    previous: str | os.PathLike[str],
    *,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
    views: Views | None = None,
    workdir: str | os.PathLike[str] | None = None,
) -> Joining:
    """Measure `features`, whose first rows are those of the scan that has its work in the folder `previous`.

    `views` are only compared with those that the finished scan had. workdir: a folder for what a scan of all would
    keep.
    """
    config, finished = config or ScanConfig(), _read_finished(previous)
    if workdir is not None:
        _check_workdir(workdir, previous)
    n, known = len(features.labels), finished.samples
    if known >= n:
        raise ValueError(f"features has {n} samples, the scan in {previous} {known}: want these first, then new ones")
    prepared = _prepare(features, finished, config, progress)
    rows, labels, units = prepared.rows, prepared.labels, prepared.units
    work = Work(previous, piece_rows=finished.piece_rows, finished=True)
    work.begin(finished.inputs(rows[:known], labels[:known], config))
    _check_views(work, views, known, n)
    old = int(np.searchsorted(units, known))
    kept, further = _are_kept(work, labels[units[:old]], rows.shape[1], finished.classes), None
    if workdir is not None:
        if not kept:
            raise _not_kept(previous)
        further = Work(workdir, piece_rows=work.piece_rows, views=hash_views(views))
        further.begin(finished._replace(samples=n).inputs(rows, labels, config))
    agrees, margin = _predict_core(prepared, finished, config, work, further)
    reference = _make_reference(features, prepared, finished, config, agrees, margin, threads)
    before = _stand_in(reference, known, float(agrees[:old].mean()))
    wrap_before, reach = _load_wrap(work, before, progress)
    every = NeighborIndex(rows, labels, rows=units[old:], n_classes=finished.classes)
    new = New(every, every.subset(reference.in_core))
    own, others = find_touched(reference, before, reach, new, progress)
    wrap = _with_room(wrap_before, len(units), n)
    pieces = None if further is None else FurtherPieces(further, reference, wrap)
    if kept:
        with track(progress, TOUCHED, old) as advance:
            for part in kept_parts(reference, before, work, new, reach):
                measure_part(reference, part, own[part.place], others[part.place], wrap)
                if pieces is not None:
                    pieces.add(part.kept)
                advance(part.place.stop - part.place.start)
                del part  # before the next is read
    else:
        measure_part(reference, SearchedPart(reference, before, progress), own, others, wrap, progress)
    _measure_new(reference, wrap, old, pieces, progress)
    again = int((own | others.any(axis=1)).sum())
    return Joining(reference, wrap, before, wrap_before, again, finished.fitted)


def _read_finished(previous: str | os.PathLike[str]) -> Finished:
    path = Path(previous) / MANIFEST
    with damage_named(path):
        inputs = read_document(path, SCHEMA, what="folder of work", limit=MAX_MANIFEST)["inputs"]
        samples, classes, piece_rows = (int(inputs[name]) for name in ("samples", "classes", "piece_rows"))
        return Finished(samples, int(inputs.get(FITTED, samples)), classes, piece_rows)


def _prepare(features: Features, finished: Finished, config: ScanConfig, progress: Progress) -> Prepared:
    values = as_features(features.values, progress=progress)
    labels = as_labels(features.labels, len(values), classes=finished.classes)
    preparation = fit_preparation(values, config, rows=finished.fitted, progress=progress)
    rows = apply_preparation(values, preparation, progress=progress)
    first = find_representatives(rows, labels)
    return Prepared(preparation, rows, labels, first, distinct_rows(first))


def _make_reference(
    features: Features,
    prepared: Prepared,
    finished: Finished,
    config: ScanConfig,
    agrees: Mask,
    margin: Floats,
    threads: int | None,
) -> Reference:
    """All samples, under what the finished scan has fitted; agrees, margin: of the distinct ones."""
    preparation, rows, labels, first, units = prepared
    classes, n = finished.classes, len(rows)
    count = int(np.searchsorted(units, finished.fitted))
    fitted, sizes = labels[units[:count]], np.bincount(labels[units[:count]], minlength=classes)
    in_core = np.zeros(n, np.bool_)
    in_core[units] = agrees | np.isin(labels[units], thin_classes(fitted, agrees[:count], sizes, config))
    notes = tuple(describe_samples(n, units, np.bincount(labels[units], minlength=classes).astype(np.int64)))
    facts = (classes, features.class_names, features.source, preparation, config, notes)
    parts = Parts(rows, labels, first, in_core[first], float(agrees.mean()), *facts)
    reference = Reference.restore(parts, threads=threads)
    reference.features = features
    reference.margin[units] = margin
    reference.margin = reference.margin[first]
    reference.divide()
    core, known = units[:count][in_core[units[:count]]], slice(0, finished.fitted)
    reference.far = FarRows(rows[known], labels[known], core, classes, config.hull_size, config.seed)
    return reference


def _stand_in(reference: Reference, known: int, core_accuracy: float) -> Reference:
    """What stands in for the finished scan's reference."""
    old = reference.units[: np.searchsorted(reference.units, known)]
    sizes = np.bincount(reference.labels[old], minlength=reference.n_classes)
    before = SimpleNamespace(
        config=reference.config,
        features=SimpleNamespace(values=reference.features.values[:known]),
        margin=reference.margin[:known],
        n_classes=reference.n_classes,
        labels=reference.labels[:known],
        units=old,
        order=old,
        representative=reference.representative[:known],
        in_core=reference.in_core[:known],
        core_accuracy=core_accuracy,
        class_sizes=sizes.astype(np.int64),
        rows=reference.rows[:known],
        threads=reference.threads,
        place=None,
        far=reference.far,
    )
    return cast("Reference", before)


def hash_views(views: Views | None) -> list[str]:
    """What a folder of work keeps of the views of its scan: what joins it wants the same. Empty without views."""
    if views is None:
        return []
    parts = (views.early, views.label_drop, views.prediction_drop, views.late, views.late_mirrored)
    return ["" if part is None else hash_array(part) for part in parts]


def _check_views(work: Work, views: Views | None, known: int, n: int) -> None:
    if views is not None and len(views) != n:
        raise ValueError(f"views has {len(views)} samples: want the {n} of the features, in the same order")
    stored = work.read_views()
    if not stored and views is not None:
        raise ValueError(
            f"the scan in {work.folder} had no views: want none here, so that its levels can be compared; the command "
            "scan takes them from the file NAME.views.npz beside the features: move that away"
        )
    if stored and views is None:
        raise ValueError(
            f"the scan in {work.folder} had views: want views of all samples, so that its levels can be compared; the "
            "command scan takes them from the file NAME.views.npz beside the features (features --views writes it)"
        )
    if views is not None and stored != hash_views(views.first(known)):
        raise ValueError(f"views of the first {known} samples differ from those of the scan in {work.folder}")


def _predict_core(
    prepared: Prepared, finished: Finished, config: ScanConfig, work: Work, further: Work | None
) -> tuple[Mask, Floats]:
    """Whether the finished scan's classifiers agree with the labels of the distinct samples, and its first one where
    they were not fitted to these; margins. further: where the classifiers are kept, too."""
    rows, labels, units = prepared.rows, prepared.labels, prepared.units
    fitted = int(np.searchsorted(units, finished.fitted))
    predicted, margin = np.empty(len(units), np.int64), np.empty(len(units))
    joining = np.arange(fitted, len(units))
    for fold, (_, held_out) in enumerate(split_folds(fitted, config)):
        arrays = work.load(CORE, fold) or work.missing(CORE, fold)
        parts = [(held_out, arrays)]
        if fold == 0:
            parts.append((joining, predict(arrays, rows[units[joining]], labels[units[joining]])))
        for at, found in parts:
            predicted[at], margin[at] = found["predicted"], found["margin"]
        if further is not None:
            further.save(CORE, fold, arrays)
    return predicted == labels[units], margin


def _load_wrap(work: Work, before: Reference, progress: Progress) -> tuple[Wrap, Arrays]:
    """The finished scan's hulls, and how near a row must be to change them (`REACH`)."""
    m, far = len(before.units), np.empty(len(before.units))
    wrap = empty_wrap(m, 1, len(before.labels))
    reach = {name: np.empty((m, before.n_classes)[: 2 - at], np.float32) for at, name in enumerate(REACH)}
    ranges = cut_pieces(m, work.piece_rows)
    with track(progress, "collect", len(ranges), "pieces") as advance:
        for whole in ranges:
            parts = stored_parts(before, work, whole) or work.missing(STAGE, whole.number)
            for piece, arrays in parts:
                add_piece(before, wrap, piece, arrays)
            for name, values in all_classes(before, parts, REACH).items():
                reach[name][whole.start : whole.stop] = values
            stored = work.load(CROWDS, whole.number) or work.missing(CROWDS, whole.number)
            far[whole.start : whole.stop] = stored["far"]
            advance(1)
    return replace(wrap, far=far), reach


def _check_workdir(workdir: str | os.PathLike[str], previous: str | os.PathLike[str]) -> None:
    """Refuse what cannot be, before anything is read."""
    if Path(workdir).resolve() == Path(previous).resolve():
        raise ValueError(f"workdir is {workdir}, the folder of the finished scan: want another one")
    if not any(Path(previous).glob(f"{NEAR}-*")):
        raise _not_kept(previous)


def _not_kept(previous: str | os.PathLike[str]) -> ValueError:
    return ValueError(
        f"the scan in {previous} did not keep the neighbours of all its samples, which a workdir of all samples needs: "
        "give it again with keep_neighbors=True (--keep-neighbors), the same workdir and, if it had one, the same "
        "previous; or join without workdir"
    )


def _are_kept(work: Work, labels: Ints, width: int, classes: int) -> bool:
    """Whether the scan kept the neighbours of its distinct samples; ValueError where it is not finished."""
    runs = class_runs(np.bincount(labels, minlength=classes), width)
    pieces = cut_pieces(len(labels), work.piece_rows)
    for piece in pieces:
        if not has_parts(work, piece, runs):
            work.missing(STAGE, piece.number)
        if not work.has(CROWDS, piece.number):
            work.missing(CROWDS, piece.number)
    return all(has_parts(work, piece, runs, NEAR) for piece in pieces)


def _with_room(before: Wrap, count: int, rows: int) -> Wrap:
    """The hulls of the old samples, with room for those of `count` among so many rows."""
    wrap, old = empty_wrap(count, 1, rows), len(before.other)
    for name in ("pocket", "own", "own_size"):
        getattr(wrap, name)[0][:old] = getattr(before, name)[0]
    for name in ("other", "other_label", "mates"):
        getattr(wrap, name)[:old] = getattr(before, name)
    assert before.far is not None  # noqa: S101 - as loaded
    return replace(wrap, far=np.concatenate([before.far, np.empty(count - old)]))


def _measure_new(reference: Reference, wrap: Wrap, old: int, pieces: FurtherPieces | None, progress: Progress) -> None:
    """Enter the new samples, those behind the old ones."""
    count = len(reference.units)
    runs = [None] if len(reference.runs) == 1 else reference.runs
    assert wrap.far is not None  # noqa: S101 - there is room
    with track(progress, "new samples", count - old) as advance:
        for part in cut(count - old, PIECE_ROWS):
            whole = Piece(0, old + part.start, old + part.stop, keep=pieces is not None)
            parts = []
            for run in runs:
                piece = whole._replace(run=run)
                parts.append((piece, measure_piece(reference, piece)))
                add_piece(reference, wrap, *parts[-1])
            rows = reference.units[whole.start : whole.stop]
            wrap.far[whole.start : whole.stop] = far_distances(
                reference, reference.rows[rows], reference.labels[rows], rows
            )
            if pieces is not None:
                pieces.add(all_classes(reference, parts, (*REACH, *KEPT)))
            advance(len(part))
