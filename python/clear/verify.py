"""Check a repair: accuracy, pockets and targets before and after, and a new scan of what came out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from clear._arrays import as_labels
from clear._batches import as_source
from clear._progress import Progress
from clear.config import ScanConfig
from clear.data import Features
from clear.detect import probe as probe_inputs
from clear.detect import scan as scan_features
from clear.features import extract_features, predict
from clear.results import Level, Pocket, ProbeResult, ScanResult, Verdict
from clear.training import accuracy, as_dataset, check_length, load_inputs

__all__ = ["PocketCheck", "Rescan", "TargetCheck", "Verification", "verify_repair"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PocketCheck:
    """A pocket of the training set before and after."""

    label: int
    """The label that its members carried."""
    suggested_label: int
    rows: tuple[int, ...]
    """Its members; where labels were corrected, those that were."""
    held_before: int
    """Members that the model predicted as that label."""
    held_after: int
    """Members that the repaired model still does."""

    @property
    def closed(self) -> bool:
        """No member is predicted as the label it carried."""
        return self.held_after == 0


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """A flagged input of a probe before and after."""

    row: int
    suggested_label: int
    before: int
    """What the model predicted."""
    after: int
    """What the repaired model predicts."""
    flagged_after: bool
    """Whether a probe of the repaired model flags it again."""

    @property
    def closed(self) -> bool:
        """The input is no longer predicted as what was flagged."""
        return self.after != self.before


@dataclass(frozen=True, slots=True)
class Rescan:
    """A scan, after the repair, of the training samples that kept their labels."""

    n_samples: int
    verdict: Verdict
    certain: int
    """Samples flagged as certain."""
    review: int
    """Samples offered for review: about the share that the settings ask for, on clean data too."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a repair changed. Accuracies are shares, 0 to 1."""

    training_accuracy_before: float
    """Against the corrected labels."""
    training_accuracy_after: float
    held_out_accuracy_before: float | None
    held_out_accuracy_after: float | None
    corrected: int
    """Samples whose corrected label differs from the given one, in a pocket or not."""
    held_before: int
    """Corrected samples that the model predicted as given."""
    held_after: int
    """Corrected samples that the repaired model still does."""
    certain_held_after: int
    """Samples flagged as certain (without a scan: corrected) that the repaired model still predicts as given."""
    pockets: tuple[PocketCheck, ...]
    targets: tuple[TargetCheck, ...]
    rescan: Rescan

    @property
    def all_closed(self) -> bool:
        """No corrected sample is predicted as given any more, and every pocket and every target is closed."""
        pockets = all(pocket.closed for pocket in self.pockets)
        return self.held_after == 0 and pockets and all(target.closed for target in self.targets)

    @property
    def verdict(self) -> Verdict:
        """Poisoned: a certain sample or a target is still open, or the re-scan says so.

        Undecided: the re-scan is, nothing was checked, or samples that were only offered for review keep their label:
        the model may be right to refuse a suggestion.
        """
        open_targets = any(not target.closed for target in self.targets)
        if self.certain_held_after or open_targets or self.rescan.verdict == "poisoned":
            return "poisoned"
        checked = self.corrected or self.pockets or self.targets
        return "clean" if checked and self.all_closed and self.rescan.verdict == "clean" else "undecided"

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and strings, ready for JSON."""
        table = asdict(self)
        pockets = [asdict(check) | {"rows": list(check.rows), "closed": check.closed} for check in self.pockets]
        targets = [asdict(check) | {"closed": check.closed} for check in self.targets]
        said = {"all_closed": self.all_closed, "verdict": self.verdict}
        return table | {"pockets": pockets, "targets": targets} | said

    def __repr__(self) -> str:
        held = f"{self.held_before} -> {self.held_after} of {self.corrected} corrected samples held"
        closed = f"{sum(c.closed for c in self.pockets)} of {len(self.pockets)} pockets"
        if self.targets:
            closed += f" and {sum(c.closed for c in self.targets)} of {len(self.targets)} targets"
        accuracy = ""
        if self.held_out_accuracy_before is not None and self.held_out_accuracy_after is not None:
            accuracy = f", held-out accuracy {self.held_out_accuracy_before:.3f} -> {self.held_out_accuracy_after:.3f}"
        again = f"re-scan: {self.rescan.verdict}, {self.rescan.certain} certain"
        return f"Verification({self.verdict}: {held}, {closed} closed{accuracy}, {again})"


def verify_repair(
    before: nn.Module,
    after: nn.Module,
    inputs: Any,
    labels: Any,
    *,
    corrected: Any = None,
    scan: ScanResult | None = None,
    probe: ProbeResult | None = None,
    probed: Any = None,
    held_out: tuple[Any, Any] | None = None,
    extractor: nn.Module | None = None,
    layer: str | None = None,
    config: ScanConfig | None = None,
    threads: int | None = None,
    progress: Progress = False,
) -> Verification:
    """Compare a model with its repaired copy, and scan again.

    Parameters
    ----------
    before, after : nn.Module
        The model and the repaired one. Neither is changed.
    inputs : tensor or array of float, shape (n, ...), or data set
        The training set, as `repair_model` takes it.
    labels : array of int, shape (n,)
        Labels that the model was trained on.
    corrected : array of int, shape (n,), optional
        Labels after the repair (`Repair.labels`), or those suggested. Every sample whose label differs is checked.
        Default: `labels`.
    scan : ScanResult, optional
        Its pockets are checked.
    probe : ProbeResult, optional
        Its flagged inputs are checked, and probed again against the training samples that kept their labels.
    probed : tensor, array or data set, optional
        The inputs that were probed; needed with `probe`.
    held_out : (inputs, labels), optional
        Clean data that neither model was trained on.
    extractor : nn.Module, optional
        Whose features are scanned again. Default: the repaired model. Give the reference extractor where the first scan
        used one.
    layer, config, threads
        As in `extract_features` and `scan`.
    progress : bool or callable
        As in `scan`.

    Returns
    -------
    Verification

    Raises
    ------
    TypeError, ValueError
        Results and data that do not belong together, or as `scan`.

    Examples
    --------
    See `clear.demo.run_demo`, which repairs and verifies two models.
    """
    dataset = as_dataset(inputs)
    given = as_labels(labels, as_source(dataset).n)
    truth = given if corrected is None else as_labels(corrected, len(given), "corrected")
    if scan is not None:
        check_length("inputs", inputs, scan.n_samples)
    if probe is not None:
        if probed is None:
            raise ValueError("probe is given: pass probed too, the inputs that were probed")
        check_length("probed", probed, probe.n_samples)
    predicted_before, predicted_after = predict(before, dataset), predict(after, dataset)
    changed = given != truth
    held = _relevant(changed) & (predicted_after == given)
    # Samples that were relabelled are known to be manipulated. With a frozen extractor they still lie in their tight
    # pocket, now with the right label, and would be found again: what is left is asked of the others.
    kept = np.flatnonzero(~changed)
    values = extract_features(extractor or after, dataset, layer=layer).values[kept]
    trusted = Features.from_arrays(values, truth[kept], ids=kept)
    again = scan_features(trusted, config=config, threads=threads, progress=progress)
    targets: tuple[TargetCheck, ...] = ()
    if probe is not None and probe.flags:
        flagged = load_inputs(probed, rows=[flag.row for flag in probe.flags], model=after)
        found = extract_features(extractor or after, (flagged, None), layer=layer)
        found = replace(found, predictions=predict(after, (flagged, None)))
        reprobed = probe_inputs(found, trusted, config=config, threads=threads, progress=progress)
        targets = _check_targets(probe, reprobed)
    return Verification(
        training_accuracy_before=float((predicted_before == truth).mean()),
        training_accuracy_after=float((predicted_after == truth).mean()),
        held_out_accuracy_before=None if held_out is None else accuracy(before, *held_out),
        held_out_accuracy_after=None if held_out is None else accuracy(after, *held_out),
        corrected=int(changed.sum()),
        held_before=int((predicted_before == given)[changed].sum()),
        held_after=int((held & changed).sum()),
        certain_held_after=int((held & (changed if scan is None else scan.scores.level == Level.CERTAIN)).sum()),
        pockets=_check_pockets(() if scan is None else scan.pockets, changed, predicted_before, predicted_after),
        targets=targets,
        rescan=_count_flags(again),
    )


def _check_pockets(
    pockets: tuple[Pocket, ...], changed: npt.NDArray[np.bool_], before: Ints, after: Ints
) -> tuple[PocketCheck, ...]:
    """Count members that keep their old label."""
    relevant = _relevant(changed)
    checks = []
    for pocket in pockets:
        rows = np.array([row for row in pocket.rows if relevant[row]], dtype=np.int64)
        held = [int((predicted[rows] == pocket.label).sum()) for predicted in (before, after)]
        if len(rows):
            checks.append(PocketCheck(pocket.label, pocket.suggested_label, tuple(rows.tolist()), *held))
    return tuple(checks)


def _relevant(changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Samples that a repair is asked about: where labels were corrected, those that kept theirs do not count."""
    return changed if changed.any() else np.ones_like(changed)


def _check_targets(probe: ProbeResult, reprobed: ProbeResult) -> tuple[TargetCheck, ...]:
    """Flags of the probe beside the same inputs probed again, in the same order."""
    return tuple(
        TargetCheck(flag.row, flag.suggested_label, flag.label, int(after), bool(level > Level.NONE))
        for flag, after, level in zip(probe.flags, reprobed.labels, reprobed.scores.level, strict=True)
    )


def _count_flags(result: ScanResult) -> Rescan:
    certain = int((result.scores.level == Level.CERTAIN).sum())
    return Rescan(result.n_samples, result.verdict, certain, len(result.flags) - certain)
