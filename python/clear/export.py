"""Scores as partitioned Parquet, keyed by id: for DuckDB, polars, Spark and other readers of such folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from clear._arrays import as_count
from clear._files import atomic_write, make_folder
from clear.errors import need
from clear.report import score_table
from clear.results import Level, ProbeResult, ScanResult

__all__ = ["export_scores"]

FILE_ROWS = 1 << 20


def export_scores(
    result: ScanResult | ProbeResult, folder: str | os.PathLike[str], *, file_rows: int = FILE_ROWS
) -> list[Path]:
    """Write ids, labels and scores of all samples as `<folder>/flagged=<level>/part-00000.parquet`, ordered by id.

    Parameters
    ----------
    result : ScanResult or ProbeResult
    folder : path
        Made if it does not exist; parts of an older export are removed. `flagged` is none, review or certain: readers
        of such folders give it as a column, and do not open what a query leaves out.
    file_rows : int
        Samples in a file, at most.

    Returns
    -------
    list of Path
        The files written. The same result gives the same bytes.

    Raises
    ------
    MissingExtra
        Without pyarrow: pip install "clear-pockets[data]".
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> import tempfile, numpy as np, clear
    >>> labels = np.repeat([0, 1], 60)
    >>> values = (np.random.default_rng(0).normal(size=(120, 8)) + 5 * labels[:, None]).astype(np.float32)
    >>> files = clear.export_scores(clear.scan(clear.Features.from_arrays(values, labels)), tempfile.mkdtemp())
    >>> sorted({file.parent.name for file in files})[0]
    'flagged=none'
    """
    parquet = need("pyarrow.parquet", extra="data")
    step, place = as_count(file_rows, "file_rows"), make_folder(folder)
    order = np.argsort(result.ids, kind="stable")
    written = []
    for level in Level:
        rows = order[result.scores.level[order] == level]
        part = place / f"flagged={level.name.lower()}"
        part.mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(range(0, len(rows), step)):
            path = part / f"part-{number:05}.parquet"
            with atomic_write(path) as temporary:
                parquet.write_table(score_table(result, rows[start : start + step]), temporary)
            written.append(path)
        for path in part.iterdir():
            if path not in written and re.fullmatch(r"part-\d{5,}\.parquet", path.name):
                path.unlink()
    return written
