"""BLAS held to one thread: the same bits for every number of threads, and no slow-down when cores are busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import RLock
from typing import Any

__all__ = ["one_blas_thread", "one_numpy_thread"]

LOCK = RLock()
"""The number of threads belongs to the process: who changes it puts it back before the next one may."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold every BLAS that is loaded to one thread."""
    from threadpoolctl import threadpool_limits

    with LOCK, threadpool_limits(1, "blas"):
        yield


@contextmanager
def one_numpy_thread() -> Iterator[None]:
    """The same for NumPy's alone: much cheaper to enter, as the libraries are looked up once."""
    with LOCK, _loaded_blas().limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _loaded_blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
