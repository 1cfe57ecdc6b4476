"""A result on disk: report.json (canonical), arrays.npz, scores.parquet and report.html; and back again."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clear._documents import damage_named, document_text, read_document, spelled
from clear._files import atomic_write, make_folder, open_regular, sha256
from clear._npy import read_npz
from clear._version import __version__
from clear.config import ScanConfig
from clear.errors import UnsafeFile, need
from clear.results import (
    Approximation,
    Change,
    Flag,
    HullEvidence,
    Joined,
    Level,
    Pocket,
    Preparation,
    ProbeResult,
    ScanResult,
    Scores,
)

__all__ = ["SCHEMA", "Report", "read_report", "require_extras", "score_table", "spelled", "write_report"]

SCHEMA = "clear-report/1"
MEASURED = (
    *("collapse", "reassignment", "score", "group", "suspicion"),
    *("distance", "margin", "support", "company", "views", "crowd"),
)
SCORE_COLUMNS = (*MEASURED, "suggested_label", "level", "in_core", "representative")
COMMON = (
    *("n_samples", "n_features", "n_classes", "class_names", "source"),
    *("verdict", "thresholds", "notes", "core_accuracy"),
)
ARRAYS, TABLE = "arrays.npz", "scores.parquet"
Result = ScanResult | ProbeResult


@dataclass(frozen=True, slots=True)
class Report:
    """Where the parts of a report lie."""

    json: Path
    """Verdict, pockets, flags with their hulls, settings, provenance."""
    arrays: Path
    """Ids, labels and scores of all samples, and how features are mapped: `mean` (d,) and, where they are projected,
    `components` (width, d)."""
    scores: Path
    """Ids, labels and scores again, as a table: one row for each sample."""
    html: Path
    """For people: one file without scripts or external parts."""


def require_extras() -> None:
    """Raise `MissingExtra` where a library that `write_report` needs is missing: better before a scan than after it."""
    for module in ("pyarrow", "jinja2", "matplotlib", "PIL"):
        need(module, extra="report")


def write_report(
    result: Result,
    directory: str | Path,
    *,
    images: Any = None,
    reference_images: Any = None,
    features_path: str | Path | None = None,
    inputs_path: str | Path | None = None,
) -> Report:
    """Write what a scan or probe found, for machines and for people.

    Parameters
    ----------
    result : ScanResult or ProbeResult
    directory : path
        Made if it does not exist. Reports in it are replaced once all files are written, `report.json` last; no partial
        file is ever seen.
    images : optional
        Pictures of the samples scanned or probed, for thumbnails: an array, uint8 (n, height, width[, channels]), or
        anything with `image(row)`, such as what `clear.images.open_images` returns.
    reference_images : optional
        The same for the training set of a probe.
    features_path, inputs_path : path, optional
        Files whose SHA-256 goes into the report: the training features, and the samples probed.

    Returns
    -------
    Report
        The paths written. The same result gives the same bytes: there is no time stamp in them.

    Raises
    ------
    MissingExtra
        Without pyarrow, Jinja2 or matplotlib: pip install "clear-pockets[report]".
    OSError
        The directory cannot be written.

    Examples
    --------
    >>> import tempfile, numpy as np, clear
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 60)
    >>> values = (rng.normal(size=(120, 8)) + 5 * labels[:, None]).astype(np.float32)
    >>> result = clear.scan(clear.Features.from_arrays(values, labels))
    >>> report = write_report(result, tempfile.mkdtemp())
    >>> read_report(report.json).verdict == result.verdict
    True
    """
    from clear._report_html import render_html

    folder = make_folder(directory)
    report = Report(*(folder / name for name in ("report.json", ARRAYS, TABLE, "report.html")))
    with ExitStack() as stack:  # files are replaced when it ends, in reverse: report.json last
        json_file, html_file, table, arrays = (
            stack.enter_context(atomic_write(path)) for path in (report.json, report.html, report.scores, report.arrays)
        )
        with open(arrays, "wb") as file:
            np.savez(file, allow_pickle=False, **_as_arrays(result))
        _write_table(result, table)
        document = _as_document(result) | {
            "inputs": _describe_inputs(result, features=features_path, inputs=inputs_path),
            "arrays": {"file": ARRAYS, "sha256": sha256(arrays)},
            "scores": {"file": TABLE, "sha256": sha256(table)},
        }
        page = render_html(result, document, images=images, reference_images=reference_images)
        html_file.write_text(page, encoding="utf-8")
        json_file.write_bytes(document_text(document))
    return report


def read_report(path: str | Path) -> Result:
    """Read a report back: `path` is a report.json or the directory that holds it.

    Raises UnsafeFile where a part is damaged, replaced or of another version, OSError where it is missing. Nothing
    in a report is executed.
    """
    place = Path(path)
    place = place / "report.json" if place.is_dir() else place
    with damage_named(place):
        document = read_document(place, SCHEMA, what="report")
        _checked_part(place, document, "scores", TABLE)
        return _as_result(document, read_npz(_checked_part(place, document, "arrays", ARRAYS)))


def _describe_inputs(result: Result, **paths: str | Path | None) -> dict[str, Any]:
    """Name and digest of the files that were read, and the shape of the samples judged."""
    judged = "features" if isinstance(result, ScanResult) else "inputs"
    shape = [result.n_samples, result.n_features]
    return {
        name: {"file": Path(path).name, "sha256": sha256(path)} | ({"shape": shape} if name == judged else {})
        for name, path in paths.items()
        if path is not None
    }


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _as_document(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = {name: getattr(result, name) for name in COMMON}
    document |= {
        "schema": SCHEMA,
        "kind": "scan" if isinstance(result, ScanResult) else "probe",
        "tool": {"name": "clear-pockets", "version": __version__},
        "config": asdict(result.config),
        "approximation": None if result.approximation is None else asdict(result.approximation),
        "flags": [asdict(flag) for flag in result.flags],
    }
    if isinstance(result, ScanResult):
        if result.joined is not None:
            document["joined"] = asdict(result.joined)
        return document | {"pockets": [asdict(p) for p in result.pockets], "verdict_rows": result.verdict_rows}
    return document | {"reference_source": result.reference_source}


def _as_arrays(result: Result) -> dict[str, npt.NDArray[Any]]:
    preparation = {"mean": result.preparation.mean}
    if result.preparation.components is not None:
        preparation["components"] = result.preparation.components
    scores = {name: getattr(result.scores, name) for name in SCORE_COLUMNS}
    arrays = {"ids": result.ids, "label": result.labels} | scores | preparation
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _write_table(result: Result, path: Path) -> None:
    need("pyarrow.parquet", extra="report").write_table(score_table(result), path)


def score_table(result: Result, rows: Any = slice(None)) -> Any:
    """Ids, labels and scores of the rows given, as an Arrow table."""
    arrow = need("pyarrow", extra="report")
    columns = {"id": result.ids, "row": np.arange(result.n_samples), "label": result.labels}
    columns |= {name: getattr(result.scores, name) for name in SCORE_COLUMNS}
    columns = {name: column[rows] for name, column in columns.items()}
    table = arrow.table(
        {name: arrow.array(column.tolist() if column.dtype.kind == "U" else column) for name, column in columns.items()}
    )
    return table.replace_schema_metadata({"schema": SCHEMA})


def _checked_part(place: Path, document: dict[str, Any], part: str, name: str) -> Path:
    """Path of a part of the report, once its digest is the one written down."""
    path = place.parent / name
    open_regular(path).close()
    if sha256(path) != document[part]["sha256"]:
        raise UnsafeFile(f"{path} is not the file that {place.name} was written with: its SHA-256 differs")
    return path


def _as_result(document: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Result:
    n, d, kind = document["n_samples"], document["n_features"], document["kind"]
    columns = {name: arrays[name] for name in ("ids", "label", *SCORE_COLUMNS)}
    if kind not in ("scan", "probe") or any(column.shape != (n,) for column in columns.values()):
        raise ValueError("numbers of samples disagree, or the kind is unknown")
    mean, components = arrays["mean"], arrays.get("components")
    if mean.shape != (d,) or (components is not None and components.shape != (len(components), d)):
        raise ValueError(f"want mean ({d},) and components (width, {d})")
    if document["verdict"] not in ("clean", "poisoned", "undecided"):
        raise ValueError(f"verdict is {document['verdict']!r}")
    names = document["class_names"]
    shared: dict[str, Any] = {
        name: document[name] for name in ("n_samples", "n_features", "n_classes", "source", "verdict")
    }
    shared |= {
        "class_names": None if names is None else tuple(names),
        "thresholds": {name: _number(value) for name, value in document["thresholds"].items()},
        "notes": tuple(document["notes"]),
        "core_accuracy": _number(document["core_accuracy"]),
        "labels": columns["label"],
        "ids": columns["ids"],
        "scores": Scores(**{name: columns[name] for name in SCORE_COLUMNS}),
        "flags": tuple(_as_flag(flag, n) for flag in document["flags"]),
        "preparation": Preparation(mean, components),
        "config": ScanConfig(**document["config"]),
        "approximation": _as_approximation(document.get("approximation")),
    }
    if kind == "probe":
        return ProbeResult(**shared, reference_source=document["reference_source"])
    pockets = tuple(_as_pocket(pocket, n) for pocket in document["pockets"])
    joined = _as_joined(document["joined"], n) if "joined" in document else None
    rows = tuple(_row(row, n) for row in document["verdict_rows"])
    return ScanResult(**shared, pockets=pockets, joined=joined, verdict_rows=rows)


def _as_approximation(stated: dict[str, Any] | None) -> Approximation | None:
    if stated is None:
        return None
    shares = ("recall", "same_level", "flagged_same_level", "same_suggestion")
    return Approximation(**stated | {name: _number(stated[name]) for name in shares})


def _row(value: Any, n: int | None = None) -> int:
    if not isinstance(value, int) or value < 0 or (n is not None and value >= n):
        raise ValueError(f"row {value!r} does not exist")
    return value


def _as_flag(flag: dict[str, Any], n: int) -> Flag:
    hulls = tuple(
        HullEvidence(
            hull["role"],
            int(hull["label"]),
            tuple(map(_row, hull["rows"])),
            tuple(map(float, hull["weights"])),
            _number(hull["lower"]),
            _number(hull["upper"]),
        )
        for hull in flag["hulls"]
    )
    return Flag(
        _row(flag["row"], n),
        flag["id"],
        Level[flag["level"].upper()],
        int(flag["label"]),
        int(flag["suggested_label"]),
        _number(flag["collapse"]),
        _number(flag["reassignment"]),
        _number(flag["score"]),
        tuple(map(_row, flag["mates"])),
        hulls,
    )


def _as_joined(joined: dict[str, Any], n: int) -> Joined:
    changed = tuple(
        Change(_row(change["row"], n), change["id"], *(Level[change[name].upper()] for name in ("before", "after")))
        for change in joined["changed"]
    )
    return Joined(_row(joined["n_before"], n), int(joined["measured_again"]), changed)


def _as_pocket(pocket: dict[str, Any], n: int) -> Pocket:
    return Pocket(
        int(pocket["label"]),
        int(pocket["suggested_label"]),
        tuple(_row(row, n) for row in pocket["rows"]),
        tuple(pocket["ids"]),
        _number(pocket["score"]),
        Level[pocket["level"].upper()],
    )
