"""One way to show progress: a bar on standard error, a callable of the caller's, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "track", "tracked"]

Progress = bool | Callable[[str, int, int], None]
"""False: silent. True: a tqdm bar on standard error. Callable: called as f(stage, done, total)."""


@contextmanager
def track(progress: Progress, stage: str, total: int, unit: str = "samples") -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`, to be called as work gets done."""
    if progress is True:
        from tqdm import tqdm

        with tqdm(total=total, desc=stage, unit=unit, unit_scale=True, leave=False) as bar:
            yield lambda count: (bar.update(count), None)[1]
        return
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if callable(progress):
            progress(stage, done, total)

    yield advance


def tracked(parts: Iterable[slice], progress: Progress, stage: str) -> Iterator[slice]:
    """Go through consecutive slices from 0 on, and show each when it is done."""
    parts = list(parts)
    with track(progress, stage, parts[-1].stop if parts else 0) as advance:
        for part in parts:
            yield part
            advance(part.stop - part.start)
