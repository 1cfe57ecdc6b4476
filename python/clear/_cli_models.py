"""Commands that run a network: demo, features, repair, verify. torch is imported when one of them runs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from clear._cli_common import (
    CLEAN,
    READ,
    STATUS,
    UNDECIDED,
    AddressOption,
    EngineOption,
    JsonOption,
    ThreadsOption,
    Where,
    print_json,
    printable,
    show_progress,
)
from clear._files import atomic_write, require_writable
from clear.errors import need
from clear.results import Level, ProbeResult, ScanResult

__all__ = ["demo", "features", "repair", "verify"]


class Method(StrEnum):
    """How the flagged samples are treated; "retrain" needs a callable and is for Python only."""

    RELABEL = "relabel"
    DROP = "drop"


class Dtype(StrEnum):
    """How features are kept."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Scope(StrEnum):
    """What is trained."""

    NETWORK = "network"
    HEAD = "head"


WeightsArgument = Annotated[
    Path, typer.Argument(help="Weights: .safetensors, or a state dict in .pt/.pth.", show_default=False)
]
ImagesArgument = Annotated[
    str, typer.Argument(help="Labelled images: .parquet (as Hugging Face writes them) or .npz.", **READ)
]
ReportArgument = Annotated[Path, typer.Argument(help="report.json, or the directory with it.", show_default=False)]
ArchitectureOption = Annotated[
    str,
    typer.Option(
        help='The network: a name such as resnet20 or digits_cnn, or "package.module:callable".', show_default=False
    ),
]
ClassesOption = Annotated[
    int | None, typer.Option(min=2, help="Classes of the network; default: its own.", show_default=False)
]
LayerOption = Annotated[
    str | None,
    typer.Option(help="Dotted name of a layer; default: the input of the last linear layer.", show_default=False),
]
ProbedOption = Annotated[str | None, typer.Option(help="Images that were probed, for the report of a probe.", **READ)]
HeldOutOption = Annotated[
    str | None, typer.Option(help="Clean labelled images that no network was trained on.", **READ)
]
OnlyCertainOption = Annotated[
    bool, typer.Option("--only-certain", help="Act on the certain samples alone, not on those offered for review.")
]
OutFile = Annotated[Path, typer.Option(help="File to write.", show_default=False)]
OutFeatures = Annotated[
    Path,
    typer.Option(help="File (.npy, .npz, .parquet), or directory of a feature store, to write.", show_default=False),
]


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Directory for the report and the repaired network.")] = Path("clear-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other backdoors.")] = 0,
    json: JsonOption = False,
) -> int:
    """Plant backdoors, find, repair and verify them.

    The whole story on a small network, in about a minute.

    Exit code 0 only if the backdoors were there, were found, and are gone.

    Example: clear-pockets demo --out clear-demo
    """
    need("torch", extra="torch")
    from clear.demo import run_demo

    outcome = run_demo(out, seed=seed, progress=partial(typer.echo, err=json))
    if json:
        print_json(outcome.to_dict())
    return 0 if outcome.passed else 1


def features(
    weights: WeightsArgument,
    images: ImagesArgument,
    *,
    architecture: ArchitectureOption,
    out: OutFeatures,
    layer: LayerOption = None,
    classes: ClassesOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
    shard_rows: Annotated[int, typer.Option(min=1, help="Images in a shard of a feature store.")] = 1 << 16,
    dtype: Annotated[Dtype, typer.Option(help="How features are kept; bfloat16 in a feature store.")] = Dtype.FLOAT32,
    engine: EngineOption = Where.LOCAL,
    address: AddressOption = None,
    views: Annotated[
        bool | None,
        typer.Option(
            "--views/--no-views",
            help="A second look at the images, for scan; default: where the network fits 99 % of the labels.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Save what one layer of a network says about images.

    This is the input of plan, scan, probe and check.

    A network that fits 99 % of the labels was trained on them, and what its last layers say is bent to fit wrong ones,
    too: scan then wants a second look (six more runs over the images), which goes beside --out as NAME.views.npz.

    With a directory for --out (a name without a suffix) it is a feature store, written shard by shard: after an
    interruption the same command goes on.

    Example: clear-pockets features net.safetensors train.parquet --architecture resnet20 --out train.npy
    """
    if out.suffix != "" and engine is Where.RAY:
        raise typer.BadParameter(f"--out is {out}: --engine ray writes a feature store, want a name without a suffix")
    if out.suffix != "" and dtype is Dtype.BFLOAT16:
        raise typer.BadParameter(
            f"--out is {out}: --dtype bfloat16 is for a feature store, want a name without a suffix"
        )
    need("torch", extra="torch")
    require_writable(out.parent)
    from clear._view_files import save_views, views_beside
    from clear.data import save_features
    from clear.extraction import extract_to_store
    from clear.features import extract_features

    options: dict[str, Any] = {"layer": layer, "batch_size": batch_size, "device": device, "dtype": dtype.value}
    options["progress"] = show_progress()
    model, dataset = _load(weights, architecture, classes), _open(images)
    if out.suffix == "":
        taken = extract_to_store(
            model, dataset, out, shard_rows=shard_rows, engine=engine.value, address=address, **options
        )
    else:
        taken = extract_features(model, dataset, **options)
        save_features(taken, out)
    seen = _look_again(model, dataset, taken, views, out, batch_size=batch_size, device=device)
    save_views(seen, out)
    facts: dict[str, Any] = {"features": str(out), "shape": list(taken.values.shape), "dtype": str(taken.values.dtype)}
    facts["views"] = None if seen is None else str(views_beside(out))
    print_json(facts) if json else typer.echo(f"{printable(out)}: {taken!r}")
    if seen is not None and not json:
        typer.echo(f"{printable(views_beside(out))}: a second look; the network fits {seen.fitted:.1%} of the labels")
    return CLEAN


def _look_again(model: Any, dataset: Any, taken: Any, views: bool | None, out: Path, **options: Any) -> Any:
    """Views of the images: when asked for, or when the network fits the labels of images and has a layer for them."""
    from clear.suspicion import MEMORISED

    if views is None:
        known = taken.predictions is not None and getattr(dataset, "labels", None) is not None
        if not known or (taken.predictions == taken.labels).mean() < MEMORISED:
            return None
    elif not views:
        return None
    from clear._view_files import begin_views
    from clear.views import extract_views

    try:
        with begin_views(out):
            return extract_views(model, dataset, progress=show_progress(), **options)
    except ValueError:
        if views:
            raise
        return None  # no layer that sees an image


def repair(
    weights: WeightsArgument,
    images: ImagesArgument,
    report: ReportArgument,
    *,
    architecture: ArchitectureOption,
    out: OutFile,
    method: Annotated[
        Method, typer.Option(help="relabel: learn the suggested labels; drop: go on without the samples.")
    ] = Method.RELABEL,
    scope: Annotated[Scope, typer.Option(help="What is trained: all of it, or the last linear layer.")] = Scope.NETWORK,
    only_certain: OnlyCertainOption = False,
    probed: ProbedOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the data; default: as many as it takes.", show_default=False),
    ] = None,
    held_out: HeldOutOption = None,
    accuracy_budget: Annotated[
        float, typer.Option(min=0, max=1, help="Largest loss of accuracy on --held-out; beyond it nothing is changed.")
    ] = 0.01,
    classes: ClassesOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and order of samples.")] = 0,
    json: JsonOption = False,
) -> int:
    """Fine-tune a network so that the pockets found close.

    Flagged samples are relabelled as the report suggests, or dropped (what a network has memorised then mostly stays).
    With --held-out, a repair that costs more accuracy than --accuracy-budget is not written (exit code 2).

    Example: clear-pockets repair net.safetensors train.parquet out --architecture resnet20 --out fixed.safetensors
    """
    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"--out is {out}: want a name that ends in .safetensors")
    need("torch", extra="torch")
    require_writable(out.parent)
    from clear.report import read_report

    result = read_report(report)
    from clear.repair import repair_model

    dataset = _open(images)
    fixed = repair_model(
        _load(weights, architecture, classes),
        dataset,
        _labels(dataset, result),
        result,
        method=method.value,
        scope=scope.value,
        level=_level(only_certain),
        probed=None if probed is None else _open(probed),
        epochs=epochs,
        held_out=_labelled(held_out),
        accuracy_budget=accuracy_budget,
        seed=seed,
        progress=show_progress(),
    )
    if not fixed.rolled_back:
        _save(fixed.model, out)
    facts = {
        "weights": None if fixed.rolled_back else str(out),
        "method": method.value,
        "changed": fixed.changed.tolist(),
        "epochs": len(fixed.history),
        "accuracy_before": fixed.accuracy_before,
        "attempts": [asdict(attempt) for attempt in fixed.attempts],
        "rolled_back": fixed.rolled_back,
    }
    if json:
        print_json(facts)
    elif fixed.rolled_back:
        typer.echo(f"{fixed!r}; {printable(out)} is not written")
    else:
        typer.echo(f"{printable(out)}: {fixed!r}; now run verify")
    return UNDECIDED if fixed.rolled_back else CLEAN


def verify(
    before: WeightsArgument,
    after: Annotated[Path, typer.Argument(help="Weights after the repair.", show_default=False)],
    images: ImagesArgument,
    report: ReportArgument,
    *,
    architecture: ArchitectureOption,
    only_certain: OnlyCertainOption = False,
    held_out: HeldOutOption = None,
    probed: ProbedOption = None,
    extractor: Annotated[
        Path | None,
        typer.Option(help="Weights whose features are scanned again; default: AFTER.", show_default=False),
    ] = None,
    layer: LayerOption = None,
    classes: ClassesOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> int:
    """Check a repair: are the pockets closed, at what cost?

    Checks every sample that repair relabels with the same report (and --only-certain), pocket or not.

    Exit code 0: all are closed, 1: some are not, or the new scan says poisoned, 2: nothing to check, or undecided.

    Example: clear-pockets verify net.safetensors fixed.safetensors train.parquet out --architecture resnet20
    """
    need("torch", extra="torch")
    from clear.report import read_report

    result = read_report(report)
    from clear.repair import find_corrections
    from clear.verify import verify_repair

    dataset = _open(images)
    labels = _labels(dataset, result)
    found = find_corrections(result, len(labels), level=_level(only_certain))
    corrected = labels.copy()
    corrected[found.rows] = found.labels
    old, new = (_load(path, architecture, classes) for path in (before, after))
    verification = verify_repair(
        old,
        new,
        dataset,
        labels,
        corrected=corrected,
        scan=result if isinstance(result, ScanResult) and len(found.rows) else None,
        probe=result if isinstance(result, ProbeResult) else None,
        probed=None if probed is None else _open(probed),
        held_out=_labelled(held_out),
        extractor=None if extractor is None else _load(extractor, architecture, classes),
        layer=layer,
        config=result.config,
        threads=threads,
        progress=show_progress(),
    )
    print_json(verification.to_dict()) if json else typer.echo(repr(verification))
    return STATUS[verification.verdict]


def _level(only_certain: bool) -> Level:
    return Level.CERTAIN if only_certain else Level.REVIEW


def _labels(dataset: Any, result: ScanResult | ProbeResult) -> Any:
    """Labels that the network was trained on: those scanned, where the report has them; else the images' own."""
    if isinstance(result, ProbeResult):
        return dataset.labels
    if len(dataset) != result.n_samples:
        raise ValueError(
            f"images hold {len(dataset)} samples, the report is about {result.n_samples}: want the same set"
        )
    return result.labels


def _load(weights: Path, architecture: str, classes: int | None) -> Any:
    from clear.models import load_model

    return load_model(weights, architecture, num_classes=classes)


def _open(images: str) -> Any:
    from clear.images import open_images

    return open_images(images)


def _labelled(images: str | None) -> tuple[Any, Any] | None:
    """Images with their labels."""
    if images is None:
        return None
    opened = _open(images)
    return opened, opened.labels


def _save(model: Any, path: Path) -> None:
    """Write the weights as safetensors; tensors that share memory are written out each."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        need("safetensors.torch", extra="torch").save_file(state, temporary)
