"""Finished pieces of work in a folder: never done twice, and never believed when they are damaged or of other inputs.

manifest.json         what the work depends on (hashes of the inputs, settings, versions), with a digest of its own
views.json            hashes of the views that the scan has, which no piece depends on; written before any piece
core-00000.npz        one file for each finished piece of a stage: its arrays, and a digest of these, the piece's
hulls-00000.npz       name and the manifest; it appears under this name only when it is complete
near-00000.npz
crowds-00000.npz
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from clear._arrays import as_count, as_number
from clear._documents import damage_named, digest, read_document, read_older, spelled, write_document
from clear._files import MANIFEST, atomic_write, make_folder, remove_leftovers
from clear._npy import read_npz
from clear.errors import LimitReached, UnsafeFile

__all__ = ["PIECE_ROWS", "Arrays", "Work", "cut", "hash_array"]

SCHEMA = "clear-work/1"
MAX_MANIFEST = 1 << 20
REMEDY = "if this is a folder of work, delete that file (finished pieces are kept), else want another folder"
VIEWS = "views.json"
VIEWS_SCHEMA = "clear-work-views/1"
RECORD_AGAIN = (
    "scan the samples that were scanned again, with workdir= (--workdir) this folder and the same previous=, "
    "keep_neighbors= and views, if any (pieces that a scan has finished are kept)"
)
PIECE_ROWS = 1 << 13
Arrays = dict[str, npt.NDArray[Any]]


class Work:
    """A folder of finished pieces. `begin` says what they depend on, and must come first.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    piece_rows : int
        Samples in a piece of the stages that go by samples.
    max_seconds : float, optional
        Time from now after which no further piece is begun: `check_time` then raises `LimitReached`.
    views : sequence of str, optional
        Hashes of the views of the scan, none without any: `begin` keeps them, `read_views` gives them back.
    finished : bool
        Pieces are only read: a damaged one is an error.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        piece_rows: int = PIECE_ROWS,
        max_seconds: float | None = None,
        views: Sequence[str] | None = None,
        finished: bool = False,
    ) -> None:
        self._views, self._finished = views, finished
        self.piece_rows = as_count(piece_rows, "piece_rows")
        self._limit = None if max_seconds is None else as_number(max_seconds, "max_seconds")
        self.folder = make_folder(folder)
        remove_leftovers(self.folder)
        self._begun = time.monotonic()
        self._key = b""

    def begin(self, inputs: dict[str, Any]) -> None:
        """Take up the work on these inputs; a ValueError names what differs when the folder belongs to others."""
        path = self.folder / MANIFEST
        inputs = inputs | {"piece_rows": self.piece_rows}
        document = {"schema": SCHEMA, "inputs": spelled(inputs)}
        older = read_older(path, SCHEMA, what="folder of work", limit=MAX_MANIFEST, remedy=REMEDY)
        if older is not None:
            with damage_named(path):
                found = older["inputs"]
            differing = sorted(name for name in {*found, *inputs} if found.get(name) != document["inputs"].get(name))
            if differing:
                raise ValueError(
                    f"{path} was begun with other inputs ({', '.join(differing)}): "
                    "want the same features and settings, or another folder"
                )
        else:
            write_document(path, document)
        if self._views is not None:
            write_document(self.folder / VIEWS, {"schema": VIEWS_SCHEMA, "sha256": list(self._views)})
        self._key = digest(document).encode()

    def read_views(self) -> list[str]:
        """The hashes of the views that the scan had; UnsafeFile where they are damaged or missing."""
        path = self.folder / VIEWS
        try:
            with damage_named(path):
                document = read_document(path, VIEWS_SCHEMA, what="record of views", limit=MAX_MANIFEST)
                return [str(item) for item in document["sha256"]]
        except FileNotFoundError:
            raise UnsafeFile(f"{path}, which says what views the scan had, is missing: {RECORD_AGAIN}") from None
        except UnsafeFile as error:
            raise UnsafeFile(f"{error}; it says what views the scan had: {RECORD_AGAIN}") from error

    def check_time(self, stage: str, done: int, count: int) -> None:
        """Raise `LimitReached` when the time is up."""
        if self._limit is not None and time.monotonic() - self._begun >= self._limit:
            raise LimitReached(
                f"stopped after {self._limit:g} seconds with {done} of {count} pieces of stage {stage!r} done: "
                f"the same call goes on from {self.folder}"
            )

    def has(self, stage: str, piece: int) -> bool:
        """Whether there is the file of a piece, sound or not."""
        return self._path(stage, piece).exists()

    def load(self, stage: str, piece: int) -> Arrays | None:
        """Return the arrays of a finished piece; None where there is none, or (with a warning) a damaged one.

        Raises UnsafeFile for a damaged one where the work is finished.
        """
        path = self._path(stage, piece)
        if not path.exists():
            return None
        try:
            with damage_named(path):
                arrays = read_npz(path)
                if arrays.pop("digest").tobytes() != self._digest(stage, piece, arrays):
                    raise UnsafeFile(f"{path} is damaged, or of other inputs: its digest differs")
        except UnsafeFile as error:
            if self._finished:
                raise UnsafeFile(f"{error}: {RECORD_AGAIN}") from error
            warnings.warn(f"{error}; this piece is computed again", RuntimeWarning, stacklevel=2)
            return None
        return arrays

    def missing(self, stage: str, piece: int) -> NoReturn:
        """Raise the error for a piece that a finished scan should have."""
        raise ValueError(
            f"{self.folder} is not that of a finished scan: piece {piece} of stage {stage!r} is missing; {RECORD_AGAIN}"
        )

    def save(self, stage: str, piece: int, arrays: Arrays) -> None:
        """Write the arrays of a piece: all of them, or nothing."""
        stamp = np.frombuffer(self._digest(stage, piece, arrays), np.uint8)
        with atomic_write(self._path(stage, piece)) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, digest=stamp, **arrays)

    def _path(self, stage: str, piece: int) -> Path:
        return self.folder / f"{stage}-{piece:05}.npz"

    def _digest(self, stage: str, piece: int, arrays: Arrays) -> bytes:
        total = hashlib.sha256(self._key + f" {stage} {piece}".encode())
        for name in sorted(arrays):
            total.update(f" {name} {arrays[name].dtype.str} {arrays[name].shape} ".encode())
            total.update(np.ascontiguousarray(arrays[name]).data)
        return total.digest()


def cut(count: int, piece_rows: int) -> list[range]:
    """Ranges of samples, a piece each."""
    return [range(start, min(count, start + piece_rows)) for start in range(0, count, piece_rows)]


def hash_array(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's type, shape and values."""
    total = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
