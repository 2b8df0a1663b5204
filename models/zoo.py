"""The zoo's contract: what a model is known by, and the table that finds it by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from ..compiler.errors import UsageError
from .download import cached
from .metrics import Metric, Sample

Split = Literal["calibration", "test"]


class Source(Protocol):
    """Where a file comes from."""

    def path(self) -> Path:
        """The file on this disk; the first call may download or build it. Raises `DownloadError`."""


class Dataset(Protocol):
    """Data with a calibration and a test split that share no item."""

    def __call__(self, split: Split, n: int | None = None) -> Iterator[Sample]:
        """The split's first `n` items in a fixed order, or all of them."""


@dataclass(frozen=True)
class Shipped:
    """A file of this package."""

    name: str

    def path(self) -> Path:
        return Path(__file__).with_name(self.name)


@dataclass(frozen=True)
class Built:
    """A model that is built on first use and kept in the cache; `version` is raised when `build` changes."""

    name: str
    build: Callable[[], onnx.ModelProto]
    version: int = 1

    def path(self) -> Path:
        return cached(f"built/{self.name}-{self.version}.onnx", lambda path: onnx.save(self.build(), path))


@dataclass(frozen=True)
class ZooModel:
    """A model, where it is, what it reads and how it is judged."""

    name: str
    description: str
    source: Source
    make_inputs: Callable[..., dict[str, NDArray[Any]]] = field(repr=False)
    """`make_inputs(batch, rng, **dims)`."""
    static_shapes: dict[str, tuple[int, ...]]
    """A sensible fixed shape for each input, for benchmarks."""
    dataset: Dataset | None = field(default=None, repr=False)
    metric: Metric | None = field(default=None, repr=False)
    """None where weights are random: such a model has no accuracy."""
    agreement: Metric | None = field(default=None, repr=False)
    """How often the float model's answer is given: finer than `metric`, but an answer that differs may be right."""
    more: tuple[Metric, ...] = field(default=(), repr=False)
    """Other tasks of the model, judged against people's answers as `metric` is."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All that judge the model by right answers; `agreement` is not among them."""
        return ((self.metric,) if self.metric else ()) + self.more

    def path(self) -> Path:
        """The .onnx file on this disk, downloaded or built on first use. Raises `DownloadError`."""
        return self.source.path()

    def inputs(self, batch: int = 1, seed: int = 0, **dims: int) -> dict[str, NDArray[Any]]:
        """One realistic input. `dims` are the model's own free dims by name, such as `width` or `sequence`.

        Raises `TypeError` for a dim the model does not have.
        """
        return self.make_inputs(batch, np.random.default_rng(seed), **dims)

    def samples(self, split: Split, n: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of batch 1 of the split's first `n` items; where there is no dataset, random inputs.

        Raises `UsageError` for an unknown split, and for `n=None` where data is made up without end.
        """
        if split not in ("calibration", "test"):
            raise UsageError("no such split", node=self.name, expected="calibration or test", found=split)
        if self.dataset is not None:
            return (dict(sample.inputs) for sample in self.dataset(split, n))
        if n is None:
            raise UsageError("this model has no dataset, so say how many samples to make", node=self.name)
        first = 1 if split == "test" else 1_000_001
        return (self.inputs(seed=seed) for seed in range(first, first + n))


class Registry:
    """Models by name, in the order they were added."""

    def __init__(self) -> None:
        self._models: dict[str, ZooModel] = {}

    def add(self, *models: ZooModel) -> None:
        """Adds models; a name may be used once."""
        for model in models:
            if model.name in self._models:
                raise ValueError(f"two models are called {model.name}")
            self._models[model.name] = model

    def names(self) -> list[str]:
        """All names, in a fixed order."""
        return list(self._models)

    def get(self, name: str) -> ZooModel:
        """The model of that name. Raises `UsageError` if there is none."""
        if name not in self._models:
            raise UsageError("no such model in the zoo", node=name, expected=", ".join(self._models))
        return self._models[name]
