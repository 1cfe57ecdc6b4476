"""Errors that carry a meaning of their own; wrong arguments are plain `TypeError` and `ValueError`."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = [
    "BackendUnavailable",
    "ClearError",
    "LimitReached",
    "MissingExtra",
    "MissingName",
    "UnsafeFile",
    "need",
    "short",
]


class ClearError(Exception):
    """Base of the errors of this package."""


class BackendUnavailable(ClearError, ImportError):
    """A device was asked for that this build or this machine does not have."""


class LimitReached(ClearError):
    """A limit of time was reached; what is done is kept, and the same call goes on."""


class MissingExtra(ClearError, ImportError):
    """An optional library is needed; the message gives the pip line."""


class MissingName(ClearError, AttributeError):
    """A name of `clear` that needs an optional library; the cause is `MissingExtra`. So `hasattr` says False."""


class UnsafeFile(ClearError, ValueError):
    """A file is damaged, or loading it could run code."""


def short(error: BaseException) -> str:
    """What a foreign error says, as one short line; its kind where it says nothing."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def need(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or raise `MissingExtra` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f'this needs {module.partition(".")[0]}: pip install "clear-pockets[{extra}]"'
        raise MissingExtra(message) from error
