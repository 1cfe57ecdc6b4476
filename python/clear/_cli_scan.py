"""The commands scan and probe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from clear._cli_common import (
    READ,
    STATUS,
    AddressOption,
    ApproximateOption,
    EngineOption,
    FeaturesArgument,
    JsonOption,
    KeepOption,
    LabelsOption,
    PredictionsOption,
    ProbesOption,
    ThreadsOption,
    Where,
    as_bytes,
    as_method,
    print_json,
    printable,
    read_features,
    show_progress,
    warned,
    with_settings,
)
from clear._files import make_folder
from clear.config import ScanConfig
from clear.errors import need
from clear.results import Level, ProbeResult, ScanResult

__all__ = ["probe", "scan"]

LISTED = 10


ParquetOption = Annotated[
    Path | None,
    typer.Option(help="Directory for the scores of all samples as partitioned Parquet.", show_default=False),
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Directory for the report (made if needed; a report in it is replaced).", show_default=False),
]
WorkdirOption = Annotated[
    Path | None,
    typer.Option(help="Directory for finished pieces of work: an interrupted scan goes on.", show_default=False),
]
ImagesOption = Annotated[
    str | None, typer.Option(help="Images of these samples, for thumbnails: .parquet or .npz.", **READ)
]


@with_settings(unused=("probe_fpr",))
def scan(
    features: FeaturesArgument,
    *,
    labels: LabelsOption = None,
    out: OutOption = None,
    parquet: ParquetOption = None,
    images: ImagesOption = None,
    threads: ThreadsOption = None,
    workdir: WorkdirOption = None,
    piece_rows: Annotated[int, typer.Option(min=1, help="Samples in a piece of work.")] = 1 << 13,
    engine: EngineOption = Where.LOCAL,
    address: AddressOption = None,
    node_memory: Annotated[
        str | None,
        typer.Option(help="Memory for the set on a node of Ray (4GiB, ...); beyond it in shards.", show_default=False),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(help="The --workdir of a scan of the first samples: the others join it.", show_default=False),
    ] = None,
    keep_neighbors: KeepOption = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so many seconds (exit code 4); needs --workdir.", show_default=False),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Refuse (exit code 4) a scan that needs more: 4GiB, 500MB, ...", show_default=False),
    ] = None,
    approximate: ApproximateOption = None,
    probes: ProbesOption = None,
    json: JsonOption = False,
    config: ScanConfig,
) -> int:
    """Find planted or mislabelled samples in a training set.

    Reports pockets of the decision boundary, and the label that their samples should have.

    Views beside the features (train.views.npz, which the command features writes when the network fits the labels) are
    used, unless --labels gives other labels.

    With --workdir, an interrupted scan goes on where it stopped when the same command is given again.

    Exit code 0: clean, 1: poisoned, 2: undecided.

    Example: clear-pockets scan train.npy --labels labels.npy --out out
    """
    from clear._view_files import open_views
    from clear.detect import scan as run_scan

    how = as_method(approximate, probes)
    for_set = None if node_memory is None else as_bytes(node_memory, "--node-memory")
    most = None if max_memory is None else as_bytes(max_memory, "--max-memory")
    _prepare_report(out, images)
    if parquet is not None:
        need("pyarrow.parquet", extra="data")
        make_folder(parquet)
    pictures = _open_all(images)
    opened, place = read_features(features, labels)
    with warned():
        result = run_scan(
            opened,
            views=open_views(place) if labels is None else None,
            config=config,
            threads=threads,
            progress=show_progress(),
            workdir=workdir,
            piece_rows=piece_rows,
            engine=engine.value,
            address=address,
            node_memory=for_set,
            previous=previous,
            keep_neighbors=keep_neighbors,
            max_seconds=max_seconds,
            max_memory=most,
            approximate=how,
        )
    status = _finish(result, out, json=json, images=pictures, features_path=place)
    if parquet is not None:
        from clear.export import export_scores

        export_scores(result, parquet)
    return status


@with_settings(unused=("review_rate", "false_flags", "false_alarms"))
def probe(
    inputs: Annotated[str, typer.Argument(help="Features of the incoming samples, with predictions.", **READ)],
    reference: Annotated[str, typer.Argument(help="Features of the training set.", **READ)],
    *,
    predictions: PredictionsOption = None,
    labels: LabelsOption = None,
    out: OutOption = None,
    images: ImagesOption = None,
    reference_images: Annotated[
        str | None, typer.Option(help="Images of the training set, for thumbnails.", **READ)
    ] = None,
    threads: ThreadsOption = None,
    approximate: ApproximateOption = None,
    probes: ProbesOption = None,
    json: JsonOption = False,
    config: ScanConfig,
) -> int:
    """Test whether inputs sit in a pocket of a training set.

    If so, the model's answer rests on a handful of training samples, which are listed.

    Exit code 0: clean, 1: poisoned, 2: undecided.

    Example: clear-pockets probe incoming.npz train.npz --out out
    """
    from clear.detect import probe as run_probe

    how = as_method(approximate, probes)
    _prepare_report(out, images, reference_images)
    pictures = _open_all(images, reference_images)
    probed, inputs_path = read_features(inputs, predictions)
    if predictions is not None:  # these go before predictions stored in or beside the file
        probed = dataclasses.replace(probed, predictions=probed.labels)
    elif probed.predictions is None:
        raise ValueError(f"{inputs} has no predictions: give --predictions with what the model predicts for the inputs")
    training, features_path = read_features(reference, labels)
    result = run_probe(probed, training, config=config, threads=threads, progress=show_progress(), approximate=how)
    return _finish(result, out, json=json, images=pictures, features_path=features_path, inputs_path=inputs_path)


def _prepare_report(out: Path | None, *pictures: str | None) -> None:
    """Find out before the work starts what would keep the report from being written."""
    from clear.report import require_extras

    if out is not None:
        require_extras()
        make_folder(out)
    elif any(pictures):
        raise typer.BadParameter("images are for the report: give --out too")


def _open_all(*pictures: str | None) -> list[Any]:
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
        "thresholds": {name: value for name, value in result.thresholds.items() if "_raised_" not in name},
        "notes": result.notes,
        "approximation": None if result.approximation is None else dataclasses.asdict(result.approximation),
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
        if result.joined is not None:
            summary["joined"] = dataclasses.asdict(result.joined)
        summary["pockets"] = [
            dataclasses.asdict(pocket) | {"level": pocket.level.name.lower()} for pocket in result.pockets
        ]
    return summary


def _print_summary(result: ScanResult | ProbeResult, summary: dict[str, Any]) -> None:
    def name(label: int) -> str:
        return printable(result.class_names[label]) if result.class_names else f"class {label}"

    if isinstance(result, ScanResult):
        typer.echo(
            f"{result.verdict}: {summary['certain']} of {result.n_samples} samples certain, "
            f"{summary['review']} to review, {len(result.pockets)} pockets"
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
    if (found := result.approximation) is not None:
        typer.echo(
            f"approximate: {found.recall:.1%} of the neighbours found; {found.same_level:.1%} of {found.sampled} "
            f"samples, and {found.flagged_same_level:.1%} of {found.flagged} flagged ones, get the level of exact ones"
        )
    for note in result.notes:
        typer.echo(f"note: {printable(note)}")
