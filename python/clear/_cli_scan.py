"""Commands about features: info, plan, scan, probe, check."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from clear._cli_common import (
    CLEAN,
    POISONED,
    REFUSED,
    UNDECIDED,
    JsonOption,
    ThreadsOption,
    print_json,
    printable,
    show_progress,
    with_settings,
)
from clear.config import ScanConfig
from clear.results import Level, ProbeResult, ScanResult

__all__ = ["check", "info", "plan", "probe", "scan"]

STATUS = {"clean": CLEAN, "poisoned": POISONED, "undecided": UNDECIDED}
LIBRARIES = (
    "numpy",
    "scikit-learn",
    "scipy",
    "torch",
    "safetensors",
    "pyarrow",
    "pillow",
    "datasets",
    "jinja2",
    "matplotlib",
)
LISTED = 10

FeaturesArgument = Annotated[Path, typer.Argument(help="Features: .npy, .npz or .parquet.", show_default=False)]
LabelsOption = Annotated[
    Path | None, typer.Option(help="Labels (.npy or .npz), where the features' file has none.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Directory for the report (made if needed; a report in it is replaced).", show_default=False),
]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Images of these samples, for thumbnails: .parquet or .npz.", show_default=False)
]


def info(*, json: JsonOption = False) -> None:
    """Show build, processor and versions of libraries.

    This is what a bug report needs.

    Example: clear-pockets info
    """
    from clear import build_info

    facts: dict[str, Any] = build_info() | {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }
    if json:
        print_json(facts)
        return
    libraries = facts.pop("libraries")
    for name, value in facts.items():
        typer.echo(f"{name:<14} {value}")
    for name, version in libraries.items():
        typer.echo(f"{name:<14} {version or 'not installed'}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@with_settings
def plan(
    features: FeaturesArgument,
    *,
    labels: LabelsOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
    config: ScanConfig,
) -> None:
    """Estimate time and memory of a scan.

    Example: clear-pockets plan train.npy --labels labels.npy
    """
    from clear.data import open_features
    from clear.plan import plan_scan

    opened = open_features(features, labels=labels)
    classes = int(opened.labels.max(initial=0)) + 1
    n, width = opened.values.shape
    estimate = plan_scan(n, width, classes, config=config, threads=threads)
    if json:
        print_json(estimate.to_dict())
        return
    typer.echo(f"{estimate.n_samples} samples x {estimate.n_features} features, {estimate.n_classes} classes")
    for stage in estimate.stages:
        typer.echo(f"  {stage.name:<12} {stage.seconds:9.1f} s   {stage.peak_bytes / 2**20:9.0f} MiB")
    typer.echo(f"  {'total':<12} {estimate.seconds:9.1f} s   {estimate.peak_bytes / 2**20:9.0f} MiB at most")


@with_settings
def scan(
    features: FeaturesArgument,
    *,
    labels: LabelsOption = None,
    out: OutOption = None,
    images: ImagesOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
    config: ScanConfig,
) -> int:
    """Find planted or mislabelled samples in a training set.

    Reports pockets of the decision boundary, and the label that their samples should have.

    Exit code 0: clean, 1: poisoned, 2: undecided.

    Example: clear-pockets scan train.npy --labels labels.npy --out out
    """
    from clear.data import open_features
    from clear.detect import scan as run_scan

    pictures = _prepare_report(out, images)
    opened = open_features(features, labels=labels)
    result = run_scan(opened, config=config, threads=threads, progress=show_progress())
    return _finish(result, out, json=json, images=pictures, features_path=features)


@with_settings
def probe(
    inputs: Annotated[
        Path, typer.Argument(help="Features of the incoming samples, with predictions.", show_default=False)
    ],
    reference: Annotated[Path, typer.Argument(help="Features of the training set.", show_default=False)],
    *,
    predictions: Annotated[
        Path | None,
        typer.Option(help="What the model predicts for the inputs, where their file has none.", show_default=False),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the training set, where its file has none.", show_default=False)
    ] = None,
    out: OutOption = None,
    images: ImagesOption = None,
    reference_images: Annotated[
        Path | None, typer.Option(help="Images of the training set, for thumbnails.", show_default=False)
    ] = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
    config: ScanConfig,
) -> int:
    """Test whether inputs sit in a pocket of a training set.

    If so, the model's answer rests on a handful of training samples, which are listed.

    Exit code 0: clean, 1: poisoned, 2: undecided.

    Example: clear-pockets probe incoming.npz train.npz --out out
    """
    from clear.data import open_features
    from clear.detect import probe as run_probe

    pictures = _prepare_report(out, images, reference_images)
    probed = open_features(inputs, labels=predictions)
    if predictions is not None:  # these go before predictions stored in or beside the file
        probed = dataclasses.replace(probed, predictions=None)
    training = open_features(reference, labels=labels)
    result = run_probe(probed, training, config=config, threads=threads, progress=show_progress())
    return _finish(result, out, json=json, images=pictures, features_path=reference, inputs_path=inputs)


def check(
    report: Annotated[Path, typer.Argument(help="report.json, or the directory with it.", show_default=False)],
    features: FeaturesArgument,
    *,
    labels: LabelsOption = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help="Features of the samples probed (for the report of a probe).", show_default=False),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Predictions for them, as given to probe.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> int:
    """Recompute the evidence of a report from the data.

    Checks every distance, score and pocket with NumPy alone; no code is shared with the scan.

    Exit code 0: everything holds, 3: something does not.

    Example: clear-pockets check out/report.json train.npy --labels labels.npy
    """
    from clear.check import check_report
    from clear.data import open_features

    if not report.exists():
        raise FileNotFoundError(2, "no such file or directory", str(report))
    probed = None if inputs is None else open_features(inputs, labels=predictions)
    if probed is not None and predictions is not None:
        probed = dataclasses.replace(probed, predictions=None)
    violations = check_report(report, open_features(features, labels=labels), inputs=probed)
    if json:
        print_json({"holds": not violations, "violations": violations})
    else:
        typer.echo("\n".join(printable(violation) for violation in violations) or "everything holds")
    return REFUSED if violations else CLEAN


def _prepare_report(out: Path | None, *pictures: Path | None) -> list[Any]:
    """Find out before the work starts what would keep the report from being written; open the images."""
    from clear.report import require_extras

    if out is not None:
        require_extras()
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "the report cannot be written here", str(out))
    if not any(pictures):
        return [None for _ in pictures]
    if out is None:
        raise typer.BadParameter("images are for the report: give --out too")
    from clear.images import open_images

    return [None if path is None else open_images(path) for path in pictures]


def _finish(result: ScanResult | ProbeResult, out: Path | None, *, json: bool, images: list[Any], **paths: Path) -> int:
    from clear.report import write_report

    written = None
    if out is not None:
        names = ("images", "reference_images")
        pictures = dict(zip(names, images, strict=False))
        written = write_report(result, out, **pictures, **paths)
    summary = _summary(result) | {"report": None if written is None else str(written.json)}
    if json:
        print_json(summary)
    else:
        _print_summary(result, summary)
        typer.echo(
            f"report: {printable(written.html)}" if written else "add --out DIRECTORY for a report with all samples"
        )
    return STATUS[result.verdict]


def _summary(result: ScanResult | ProbeResult) -> dict[str, Any]:
    certain = sum(flag.level == Level.CERTAIN for flag in result.flags)
    summary: dict[str, Any] = {
        "kind": "scan" if isinstance(result, ScanResult) else "probe",
        "verdict": result.verdict,
        "n_samples": result.n_samples,
        "certain": certain,
        "review": len(result.flags) - certain,
        "thresholds": result.thresholds,
        "notes": result.notes,
        "flags": [
            {
                name: getattr(flag, name)
                for name in ("row", "id", "label", "suggested_label", "score", "collapse", "reassignment")
            }
            | {"level": flag.level.name.lower(), "mates": flag.mates}
            for flag in result.flags
        ],
    }
    if isinstance(result, ScanResult):
        summary["pockets"] = [
            dataclasses.asdict(pocket) | {"level": pocket.level.name.lower()} for pocket in result.pockets
        ]
    return summary


def _print_summary(result: ScanResult | ProbeResult, summary: dict[str, Any]) -> None:
    def name(label: int) -> str:
        return printable(result.class_names[label]) if result.class_names else f"class {label}"

    if isinstance(result, ScanResult):
        typer.echo(
            f"{result.verdict}: {summary['certain']} of {result.n_samples} samples certain, {summary['review']} to review, "
            f"{len(result.pockets)} pockets"
        )
        for number, pocket in enumerate(result.pockets[:LISTED], start=1):
            ids = ", ".join(printable(item) for item in pocket.ids[:5]) + (", ..." if len(pocket.ids) > 5 else "")
            typer.echo(
                f"{number:4}. {name(pocket.label)} -> {name(pocket.suggested_label)}: {len(pocket.rows)} samples, "
                f"{pocket.level.name.lower()}, score {pocket.score:.2f}: {ids}"
            )
    else:
        typer.echo(
            f"{result.verdict}: {len(result.flags)} of {result.n_samples} inputs sit in a pocket of the training set"
        )
        for flag in result.flags[:LISTED]:
            typer.echo(
                f"  {printable(flag.id)}: predicted {name(flag.label)}, looks like {name(flag.suggested_label)}, "
                f"z {flag.score:.2f}"
            )
    shown = len(result.pockets) if isinstance(result, ScanResult) else len(result.flags)
    if shown > LISTED:
        typer.echo(f"      and {shown - LISTED} more")
    for note in result.notes:
        typer.echo(f"note: {printable(note)}")
