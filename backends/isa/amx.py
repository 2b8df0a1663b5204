"""Intel AMX: eight tile registers of 16 rows x 64 bytes and the products between them (Intel SDM volume 1, chapter 18).

One instruction adds to 16 x 16 sums: `sum[r][c] += Σ_k a[r][k] * b[k // g][c * g + k % g]`. A tile of A holds rows of
consecutive k; in a tile of B the g elements of k that share a 32-bit lane lie side by side, column after column.

Functions here return TIR statements. Register numbers are Python ints: the instructions take them as immediates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ..target import Target

Expr = Any
Statement = Any

REGISTERS = 8
ROWS = 16
"""Rows of a tile at most; fewer may be configured."""
ROW_BYTES = 64
COLUMNS = 16
"""Sums in a row of a tile, 32 bits each."""
CONFIG_BYTES = 64


@dataclass(frozen=True)
class TileType:
    """Element types of a product: `a` x `b`, elements of `itemsize` bytes, added to `sum`. `dot` is LLVM's name of the
    instruction, `features` what a processor must have."""

    a: str
    b: str
    sum: str
    itemsize: int
    dot: str
    features: tuple[str, ...]

    @property
    def depth(self) -> int:
        """Elements of k that one instruction takes at most."""
        return ROW_BYTES // self.itemsize

    @property
    def group(self) -> int:
        """Elements of k that share a 32-bit lane."""
        return 4 // self.itemsize

    @property
    def is_float(self) -> bool:
        """Whether what a weight of zero multiplies must be a number: zero times infinity is none."""
        return self.sum == "float32"

    def runs_on(self, target: Target) -> bool:
        return set(self.features) <= set(target.features)


U8_S8 = TileType("uint8", "int8", "int32", 1, "llvm.x86.tdpbusd", ("amx-int8", "amx-tile"))
BF16 = TileType("uint16", "uint16", "float32", 2, "llvm.x86.tdpbf16ps", ("amx-bf16", "amx-tile"))
"""bfloat16 as its bits. Denormals count as zeros, in operands and in sums."""


def config_bytes(shapes: Mapping[int, tuple[Expr, int]]) -> dict[int, Expr]:
    """The nonzero bytes of a tile configuration, offset to value; `shapes`: (rows, bytes a row) of each register.

    Palette 1 in byte 0, bytes a row from byte 16 on (16 bits each), rows from byte 48 on (SDM table 18-1).
    """
    out: dict[int, Expr] = {0: 1}
    for register, (rows, row_bytes) in shapes.items():
        out[16 + 2 * register] = row_bytes
        out[48 + register] = rows
    return out


def configure(config: Expr) -> Statement:
    """Loads the 64 bytes at pointer `config`; every register becomes zero. For the calling thread only."""
    return _call("llvm.x86.ldtilecfg", config)


def release() -> Statement:
    """Gives the tiles back: without them the system saves less state when it switches threads."""
    return _call("llvm.x86.tilerelease")


def zero(register: int) -> Statement:
    """Sets all of a tile to zero."""
    return _call("llvm.x86.tilezero", _immediate(register))


def load(register: int, pointer: Expr, stride: Expr) -> Statement:
    """Reads a tile whose rows lie `stride` bytes (int64) apart; with a stride of 0 all rows are the same."""
    return _call("llvm.x86.tileloadd64", _immediate(register), pointer, stride)


def store(register: int, pointer: Expr, stride: Expr) -> Statement:
    """Writes a tile, rows `stride` bytes (int64) apart."""
    return _call("llvm.x86.tilestored64", _immediate(register), pointer, stride)


def dot(kind: TileType, total: int, a: int, b: int) -> Statement:
    """Adds the product of registers `a` and `b` to register `total`."""
    return _call(kind.dot, _immediate(total), _immediate(a), _immediate(b))


def _immediate(register: int) -> Expr:
    return tirx.IntImm("int8", register)


def _call(name: str, *args: Expr) -> Statement:
    return tirx.Evaluate(tirx.call_llvm_intrin("void", name, *args))
