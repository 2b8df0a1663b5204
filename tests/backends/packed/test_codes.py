"""Codes in memory: what is packed comes out again, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from optc.backends.kernels.packed.codes import CodeLayout


def unpacked(words: np.ndarray, bits: int, k: int) -> np.ndarray:
    """Codes [k, columns] of words [rows, columns], by the definition: code i lies in bits i * bits and up."""
    number = sum(row.astype(object) << (32 * i) for i, row in enumerate(words))
    return np.array([(number >> (bits * i)) & ((1 << bits) - 1) for i in range(k)], np.uint8)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("k", [1, 32, 75])
def test_codes_fill_words_from_the_lowest_bit(bits: int, k: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (k, 5)).astype(np.uint8)
    layout = CodeLayout(bits, tabled=True)
    words = layout.pack(codes)
    assert words.dtype == np.uint32
    assert len(words) == layout.packed_rows(k)
    np.testing.assert_array_equal(unpacked(words, bits, k), codes)


def test_negative_codes_keep_their_low_bits() -> None:
    words = CodeLayout(4, tabled=False).pack(np.array([[-8], [7], [-1]], np.int8))
    assert words.tolist() == [[0xF78]]


def test_eight_bits_are_bytes() -> None:
    codes = np.arange(-6, 6, dtype=np.int8).reshape(6, 2)
    packed = CodeLayout(8, tabled=False).pack(codes)
    assert packed.dtype == np.int8
    np.testing.assert_array_equal(packed, codes)


@pytest.mark.parametrize(("bits", "unit", "rows"), [(2, 16, 1), (3, 32, 3), (4, 8, 1), (6, 16, 3), (8, 4, 4)])
def test_a_unit_has_no_bit_left_over(bits: int, unit: int, rows: int) -> None:
    layout = CodeLayout(bits, tabled=True)
    assert (layout.unit, layout.rows) == (unit, rows)


def test_a_small_table_repeats_over_the_bits_of_the_next_code() -> None:
    table = CodeLayout(2, tabled=True).pad_table(np.array([1, 2, 3, 4], np.float32))
    assert table.tolist() == [1, 2, 3, 4] * 4
