"""Paths and URLs: what fsspec can reach becomes a local file or folder."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from clear.errors import need

__all__ = ["local_path"]

URL = re.compile(r"([a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def local_path(path: str | os.PathLike[str]) -> str:
    """Return a local path: `path` itself, or a copy of what a URL names in a folder that goes when the process ends.

    Files beside it that belong to it come along (`<stem>.*.npy` of an `.npy` file, and `<stem>.views.npz`); a folder
    comes whole. Where the URL names a local file (`file://`), nothing is copied.
    """
    text = os.fspath(path)
    if not URL.match(text):
        return text
    files, inside = need("fsspec.core", extra="hf").url_to_fs(text)
    if isinstance(files, need("fsspec.implementations.local", extra="hf").LocalFileSystem):
        return str(inside)
    if not files.exists(inside):
        raise FileNotFoundError(2, "no such file or directory", text)
    name = PurePosixPath(inside)
    target = Path(tempfile.mkdtemp(prefix="clear-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    for found in [*_siblings(files, name), *([inside] if files.isfile(inside) else files.find(inside))]:
        below = PurePosixPath(found).relative_to(name.parent)
        (target / below).parent.mkdir(parents=True, exist_ok=True)
        files.get_file(found, str(target / below))
    return str(target / name.name)


def _siblings(files: object, name: PurePosixPath) -> list[str]:
    beside = ["views.npz", *(["*.npy"] if name.suffix == ".npy" else [])]
    return [found for end in beside for found in files.glob(str(name.with_name(f"{name.stem}.{end}")))]  # type: ignore[attr-defined]
