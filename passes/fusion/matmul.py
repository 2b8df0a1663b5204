"""Matrix products take biases, sums and transposes in.

X W + b            -> Gemm(X, W, b)              X of two dims
Gemm(A, B) + C     -> Gemm(A, B, C)              no bias yet
Gemm(A^T, B)       -> Gemm(A, B, transA)         likewise B
MatMul(A^T, B)     -> optc.MatMul(A, B, transA)  A, B of any rank; for a backend that reads transposed operands
c (A B)            -> optc.MatMul(A, B, alpha=c)
Reshape(Gemm(Reshape(X), W, b)) -> X W + b       rows flattened for a Gemm and brought back; for our backend
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Attr, Value
from ...compiler.types import same_dim
from ..facts import broadcasts_into, perm_of
from ..pattern import Const, Op, Scalar
from ..rewrite import Match, Rule, register_rule


@register_rule
class MatMulBias(Rule):
    """X W + b -> Gemm(X, W, b)."""

    name: ClassVar[str] = "matmul-bias"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Add", Op("MatMul", "x", "w", name="product"), "b", commutative=True),)

    def check(self, m: Match) -> str | None:
        product = m.node("product").output.type
        if any(m[k].type.shape is None or m[k].type.rank != 2 for k in "xw") or not product.dtype.is_float:
            return "the operands are no float matrices"
        return None if broadcasts_into(m["b"].type, product) else f"%{m['b'].name} may be larger than the product"

    def rewrite(self, m: Match) -> Value:
        return m.emit("Gemm", [m["x"], m["w"], m["b"]])


@register_rule
class GemmSum(Rule):
    """Gemm(A, B) + C -> Gemm(A, B, C)."""

    name: ClassVar[str] = "gemm-sum"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Add", Op("Gemm", "a", "b", name="gemm"), "c", commutative=True),)

    def check(self, m: Match) -> str | None:
        same = broadcasts_into(m["c"].type, m.node("gemm").output.type)
        return None if same else f"%{m['c'].name} may be larger than the product"

    def rewrite(self, m: Match) -> Value:
        attrs = {k: v for k, v in m.node("gemm").attrs.items() if k != "beta"}
        return m.emit("Gemm", [m["a"], m["b"], m["c"]], attrs)


@register_rule
class GemmTranspose(Rule):
    """Gemm(A^T, B, C) -> Gemm(A, B, C, transA=1), likewise B."""

    name: ClassVar[str] = "gemm-transpose"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Gemm", Op("Transpose", "a", shared=True), "b", rest=True),
        Op("Gemm", "a", Op("Transpose", "b", shared=True), rest=True),
    )

    def rewrite(self, m: Match) -> Value:
        flag = "transA" if m.root.operand(0) is not m["a"] else "transB"
        flipped: dict[str, Attr] = {**m.root.attrs, flag: 0 if m.root.attrs.get(flag, 0) else 1}
        return m.emit("Gemm", [m["a"], m["b"], *m.root.inputs[2:]], flipped)


@register_rule
class MatMulTranspose(Rule):
    """MatMul(A^T, B) -> optc.MatMul(A, B, transA=1), likewise B, where the last two dims are swapped."""

    name: ClassVar[str] = "matmul-transpose"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(("MatMul", "optc.MatMul"), Op("Transpose", "a", name="t", shared=True), "b"),
        Op(("MatMul", "optc.MatMul"), "a", Op("Transpose", "b", name="t", shared=True)),
    )

    def check(self, m: Match) -> str | None:
        perm = perm_of(m.node("t")) or ()
        rank = len(perm)
        if rank < 2 or perm != (*range(rank - 2), rank - 1, rank - 2):
            return "more than the last two dims are swapped"
        return "an operand has one dim" if any(m[k].type.shape is None or m[k].type.rank < 2 for k in "ab") else None

    def rewrite(self, m: Match) -> Value:
        flag = "transA" if m.root.operand(0) is m.node("t").output and m["a"] is not m.root.operand(0) else "transB"
        attrs: dict[str, Attr] = {**m.root.attrs, flag: 0 if m.root.attrs.get(flag, 0) else 1}
        return m.emit("optc.MatMul", [m["a"], m["b"]], attrs)


@register_rule
class MatMulScale(Rule):
    """c (A B) and A (c B) -> optc.MatMul(A, B, alpha=c) for a number c."""

    name: ClassVar[str] = "matmul-scale"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(("Mul", "Div"), Op(("MatMul", "optc.MatMul"), "a", "b", name="product"), Scalar(name="c")),
        Op("Mul", Scalar(name="c"), Op(("MatMul", "optc.MatMul"), "a", "b", name="product")),
    )

    def check(self, m: Match) -> str | None:
        product = m.node("product").output.type
        if not product.dtype.is_float or not broadcasts_into(m["c"].type, product):
            return "not a float product, or the factor has more dims"
        if any(m[k].type.shape is None or m[k].type.rank < 2 for k in "ab"):
            return "an operand has one dim"
        return "division by zero" if m.root.op == "Div" and m.number("c") == 0 else None

    def rewrite(self, m: Match) -> Value:
        product = m.node("product")
        alpha = product.attrs.get("alpha", 1.0)
        assert isinstance(alpha, (int, float))
        alpha = alpha / m.number("c") if m.root.op == "Div" else alpha * m.number("c")
        return m.emit("optc.MatMul", [m["a"], m["b"]], {**product.attrs, "alpha": float(alpha)})


@register_rule
class GemmOfRows(Rule):
    """Reshape(Gemm(Reshape(X, [-1, K]), W, b), [..., N]) -> X W + b, which needs no shapes computed."""

    name: ClassVar[str] = "gemm-of-rows"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Reshape", Op("Gemm", Op("Reshape", "x", "rows", shared=True), Const("w"), name="gemm", rest=True), "shape"),
    )

    def check(self, m: Match) -> str | None:
        gemm, source, out = m.node("gemm"), m["x"].type.shape, m.root.output.type.shape
        if source is None or out is None or len(source) != len(out) or len(source) < 3:
            return "x and the result do not have the same rank of 3 or more"
        rows = gemm.operand(0).type.dims
        dims = [*zip(source[:-1], out[:-1], strict=True), (source[-1], rows[-1]), (out[-1], gemm.output.type.dims[-1])]
        if not all(same_dim(a, b) for a, b in dims):
            return "the rows are not brought back as they were"
        if gemm.attrs.get("transA", 0) or gemm.attrs.get("alpha", 1.0) != 1.0 or gemm.attrs.get("beta", 1.0) != 1.0:
            return "the Gemm transposes its rows or scales"
        bias = gemm.input(2)
        plain = bias is None or (bias.type.shape is not None and bias.type.rank <= 1)
        return None if plain else "the bias is a matrix"

    def rewrite(self, m: Match) -> Value:
        gemm = m.node("gemm")
        weights = m["w"]
        if gemm.attrs.get("transB", 0):
            weights = m.constant(np.ascontiguousarray(m.array("w").T), like=weights)
        product = m.emit("MatMul", [m["x"], weights])
        bias = gemm.input(2)
        return product if bias is None else m.emit("Add", [product, bias])
