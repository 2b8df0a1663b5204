"""What commands share: how they print, show progress and fail."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ...compiler.errors import OptcError
from ..data import as_json

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Fix an input's shape: NAME=1x3x224x224. May be repeated.")
]
TargetName = Annotated[str, typer.Option("--target", "-t", help="cpu, or cpu:LEVEL (see `optc targets`).")]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Printer:
    """Where results go: text for people, one JSON object for machines, nothing if quiet."""

    json: bool = False
    quiet: bool = False

    def show(self, text: str, data: Any) -> None:
        if self.json:
            print(as_json(data))
        elif not self.quiet:
            print(text)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """A bar on a terminal, plain lines elsewhere (stderr, so that results can be piped), nothing if quiet."""
        if self.quiet or self.json:
            yield lambda message, share: None
        elif sys.stderr.isatty():
            yield from _bar(what)
        else:
            yield _Lines(what)


def _bar(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.fields[what]}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, what=what)
        yield lambda message, share: bar.update(task, completed=share, description=message)


class _Lines:
    """A line whenever another tenth of the work is done."""

    def __init__(self, what: str) -> None:
        self.what, self.last = what, -1

    def __call__(self, message: str, share: float) -> None:
        tenth = int(share * 10)
        if tenth > self.last:
            self.last = tenth
            print(f"{self.what}: {100 * share:3.0f}% {message}", file=sys.stderr, flush=True)


def table(rows: list[list[str]], header: list[str]) -> str:
    """Columns padded to their widest cell; numbers (cells that start with a digit) to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: list[str]) -> str:
        texts = [c.rjust(w) if c[:1].isdigit() else c.ljust(w) for c, w in zip(row, widths, strict=True)]
        return "  ".join(texts).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *(line(r) for r in rows)])


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its failures as exit codes: an error of optc is one line on stderr, Ctrl-C is 130."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except OptcError as error:
            print(f"optc: error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            print("optc: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except BrokenPipeError:
            sys.stderr.close()
        except Exception as error:
            if os.environ.get("OPTC_DEBUG"):
                raise
            kind = type(error).__name__
            print(f"optc: internal error: {kind}: {error}. Set OPTC_DEBUG=1 to see where.", file=sys.stderr)
            raise SystemExit(1) from None

    return run
