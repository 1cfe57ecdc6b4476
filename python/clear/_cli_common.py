"""What the commands share: exit codes, safe printing, options made from the settings."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clear._files import is_url
from clear._urls import local_path
from clear.approximate import Approximate
from clear.config import ScanConfig
from clear.report import spelled

if TYPE_CHECKING:
    from clear.data import Features

__all__ = [
    "CANCELLED",
    "CLEAN",
    "LIMIT",
    "READ",
    "REFUSED",
    "STATUS",
    "USAGE",
    "AddressOption",
    "ApproximateOption",
    "EngineOption",
    "FeaturesArgument",
    "JsonOption",
    "KeepOption",
    "LabelsOption",
    "Method",
    "PredictionsOption",
    "ProbesOption",
    "ThreadsOption",
    "Where",
    "as_bytes",
    "as_method",
    "one_line",
    "print_json",
    "printable",
    "read_features",
    "show_progress",
    "warned",
    "with_settings",
]

CLEAN, POISONED, UNDECIDED, REFUSED, LIMIT, USAGE, CANCELLED = 0, 1, 2, 3, 4, 64, 130
STATUS = {"clean": CLEAN, "poisoned": POISONED, "undecided": UNDECIDED}


class Where(StrEnum):
    """Where work is done."""

    LOCAL = "local"
    RAY = "ray"


def path_or_url(text: str) -> str:
    """As it is given: what a URL names is copied when the command has looked at all options."""
    return text


READ: Any = {"parser": path_or_url, "show_default": False}
"""Of a file or folder that is read."""

FeaturesArgument = Annotated[
    str,
    typer.Argument(help="Features: .npy, .npz, .parquet or a feature store (a folder), or a URL of one.", **READ),
]
LabelsOption = Annotated[
    str | None, typer.Option(help="Labels (.npy or .npz), where the features' file has none.", **READ)
]
PredictionsOption = Annotated[
    str | None,
    typer.Option(help="What the model predicts for the inputs (.npy or .npz), where their file has none.", **READ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads to use; default: the cores this process may use.", show_default=False)
]
EngineOption = Annotated[Where, typer.Option(help="Where the work is done: in this process, or on a Ray cluster.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster (auto, or host:port); default: a local one.", show_default=False)
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file with settings; options given here go before it.", show_default=False)
]


class Method(StrEnum):
    """How approximate candidates are found."""

    IVF = "ivf"
    HNSW = "hnsw"


ApproximateOption = Annotated[
    Method | None,
    typer.Option(help="Candidates that may be missed; how many are is measured. Default: exact.", show_default=False),
]
ProbesOption = Annotated[
    int | None, typer.Option(min=1, help="Lists searched in each class, with --approximate ivf.", show_default=False)
]
KeepOption = Annotated[
    bool, typer.Option("--keep-neighbors", help="Keep in --workdir what makes it cheap to join the scan.")
]


def as_method(method: Method | None, probes: int | None) -> Approximate | None:
    """How candidates are found, from the options of a command."""
    if method is None or method is Method.HNSW:
        if probes is not None:
            raise typer.BadParameter("--probes is for --approximate ivf: give that too")
        return None if method is None else Approximate(method="hnsw")
    return Approximate() if probes is None else Approximate(probes=probes)


def read_features(path: str, labels: str | None = None) -> tuple[Features, Path]:
    """Open features; a URL stays their source, and the local file or folder that was read is returned, too."""
    from clear.data import open_features

    place = local_path(path)
    opened = open_features(place, labels=labels)
    return replace(opened, source=path) if is_url(path) else opened, Path(place)


def printable(text: object) -> str:
    """Text without control characters: ids and file names may try to steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))


def one_line(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(" ".join(str(error).split())) or type(error).__name__


def print_json(value: Any) -> None:
    """Print JSON on standard output, in ASCII, with numbers spelled as in reports."""
    typer.echo(json.dumps(spelled(value), indent=2, default=str))


def as_bytes(text: str, name: str) -> int:
    """Bytes of a size such as 4GiB, 500MB or 1000000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{name} is {text!r}: want a size such as 4GiB, 500MB or 1000000 (bytes)")
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


@contextmanager
def warned() -> Iterator[None]:
    """Show warnings of the library as single lines on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            yield
        finally:
            for warning in caught:
                typer.echo(f"clear-pockets: {printable(warning.message)}", err=True)


def show_progress() -> bool:
    """Bars are for people who look at a terminal."""
    return sys.stderr.isatty()


def with_settings(command: Callable[..., Any] | None = None, *, unused: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Give a command --config and an option for each field of `ScanConfig` that it uses; it gets the whole `config`."""
    if command is None:
        return functools.partial(with_settings, unused=unused)
    helps = _documentation(ScanConfig)
    used = [item for item in fields(ScanConfig) if item.name not in unused]

    @functools.wraps(command)
    def run(*args: Any, config: Path | None = None, **options: Any) -> Any:
        given = {item.name: options.pop(item.name) for item in used}
        base = ScanConfig() if config is None else ScanConfig.from_toml(config)
        chosen = {name: value for name, value in given.items() if value is not None}
        return command(*args, config=replace(base, **chosen), **options)

    own = inspect.signature(command, eval_str=True)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "config"]
    parameters.append(_keyword("config", ConfigOption))
    for item in used:
        kind = type(item.default)
        option = typer.Option(help=f"{helps[item.name]} Default: {item.default}.", show_default=False)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        parameters.append(_keyword(item.name, annotation))
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _documentation(kind: type) -> dict[str, str]:
    """The string below each field of a class: the settings are described once, where they are defined."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found
