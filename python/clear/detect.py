"""`scan` a training set for pockets (and `probe`, which `probing` has)."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_threads
from clear._progress import Progress
from clear.agreement import compare_scan
from clear.approximate import Approximate
from clear.collapse import Wrap
from clear.config import SCAN_SCALE, ScanConfig
from clear.crowd import with_far
from clear.data import Features
from clear.flags import make_flags
from clear.incremental import hash_views, join_scan
from clear.pieces import measure_in_pieces
from clear.plan import KEEPS_EXACTLY, require_memory
from clear.pockets import find_pockets
from clear.probing import probe
from clear.ray_engine import check_engine, open_engine
from clear.reference import Reference
from clear.results import Approximation, Change, Joined, Level, ScanResult, Scores, Views
from clear.suspicion import score_hulls, score_samples
from clear.verdict import Group, describe_group, find_group, scan_verdict
from clear.work import PIECE_ROWS, Work

__all__ = ["probe", "scan"]

Floats = npt.NDArray[np.float64]


def scan(
    features: Features,
    *,
    views: Views | None = None,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
    workdir: str | os.PathLike[str] | None = None,
    piece_rows: int = PIECE_ROWS,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    node_memory: int | None = None,
    previous: str | os.PathLike[str] | None = None,
    keep_neighbors: bool = False,
    max_seconds: float | None = None,
    max_memory: int | None = None,
    approximate: Approximate | Literal["ivf", "hnsw"] | None = None,
) -> ScanResult:
    """Find the samples of a labelled training set that form or support pockets of the decision boundary.

    Parameters
    ----------
    features : Features
        Feature vectors (n, d) with labels; penultimate-layer features of a network not trained on the suspect
        labels are best (docs/how-it-works.md, "Which features").
    views : Views, optional
        A second look at the same samples, in the same order, from `clear.extract_views`: wanted when the only network
        at hand is the one trained on the suspect labels, whose penultimate layer fits them. They cost some of what is
        found where only a head above a frozen network was trained on them: give none then.
    config : ScanConfig, optional
    threads : int, optional
        Default: the cores this process may use.
    progress : bool or callable
        True shows bars on standard error; a callable is called as f(stage, done, total).
    workdir : path, optional
        Folder for finished pieces (made if needed): after a kill, or `max_seconds`, the same call goes on from there,
        and gives the same result to the last bit (docs/scaling.md).
    piece_rows : int
        Samples in a piece: at most so many are measured again after a kill.
    engine : {"local", "ray"}
        Where folds are fitted and pieces measured: in this process, or as tasks of a Ray cluster; the result is equal
        (==).
    address : str, optional
        Of the Ray cluster ("auto" or "host:port"); default: one on this machine, for this scan.
    node_memory : int, optional
        Bytes that the training set may take on a node of the Ray cluster; beyond it the set is split into shards.
        Default: half of what Ray has on the smallest node.
    previous : path, optional
        The `workdir` of a finished scan of the first rows: the others join it, at the cost of the new rows and of what
        they come near to. Mean, projection and core classifier stay those of that scan; `result.joined` says which of
        its verdicts changed (docs/scaling.md). `workdir` then gets what a scan of all rows would keep, neighbours
        included and in pieces of the same size, for the next rows to join; the previous scan must have kept its
        neighbours, too. Local engine only.
    keep_neighbors : bool
        Keep the rows that hulls were chosen from in `workdir`, too: rows that join later are then searched alone. Costs
        4 * (hull_size * (classes + 1) + 40) bytes a sample on the disk; exact neighbours only.
    max_seconds : float, optional
        Time after which no further piece is begun; needs `workdir`.
    max_memory : int, optional
        Bytes that the process may need, libraries and features in memory included (`plan_scan` says how many; with a
        `workdir` large arrays lie in files there, and do not count, unless samples join a scan).
    approximate : {"ivf", "hnsw"} or Approximate, optional
        Find the neighbours that span the hulls by inverted lists, or by a graph (needs faiss), in each class: some may
        be missed. Hulls and distances remain exact for those found, and the result says how many were found on a
        sample, and how far its levels agree with those of exact neighbours (`ScanResult.approximation`). The same for
        every number of threads and size of pieces. Default: exact.

    Returns
    -------
    ScanResult
        Scores of every sample; flags, most suspicious first, each with corrected label, mates and the hulls that show
        it; pockets; a verdict. The same for every number of threads.

    Raises
    ------
    ValueError, TypeError
        Values that are not finite, one class only, too few samples, wrong shapes or dtypes; a `workdir` of others.
    LimitReached
        The time is up; what is done is kept.
    MemoryError
        More than `max_memory` would be needed: said before anything is computed.

    Notes
    -----
    Time O(n^2 d) for exact neighbours plus n * (classes + 1) small hulls; memory about twice the features in float32.

    Examples
    --------
    >>> import numpy as np, clear
    >>> rng = np.random.default_rng(0)
    >>> centres = 4 * rng.normal(size=(3, 8))
    >>> labels = np.repeat([0, 1, 2], 60)
    >>> values = (centres[labels] + rng.normal(size=(180, 8))).astype(np.float32)
    >>> labels[5] = 2  # one wrong label
    >>> result = clear.scan(clear.Features.from_arrays(values, labels))
    >>> result.flags[0].row, result.flags[0].suggested_label
    (5, 0)
    """
    if max_memory is not None:
        require_memory(
            features,
            config or ScanConfig(),
            max_memory,
            threads,
            approximate=approximate,
            files=workdir is not None and previous is None,
            keep=keep_neighbors or (previous is not None and workdir is not None),
            joins=previous is not None,
        )
    check_engine(engine, address, node_memory)
    if keep_neighbors and (workdir is None or approximate is not None):
        raise ValueError(KEEPS_EXACTLY)
    if previous is not None:
        if engine != "local" or approximate is not None or max_seconds is not None:
            raise ValueError('previous goes with engine="local", and without max_seconds and approximate')
        return _scan_joining(features, previous, config, threads, progress, views, workdir)
    work = _open_work(workdir, piece_rows, max_seconds, views)
    with open_engine(engine, address, as_threads(threads), node_memory) as runner:
        reference = Reference(
            features,
            config=config,
            threads=threads,
            progress=progress,
            work=work,
            approximate=approximate,
            engine=runner,
        )
        if engine == "local":
            reference.divide()
        wrap = measure_in_pieces(
            reference, work=work, engine=runner, piece_rows=piece_rows, keep=keep_neighbors, progress=progress
        )
    wrap = with_far(reference, wrap, work=work, piece_rows=piece_rows, progress=progress)
    reference.divide_for_few()
    approximation = None
    if reference.approximate is not None:
        score = partial(_score_training_set, reference, views=views, progress=progress)
        approximation = compare_scan(reference, wrap, score, progress)
    hulls = score_hulls(reference, wrap, progress)
    del wrap  # as soon as nothing wants it: what comes now needs memory of its own
    scores, threshold = score_samples(reference, hulls, views, progress)
    del hulls
    return _judge(features, reference, scores, threshold, approximation, progress)


def _scan_joining(
    features: Features,
    previous: str | os.PathLike[str],
    config: ScanConfig | None,
    threads: int | None,
    progress: Progress,
    views: Views | None,
    workdir: str | os.PathLike[str] | None,
) -> ScanResult:
    """A scan whose first rows have been scanned."""
    joining = join_scan(
        features, previous, config=config, threads=threads, progress=progress, views=views, workdir=workdir
    )
    known = len(joining.before.labels)
    scored = _score_training_set(joining.reference, joining.wrap, views, progress)
    result = _judge(features, joining.reference, *scored, None, progress)
    known_views = None if views is None else views.first(known)
    before = _score_training_set(joining.before, joining.wrap_before, known_views, progress)[0].level
    after = result.scores.level[:known]
    changed = tuple(
        Change(row, features.ids[row].item(), Level(int(before[row])), Level(int(after[row])))
        for row in np.flatnonzero(before != after).tolist()
    )
    note = (
        f"incremental: {len(features.labels) - known} samples joined a scan of {known}; mean, projection, core "
        "classifier and the few rows that stand for a class in the test for crowds are those of the first "
        f"{joining.fitted}; of the {known} "
        f"{joining.measured_again} were measured again, {len(changed)} have another level"
    )
    joined = Joined(known, joining.measured_again, changed)
    return replace(result, notes=(note, *result.notes), joined=joined)


def _judge(
    features: Features,
    reference: Reference,
    scores: Scores,
    threshold: float,
    approximation: Approximation | None,
    progress: Progress,
) -> ScanResult:
    """Flags, pockets and the verdict from scores."""
    flags = make_flags(
        scores,
        reference.labels,
        features.ids,
        reference.rows,
        reference.representative,
        reference,
        np.isfinite(scores.crowd).astype(np.int64),
        (SCAN_SCALE,),
        progress,
    )
    pockets, group = find_pockets(reference, flags, progress), find_group(reference, scores)
    return ScanResult(
        n_samples=len(reference.labels),
        n_features=features.values.shape[1],
        n_classes=reference.n_classes,
        class_names=features.class_names,
        labels=reference.labels,
        ids=features.ids,
        source=features.source,
        verdict=scan_verdict(reference, scores, group),
        scores=scores,
        flags=flags,
        pockets=pockets,
        thresholds={"certain": threshold},
        core_accuracy=reference.core_accuracy,
        preparation=reference.preparation,
        config=reference.config,
        notes=tuple(reference.notes + _scan_notes(reference, scores, group)),
        approximation=approximation,
        verdict_rows=group.rows,
    )


def _open_work(
    workdir: str | os.PathLike[str] | None, piece_rows: int, max_seconds: float | None, views: Views | None
) -> Work | None:
    as_count(piece_rows, "piece_rows")
    if workdir is not None:
        return Work(workdir, piece_rows=piece_rows, max_seconds=max_seconds, views=hash_views(views))
    if max_seconds is not None:
        raise ValueError(f"max_seconds is {max_seconds}: want a workdir too, where what is done can be kept")
    return None


def _score_training_set(
    reference: Reference, wrap: Wrap, views: Views | None, progress: Progress = False
) -> tuple[Scores, float]:
    return score_samples(reference, score_hulls(reference, wrap, progress), views, progress)


def _scan_notes(reference: Reference, scores: Scores, group: Group) -> list[str]:
    config = reference.config
    notes = []
    if reference.core_accuracy < config.weak_accuracy:
        notes.append(
            f"weak features: cross-validated accuracy {reference.core_accuracy:.3f} is below {config.weak_accuracy}; "
            "samples are ranked by collapse alone, and no certain flag means undecided, not clean"
        )
    wanted = 2 * SCAN_SCALE.mates + 1
    small = np.flatnonzero((reference.class_sizes > 0) & (reference.class_sizes < wanted))
    if len(small):
        notes.append(f"neighbourhoods were lowered in {len(small)} classes with fewer than {wanted} distinct samples")
    notes += describe_group(reference, group)
    crowded = np.isfinite(scores.crowd)
    for label in np.unique(reference.labels[crowded]).tolist():
        rows = np.flatnonzero(crowded & (reference.labels == label))
        size = int((reference.labels == label).sum())
        notes.append(
            f"{len(rows)} of the {size} samples labelled {label}, such as row {rows[0]}, crowd where another label is "
            "nearer than the rest of theirs: they are measured against its farther half"
            + (" (so many may be the class itself, and the rest what was planted)" if 3 * len(rows) > size else "")
        )
    unscored = int(np.isnan(scores.score).sum())
    if unscored:
        notes.append(f"{unscored} samples were not scored: their class is too small")
    return notes
