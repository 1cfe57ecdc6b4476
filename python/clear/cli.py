"""The command line: parse, call the library, print, exit. Errors of the user are one line, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from clear import _cli_models as models
from clear import _cli_review as reviews
from clear import _cli_scan as scans
from clear import _cli_tools as tools
from clear._cli_common import CANCELLED, LIMIT, REFUSED, USAGE, one_line, printable
from clear.errors import ClearError, LimitReached

__all__ = ["app", "main"]

USAGE_ERROR = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="clear-pockets",
    help="Find and repair triggerless backdoors: training samples planted so that one input is misclassified.\n\n"
    "Start with `demo`; then `scan` your training features, read the report, `repair` and `verify`.",
    epilog="Exit codes: 0 clean or done, 1 poisoned or not repaired, 2 undecided, 3 refused input or file, "
    "4 out of memory or time, 64 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    models.demo,
    tools.info,
    models.features,
    tools.plan,
    scans.scan,
    scans.probe,
    reviews.review,
    models.repair,
    models.verify,
    tools.check,
):
    app.command()(command)


@app.callback()
def _common() -> None:
    """Keep the help of the program, even with one command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. `--debug` (hidden) lets errors through with their traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        status = app([word for word in words if word != "--debug"], prog_name="clear-pockets", standalone_mode=False)
        if status == CANCELLED:  # the parser has caught Ctrl-C itself
            return _stop("interrupted", CANCELLED)
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _stop("interrupted", CANCELLED)
    except MemoryError as error:
        if debug:
            raise
        return _stop(
            f"out of memory: {one_line(error) if error.args else 'use fewer samples, or narrower features'}", LIMIT
        )
    except (ClearError, ValueError, TypeError, OSError) as error:
        if debug:
            raise
        return _stop(one_line(error), LIMIT if isinstance(error, LimitReached) else REFUSED)
    except Exception as error:
        if not isinstance(error, USAGE_ERROR):
            raise
        text = getattr(error, "format_message", error.__str__)()
        if not words:  # the help
            print(text, file=sys.stderr)
            return USAGE
        text = printable(" ".join(text.split()))
        return _stop(f"{text} (try: clear-pockets {_command_in(words)}--help)", USAGE) if text else USAGE


def _stop(message: str, status: int) -> int:
    print(f"clear-pockets: {message}", file=sys.stderr)
    return status


def _command_in(words: list[str]) -> str:
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    return f"{words[0]} " if words and words[0] in known else ""
