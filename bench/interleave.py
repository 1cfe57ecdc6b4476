"""Methods timed in turns, round by round, so that what else the machine does falls on all of them; one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def interleaved(
    group: str,
    methods: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    problems: Mapping[str, int] | None = None,
    warm: bool = False,
    clock: Callable[[], float] = time.process_time,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time every method once a round; return rows for bench/report.py and the last answers.

    Rows hold medians of CPU seconds of this process (or of what `clock` tells), divided by the problems of a call where
    these are given. A round before the first is not counted; with `warm` every timed call follows one that is not, so
    that no method finds the caches as another left them.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    answers: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name, call in methods.items():
            if warm and turn:
                call()
            began = clock()
            answers[name] = call()
            if turn:
                times[name].append((clock() - began) / (problems or {}).get(name, 1))
    rows = []
    for name, values in times.items():
        low, middle, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
        rows.append(
            {
                "group": group,
                "method": name,
                "median_seconds": middle,
                "iqr_seconds": high - low,
                "rounds": rounds,
                "facts": {"method": name},
            }
        )
    return rows, answers
