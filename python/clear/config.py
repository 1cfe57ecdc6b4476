"""Settings of a scan or probe (docs/how-it-works.md says what they mean); reports hold the resolved ones."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clear._arrays import as_count, as_number
from clear.budgets import FALSE_FLAGS, flag_spreads, probe_spreads

__all__ = ["Scale", "ScanConfig"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a pocket is looked for."""

    mates: int
    """Nearest samples of the same label that are peeled off; at least the pocket's size - 1."""
    tight: int
    """How many of them, nearest first, span the pocket's hull."""


SCAN_SCALE = Scale(mates=20, tight=8)
PROBE_SCALES = (Scale(mates=5, tight=5), SCAN_SCALE)


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """Settings of `scan` and `probe`.

    Raises ValueError for values out of range; unknown names in a file are errors too.
    """

    hull_size: int = 20
    """Nearest core samples that span the hull of a label, from 2."""
    review_rate: float = 0.02
    """Largest share of the samples offered for review beside the certain ones, 0 to 0.5."""
    false_flags: float = FALSE_FLAGS
    """Clean samples that may be called certain, on average, in a training set of a thousand or more (in proportion in a
    smaller one), 1e-6 to 100; odd ones, such as wrong labels, come on top."""
    false_alarms: float = 0.01
    """Share of clean training sets that may be called poisoned, 1e-6 to 0.2. Crowds, whose samples are certain whatever
    `false_flags` says, have the same bar."""
    probe_fpr: float = 0.002
    """Share of clean inputs that a probe may flag, 1e-6 to 0.2."""
    hull_tolerance: float = 1e-3
    """Relative gap at which a hull distance is accepted, 1e-9 to 0.1."""
    pca_above: int = 256
    """Features wider than this are projected on their `pca_width` leading principal components."""
    pca_width: int = 64
    """Width after the projection."""
    folds: int = 5
    """Folds of the cross-validated classifier that picks the core, from 2."""
    weak_accuracy: float = 0.7
    """Below this cross-validated accuracy samples are ranked by collapse alone."""
    seed: int = 0
    """Seed of the folds, of the samples that a classifier of a large set is fitted on, and of the rows that stand for a
    class in the test for crowds; nothing else is random."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("hull_size", 2, 512),
            ("pca_above", 2, None),
            ("pca_width", 2, 4096),
            ("folds", 2, 50),
        ):
            as_count(getattr(self, name), name, low=low, high=high)
        as_count(self.seed, "seed", low=0)
        for name, least, most in (
            ("review_rate", 0.0, 0.5),
            ("false_flags", 1e-6, 100.0),
            ("false_alarms", 1e-6, 0.2),
            ("probe_fpr", 1e-6, 0.2),
            ("hull_tolerance", 1e-9, 0.1),
            ("weak_accuracy", 0.0, 1.0),
        ):
            as_number(getattr(self, name), name, low=least, high=most)
        if self.pca_width > self.pca_above:
            raise ValueError(f"pca_width is {self.pca_width}: want at most pca_above ({self.pca_above})")

    @property
    def certain_spreads(self) -> float:
        """A sample of up to a thousand is certain when its suspicion exceeds the median by so many spreads."""
        return flag_spreads(self.false_flags)

    @property
    def probe_spreads(self) -> float:
        """An input is flagged when its collapse exceeds the training median by so many spreads."""
        return probe_spreads(self.probe_fpr)

    @classmethod
    def from_toml(cls, path: str | Path) -> ScanConfig:
        """Read settings from a TOML file whose keys are the field names."""
        try:
            table: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid TOML: {error}") from error
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(table) - known)
        if unknown:
            raise ValueError(f"{path}: unknown setting {unknown[0]!r}: want one of {sorted(known)}")
        return cls(**table)
