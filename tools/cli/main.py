"""The `optc` command. `optc MODEL.onnx ...` is `optc compile MODEL.onnx ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from . import bench, compile, db, inspect, prune, quantize, report, run, simplify, targets, tune, verify
from .common import guarded

app = typer.Typer(
    name="optc",
    help="Compile trained ONNX models into small, fast, checked artifacts.\n\nExample: optc model.onnx -o model.optc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _module in (compile, quantize, tune, run, bench, verify, report, inspect, simplify, prune, targets):
    app.command(name=_module.__name__.rsplit(".", 1)[-1], help=_module.__doc__)(guarded(_module.command))

app.add_typer(db.app, name="db")

COMMANDS = frozenset(c.name for c in app.registered_commands) | {"db"}
LATER = {"device": "device tuning"}


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from ... import __version__

        print(f"optc {__version__}")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns (and, as a console script, exits with) the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in LATER:
        print(f"optc: error: this version does not have {LATER[args[0]]} yet", file=sys.stderr)
        return 4
    if args and args[0] not in COMMANDS and args[0] not in ("--help", "--version"):
        args.insert(0, "compile")
    try:
        app(args=args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
