"""The commands around a scan: info, plan, check."""

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
    READ,
    REFUSED,
    ApproximateOption,
    FeaturesArgument,
    JsonOption,
    KeepOption,
    LabelsOption,
    PredictionsOption,
    ProbesOption,
    ThreadsOption,
    as_method,
    print_json,
    printable,
    read_features,
    with_settings,
)
from clear.config import ScanConfig

__all__ = ["check", "info", "plan"]

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


def info(*, json: JsonOption = False) -> None:
    """Show build, processor and versions of libraries.

    This is what a bug report needs. The environment variable CLEAR_ISA (baseline, avx2 or avx512) chooses a lower
    instruction set than the processor's best; answers stay the same to the last bit.

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
    approximate: ApproximateOption = None,
    probes: ProbesOption = None,
    keep_neighbors: KeepOption = False,
    json: JsonOption = False,
    config: ScanConfig,
) -> None:
    """Estimate time, memory and disk of a scan, stage by stage.

    Example: clear-pockets plan train.npy --labels labels.npy
    """
    from clear.data import open_features
    from clear.plan import SHORTEST_STAGE, plan_scan
    from clear.prepare import count_classes

    how = as_method(approximate, probes)
    opened = open_features(features, labels=labels)
    n, width = opened.values.shape
    classes = count_classes(opened)
    estimate = plan_scan(
        n, width, classes, config=config, threads=threads, approximate=how, keep_neighbors=keep_neighbors
    )
    if json:
        print_json(estimate.to_dict())
        return
    typer.echo(f"{estimate.n_samples} samples x {estimate.n_features} features, {estimate.n_classes} classes")
    rows = [(stage.name, stage.seconds, stage.peak_bytes, stage.disk_bytes) for stage in estimate.stages]
    typer.echo(f"  {'stage':<12} {'seconds':>9} {'memory':>13} {'disk':>13}   (disk: with --workdir)")
    for name, seconds, memory, disk in [*rows, ("total", estimate.seconds, estimate.peak_bytes, estimate.disk_bytes)]:
        shown = f"{seconds:.1f}" if name == "total" or seconds >= SHORTEST_STAGE else f"< {SHORTEST_STAGE:g}"
        typer.echo(f"  {name:<12} {shown:>9} {memory / 2**20:9.0f} MiB {disk / 2**20:9.1f} MiB")


def check(
    report: Annotated[Path, typer.Argument(help="report.json, or the directory with it.", show_default=False)],
    features: FeaturesArgument,
    *,
    labels: LabelsOption = None,
    inputs: Annotated[
        str | None,
        typer.Option(help="Features of the samples probed (for the report of a probe).", **READ),
    ] = None,
    predictions: PredictionsOption = None,
    json: JsonOption = False,
) -> int:
    """Recompute the evidence of a report from the data.

    Checks every distance shown, all levels, pockets and the verdict with NumPy alone; no code is shared with the scan.

    Exit code 0: everything holds, 3: something does not.

    Example: clear-pockets check out/report.json train.npy --labels labels.npy
    """
    from clear.check import check_report

    if not report.exists():
        raise FileNotFoundError(2, "no such file or directory", str(report))
    probed, inputs_path = (None, None) if inputs is None else read_features(inputs, predictions)
    if probed is not None and predictions is not None:
        probed = dataclasses.replace(probed, predictions=None)
    opened, features_path = read_features(features, labels)
    violations = check_report(report, opened, inputs=probed, features_path=features_path, inputs_path=inputs_path)
    if json:
        print_json({"holds": not violations, "violations": violations})
    else:
        typer.echo("\n".join(printable(violation) for violation in violations) or "everything holds")
    return REFUSED if violations else CLEAN
