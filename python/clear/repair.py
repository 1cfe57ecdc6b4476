"""Close the pockets that a scan or probe found: correct labels, then fine-tune a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clear._arrays import as_count, as_ids, as_labels
from clear._batches import as_source
from clear._progress import Progress
from clear._repair_attempts import Attempt, Trained, best_attempt, schedule
from clear.features import predict
from clear.results import Level, ProbeResult, ScanResult
from clear.training import Epoch, Scope, accuracy, as_dataset, check_length, fit, load_inputs

__all__ = ["Corrections", "Method", "Repair", "find_corrections", "repair_model"]

Ints = npt.NDArray[np.int64]
Method = Literal["relabel", "drop", "retrain"]
Found = ScanResult | ProbeResult | Mapping[int, int]

COPIES_OF_FLAGGED = 3
COPIES_OF_PROBED = 5


@dataclass(frozen=True, slots=True)
class Corrections:
    """Which labels to change. Made by `find_corrections`."""

    rows: Ints
    """Training samples, ascending, int64 (c,)."""
    labels: Ints
    """Their corrected labels, int64 (c,)."""
    certain: npt.NDArray[np.bool_]
    """Which of them are flagged as certain, or given in a mapping, bool (c,)."""
    probed_rows: Ints
    """Flagged inputs of a probe, ascending, int64 (p,); empty for a scan."""
    probed_labels: Ints
    """Their corrected labels, int64 (p,)."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A repaired copy of a model, and what was done to it."""

    model: nn.Module
    """In eval mode, on the CPU or wherever the given model was."""
    labels: Ints
    """Corrected labels of the training set, int64 (n,); as given with method "drop"."""
    changed: Ints
    """Training samples that were relabelled (or dropped), ascending, int64 (c,)."""
    probed: Ints
    """Probed inputs that were trained on with their corrected label, ascending, int64 (p,)."""
    method: Method
    scope: Scope
    history: tuple[Epoch, ...]
    """Of the fine-tuning; empty when nothing was flagged or kept, and for method "retrain"."""
    attempts: tuple[Attempt, ...] = ()
    """What was tried, in order."""
    accuracy_before: float | None = None
    """Of the given model on the held-out data, 0 to 1; None without any."""
    rolled_back: bool = False
    """No attempt stayed within the accuracy budget: `model` is an unchanged copy; `labels` are corrected anyway."""

    def __repr__(self) -> str:
        verb = "dropped" if self.method == "drop" else "relabelled"
        added = f", {len(self.probed)} probed inputs added" if len(self.probed) else ""
        if self.rolled_back:
            tried = (
                "the new model did not stay"
                if self.method == "retrain"
                else f"none of {len(self.attempts)} attempts stayed"
            )
            return f"Repair(rolled back: {tried} within the accuracy budget)"
        how = "retrained" if self.method == "retrain" else f"{len(self.history)} epochs on the {self.scope}"
        return f"Repair({len(self.changed)} samples {verb}{added}, {how})"


def repair_model(
    model: nn.Module,
    inputs: Any,
    labels: Any,
    result: Found | Sequence[Found],
    *,
    method: Method = "relabel",
    scope: Scope = "network",
    level: Level = Level.REVIEW,
    probed: Any = None,
    epochs: int | None = None,
    learning_rate: float = 0.01,
    batch_size: int = 64,
    clean_samples: int | None = None,
    held_out: tuple[Any, Any] | None = None,
    accuracy_budget: float = 0.01,
    retrain: Callable[[Any, Ints], nn.Module] | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> Repair:
    """Correct the labels of flagged samples and train the pockets out of a copy of the model.

    Parameters
    ----------
    model : nn.Module
        Maps inputs to logits. Never changed.
    inputs : tensor or array of float, shape (n, ...), or data set
        The training set, as `extract_features` takes it. Only the samples trained on are loaded.
    labels : array of int, shape (n,)
        Labels that the model was trained on.
    result : ScanResult, ProbeResult, mapping of row to corrected label, or a list of these
        What to correct: flagged samples get their suggested label. From a probe, the mates of a flagged input do, and
        the input itself is trained on with the corrected label. The earlier in a list decides.
    method : {"relabel", "drop", "retrain"}
        "relabel" fine-tunes on the corrected samples and clean ones. "drop" fine-tunes without the flagged samples:
        what the model has memorised stays (see Notes). "retrain" returns `retrain(inputs, corrected_labels)`.
    scope : {"network", "head"}
        Fine-tune all parameters, or the last `nn.Linear` only. "head" suits a frozen extractor.
    level : Level
        Flags of at least this level are acted on. Default: all.
    probed : tensor, array or data set, m samples
        The inputs that were probed; needed for a ProbeResult.
    epochs : int, optional
        Default: chosen. Up to three attempts, each from the given model, with more epochs among more clean samples
        (network: 5, 8, 12 epochs, 1000, 2000, 4000 samples; head: 20, 40, 80 epochs), until no certain sample and no
        probed input is predicted as before, or a longer attempt changes no more of them. A number: one attempt.
    learning_rate : float
        Of SGD with momentum and a cosine schedule for the network, of Adam for the head.
    clean_samples : int, optional
        Unflagged training samples to fine-tune on, chosen at random; all where there are fewer. Default: see `epochs`.
    held_out : (inputs, labels), optional
        Clean data that the model was not trained on: what `accuracy_budget` is measured on.
    accuracy_budget : float
        Largest loss of accuracy on `held_out`, 0 to 1. An attempt, or retrained model, that loses more is thrown away;
        when all do, the model comes back unchanged (`rolled_back`). Without `held_out` nothing is measured: accuracy on
        training samples falls when memorised ones are forgotten, harmful or not.
    retrain : callable, optional
        For method "retrain": gets the inputs as given and the corrected labels, int64 (n,); returns a new model.
    seed : int
        Of the choice and order of samples.
    batch_size, progress
        As in `fit`.

    Returns
    -------
    Repair
        With no flags: an unchanged copy.

    Raises
    ------
    TypeError, ValueError
        Labels, result and inputs that do not belong together; unknown method or scope; missing `probed` or `retrain`.

    Notes
    -----
    Corrected samples occur 3 times in an epoch and probed inputs 5 times. Batch normalisation goes on learning.
    What relabelling and dropping were measured to do on memorised label flips stands in docs/real-runs.md.

    Examples
    --------
    >>> import numpy as np, torch, clear
    >>> from clear.repair import repair_model
    >>> from clear.training import fit
    >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    >>> net = torch.nn.Linear(1, 2)
    >>> _ = fit(net, x, [1, 0, 1, 1], epochs=100, learning_rate=0.1)
    >>> repair = repair_model(net, x, [1, 0, 1, 1], {0: 0}, epochs=50, learning_rate=0.1)
    >>> repair
    Repair(1 samples relabelled, 50 epochs on the network)
    >>> repair.model(x).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    _check_options(method, scope, retrain, accuracy_budget)
    given = as_labels(labels, as_source(as_dataset(inputs)).n)
    found = find_corrections(result, len(given), level=level)
    if len(found.probed_rows) and probed is None:
        raise ValueError("result is a ProbeResult: pass probed, the inputs that were probed")
    for part in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(part, ProbeResult) and probed is not None:
            check_length("probed", probed, part.n_samples)
    corrected = given.copy()
    if method != "drop":
        corrected[found.rows] = found.labels
    before = None if held_out is None else accuracy(model, *held_out)
    least = -1.0 if before is None else before - accuracy_budget - 1e-9
    if method == "retrain" and retrain is not None:
        trained = retrain(inputs, corrected)
        worse = held_out is not None and accuracy(trained, *held_out) < least
        kept = copy.deepcopy(model).eval() if worse else trained
        return Repair(kept, corrected, found.rows, found.probed_rows[:0], method, scope, (), (), before, worse)
    if not len(found.rows) and not len(found.probed_rows):
        unchanged = copy.deepcopy(model).eval()
        return Repair(unchanged, corrected, found.rows, found.probed_rows, method, scope, (), (), before)
    still_held = _count_held(model, inputs, given, found, probed)

    def train(epochs: int, clean_samples: int) -> Trained:
        repaired = copy.deepcopy(model).eval()
        samples, targets, copies = _training_data(model, inputs, corrected, found, probed, method, clean_samples, seed)
        history = fit(
            repaired,
            samples,
            targets,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            scope=scope,
            copies=copies,
            optimizer="sgd" if scope == "network" else "adam",
            progress=progress,
        )
        after = None if held_out is None else accuracy(repaired, *held_out)
        within = after is None or after >= least
        return Attempt(epochs, clean_samples, still_held(repaired), after, within), repaired, history

    steps = schedule(scope, epochs, clean_samples)
    chosen, attempts = best_attempt(steps[:1] if method == "drop" else steps, train)
    repaired, history = (copy.deepcopy(model).eval(), ()) if chosen is None else chosen[1:]
    return Repair(
        repaired,
        corrected,
        found.rows,
        found.probed_rows,
        method,
        scope,
        history,
        attempts,
        before,
        rolled_back=chosen is None,
    )


def _check_options(method: str, scope: str, retrain: Any, accuracy_budget: float) -> None:
    if not 0 <= accuracy_budget <= 1:
        raise ValueError(f"accuracy_budget is {accuracy_budget}: want a share, 0 to 1")
    if method not in get_args(Method) or scope not in get_args(Scope):
        raise ValueError(f"method is {method!r}, scope {scope!r}: want {get_args(Method)} and {get_args(Scope)}")
    if method == "retrain" and retrain is None:
        raise ValueError('method is "retrain": pass retrain, a callable (inputs, labels) -> model')


def _count_held(
    model: nn.Module, inputs: Any, given: Ints, found: Corrections, probed: Any
) -> Callable[[nn.Module], int]:
    """Return what counts the certain samples and probed inputs that a repaired model predicts as before.

    A suggestion that was only offered for review may be wrong: training on until the model obeys would do harm.
    """
    sets = []
    sure = found.rows[found.certain]
    if len(sure):
        sets.append((load_inputs(inputs, rows=sure, model=model), given[sure]))
    if len(found.probed_rows):
        flagged = load_inputs(probed, rows=found.probed_rows, model=model)
        sets.append((flagged, predict(model, (flagged, None))))
    return lambda repaired: sum(int((predict(repaired, (samples, None)) == old).sum()) for samples, old in sets)


def find_corrections(result: Found | Sequence[Found], n: int, *, level: Level = Level.REVIEW) -> Corrections:
    """Turn flags into corrected labels for a training set of n samples.

    Where two flags disagree about a sample the earlier result decides, and within a probe the stronger flag. Raises
    TypeError or ValueError where a result does not fit n samples, or inputs of more than one probe are flagged.
    """
    samples: dict[int, int] = {}
    certain: set[int] = set()
    probed: dict[int, int] = {}
    for part in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(part, ScanResult):
            if part.n_samples != n:
                raise ValueError(f"result is a scan of {part.n_samples} samples: want one of the {n} given")
            found = {flag.row: flag.suggested_label for flag in part.flags if flag.level >= level}
            certain |= {flag.row for flag in part.flags if flag.level == Level.CERTAIN}
        elif isinstance(part, ProbeResult):
            if probed:
                raise ValueError("result holds two probes: probe all inputs at once, or repair after each probe")
            flags = [flag for flag in part.flags if flag.level >= level]
            probed = {flag.row: flag.suggested_label for flag in flags}
            found = {mate: flag.suggested_label for flag in reversed(flags) for mate in flag.mates}
        elif isinstance(part, Mapping):
            found = dict(part)
            certain |= set(found)
        else:
            raise TypeError(f"result is a {type(part).__name__}: want a scan, a probe or a mapping of row to label")
        samples = found | samples
    rows, labels = _columns(samples)
    ids = as_ids(rows, len(rows), "result's rows", rows=n)
    return Corrections(ids, labels, np.isin(ids, sorted(certain)), *_columns(probed))


def _columns(pairs: Mapping[int, int]) -> tuple[Ints, Ints]:
    """Rows, ascending, and their labels."""
    table = np.asarray(sorted(pairs.items())) if pairs else np.empty((0, 2), dtype=np.int64)
    if table.dtype.kind not in "iu":
        raise TypeError("result maps rows to labels that are not integers: want {row: class number}")
    return table[:, 0].astype(np.int64), as_labels(np.ascontiguousarray(table[:, 1]), len(table), "result's labels")


def _training_data(
    model: nn.Module,
    inputs: Any,
    labels: Ints,
    found: Corrections,
    probed: Any,
    method: Method,
    clean_samples: int,
    seed: int,
) -> tuple[torch.Tensor, Ints, Ints]:
    """Clean samples, corrected ones and probed inputs: (inputs, labels, copies)."""
    clean = np.setdiff1d(np.arange(len(labels)), found.rows)
    count = min(as_count(clean_samples, "clean_samples", low=0), len(clean))
    clean = np.sort(np.random.default_rng(seed).choice(clean, count, replace=False))
    if method == "drop":
        if not len(clean):
            raise ValueError("every sample is flagged or clean_samples is 0: nothing is left to fine-tune on")
        return load_inputs(inputs, rows=clean, model=model), labels[clean], np.ones(len(clean), dtype=np.int64)
    rows = np.concatenate([clean, found.rows])
    parts = [load_inputs(inputs, rows=rows, model=model)] if len(rows) else []
    if len(found.probed_rows):
        parts.append(load_inputs(probed, rows=found.probed_rows, model=model))
    copies = np.repeat([1, COPIES_OF_FLAGGED, COPIES_OF_PROBED], [len(clean), len(found.rows), len(found.probed_rows)])
    return torch.cat(parts), np.concatenate([labels[rows], found.probed_labels]), copies
