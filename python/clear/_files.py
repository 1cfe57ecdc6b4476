"""Writing files so that nothing partial is ever seen, and the few checks that every reader of untrusted files needs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clear.errors import UnsafeFile

__all__ = [
    "COLUMNS",
    "MANIFEST",
    "atomic_write",
    "check_expansion",
    "is_url",
    "make_folder",
    "open_regular",
    "remove_leftovers",
    "require_writable",
    "sha256",
]

MANIFEST = "manifest.json"
EXPANSION_FREE = 1 << 30
EXPANSION_RATIO = 100
URL = re.compile(r"([a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
COLUMNS = ("labels", "ids", "predictions", "class_names")
"""What goes with features: arrays in their file, or beside an `.npy` file as `<stem>.<name>.npy`."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well, and is removed otherwise.

    Parameters
    ----------
    path : path
        Final name. What stood there stays untouched until the block has ended. A link is followed.

    Yields
    ------
    Path
        An empty file in the same directory: write to it by name. Patterns such as `*.parquet` do not match it.

    Raises
    ------
    OSError
        The directory is missing or cannot be written to (`FileNotFoundError`, `PermissionError`, ...), or `path` is
        not a regular file. Errors of the block, KeyboardInterrupt included, pass through; an OSError
        that names no file (a full disk) gets `path`.
    ValueError
        `path` is a URL.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from clear._files import atomic_write
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> [file.name for file in folder.iterdir()]
    ['note.txt']
    """
    _require_local(path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise IsADirectoryError(f"cannot write {path}: want the name of a regular file")
    temporary = target.with_name(f".{target.stem[:80]}.{secrets.token_hex(4)}{target.suffix}.partial")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from None
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename is not None:
            raise
        reason = error.strerror or f"{error} (is the disk full?)"
        raise OSError(error.errno or errno.EIO, f"cannot write: {reason}", str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(directory: str | os.PathLike[str], age: float = 3600.0) -> None:
    """Remove what killed writers have left in a directory: partial files not written to for `age` seconds."""
    for path in Path(directory).glob(".*.partial*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > age:
                path.unlink()


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, and those above it, to write to; errors as those of `require_writable`."""
    _require_local(path)
    Path(path).mkdir(parents=True, exist_ok=True)
    require_writable(path)
    return Path(path)


def require_writable(directory: str | os.PathLike[str]) -> None:
    """Find out before the work starts that its result could not be written."""
    _require_local(directory)
    if not os.access(directory, os.W_OK):
        raise PermissionError(13, "no such directory, or it cannot be written", os.fspath(directory))


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether fsspec is asked for this: a scheme and "://", perhaps after others (`simplecache::s3://...`)."""
    return URL.match(os.fspath(path)) is not None


def _require_local(path: str | os.PathLike[str]) -> None:
    """Refuse URLs, also those that `Path` has taken a slash from: no folder has the name of the scheme."""
    first = os.fspath(path).partition("/")[0]
    if is_url(path) or (is_url(f"{first}//") and not os.path.isdir(first)):
        raise ValueError(f"{os.fspath(path)} is a URL: results are written to local files; write there, and copy them")


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; of a folder: of its manifest, which has the parts'."""
    place = Path(path)
    with open(place / MANIFEST if place.is_dir() else place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; pipes and devices, which could block for ever, are refused."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnsafeFile(f"{path}: want a regular file")
    return open(path, "rb")


def check_expansion(name: str, declared: int, stored: int) -> None:
    """Refuse contents of `declared` bytes that come out of `stored` bytes when they look like a decompression bomb."""
    if declared > EXPANSION_FREE and declared > EXPANSION_RATIO * stored:
        raise UnsafeFile(
            f"{name}: declares {declared} bytes of data in {stored} stored bytes: refused as a decompression bomb"
        )
