"""From whatever the user gives to a parsed ModelProto and the folder its external data may lie in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 7
NEWEST_OPSET = 28  # the opset whose forms the IR speaks


def load_proto(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
    """The model and its folder (None for bytes and protos, which then cannot have external data).

    Raises ModelError if the source cannot be read or is no ONNX model.
    """
    import onnx

    if isinstance(source, onnx.ModelProto):
        return _checked(source, "model"), None
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _checked(_parse(bytes(source), "model"), "model"), None
    path = Path(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", node=str(path)) from error
    if not content:
        raise ModelError("the file is empty", node=str(path))
    return _checked(_parse(content, str(path)), str(path)), path.resolve().parent


def _parse(content: bytes, name: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        size = len(content)
        raise ModelError(
            f"not an ONNX model: the {size} bytes are no protobuf message, or end too early",
            node=name,
            hint="Give a binary .onnx file; a partial download must be fetched again.",
        ) from error
    return model


def _checked(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    if not model.HasField("graph") or model.ir_version <= 0:
        raise ModelError("not an ONNX model: it has no graph or no IR version", node=name)
    if not model.graph.output:
        raise ModelError("the model has no outputs", node=name)
    return model


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto], name: str) -> dict[str, int]:
    """{domain: version}, "" for ai.onnx. Raises UnsupportedError if ai.onnx is newer than optc knows."""
    found = {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in imports}
    version = found.get("", NEWEST_OPSET)
    if version > NEWEST_OPSET:
        raise UnsupportedError(
            "opset of ai.onnx is too new",
            node=name,
            expected=f"{OLDEST_OPSET} to {NEWEST_OPSET}",
            found=version,
            hint="Export the model at an older opset.",
        )
    return found
