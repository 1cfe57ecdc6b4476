"""New samples join a finished scan: they are measured, and of the old ones those that a new one comes near to.

What is fitted stays that of the finished scan: mean and projection, classes, the classifier that picks the core (of new
samples: its first fold's), and the few rows that stand for a class in the test for crowds. Measured under these, every
number is the one that a scan of all samples would give: a new sample changes an old one's hull only where it is nearer
than the farthest row that the hull was chosen from, and this distance is kept in the pieces (`clear.reach`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np
import numpy.typing as npt

from clear._arrays import as_features, as_labels, blocks
from clear._documents import damage_named, read_document
from clear._files import MANIFEST
from clear._progress import Progress, track, tracked
from clear.collapse import Wrap, count_peeled, distances, empty_wrap, measure, nearest_other
from clear.config import SCAN_SCALE, ScanConfig
from clear.cross_validation import STAGE as CORE
from clear.cross_validation import predict, split_folds
from clear.crowd import STAGE as CROWDS
from clear.crowd import far_distances
from clear.data import Features
from clear.far_rows import FarRows
from clear.neighbors import NeighborIndex
from clear.pieces import STAGE, add_piece, cut_pieces, of_run, stored_parts
from clear.prepare import (
    Ints,
    Rows,
    apply_preparation,
    describe_samples,
    find_representatives,
    fit_preparation,
    thin_classes,
)
from clear.reference import Parts, Reference, scan_inputs
from clear.results import Views
from clear.work import MAX_MANIFEST, SCHEMA, Work, hash_array

__all__ = ["Joining", "hash_views", "join_scan"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
PAIR_BYTES = 64 << 20


class Reach(NamedTuple):
    """Distances within which a new row changes a hull of an old sample; see `Recorder.reach`."""

    of_core: npt.NDArray[np.float32]
    of_mates: npt.NDArray[np.float32]


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


def join_scan(
    features: Features,
    previous: str | os.PathLike[str],
    *,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
    views: Views | None = None,
) -> Joining:
    """Measure `features`, whose first rows are those of the scan that has its work in the folder `previous`.

    `views` are only compared with those that the finished scan had.
    """
    path = Path(previous) / MANIFEST
    with damage_named(path):
        inputs = read_document(path, SCHEMA, what="folder of work", limit=MAX_MANIFEST)["inputs"]
        known, n_classes, piece_rows = (int(inputs[name]) for name in ("samples", "classes", "piece_rows"))
    n = len(features.labels)
    if known >= n:
        raise ValueError(f"features has {n} samples, the scan in {previous} {known}: want these first, then new ones")
    config = config or ScanConfig()
    values = as_features(features.values, progress=progress)
    labels = as_labels(features.labels, n, classes=n_classes)
    preparation = fit_preparation(values, config, rows=known, progress=progress)
    rows = apply_preparation(values, preparation, progress=progress)
    work = Work(previous, piece_rows=piece_rows, finished=True)
    work.begin(scan_inputs(rows[:known], labels[:known], n_classes, config))
    _check_views(work, views, known, n)
    first = find_representatives(rows, labels)
    units = np.flatnonzero(first == np.arange(n))
    old, new = units[units < known], units[units >= known]
    agrees, margin = _predict_core(rows, labels, old, new, n_classes, config, work)
    accuracy = float(agrees.mean())
    thin = thin_classes(labels[old], agrees[: len(old)], np.bincount(labels[old], minlength=n_classes), config)
    in_core = np.zeros(n, np.bool_)
    in_core[units] = agrees | np.isin(labels[units], thin)
    sizes = np.bincount(labels[units], minlength=n_classes).astype(np.int64)
    notes = tuple(describe_samples(n, units, sizes))
    facts = (n_classes, features.class_names, features.source, preparation, config, notes)
    reference = Reference.restore(Parts(rows, labels, first, in_core[first], accuracy, *facts), threads=threads)
    reference.features = features
    reference.margin[units] = margin
    reference.margin = reference.margin[first]
    reference.divide()
    core = old[reference.in_core[old]]
    reference.far = FarRows(rows[:known], labels[:known], core, n_classes, config.hull_size, config.seed)
    old_sizes = np.bincount(labels[old], minlength=n_classes).astype(np.int64)
    before = SimpleNamespace(
        config=config,
        features=SimpleNamespace(values=values[:known]),
        margin=reference.margin[:known],
        n_classes=n_classes,
        labels=labels[:known],
        units=old,
        order=old,
        representative=first[:known],
        in_core=reference.in_core[:known],
        core_accuracy=float(agrees[: len(old)].mean()),
        class_sizes=old_sizes,
        rows=rows[:known],
        threads=reference.threads,
        place=None,
        far=reference.far,
    )
    wrap_before, reach = _load_wrap(work, cast("Reference", before), progress)
    wrap, count = _measure_touched(reference, cast("Reference", before), wrap_before, reach, new, progress)
    found = measure(
        reference, rows[new], labels[new], (SCAN_SCALE,), exclude=new, progress=progress, stage="new samples"
    )
    found = replace(found, far=far_distances(reference, rows[new], labels[new], new, progress))
    return Joining(reference, _append(wrap, found), cast("Reference", before), wrap_before, count)


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
    rows: Rows, labels: Ints, old: Ints, new: Ints, n_classes: int, config: ScanConfig, work: Work
) -> tuple[Mask, Floats]:
    """Whether the finished scan's classifiers agree with labels of the old, and its first one of the new; margins."""
    predicted, margin = np.empty(len(old) + len(new), np.int64), np.empty(len(old) + len(new))
    joining = np.arange(len(old), len(old) + len(new))
    for fold, (_, held_out) in enumerate(split_folds(len(old), config)):
        arrays = work.load(CORE, fold) or _missing(work, CORE, fold)
        parts = [(held_out, arrays)]
        if fold == 0:
            parts.append((joining, predict(arrays, rows[new], labels[new])))
        for at, found in parts:
            predicted[at], margin[at] = found["predicted"], found["margin"]
    return predicted == labels[np.concatenate([old, new])], margin


def _load_wrap(work: Work, before: Reference, progress: Progress) -> tuple[Wrap, Reach]:
    """The finished scan's hulls, and how near a row must be to change them."""
    m, far = len(before.units), np.empty(len(before.units))
    wrap, reach = (
        empty_wrap(m, 1, len(before.labels)),
        Reach(np.empty((m, before.n_classes), np.float32), np.empty(m, np.float32)),
    )
    ranges = cut_pieces(m, work.piece_rows)
    with track(progress, "collect", len(ranges), "pieces") as advance:
        for whole in ranges:
            for piece, arrays in stored_parts(before, work, whole) or _missing(work, STAGE, whole.number):
                add_piece(before, wrap, piece, arrays)
                run = piece.run or (0, before.n_classes)
                reach.of_core[piece.start : piece.stop, run[0] : run[1]] = arrays["reach"]
                mine = of_run(before.labels[before.units[piece.start : piece.stop]], run)
                reach.of_mates[piece.start + mine] = arrays["own_reach"]
            stored = work.load(CROWDS, whole.number) or _missing(work, CROWDS, whole.number)
            far[whole.start : whole.stop] = stored["far"]
            advance(1)
    return replace(wrap, far=far), reach


def _missing(work: Work, stage: str, piece: int) -> NoReturn:
    raise ValueError(f"{work.folder} is not that of a finished scan: piece {piece} of stage {stage!r} is missing")


def _measure_touched(
    reference: Reference, before: Reference, wrap: Wrap, reach: Reach, new: Ints, progress: Progress
) -> tuple[Wrap, int]:
    """The old samples' hulls among all rows: those that a new row has changed are measured, the others copied."""
    own, others = _find_touched(reference, before, reach, new, progress)
    pocket, own_hull, own_size = wrap.pocket[0].copy(), wrap.own[0].copy(), wrap.own_size[0].copy()
    other, other_label, mates = wrap.other.copy(), wrap.other_label.copy(), wrap.mates.copy()
    at = np.flatnonzero(own)
    rows = before.units[at]
    points, labels = reference.rows[rows], reference.labels[rows]
    found = measure(
        reference, points, labels, (SCAN_SCALE,), exclude=rows, others=False, progress=progress, stage="touched samples"
    )
    pocket[at], own_hull[at], own_size[at], mates[at] = found.pocket[0], found.own[0], found.own_size[0], found.mates
    _measure_others(reference, before.units, others, other, other_label, progress)
    found = Wrap([pocket], [own_hull], [own_size], other, other_label, mates, wrap.far)
    return found, int((own | others.any(axis=1)).sum())


def _find_touched(
    reference: Reference, before: Reference, reach: Reach, new: Ints, progress: Progress
) -> tuple[Mask, Mask]:
    """Which old samples see a new row in their own hulls, (m,), and in those of other labels, (m, classes)."""
    old, threads = before.units, reference.threads
    index = NeighborIndex(reference.rows, reference.labels, rows=new, n_classes=reference.n_classes)
    core = index.subset(reference.in_core)
    own, others = np.empty(len(old), np.bool_), np.empty((len(old), reference.n_classes), np.bool_)
    parts = blocks(len(old), 4 * reference.rows.shape[1] + 16 * reference.n_classes)
    for block in tracked(parts, progress, "near new samples"):
        rows = old[block]
        points, labels = reference.rows[rows], reference.labels[rows]
        mates = index.search(points, k=1, within=labels, threads=threads).distances[:, 0]
        nearer = core.search_by_class(points, k=1, threads=threads).distances[:, :, 0] < reach.of_core[block]
        at = np.arange(len(rows))
        peeled, now = (count_peeled(r.class_sizes, labels, rows, SCAN_SCALE) for r in (before, reference))
        own[block] = (mates < reach.of_mates[block]) | nearer[at, labels] | (peeled != now)
        nearer[at, labels] = False
        others[block] = nearer
    return own, others


def _measure_others(
    reference: Reference,
    old: Ints,
    touched: Mask,
    other: Floats,
    other_label: npt.NDArray[np.int32],
    progress: Progress,
) -> None:
    """Measure the touched hulls of other labels; where the nearest one has got farther, those of all labels."""
    at = np.arange(len(old))
    best, best_label = _nearest_touched(reference, old, touched, other, progress)
    same = (best == other) & (best_label == other_label)
    moved = touched[at, other_label] & (best >= other) & ~same
    nearer = (best < other) | ((best == other) & (best_label < other_label))
    other[nearer], other_label[nearer] = best[nearer], best_label[nearer]
    again = np.flatnonzero(moved)
    width, size = reference.rows.shape[1], reference.config.hull_size
    parts = blocks(len(again), 4 * width + 24 * size * reference.n_classes, budget=PAIR_BYTES)
    for block in tracked(parts, progress, "hulls of other labels"):
        rows = old[again[block]]
        distance, label, _ = nearest_other(reference, reference.rows[rows], reference.labels[rows])
        other[again[block]], other_label[again[block]] = distance, label


def _nearest_touched(
    reference: Reference, old: Ints, touched: Mask, other: Floats, progress: Progress
) -> tuple[Floats, Ints]:
    """Distance and label of the nearest touched hull of each sample; inf where all, if any, lie beyond `other`."""
    label, row = np.nonzero(touched.T)  # one class after another, as they are packed
    apart = np.empty(len(row))
    size, width = reference.config.hull_size, reference.rows.shape[1]
    with track(progress, "touched hulls", len(row), "hulls") as advance:
        for block in blocks(len(row), 4 * width + 24 * size, budget=PAIR_BYTES):
            points = reference.rows[old[row[block]]]
            members = reference.nearest(points, label[block], size, core=True)
            apart[block] = distances(reference, points, members, beyond=other[row[block]])
            advance(len(points))
    best, best_label = np.full(len(old), np.inf), np.full(len(old), reference.n_classes)
    order = np.lexsort((label, apart, row))
    first = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
    best[row[first]], best_label[row[first]] = apart[first], label[first]
    return best, best_label


def _append(first: Wrap, second: Wrap) -> Wrap:
    def both(name: str) -> Any:
        a, b = getattr(first, name), getattr(second, name)
        return [np.concatenate([a[0], b[0]])] if isinstance(a, list) else np.concatenate([a, b])

    return Wrap(*(both(name) for name in ("pocket", "own", "own_size", "other", "other_label", "mates", "far")))
