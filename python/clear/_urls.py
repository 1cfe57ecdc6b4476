"""Paths and URLs: what fsspec can reach becomes a local file or folder."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from clear._files import COLUMNS, is_url
from clear.errors import ClearError, need, short

__all__ = ["local_path"]


def local_path(path: str | os.PathLike[str]) -> str:
    """Return a local path: `path` itself, or a copy of what a URL names in a folder that goes when the process ends.

    Files beside it that belong to it come along (`<stem>.labels.npy` and such of an `.npy` file, and
    `<stem>.views.npz`); a folder comes whole. Where the URL names a local file (`file://`), nothing is copied. Raises
    FileNotFoundError where there is nothing, and ClearError for whatever else keeps it from being copied.
    """
    text = os.fspath(path)
    if not is_url(text):
        return text
    core, local = (need(f"fsspec.{name}", extra="hf") for name in ("core", "implementations.local"))
    try:
        files, inside = core.url_to_fs(text)
        if isinstance(files, local.LocalFileSystem):
            return str(inside)
        copied = _copy(files, inside.rstrip("/"))
    except Exception as error:  # each backend has its own
        raise ClearError(f"{text}: cannot be copied: {short(error)}") from error
    if copied is None:
        raise FileNotFoundError(2, "no such file or directory", text)
    return copied


def _copy(files: Any, inside: str) -> str | None:
    """Copy a file with those beside it, or a folder, to a temporary one; None where there is none."""
    if not files.exists(inside):
        return None
    name = inside.rpartition("/")[2]  # no more of it is a path: it may be a URL
    folder = inside[: len(inside) - len(name)]
    beside = [folder + other for other in _siblings(PurePosixPath(name))]
    found = [inside] if files.isfile(inside) else files.find(inside)
    target = Path(tempfile.mkdtemp(prefix="clear-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    for each in [*filter(files.exists, beside), *found]:
        if not each.startswith(folder) or ".." in each.split("/"):
            raise ValueError(f"{each!r} is not in {folder!r}")
        place = target / each[len(folder) :].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(each, str(place))
    return str(target / name)


def _siblings(name: PurePosixPath) -> list[str]:
    """Names of the files that may lie beside one and belong to it."""
    ends = ["views.npz", "views.begun", *(f"{column}.npy" for column in COLUMNS if name.suffix == ".npy")]
    return [f"{name.stem}.{end}" for end in ends]
