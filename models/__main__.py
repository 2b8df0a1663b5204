"""`python -m optc.models list | fetch [NAME ...] | evaluate NAME [--n N] [--model FILE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..compiler.errors import OptcError, UsageError
from . import get, names, onnxruntime_run


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors of optc are one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m optc.models", description="the model zoo of optc")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names and what they are")
    fetch = commands.add_parser("fetch", help="download or build models into the cache and print where they are")
    fetch.add_argument("name", nargs="*", help="all models if none is given")
    evaluate = commands.add_parser("evaluate", help="the model's metric on its test split, on ONNX Runtime")
    evaluate.add_argument("name")
    evaluate.add_argument("--n", type=int, help="only the first N items")
    evaluate.add_argument("--model", type=Path, help="judge this .onnx too, and print the paired difference")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            for name in names():
                print(f"{name:28} {get(name).description}")
        elif options.command == "fetch":
            for name in options.name or names():
                path = get(name).path()
                print(f"{name:28} {path.stat().st_size / 1e6:7.1f} MB  {path}")
        else:
            print_evaluation(options.name, options.n, options.model)
    except OptcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def print_evaluation(name: str, n: int | None, other: Path | None) -> None:
    """Prints the metric of a zoo model, or how `other` differs from it. Raises `UsageError` if it has no metric."""
    model = get(name)
    if model.metric is None:
        raise UsageError("random weights have no accuracy", node=name)
    float_run = onnxruntime_run(model.path())
    for metric in model.metrics:
        print(f"{metric.name}: {metric.evaluate(float_run, n)}")
        if other is not None:
            print(f"difference of {other.name}: {metric.compare(float_run, onnxruntime_run(other), n)}")
    if other is not None and model.agreement is not None:
        print(f"{model.agreement.name}: {model.agreement.evaluate(onnxruntime_run(other), n)}")


if __name__ == "__main__":
    sys.exit(main())
