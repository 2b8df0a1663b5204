"""Dims in one normal form, whichever way they were computed."""

from __future__ import annotations

import pytest
from optc.compiler.ops import dims
from optc.compiler.types import fresh_dim, symbol

H, N = symbol("H"), symbol("N")


def test_two_ways_to_round_up_are_one_expression() -> None:
    assert dims.ceil_div(H, 2) == dims.floor_div(H - 1, 2) + 1


def test_repeated_halving_is_one_floor() -> None:
    size = H
    for _ in range(3):
        size = dims.floor_div(size - 1, 2) + 1
    assert size == dims.ceil_div(H, 8)


@pytest.mark.parametrize("size", range(1, 40))
@pytest.mark.parametrize(("shift", "divisor"), [(0, 2), (-3, 2), (5, 3), (-7, 4)])
def test_floor_div_is_python_s(size: int, shift: int, divisor: int) -> None:
    assert dims.floor_div(H + shift, divisor).subs(H, size) == (size + shift) // divisor


def test_products_cancel() -> None:
    assert dims.exact_div(12 * N * H, N) == 12 * H
    assert dims.exact_div(N * H + N * 3, N) == H + 3
    assert dims.exact_div(12, 5) is None
    assert dims.exact_div(0, 0) is None


def test_signs_are_decided_with_input_dims_at_least_one() -> None:
    assert dims.is_nonnegative(N - 1)
    assert dims.is_nonnegative(-N) is False
    assert dims.is_nonnegative(N - 2) is None
    assert dims.is_nonnegative(dims.floor_div(H + 1, 2))
    assert dims.is_nonnegative(fresh_dim("count") - 1) is None


def test_min_and_max_are_decided_where_they_can_be() -> None:
    assert dims.smaller(1, N) == 1
    assert dims.larger(0, N - 1) == N - 1
    assert str(dims.smaller(N, 512)) == "Min(512, N)"


@pytest.mark.parametrize(("size", "scale", "result"), [(10, 0.7, 7), (3, 1 / 3, 1), (5, 2.0, 10), (7, 0.6, 4)])
def test_scaling_rounds_like_float32(size: int, scale: float, result: int) -> None:
    assert dims.scaled(size, scale) == result
    assert dims.scaled(N, scale).subs(N, size) == result
