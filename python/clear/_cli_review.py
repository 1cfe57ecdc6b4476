"""The command review."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from clear._cli_common import (
    CLEAN,
    READ,
    STATUS,
    JsonOption,
    LabelsOption,
    PredictionsOption,
    ThreadsOption,
    print_json,
    printable,
    show_progress,
    with_settings,
)
from clear.config import ScanConfig
from clear.review import ReviewResult

__all__ = ["review"]

LISTED = 10


@with_settings(unused=("review_rate", "false_flags", "false_alarms", "probe_fpr", "weak_accuracy"))
def review(
    inputs: Annotated[str, typer.Argument(help="Features of the incoming samples, with predictions.", **READ)],
    reference: Annotated[str, typer.Argument(help="Features of clean samples of your own, with labels.", **READ)],
    *,
    fpr: Annotated[float, typer.Option(help="Share of clean inputs that may be flagged.")] = 0.01,
    predictions: PredictionsOption = None,
    labels: LabelsOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
    config: ScanConfig,
) -> int:
    """Test inputs of a model whose training set is not at hand.

    Says which predictions clean samples of your own contradict: mistakes of the model, and perhaps pockets. With the
    training set, scan and probe see far more.

    Exit code 0: nothing flagged, 2: some inputs flagged.

    Example: clear-pockets review incoming.npz own.npz --fpr 0.01
    """
    from clear.data import open_features
    from clear.review import review as run_review

    asked = open_features(inputs, labels=predictions)
    if predictions is not None:  # these go before predictions stored in or beside the file
        asked = dataclasses.replace(asked, predictions=asked.labels)
    elif asked.predictions is None:
        raise ValueError(f"{inputs} has no predictions: give --predictions with what the model predicts for the inputs")
    own = open_features(reference, labels=labels)
    result = run_review(asked, own, fpr=fpr, config=config, threads=threads, progress=show_progress())
    if json:
        print_json(
            {
                "kind": "review",
                "n_samples": result.n_samples,
                "n_reference": result.n_reference,
                "fpr": result.fpr,
                "threshold": result.threshold,
                "notes": result.notes,
                "flags": [dataclasses.asdict(flag) for flag in result.flags],
            }
        )
    else:
        _print(result)
    return STATUS["undecided"] if result.flags else CLEAN


def _print(result: ReviewResult) -> None:
    def name(label: int) -> str:
        return printable(result.class_names[label]) if result.class_names else f"class {label}"

    typer.echo(
        f"{len(result.flags)} of {result.n_samples} predictions are contradicted by the reference, where "
        f"{result.fpr:g} of clean inputs may be"
    )
    for flag in result.flags[:LISTED]:
        typer.echo(
            f"  {printable(flag.id)}: predicted {name(flag.label)}, looks like {name(flag.suggested_label)}, "
            f"level {flag.level:.2g}"
        )
    if len(result.flags) > LISTED:
        typer.echo(f"      and {len(result.flags) - LISTED} more")
    for note in result.notes:
        typer.echo(f"note: {printable(note)}")
