"""Settings of a scan or probe (docs/how-it-works.md says what they mean); reports hold the resolved ones."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clear._arrays import as_count, as_number

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
    certain_spreads: float = 3.5
    """A sample is certain when its suspicion exceeds the median by this many spreads, above 0; among more than a
    thousand by more, as rare among them."""
    probe_spreads: float = 4.0
    """An input is flagged when its collapse exceeds the training median by this many spreads, above 0."""
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
            ("certain_spreads", 0.1, 1000.0),
            ("probe_spreads", 0.1, 1000.0),
            ("hull_tolerance", 1e-9, 0.1),
            ("weak_accuracy", 0.0, 1.0),
        ):
            as_number(getattr(self, name), name, low=least, high=most)
        if self.pca_width > self.pca_above:
            raise ValueError(f"pca_width is {self.pca_width}: want at most pca_above ({self.pca_above})")

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
