"""What a scan and a probe return: plain frozen data. Rows are positions in the scanned features; ids are the user's."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clear.config import ScanConfig

__all__ = [
    "Approximation",
    "Change",
    "Flag",
    "HullEvidence",
    "Joined",
    "Level",
    "Pocket",
    "Preparation",
    "ProbeResult",
    "Role",
    "ScanResult",
    "Scores",
    "Verdict",
    "Views",
]

Verdict = Literal["clean", "poisoned", "undecided"]
Role = Literal["pocket", "own", "other"]


class Level(IntEnum):
    """How strongly a sample is suspected."""

    NONE = 0
    REVIEW = 1
    CERTAIN = 2


@dataclass(frozen=True, slots=True)
class Preparation:
    """How features were mapped before anything was measured: w = unit((x - mean) @ components.T)."""

    mean: npt.NDArray[np.float64]
    """float64 (d,)."""
    components: npt.NDArray[np.float64] | None
    """float64 (width, d), orthonormal rows; None when features are used at their own width."""


@dataclass(frozen=True, slots=True)
class HullEvidence:
    """One hull answer about one sample, in prepared coordinates (unit rows), with what is needed to check it."""

    role: Role
    """pocket: the nearest mates; own: the same label without them (of a crowd's sample: its farther half); other: the
    label that wraps the sample then."""
    label: int
    """Label of the vertices."""
    rows: tuple[int, ...]
    """Training rows that are the vertices."""
    weights: tuple[float, ...]
    """Convex weights: |weights @ vertices - sample| = upper."""
    lower: float
    """Proven lower bound of the distance."""
    upper: float
    """Proven upper bound of the distance."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A suspected sample."""

    row: int
    id: int | str
    level: Level
    label: int
    """The label it carries (scan) or the model predicts (probe)."""
    suggested_label: int
    """The label whose hull wraps it once its mates are peeled off."""
    collapse: float
    """K = log own - log pocket (of the scale that decided, in a probe)."""
    reassignment: float
    """R = log own - log other."""
    score: float
    """What it was flagged by: its suspicion in a scan, robust z of K in a probe."""
    mates: tuple[int, ...]
    """Training rows: the nearest samples of the same label, united with the support of the pocket's hull."""
    hulls: tuple[HullEvidence, ...]


@dataclass(frozen=True, slots=True)
class Pocket:
    """Flagged training samples that hang together: one label, one suggested label, neighbours of each other."""

    label: int
    suggested_label: int
    rows: tuple[int, ...]
    ids: tuple[int | str, ...]
    score: float
    """Sum of the members' scores: pockets are ranked by it."""
    level: Level
    """The highest level of a member."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-sample results, one entry for each row scanned (or probed)."""

    collapse: npt.NDArray[np.float64]
    """K, float64 (n,). nan where the label is too small to be judged."""
    reassignment: npt.NDArray[np.float64]
    """R, float64 (n,)."""
    score: npt.NDArray[np.float64]
    """S in a scan; z in a probe. float64 (n,)."""
    group: npt.NDArray[np.float64]
    """G: the score supported by the nearest mates' scores, float64 (n,); equal to `score` in a probe."""
    suspicion: npt.NDArray[np.float64]
    """What a scan ranks by, float64 (n,): the largest of robust standard scores for samples that are wrong, odd too, in
    company, memorised (with views) or in a crowd (`clear.suspicion`); equal to `score` in a probe. nan where none is
    known."""
    distance: npt.NDArray[np.float64]
    """To the mean of its class's core, in the features as they are, float64 (n,); nan in a probe."""
    margin: npt.NDArray[np.float64]
    """Cross-validated log probability of the likeliest other label, less that of its own, float64 (n,); nan in a
    probe."""
    support: npt.NDArray[np.float64]
    """How pocketed its nearest mates are, float64 (n,); nan in a probe, and with less than four mates."""
    company: npt.NDArray[np.float64]
    """How tight and far out it is together with its nearest mates, float64 (n,): what the verdict rests on
    (`clear.suspicion`); nan in a probe, and with less than five of them."""
    views: npt.NDArray[np.float64]
    """What a second look through the network says, float64 (n,) (`clear.views`); nan where none was taken."""
    suggested_label: npt.NDArray[np.int64]
    """int64 (n,)."""
    level: npt.NDArray[np.int8]
    """`Level`, int8 (n,)."""
    in_core: npt.NDArray[np.bool_]
    """Cross-validation agrees with the label, bool (n,). All False in a probe."""
    crowd: npt.NDArray[np.float64]
    """How far the crowd stands out that the sample lies in (`clear.crowd`), float64 (n,): K, R and S are then measured
    against the farther half of its label. nan elsewhere; of a probe `score` where that test decided it."""
    representative: npt.NDArray[np.int64]
    """The first row with the same features and label, int64 (n,): the row itself unless it is a copy, or in a probe."""


@dataclass(frozen=True, slots=True)
class Views:
    """A second look at n samples through a network that may be poisoned as a whole (`clear.extract_views`)."""

    early: npt.NDArray[np.float32]
    """Outputs of an earlier layer, (n, d)."""
    label_drop: npt.NDArray[np.float64]
    """How much less the network believes in the given label when the image is changed, log scale, float64 (n,)."""
    prediction_drop: npt.NDArray[np.float64]
    """The same of its own prediction, float64 (n,): equal to `label_drop` where that is the given label."""
    layer: str
    late: npt.NDArray[np.float32] | None = None
    """What the last linear layer sees of the images, (n, d2); None where there is no such layer."""
    late_mirrored: npt.NDArray[np.float32] | None = None
    """The same of the mirrored images."""

    def __len__(self) -> int:
        return len(self.early)

    def first(self, n: int) -> Views:
        """The views of the first n samples."""
        late, mirrored = (None if of is None else of[:n] for of in (self.late, self.late_mirrored))
        return Views(self.early[:n], self.label_drop[:n], self.prediction_drop[:n], self.layer, late, mirrored)

    @property
    def fitted(self) -> float:
        """Share of the given labels that the network predicts."""
        return float(np.mean(self.label_drop == self.prediction_drop))


@dataclass(frozen=True, slots=True)
class Approximation:
    """How approximate candidates were found, and what a sample of the rows says about them."""

    method: str
    lists: int | None
    probes: int
    far_probes: int | None
    candidates: int | None
    seed: int
    sampled: int
    """Rows drawn at random whose neighbours were found exactly, too."""
    recall: float
    """Share of their exact neighbours that were among those found: mates, nearest core rows of their label and of the
    label whose hull is the nearest."""
    same_level: float
    """Share of them with the level that exact neighbours give."""
    flagged: int
    """Flagged rows, most suspicious first, that were compared in the same way."""
    flagged_same_level: float
    """Share of these with the level that exact neighbours give; nan without any."""
    same_suggestion: float
    """Share of the flagged rows compared with the same suggested label; nan without any."""


@dataclass(frozen=True, slots=True)
class Change:
    """An old sample whose level is another one since new samples have joined its scan."""

    row: int
    id: int | str
    before: Level
    after: Level


@dataclass(frozen=True, slots=True)
class Joined:
    """What an incremental scan took from the finished one, and what the new samples changed in it."""

    n_before: int
    """Samples of the finished scan, whose mean, projection and core classifier stay: rows from here on are new."""
    measured_again: int
    """Distinct old samples of which a hull was measured again, because a new one is among the nearest rows."""
    changed: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Everything a scan found; `clear.write_report` writes it."""

    n_samples: int
    n_features: int
    n_classes: int
    class_names: tuple[str, ...] | None
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[Any]
    source: str | None
    verdict: Verdict
    scores: Scores
    flags: tuple[Flag, ...]
    """Most suspicious first."""
    pockets: tuple[Pocket, ...]
    """Highest score first."""
    thresholds: dict[str, float]
    core_accuracy: float
    """Cross-validated accuracy of the classifier that picked the core."""
    preparation: Preparation
    config: ScanConfig
    notes: tuple[str, ...] = field(default=())
    """What the user should know: lowered neighbourhoods, collapsed duplicates, weak features."""
    approximation: Approximation | None = None
    """What is known about approximate candidates; None where neighbours are exact."""
    joined: Joined | None = None
    """Of an incremental scan (`previous`)."""
    verdict_rows: tuple[int, ...] = ()
    """Rows of the group that stands out most, by which the verdict is made: a sample and its ten nearest mates. Where
    candidates are approximate, of those found: `clear.check_report` then takes them as stated."""

    def __repr__(self) -> str:
        certain = sum(flag.level == Level.CERTAIN for flag in self.flags)
        return (
            f"ScanResult({self.n_samples} samples, verdict: {self.verdict}, {certain} certain, "
            f"{len(self.flags) - certain} to review, {len(self.pockets)} pockets)"
        )


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Everything a probe found. Rows number the inputs; rows in hulls and mates number the training set."""

    n_samples: int
    n_features: int
    n_classes: int
    class_names: tuple[str, ...] | None
    labels: npt.NDArray[np.int64]
    """The model's predictions for the inputs."""
    ids: npt.NDArray[Any]
    source: str | None
    reference_source: str | None
    verdict: Verdict
    scores: Scores
    flags: tuple[Flag, ...]
    thresholds: dict[str, float]
    """`z`, and for each test (5 or 20 mates peeled off, "far" for crowds) `collapse_median_5`, `collapse_spread_5` and
    `collapse_raised_5_3`, by which the median is raised for class 3; absent where it is not."""
    preparation: Preparation
    config: ScanConfig
    core_accuracy: float
    """As in `ScanResult`, of the training set."""
    notes: tuple[str, ...] = field(default=())
    approximation: Approximation | None = None
    """As in `ScanResult`, about the inputs."""

    def __repr__(self) -> str:
        return f"ProbeResult({self.n_samples} inputs, verdict: {self.verdict}, {len(self.flags)} flagged)"
