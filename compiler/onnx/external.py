"""Which files belong to a model: what a cache key must cover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .load import load_proto

if TYPE_CHECKING:
    import onnx


def external_files(path: Path) -> list[Path]:
    """The existing files that a model's tensors refer to, each once, in name order.

    Raises ModelError if the model cannot be read. Whether a file may be used is the importer's to judge.
    """
    model, _ = load_proto(path)
    names = sorted(set(_locations(model.graph)))
    return [file for name in names if (file := path.parent / name).is_file()]


def _locations(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")
    for node in graph.node:
        for attribute in node.attribute:
            yield from (entry.value for entry in attribute.t.external_data if entry.key == "location")
            if attribute.HasField("g"):
                yield from _locations(attribute.g)
