"""Scores as partitioned Parquet, keyed by id: for DuckDB, polars, Spark and other readers of such folders."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from clear._arrays import as_count
from clear._files import atomic_write, make_folder, remove_leftovers
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
        Made if it does not exist. When all new parts are complete they get their names, and then those of an older
        export that no new one has replaced go: what is interrupted before leaves the older export, what is interrupted
        just then may leave parts of both (export again). `flagged` is none, review or certain: readers of such folders
        give it as a column, and open only what a query asks for.
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
    parts = {level: place / f"flagged={level.name.lower()}" for level in Level}
    older, written = set(), []
    with ExitStack() as stack:  # when it ends, the files get their names
        for level, part in parts.items():
            rows = order[result.scores.level[order] == level]
            part.mkdir(exist_ok=True)
            remove_leftovers(part)
            older |= {path for path in part.iterdir() if re.fullmatch(r"part-\d{5,}\.parquet", path.name)}
            for number, start in enumerate(range(0, len(rows), step)):
                written.append(part / f"part-{number:05}.parquet")
                table = score_table(result, rows[start : start + step])
                parquet.write_table(table, stack.enter_context(atomic_write(written[-1])))
    for path in older.difference(written):
        path.unlink()
    return written
