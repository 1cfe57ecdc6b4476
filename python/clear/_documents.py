"""JSON documents with one spelling and a digest, so that a change made after they were written is noticed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from clear._files import atomic_write, open_regular
from clear.errors import UnsafeFile

__all__ = [
    "canonical",
    "damage_named",
    "digest",
    "document_text",
    "read_document",
    "read_older",
    "spelled",
    "write_document",
]

DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading JSON raises when it is not what it seems."""
REMEDY = "want another folder, or delete that file first"


def spelled(value: Any) -> Any:
    """The value as JSON holds it: nan as null, infinities as strings, enums by name, NumPy numbers as plain ones."""
    if isinstance(value, dict):
        return {str(key): spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value.item() if isinstance(value, np.generic) else value


def canonical(document: dict[str, Any]) -> bytes:
    """One spelling for each document: sorted keys, shortest floats, nan as null, infinities as strings."""
    return json.dumps(spelled(document), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(document: dict[str, Any]) -> str:
    """SHA-256 of a document's one spelling."""
    return hashlib.sha256(canonical(document)).hexdigest()


def document_text(document: dict[str, Any]) -> bytes:
    """The text of a document's file."""
    return canonical(document | {"digest": digest(document)}) + b"\n"


def write_document(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Write a document with its digest; nothing partial is ever seen."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(document_text(document))


def read_document(path: str | os.PathLike[str], schema: str, *, what: str, limit: int | None = None) -> dict[str, Any]:
    """Read a document of this schema back, `limit` bytes of it at most.

    Raises UnsafeFile when it is of another schema, too large, or was changed; `damage_named` turns what else bad JSON
    raises into the same.
    """
    place = Path(path)
    with open_regular(place) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise UnsafeFile(f"{place} has {size} bytes: want at most {limit} for a {what}")
        text = file.read()
        document = json.loads(text)
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise UnsafeFile(f'{place} is not a {what} of this version: want "schema": "{schema}"')
    content = {name: value for name, value in document.items() if name != "digest"}
    # Also of the text: the last digit of a float may change and its value not.
    if document["digest"] != digest(content) or text != document_text(content):
        raise UnsafeFile(f"{place} was changed after it was written: its digest differs")
    return document


def read_older(path: Path, schema: str, *, what: str, limit: int, remedy: str = REMEDY) -> dict[str, Any] | None:
    """Read the document that a writer is about to replace; None where there is none.

    Raises UnsafeFile for one of another schema or a damaged one: what it belongs to stays as it is.
    """
    if not path.exists():
        return None
    try:
        with damage_named(path):
            return read_document(path, schema, what=what, limit=limit)
    except UnsafeFile as error:
        raise UnsafeFile(f"{error}; nothing was written: {remedy}") from error


@contextmanager
def damage_named(place: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what damaged JSON raises into an UnsafeFile that names the file."""
    try:
        yield
    except UnsafeFile:
        raise
    except DAMAGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0][:160]
        raise UnsafeFile(f"{os.fspath(place)} is damaged: {reason}") from error
