"""Samples that fit a model.

A sample is a mapping {input name: array}; for a model with one input the array alone will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...compiler.errors import CalibrationError, OptcError
from ...compiler.ir import Value
from ...compiler.types import DType, TensorType, free_symbols

Sample = dict[str, np.ndarray]


def checked(samples: object, inputs: Sequence[Value], first: int = 0) -> Iterator[Sample]:
    """The samples as arrays of the inputs' own types; those before number `first` are passed over unchecked.

    float64 becomes float32 where the model wants that. Raises CalibrationError, naming the sample by its number and
    the input concerned, for names, dtypes, ranks and shapes that do not fit, for NaN and infinity, for data that
    raises, and for data without samples.
    """
    if isinstance(samples, Mapping) or not isinstance(samples, Iterable):
        hint = "Pass a list of them even if there is one."
        raise CalibrationError(
            "not a series of samples", expected=_sample_text(inputs), found=_kind(samples), hint=hint
        )
    index = -1
    for index, sample in enumerate(_guarded(samples)):
        if index >= first:
            yield _checked(sample, inputs, _name(samples, index))
    if index < 0:
        raise CalibrationError("the data holds no samples", expected="at least one")


def _name(samples: object, index: int) -> str:
    """What messages call a sample: its number and, if the data can tell (see tools/data.py), its file."""
    origin = getattr(samples, "origin", None)
    return f"sample {index} ({origin(index)})" if callable(origin) else f"sample {index}"


def _checked(sample: object, inputs: Sequence[Value], name: str) -> Sample:
    if not isinstance(sample, Mapping):
        bare = hasattr(sample, "__array__") or isinstance(sample, (int, float, list))
        if len(inputs) != 1 or not bare:
            raise _bad(name, "not a sample", _sample_text(inputs), _kind(sample))
        sample = {inputs[0].name: sample}
    names = [v.name for v in inputs]
    if set(names) != set(sample):
        missing, unknown = [n for n in names if n not in sample], [str(n) for n in sample if n not in names]
        lacks = [f"no array for {', '.join(missing)}"] * bool(missing)
        extra = [f"no input is called {', '.join(unknown)}"] * bool(unknown)
        raise _bad(name, "; ".join(lacks + extra), ", ".join(names), ", ".join(map(str, sample)) or "nothing")
    binding: dict[Any, int] = {}
    return {v.name: _array(sample[v.name], v, name, binding) for v in inputs}


def _array(given: Any, value: Value, sample: str, binding: dict[Any, int]) -> np.ndarray:
    what = f"input {value.name}"
    try:
        array = np.asarray(given)
        dtype = DType.from_numpy(array.dtype)
    except Exception as error:  # any class may have an __array__ that raises
        raise _bad(sample, f"{what} is no array: {error}", str(value.type), _kind(given)) from error
    if (dtype, value.type.dtype) == (DType.F64, DType.F32):
        with np.errstate(over="ignore"):  # an infinity is reported below
            array = array.astype(np.float32)
    elif dtype is not value.type.dtype:
        raise _bad(sample, f"{what} is of another type", value.type.dtype.text, dtype.text)
    if not _fits(array.shape, value.type, binding):
        raise _bad(sample, f"{what} is of another shape", _bound(value.type, binding), list(array.shape))
    if value.type.dtype.is_float and not np.isfinite(array).all():
        wide = array.astype(np.float32)
        nans, infinities = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
        raise _bad(sample, f"{what} holds values that are not finite", None, f"{nans} NaN, {infinities} infinite")
    return array


def _fits(shape: Sequence[int], type: TensorType, binding: dict[Any, int]) -> bool:
    """Whether each dim is the declared one; symbols are bound by the first input of the sample that has them."""
    if type.shape is None:
        return True
    if len(shape) != len(type.shape):
        return False
    return all(
        size == (dim if isinstance(dim, int) else binding.setdefault(dim, size))
        for size, dim in zip(shape, type.shape, strict=True)
    )


def _bound(type: TensorType, binding: dict[Any, int]) -> str:
    notes = [f"{s} is {binding[s]} here" for s in sorted(free_symbols(type.dims), key=str) if s in binding]
    return f"{type} where {', '.join(notes)}" if notes else str(type)


def _guarded(samples: Iterable[object]) -> Iterator[object]:
    """The samples; whatever getting one raises becomes an error that names it."""
    index = 0
    try:
        for sample in samples:
            yield sample
            index += 1
    except OptcError:
        raise  # a reader's, which names the file
    except Exception as error:  # the data is the user's code
        raise CalibrationError(f"the data failed: {_said(error)}", node=_name(samples, index)) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _bad(name: str, message: str, expected: object, found: object) -> CalibrationError:
    return CalibrationError(message, node=name, expected=expected, found=found)


def _kind(thing: object) -> str:
    return f"a {type(thing).__name__}"


def _sample_text(inputs: Sequence[Value]) -> str:
    return "{" + ", ".join(f"{v.name}: {v.type}" for v in inputs) + "}"
