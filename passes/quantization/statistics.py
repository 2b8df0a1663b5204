"""What calibration gathers of a value: statistics that take array after array and do not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ...compiler.errors import CalibrationError

State = Mapping[str, np.ndarray]
"""A statistic as arrays, as it is saved and loaded."""


class Statistic(Protocol):
    """Something summed up over the arrays that a value takes."""

    @property
    def kind(self) -> str:
        """Class and options: statistics of one kind can load each other's states."""

    def update(self, array: np.ndarray) -> None:
        """Takes one sample's array into account. Raises CalibrationError if it holds NaN."""

    def state(self) -> State:
        """All there is to save."""

    def load(self, state: State) -> None:
        """Goes on from a saved state; raises KeyError or ValueError if it is of another kind."""


Wanted = Mapping[str, Sequence[Statistic]]
"""Statistics by the name of the value they watch."""


def floats(array: np.ndarray) -> np.ndarray:
    """The array as float32, flat, without a copy where it is so already."""
    return np.ascontiguousarray(array, np.float32).reshape(-1)


def not_a_number() -> CalibrationError:
    """The error of a statistic that meets a NaN."""
    hint = "The float model itself fails here: check how the samples are prepared."
    return CalibrationError("not a number (NaN)", hint=hint)


class ChannelRange:
    """Least, greatest and mean absolute value of each channel along `axis`."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.count = 0
        self.minimum = self.maximum = self.absolute_sum = np.zeros(0)

    @property
    def kind(self) -> str:
        return f"ChannelRange({self.axis})"

    def update(self, array: np.ndarray) -> None:
        if not array.size:
            return
        others = tuple(i for i in range(array.ndim) if i != self.axis % array.ndim)
        low, high = array.min(others).astype(np.float64), array.max(others).astype(np.float64)
        if np.isnan(low).any():
            raise not_a_number()
        absolute = np.abs(array).sum(others, dtype=np.float64)
        if self.count:
            low, high = np.minimum(low, self.minimum), np.maximum(high, self.maximum)
            absolute = absolute + self.absolute_sum
        self.minimum, self.maximum, self.absolute_sum = low, high, absolute
        self.count += array.size // low.size

    @property
    def absolute_maximum(self) -> np.ndarray:
        """max |x| of each channel, f64 [channels]."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))

    @property
    def absolute_mean(self) -> np.ndarray:
        """mean |x| of each channel, f64 [channels]."""
        return self.absolute_sum / max(self.count, 1)

    def state(self) -> State:
        return {
            "count": np.array(self.count),
            "minimum": self.minimum,
            "maximum": self.maximum,
            "absolute_sum": self.absolute_sum,
        }

    def load(self, state: State) -> None:
        self.count = int(state["count"])
        self.minimum, self.maximum, self.absolute_sum = state["minimum"], state["maximum"], state["absolute_sum"]


class ChannelMean:
    """Mean of each channel along `axis`, as bias correction compares it."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.count = 0
        self.total = np.zeros(0)

    @property
    def kind(self) -> str:
        return f"ChannelMean({self.axis})"

    def update(self, array: np.ndarray) -> None:
        if not array.size:
            return
        others = tuple(i for i in range(array.ndim) if i != self.axis % array.ndim)
        total = array.sum(others, dtype=np.float64)
        if np.isnan(total).any():
            raise not_a_number()
        self.total = self.total + total if self.count else total
        self.count += array.size // total.size

    @property
    def mean(self) -> np.ndarray:
        """f64 [channels]."""
        return self.total / max(self.count, 1)

    def state(self) -> State:
        return {"count": np.array(self.count), "total": self.total}

    def load(self, state: State) -> None:
        self.count, self.total = int(state["count"]), state["total"]


class Gram:
    """X^T X over the last axis, [channels, channels] in f64: half the Hessian of a layer's squared error in its
    weights (GPTQ, Frantar et al. 2022, section 3)."""

    def __init__(self) -> None:
        self.count = 0
        self.total = np.zeros((0, 0))

    @property
    def kind(self) -> str:
        return "Gram"

    def update(self, array: np.ndarray) -> None:
        if not array.size:
            return
        rows = array.reshape(-1, array.shape[-1]).astype(np.float32, copy=False)
        product = (rows.T @ rows).astype(np.float64)
        if np.isnan(np.einsum("ii->i", product)).any():
            raise not_a_number()
        if self.count:
            self.total += product
        else:
            self.total = product
        self.count += len(rows)

    @property
    def mean(self) -> np.ndarray:
        """E[x x^T], f64 [channels, channels]."""
        return self.total / max(self.count, 1)

    def state(self) -> State:
        return {"count": np.array(self.count), "total": self.total}

    def load(self, state: State) -> None:
        self.count, self.total = int(state["count"]), np.array(state["total"])
