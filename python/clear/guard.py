"""The probe as a long-lived object: fitted once, saved without pickle, asked from many threads."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count
from clear._documents import damage_named, read_document, read_older, write_document
from clear._files import MANIFEST, make_folder, remove_leftovers
from clear._parts import check_entry, read_part, require_shape, write_part
from clear._progress import Progress
from clear.approximate import Approximate, describe
from clear.config import ScanConfig
from clear.data import Features
from clear.probing import CENTER_NAMES, Center, check_inputs, judge, training_collapse
from clear.reference import Parts, Reference, require_by_class
from clear.results import Level, Preparation

__all__ = ["Answers", "Guard"]

SCHEMA = "clear-guard/1"
WHAT = "guard"
MAX_MANIFEST = 16 << 20
ARRAYS = {"rows": "<f4", "labels": "<i8", "representative": "<i8", "in_core": "|b1", "mean": "<f8", "components": "<f8"}
FACTS = ("core_accuracy", "n_classes", "class_names", "source", "notes")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a guard says about a batch of m inputs."""

    flagged: npt.NDArray[np.bool_]
    """Whether the input sits in a pocket of the training set, bool (m,)."""
    score: npt.NDArray[np.float64]
    """Robust z of the collapse, float64 (m,); nan where the predicted class is too small to be judged."""
    label: npt.NDArray[np.int64]
    """The corrected label where the input is flagged, else the prediction, int64 (m,)."""
    support: tuple[tuple[int, ...], ...]
    """Training rows that hold the pocket up, for each input; () where it is not flagged."""


class Guard:
    """Tests inputs for pockets of the training set of a model, batch after batch.

    Made by `Guard.fit` or `Guard.load`. Calls are thread-safe, and answer as `clear.probe` does.

    Examples
    --------
    >>> import numpy as np, clear
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1, 2], 60)
    >>> values = (4 * np.eye(3, 8)[labels] + rng.normal(size=(180, 8))).astype(np.float32)
    >>> guard = clear.Guard.fit(clear.Features.from_arrays(values, labels))
    >>> guard(values[:2], [0, 0]).flagged.tolist()
    [False, False]
    """

    def __init__(self, reference: Reference, centers: list[Center]) -> None:
        self.reference = reference
        """The prepared training set."""
        self._centers = centers

    @classmethod
    def fit(
        cls,
        features: Features | Reference,
        *,
        config: ScanConfig | None = None,
        threads: int | None = None,
        progress: Progress = False,
    ) -> Guard:
        """Prepare a training set; arguments as those of `clear.probe`, which says what it raises.

        Time about that of a scan without the hulls of other labels; memory about twice the features in float32.
        """
        if not isinstance(features, Reference):
            features = Reference(features, config=config, threads=threads, progress=progress)
        return cls(features, training_collapse(features, progress))

    def __call__(self, features: Any, predictions: Any) -> Answers:
        """Judge inputs: features (m, d) of the same model and layer as the training set, predictions int (m,)."""
        values, labels = check_inputs(self.reference, features, predictions)
        judged = judge(self.reference, self._centers, values, labels, others=False)
        flagged = judged.scores.level > Level.NONE
        support: list[tuple[int, ...]] = [()] * len(labels)
        if flagged.any():
            for flag in judged.flags(self.reference, labels, np.arange(len(labels))):
                support[flag.row] = flag.mates
        label = np.where(flagged, judged.scores.suggested_label, labels)
        return Answers(flagged, judged.scores.score, label, tuple(support))

    def __repr__(self) -> str:
        return f"Guard({len(self.reference.rows)} training samples, {self.reference.n_classes} classes)"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the guard to a folder: a manifest and NPY files, with their SHA-256.

        A guard that is there is replaced at once, when the new manifest gets its name; a folder with a manifest of
        something else is refused (UnsafeFile). Disk: 4 * width + 17 bytes for each training sample.
        """
        place = make_folder(folder)
        older = _list_files(place)
        remove_leftovers(place)
        parts = self.reference.parts()
        arrays = {name: getattr(parts, name) for name in ("rows", "labels", "representative", "in_core")}
        arrays |= {"mean": parts.preparation.mean, "components": parts.preparation.components}
        taken = [re.fullmatch(r"[a-z_]+-(\d{5,})\.npy", path.name) for path in place.iterdir()]
        number = 1 + max((int(match[1]) for match in taken if match), default=-1)
        document = {
            "schema": SCHEMA,
            "number": number,
            "samples": len(parts.rows),
            "config": asdict(parts.config),
            "approximate": None if parts.approximate is None else describe(parts.approximate),
            "centers": self._centers,
            "files": {
                name: write_part(place / f"{name}-{number:05}.npy", np.ascontiguousarray(array))
                for name, array in arrays.items()
                if array is not None
            },
        }
        write_document(place / MANIFEST, document | {name: getattr(parts, name) for name in FACTS})
        for path in older:
            path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, threads: int | None = None) -> Guard:
        """Read a guard back. Raises UnsafeFile, naming the file, where anything was damaged or changed.

        Time: that of reading the files once (for their SHA-256) and of packing two indices, or of cutting the rows into
        lists again where its reference is approximate.
        """
        path = Path(folder) / MANIFEST
        with damage_named(path):
            document = read_document(path, SCHEMA, what=WHAT, limit=MAX_MANIFEST)
            parts = _read_parts(Path(folder), document)
            centers = _read_centers(document["centers"], parts.n_classes)
            return cls(Reference.restore(parts, threads=threads), centers)


def _list_files(place: Path) -> list[Path]:
    """Arrays of the guard that lies in a folder, if there is one."""
    older = read_older(place / MANIFEST, SCHEMA, what=WHAT, limit=MAX_MANIFEST)
    if older is None:
        return []
    with damage_named(place / MANIFEST):
        number = as_count(older["number"], "number", low=0)
        return [place / f"{name}-{number:05}.npy" for name in older["files"] if name in ARRAYS]


def _read_centers(stated: Any, n_classes: int) -> list[Center]:
    centers = []
    for median, spread, raised in stated:
        middle, scale = (float("nan") if value is None else float(value) for value in (median, spread))
        centers.append(Center(middle, scale, tuple(map(float, raised))))
        if len(raised) != n_classes or not all(0 <= by < float("inf") for by in centers[-1].raised):
            raise ValueError(f"centers: want {n_classes} classes, each raised by 0 or more")
    if len(centers) != len(CENTER_NAMES):
        raise ValueError(f"{len(centers)} centers: want {len(CENTER_NAMES)}")
    return centers


def _read_parts(place: Path, document: dict[str, Any]) -> Parts:
    files, n = document["files"], document["samples"]
    if not {"rows", "labels", "representative", "in_core", "mean"} <= set(files) <= set(ARRAYS):
        raise ValueError(f"files are {sorted(files)}: want {list(ARRAYS)}")
    arrays = {}
    for name, entry in files.items():
        check_entry(entry, f"{name}-{document['number']:05}.npy")
        arrays[name] = read_part(place, entry)
    rows, mean, components = arrays["rows"], arrays["mean"], arrays.get("components")
    width = rows.shape[1] if rows.ndim == 2 else 0
    shapes = {"rows": (n, width), "mean": (mean.size,), "components": (width, mean.size)}
    for name, array in arrays.items():
        require_shape(array, place / files[name]["file"], shapes.get(name, (n,)), ARRAYS[name])
    first, classes, names = arrays["representative"], document["n_classes"], document["class_names"]
    how = document["approximate"]
    if components is None and width != mean.size:
        raise ValueError(f"rows have {width} columns, the mean {mean.size}")
    if n == 0 or first.min() < 0 or (first > np.arange(n)).any() or not (first[first] == first).all():
        raise ValueError("representatives are not the first of their copies")
    return Parts(
        rows,
        arrays["labels"],
        first,
        arrays["in_core"],
        float(document["core_accuracy"]),
        int(classes),
        None if names is None else tuple(map(str, names)),
        document["source"],
        Preparation(mean, components),
        ScanConfig(**document["config"]),
        tuple(map(str, document["notes"])),
        None if how is None else require_by_class(Approximate(**how)),
    )
