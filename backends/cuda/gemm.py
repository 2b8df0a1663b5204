"""Convolutions and products with constant weights as one matrix product over tiles (device.cuh), the epilogue applied
to the sums in registers.

Params of a kernel: x, packed weights, what `epilogue` reads, y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from ..kernels.builder import (
    Dim,
    Epilogue,
    address,
    buffer,
    ceildiv,
    floordiv,
    floormod,
    i64,
    itemsize,
    known,
    product,
    result_dtype,
    static,
)
from ..kernels.convspec import ConvSpec
from ..kernels.matmul import guess
from ..target import Target
from .threads import GridBuilder, number

ROW_BYTES = 64
"""Bytes along k that a step of the pipeline brings of each row."""
WARP = 32
PROCESSORS = 108
"""Blocks that keep a large GPU busy (the multiprocessors of an A100)."""


@dataclass(frozen=True)
class Arithmetic:
    """How sums are computed: a struct of device.cuh, and the types of x, the weights and the sums."""

    name: str
    x: str
    weights: str
    sums: str

    @property
    def row(self) -> int:
        """Elements of a step along k."""
        return ROW_BYTES // itemsize(self.x)


U8S8 = Arithmetic("U8S8", "uint8", "int8", "int32")
F32 = Arithmetic("F32", "float32", "float32", "float32")
TF32 = Arithmetic("TF32", "float32", "float32", "float32")


@dataclass(frozen=True)
class GemmSpec:
    """A convolution over one or two spatial dims, in some arithmetic. `shape` is that of y as the model sees it."""

    conv: ConvSpec
    arithmetic: Arithmetic
    shape: tuple[Dim, ...]

    @property
    def rows(self) -> Dim:
        """Rows of the product: output pixels."""
        return product(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Columns of one group's product."""
        return self.conv.c_out // self.conv.group

    @property
    def steps(self) -> int:
        """Steps of the pipeline along k."""
        depth = self.conv.c_in // self.conv.group * int(product(self.conv.kernel))
        return -(-depth // self.arithmetic.row)


@dataclass(frozen=True)
class GemmPlan:
    """A block's part of y, its warps along either side, and the tiles in its pipeline."""

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    stages: int = 3

    @property
    def threads(self) -> int:
        return WARP * self.warps_m * self.warps_n

    @property
    def tiles(self) -> tuple[int, int]:
        """16x8 tiles of one warp along rows and columns."""
        return self.rows // self.warps_m // 16, self.columns // self.warps_n // 8


_PLANS = (
    GemmPlan(128, 128, 2, 4),
    GemmPlan(128, 64, 4, 2),
    GemmPlan(64, 64, 2, 2, 4),
    GemmPlan(64, 32, 4, 1, 4),
    GemmPlan(32, 32, 2, 1, 4),
)


def plans(spec: GemmSpec, target: Target) -> Iterator[GemmPlan]:
    """Legal plans, the best guess first: the largest part of y that wastes little of it and leaves blocks for all
    processors."""

    def cost(plan: GemmPlan) -> float:
        across = -(-spec.columns // plan.columns)
        blocks = -(-guess(spec.rows) // plan.rows) * across * spec.conv.group
        rounds = -(-blocks // PROCESSORS)
        traffic = 1 + 16 * (1 / plan.rows + 1 / plan.columns)
        return rounds * plan.rows * plan.columns * traffic

    yield from sorted(_PLANS, key=cost)


def pack_weights(weights: NDArray[Any], spec: GemmSpec, plan: GemmPlan) -> NDArray[Any]:
    """[c_out, c_in / group, kernel...] as [group][column][k], k over taps then channels, zeros up to a whole step."""
    conv = spec.conv
    rows = np.moveaxis(weights, 1, -1).reshape(conv.c_out, -1)
    padded = np.zeros((conv.c_out, spec.steps * spec.arithmetic.row), spec.arithmetic.weights)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(-1)


def build(spec: GemmSpec, plan: GemmPlan, epilogue: Epilogue | None = None, border: Any | None = None) -> Any:
    """The kernel; `border` is the element that lies around the image (default: zero), which may read one of the
    epilogue's buffers."""
    conv, arithmetic = spec.conv, spec.arithmetic
    kb = GridBuilder()
    x = buffer("x", (conv.batch, *conv.spatial, conv.c_in), arithmetic.x)
    weights = buffer("weights", (conv.c_out * spec.steps * arithmetic.row,), arithmetic.weights)
    y = buffer("y", spec.shape, result_dtype(epilogue, arithmetic.sums))
    rows, columns, out = known(spec.rows), spec.columns, kb.flat(y)
    blocks = (ceildiv(rows, plan.rows), -(-columns // plan.columns), conv.group)
    tiles_m, tiles_n = plan.tiles
    with kb.grid(blocks, plan.threads) as (block_m, block_n, group, thread):
        sums = kb.local(tiles_m * tiles_n * 4, arithmetic.sums, "sums")
        zero = tirx.const(0, arithmetic.x)
        image = [*_image(kb, spec, x), zero if border is None else border]
        parts = (plan.rows, plan.columns, plan.warps_m, plan.warps_n, plan.stages)
        function = f"optc::gemm<optc::{arithmetic.name}, {', '.join(map(str, parts))}>"
        sizes = map(number, (rows, columns, spec.steps))
        kb.call(function, address(sums, 0), address(kb.flat(weights), 0), *sizes, *image)
        warp, lane = kb.let(floordiv(thread, WARP), "warp"), kb.let(floormod(thread, WARP), "lane")
        warp_m, warp_n = floordiv(warp, plan.warps_n), floormod(warp, plan.warps_n)
        first_m = kb.let(block_m * plan.rows + warp_m * (tiles_m * 16) + floordiv(lane, 4), "first_row")
        first_n = kb.let(block_n * plan.columns + warp_n * (tiles_n * 8) + floormod(lane, 4) * 2, "first_column")
        with kb.unrolled(tiles_m * 2, "i") as i:
            row = kb.let(first_m + i * 8, "row")
            with kb.when(row < i64(rows)):
                at = _indices(kb, row, spec.shape, epilogue)
                with kb.unrolled(tiles_n * 2, "j") as j:
                    column = kb.let(first_n + floordiv(j, 2) * 8 + floormod(j, 2), "column")
                    with kb.when(column < columns):
                        which = (
                            floordiv(i, 2) * (tiles_n * 4) + floordiv(j, 2) * 4 + floormod(i, 2) * 2 + floormod(j, 2)
                        )
                        channel = kb.let(group * columns + column, "channel") if conv.group > 1 else column
                        value = kb.load(sums, which)
                        result = value if epilogue is None else epilogue(value, [*at, channel], 1)
                        kb.store(out, row * conv.c_out + channel, result)
    return kb.finish([x, weights, *(epilogue.buffers if epilogue else ()), y])


def _image(kb: GridBuilder, spec: GemmSpec, x: Any) -> list[Any]:
    """What makes an Image of device.cuh, but for its border. Pixels of 1x1 convolutions lie in one line."""
    conv = spec.conv
    size: tuple[Dim, ...] = (1, spec.rows)
    out, taps = size, [(1, 1), (1, 1), (0, 0), (1, 1)]
    if not conv.pointwise:
        rank = len(conv.spatial)
        lift = (1,) * (2 - rank)
        size, out = (*lift, *conv.spatial), (*lift, *conv.out_spatial)
        begins = (*(0,) * (2 - rank), *conv.pads[:rank])
        each = (*lift, *conv.kernel), (*lift, *conv.strides), begins, (*lift, *conv.dilations)
        taps = [(pair[0], pair[1]) for pair in each]
    numbers = [*size, conv.c_in, conv.c_in // conv.group, *out, *(n for pair in taps for n in pair)]
    return [address(kb.flat(x), 0), *(number(known(n)) for n in numbers)]


def _indices(kb: GridBuilder, row: Any, shape: tuple[Dim, ...], epilogue: Epilogue | None) -> list[Any]:
    """The position that an epilogue is told: the row, or its index along each dim but the last."""
    if epilogue is None or epilogue.flat:
        return [row]
    places: list[Any] = []
    for extent in reversed(shape[1:-1]):
        places.insert(0, kb.let(floormod(row, known(extent)), "at"))
        row = kb.let(floordiv(row, known(extent)), "rest")
    return [row, *places] if len(shape) > 1 else []


def applies(conv: ConvSpec) -> bool:
    """Whether a convolution is one of those: over one or two spatial dims, and padded, not cropped."""
    return len(conv.spatial) <= 2 and min(conv.pads, default=0) >= 0 and static(product(conv.kernel)) is not None
