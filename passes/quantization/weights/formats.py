"""Formats of compressed weights, and specs that name them: `int8`, `int4:block=64:zeros`, `codebook4`, `log4`.

SPEC   := FORMAT (":" OPTION)*
FORMAT := "int" BITS | "linear" BITS    equal steps; int4 is linear4
        | "log" BITS                    zero and signed powers of two
        | "codebook" BITS               shared weights: the values themselves are chosen, by k-means over a layer
        | "nf4"                         the quantiles of a normal distribution (Dettmers et al. 2023, QLoRA, appendix E)
OPTION := "block=" (COUNT | "column")   weights along k that share a scale; 32, or the column for 5 bits and more
        | "zeros"                       linear: a zero point for each block
        | "plain"                       the scale is the largest magnitude's; else the one of least squared error
        | "min=" COUNT                  tensors of fewer elements stay float (4096)
        | "tables=" ("int8" | "int4" | "float")    look-up tables: a scale a row; a scale for 32 of a row; as they are
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ....compiler.errors import UsageError

COLUMN = 1 << 30
"""A block longer than any column."""
_HINT = "Examples: int8, int4, int4:block=64:zeros, codebook4, log4, linear3."

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class WeightFormat:
    """`kind` is linear, log, codebook or nf. `block` weights along k share a scale and, with `zeros`, a zero point."""

    kind: str
    bits: int
    block: int = COLUMN
    zeros: bool = False
    search: bool = True

    @property
    def text(self) -> str:
        """The format as a spec names it."""
        name = "int" if self.kind == "linear" and self.bits in (4, 8) else self.kind
        block = "" if self.block == COLUMN else f":block={self.block}"
        return f"{name}{self.bits}{block}{':zeros' if self.zeros else ''}"

    @property
    def levels(self) -> np.ndarray | None:
        """The values of all codes in ascending order: f32 [2^bits], integers or within [-1, 1]. None: from the data."""
        if self.kind == "linear":
            half = 1 << (self.bits - 1)
            return np.arange(-half, half, dtype=np.float32)
        if self.kind == "log":
            powers = 0.5 ** np.arange(1 << (self.bits - 1), dtype=np.float32)
            return np.concatenate([-powers[:-1], [0], powers[::-1]]).astype(np.float32)
        return np.array(_NF4, np.float32) if self.kind == "nf" else None


@dataclass(frozen=True)
class WeightSpec:
    """What to do with a model: the format of its products' weights, that of the rows of its look-up tables (None: they
    stay float), and the size from which on, `smallest` elements."""

    format: WeightFormat
    tables: WeightFormat | None = WeightFormat("linear", 8, search=False)
    smallest: int = 4096


def parse_spec(text: str) -> WeightSpec:
    """Reads a spec. Raises UsageError saying what was expected and what was found."""
    name, *options = (part.strip() for part in text.split(":"))
    spec = WeightSpec(_format(name))
    for option in options:
        spec = _with_option(spec, option)
    return spec


def _format(name: str) -> WeightFormat:
    kind, digits = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    kind = {"int": "linear"}.get(kind, kind)
    bits = int(digits) if digits else 0
    if kind not in ("linear", "log", "codebook", "nf") or not 2 <= bits <= 8 or (kind == "nf" and bits != 4):
        raise UsageError("not a weight format", expected="a kind and 2 to 8 bits", found=name, hint=_HINT)
    return WeightFormat(kind, bits, 32 if bits <= 4 else COLUMN, search=bits <= 4)


def _with_option(spec: WeightSpec, option: str) -> WeightSpec:
    key, _, value = option.partition("=")
    if key == "block":
        block = COLUMN if value == "column" else _count(option, value)
        if block % 32:
            raise UsageError("weight block", expected="a multiple of 32, or column", found=option, hint=_HINT)
        return replace(spec, format=replace(spec.format, block=block))
    if key == "min":
        return replace(spec, smallest=_count(option, value))
    if option == "zeros":
        if spec.format.kind != "linear":
            raise UsageError("zero points belong to linear formats", found=spec.format.text, hint=_HINT)
        return replace(spec, format=replace(spec.format, zeros=True))
    if option == "plain":
        return replace(spec, format=replace(spec.format, search=False))
    if key == "tables" and value in ("int8", "int4", "float"):
        return replace(spec, tables=None if value == "float" else _format(value))
    expected = "block=COUNT, block=column, zeros, plain, min=COUNT or tables=(int8, int4 or float)"
    raise UsageError("weight option", expected=expected, found=option, hint=_HINT)


def _count(option: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise UsageError("weight option", expected="a number above 0", found=option, hint=_HINT)
    return int(value)
