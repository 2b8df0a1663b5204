"""Element types by their three names: numpy's, ONNX's number, the manifest's. Needs numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

NUMBERS = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "complex64": 14,
    "complex128": 15,
    "bfloat16": 16,
}
"""The manifest's dtype names, with the numbers of onnx.TensorProto.DataType."""

_NAMES = {number: name for name, number in NUMBERS.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype for a manifest's name; bfloat16 is its bits, uint16, where ml_dtypes is missing."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(np.uint16)
    bits: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bits


def number_of(dtype: np.dtype[Any]) -> int:
    """ONNX's number of a numpy dtype. Raises KeyError if there is none."""
    return NUMBERS[dtype.name]


def dtype_of(number: int) -> np.dtype[Any]:
    """numpy's dtype for ONNX's number. Raises KeyError if there is none."""
    return numpy_dtype(_NAMES[number])
