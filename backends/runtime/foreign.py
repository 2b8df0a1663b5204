"""A model compiled for another machine: all of a Model but running."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from .artifact import Artifact, WrongHostError, read_artifact
from .model import Model, Port, StepTime, load


class ForeignModel(Model):
    """Can be saved, summarized and reported; every call raises WrongHostError."""

    def __init__(self, artifact: Artifact, why: WrongHostError) -> None:
        self.manifest = artifact.manifest
        self.inputs, self.outputs = (
            [Port(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in self.manifest[side]]
            for side in ("inputs", "outputs")
        )
        self._artifact, self._why = artifact, why

    def _refuse(self) -> NoReturn:
        why = self._why
        raise WrongHostError(why.message, expected=why.expected, found=why.found, hint=why.hint)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse()

    def run(self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None = None) -> NoReturn:
        self._refuse()

    def workspace_bytes(self, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
        self._refuse()

    def profile(self, *args: Any, **kwargs: Any) -> list[StepTime]:
        self._refuse()

    @property
    def threads(self) -> int:
        self._refuse()


def load_any(path: str | os.PathLike[str], threads: int | None = None) -> Model:
    """As `load`, but an artifact for another machine comes back as a model that does not run."""
    try:
        return load(path, threads)
    except WrongHostError as error:
        return ForeignModel(read_artifact(path, host=False), error)
