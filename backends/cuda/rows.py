"""Kernels in which a warp computes a row: softmax, normalisation, attention (a row is a query).

Specs, params and results are those of the CPU's kernels (kernels/softmax.py, norm.py, attention.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from ..kernels.attention import BSHD, AttentionSpec
from ..kernels.builder import (
    Dim,
    Epilogue,
    Expr,
    address,
    buffer,
    ceildiv,
    floordiv,
    floormod,
    i64,
    known,
    maximum,
    minimum,
    product,
    result_dtype,
    static,
)
from ..kernels.norm import NormSpec
from ..kernels.softmax import SoftmaxSpec
from .threads import GridBuilder, number

WARP, WARPS = 32, 4
"""Threads of a warp, and the warps of a block."""
MOST_VALUES = 256
"""Elements of a value in attention: eight registers of each lane."""


@contextmanager
def _rows(kb: GridBuilder, rows: Dim) -> Iterator[tuple[Expr, Expr]]:
    """Statements of the warp of each row; yields the row and the lane."""
    with kb.grid((ceildiv(known(rows), WARPS),), WARP * WARPS) as (block, thread):
        row = kb.let(block * WARPS + floordiv(thread, WARP), "row")
        lane = kb.let(floormod(thread, WARP), "lane")
        with kb.when(row < i64(known(rows))):
            yield row, lane


@contextmanager
def _columns(kb: GridBuilder, columns: Dim, lane: Expr) -> Iterator[Expr]:
    """The columns of a lane."""
    with kb.loop(ceildiv(columns, WARP), "step") as step:
        column = kb.let(step * WARP + lane, "column")
        with kb.when(True if (static(columns) or 1) % WARP == 0 else column < i64(columns)):
            yield column


def build_softmax(spec: SoftmaxSpec) -> Any:
    """Params: x, y [rows, columns]."""
    kb = GridBuilder()
    x, y = (buffer(name, (spec.rows, spec.columns)) for name in "xy")
    with _rows(kb, spec.rows) as (row, _):
        base = kb.let(row * known(spec.columns), "base")
        function = f"optc::row_softmax<{str(spec.log).lower()}>"
        kb.call(function, address(kb.flat(y), base), address(kb.flat(x), base), number(spec.columns))
    return kb.finish([x, y])


def build_norm(spec: NormSpec, epilogue: Epilogue | None) -> Any:
    """Params: x, [scale], [bias], the epilogue's buffers, y. An epilogue must be flat."""
    kb, columns = GridBuilder(), known(spec.columns)
    x, y = buffer("x", (spec.rows, columns)), buffer("y", (spec.rows, columns), result_dtype(epilogue))
    scale = buffer("scale", (columns,)) if spec.scale else None
    bias = buffer("bias", (columns,)) if spec.bias else None
    source, out = kb.flat(x), kb.flat(y)
    vectors = [kb.flat(v) if v is not None else None for v in (scale, bias)]
    with _rows(kb, spec.rows) as (row, lane):
        base = kb.let(row * columns, "base")
        moments = kb.local(2, name="moments")
        function = f"optc::row_moments<{str(spec.kind == 'layer').lower()}>"
        epsilon = tirx.FloatImm("float32", spec.epsilon)
        kb.call(function, address(moments, 0), address(source, base), number(columns), epsilon)
        with _columns(kb, columns, lane) as column:
            value = (kb.load(source, base + column) - kb.load(moments, 0)) * kb.load(moments, 1)
            value = value if vectors[0] is None else value * kb.load(vectors[0], column)
            value = value if vectors[1] is None else value + kb.load(vectors[1], column)
            kb.store(out, base + column, value if epilogue is None else epilogue(value, [row, column], 1))
    extra = epilogue.buffers if epilogue else ()
    return kb.finish([p for p in (x, scale, bias, *extra, y) if p is not None])


def build_attention(spec: AttentionSpec, epilogue: Epilogue | None) -> Any:
    """Params: q, k, v, the mask if there is one, y. An epilogue may read nothing else."""
    kb = GridBuilder()
    queries, keys = known(spec.queries), known(spec.keys)
    lengths, heads = (queries, keys, keys, queries), (spec.heads, spec.key_heads, spec.key_heads, spec.heads)
    sizes = (spec.size, spec.size, spec.value_size, spec.value_size)
    dtypes = (*("float32",) * 3, result_dtype(epilogue))
    params = [
        buffer(name, (spec.batch, n, h, d) if layout == BSHD else (spec.batch, h, n, d), dtype)
        for name, layout, n, h, d, dtype in zip("qkvy", spec.layouts, lengths, heads, sizes, dtypes, strict=True)
    ]
    q, k, v, y = map(kb.flat, params)
    kind, mask, mask_type = "optc::kNoMask", None, "float32"
    if spec.mask is not None:
        kind, mask_type = ("optc::kAddMask", "float32") if spec.mask_value is None else ("optc::kHideMask", "bool")
        mask = buffer("mask", spec.mask, mask_type)
    with _rows(kb, product((spec.batch, spec.heads, queries))) as (row, lane):
        query, rest = kb.let(floormod(row, queries), "query"), kb.let(floordiv(row, queries), "rest")
        head, batch = kb.let(floormod(rest, spec.heads), "head"), kb.let(floordiv(rest, spec.heads), "batch")
        key_head = kb.let(floordiv(head, spec.heads // spec.key_heads), "key_head")

        def start(index: int, of_head: Expr, at: Dim) -> Expr:
            """The first element of a row of q, k, v or y."""
            layout, n, h, d = spec.layouts[index], lengths[index], heads[index], sizes[index]
            line = (batch * n + at) * h + of_head if layout == BSHD else (batch * h + of_head) * n + at
            return kb.let(line * d, "start")

        pitches = [(heads[i] if spec.layouts[i] == BSHD else 1) * sizes[i] for i in (1, 2)]
        seen = keys
        if spec.causal:
            seen = kb.let(maximum(0, minimum(keys, query + 1 + keys - queries)), "seen")
        at_mask, step = address(q, 0), 0
        if mask is not None:
            at_mask, step = _mask_row(kb, spec, mask, (batch, head, query))
        parts = -(-spec.value_size // WARP)
        out = kb.local(parts, name="out")
        kb.call(
            f"optc::attend<{kind}, {spec.size}, {spec.value_size}>", address(out, 0), address(q, start(0, head, query)),
            address(k, start(1, key_head, 0)), address(v, start(2, key_head, 0)), at_mask, *map(i64, pitches),
            number(step), number(seen), tirx.FloatImm("float32", spec.scale),
            tirx.FloatImm("float32", spec.mask_value or 0.0),
        )  # fmt: skip
        base = start(3, head, query)
        with kb.unrolled(parts, "part") as part:
            column = kb.let(part * WARP + lane, "column")
            with kb.when(True if spec.value_size % WARP == 0 else column < spec.value_size):
                value = kb.load(out, part)
                kb.store(y, base + column, value if epilogue is None else epilogue(value, [row, column], 1))
    return kb.finish([*params[:3], *([mask] if mask is not None else []), params[3]])


def _mask_row(kb: GridBuilder, spec: AttentionSpec, mask: Any, at: tuple[Expr, Expr, Expr]) -> tuple[Expr, int]:
    """The mask's element for the first key, and elements from key to key. Dims of 1 broadcast."""
    assert spec.mask is not None
    offset: Dim = 0
    for extent, place in zip(spec.mask[:3], at, strict=True):
        offset = offset * known(extent) + (0 if static(extent) == 1 else place)
    shared = static(spec.mask[3]) == 1 and static(spec.keys) != 1
    offset = kb.let(offset * known(spec.mask[3]), "mask_row")
    return address(kb.flat(mask), offset), 0 if shared else 1
