"""How large artifacts are: float32 and int8 of the same model, and what the bytes of the int8 one are.

    python -m optc.tools.size_bench [--models resnet50,mobilenetv2] [--quantized FOLDER] [--out docs/size.md] [--json]

Quantizes with made-up samples, which changes values and no size; a NAME.onnx in FOLDER (`optc quantize`) is taken
instead. Both artifacts keep the model's own (dynamic) shapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..backends.runtime.artifact import Artifact, read_artifact
from ..compiler.driver import compiled
from ..compiler.options import Options
from ..models import get
from .cli.common import table
from .data import as_json

MODELS = (
    "resnet50", "mobilenetv2", "efficientnet-lite0", "shufflenetv2", "squeezenet", "densenet121", "ppocr-rec",
    "ppocr-cls", "ppocr-det", "fashion-cnn",
)  # fmt: skip
LIMIT = 27.0
"""Percent of the float32 artifact that an int8 one should take at most."""

WHY = (
    "These are above the aim for their code: kernels are specialised to shapes, and one of integers is two to three",
    "times as long as its float one (packing, requantization and the store of finished tiles woven between products),",
    "3 to 4 KB compressed, however few weights it serves.",
)


@dataclass(frozen=True)
class Row:
    """Bytes of the two files; of the int8 one its 8-bit weights, other tensors (bias, scales, what stays float), the
    compressed code, and the rest (manifest, alignment); `unpacked`: memory that loading fills."""

    model: str
    float32: int
    int8: int
    weights: int
    tables: int
    code: int
    rest: int
    unpacked: int

    @property
    def percent(self) -> float:
        return 100 * self.int8 / self.float32


def measure(name: str, quantized: Path | None) -> Row:
    """Compiles a model of the zoo both ways. Raises the errors of optc.compiler.errors."""
    source = get(name).path()
    ready = quantized / f"{name}.onnx" if quantized else None
    with compiled(source, Options()) as path:
        large = path.stat().st_size
    if ready is not None and ready.is_file():
        with compiled(ready, Options()) as path:
            return split(name, large, read_artifact(path, host=False))
    with compiled(source, Options(int8=True)) as path:
        return split(name, large, read_artifact(path, host=False))


def split(name: str, large: int, small: Artifact) -> Row:
    """The parts of an int8 artifact; `large` are the bytes of the float32 one."""
    sizes = small.sizes
    tensors = small.manifest["weights"]["tensors"]
    weights = sum(tensor["nbytes"] for tensor in tensors if tensor["dtype"] == "int8")
    total = sum(sizes.values())
    tables = sum(tensor["nbytes"] for tensor in tensors) - weights
    rest = total - weights - tables - sizes["code"]
    return Row(name, large, total, weights, tables, sizes["code"], rest, small.manifest["unpacked_bytes"])


def cells(rows: list[Row]) -> Iterator[list[str]]:
    for row in rows:
        parts = (row.float32, row.int8, row.weights, row.tables, row.code, row.rest, row.unpacked)
        yield [row.model, f"{row.percent:.1f}%", *(f"{part / 1000:,.0f}" for part in parts)]


HEADER = ["model", "int8/fp32", "fp32 KB", "int8 KB", "weights", "tables", "code", "rest", "unpacked"]


def markdown(rows: list[Row], command: str) -> str:
    lines = [
        "# Size of artifacts",
        "",
        f"`{command}`",
        "",
        "Files in kilobytes (1,000 bytes). The int8 file consists of 8-bit weights, tables (bias and scales a channel,",
        "layers that stay float), compressed code, and the rest (manifest, alignment). Unpacked is memory that loading",
        "fills with weights whose order in the kernels takes more room than the model's own; all other weights are",
        f"mapped from the file. The aim is {LIMIT:.0f}%; the model without code and tables is at 25%.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in cells(rows)),
    ]
    over = [row for row in rows if row.percent > LIMIT]
    if over:
        lines += ["", *(_reason(row) for row in over), "", *WHY]
    return "\n".join(lines) + "\n"


def _reason(row: Row) -> str:
    """What keeps a model above the aim."""
    shares = ((part, 100 * getattr(row, part) / row.float32) for part in ("weights", "tables", "code", "rest"))
    return f"- {row.model}: " + ", ".join(f"{part} {share:.1f}%" for part, share in shares) + " of the float32 file."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--quantized", type=Path, help="folder of models that are quantized already, NAME.onnx")
    parser.add_argument("--out", type=Path, help="a page to write")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(name, options.quantized) for name in options.models.split(",")]
    if options.out:
        options.out.write_text(markdown(rows, "python -m optc.tools.size_bench"), encoding="utf-8")
    print(
        as_json([asdict(row) | {"percent": row.percent} for row in rows])
        if options.json
        else table(list(cells(rows)), HEADER)
    )


if __name__ == "__main__":
    main()
