"""The int8 that users would run otherwise: the peers' own quantizers, on the same calibration samples for all.

A quantized copy depends on the model, the samples, the quantizer and its version, and is kept in the user's cache
under a name made of them, so that accuracy and speed judge the same file and a second run quantizes nothing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..backends.runtime.cache import digest as digest_of_parts
from ..compiler.errors import TargetError, UsageError
from ..models.download import cache_dir
from .peers import Run, Sample, onnxruntime_runner, openvino_runner

PER_CHANNEL_OPSET = 13
"""From here on DequantizeLinear has an axis; older models are converted before ONNX Runtime quantizes them."""

CORE_OPS = ("Conv", "MatMul", "Gemm")

RECIPE = 1
"""Raised when the quantizers are called otherwise, so that no copy made before is taken."""

REFUSAL = "refused.txt"
"""In place of a quantized copy: the peer's last words."""

Quantize = Callable[[Path, Sequence[Sample], Path], None]
"""(float model, calibration samples, where the quantized model goes)."""


@dataclass(frozen=True)
class Int8Peer:
    """An engine with the quantizer it is used with; `precision` is what OpenVINO runs the float remainder in."""

    name: str
    title: str
    packages: tuple[str, ...]
    """What its result depends on, beside model and samples."""
    suffix: str
    quantize: Quantize
    run: Callable[..., Run]
    """`run(path, threads, shapes)` as in peers.py."""

    def quantized(self, model: Path, samples: Sequence[Sample], folder: Path | None = None) -> Path:
        """The quantized copy of `model`, made on first use below `folder` (by default in the user's cache).

        Raises TargetError if the peer is not installed or cannot quantize the model, naming its own error; a refusal
        is kept as well, since some take minutes.
        """
        key = digest(model, samples, self.name, str(RECIPE), *package_versions(*self.packages))
        place = (folder or cache_dir().parent / "peers") / f"{model.stem}-{self.name}-{key}"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=place.parent))
            try:
                with _quiet():
                    self.quantize(model, samples, scratch / f"model{self.suffix}")
            except (OSError, MemoryError):  # of this machine, not of the model
                shutil.rmtree(scratch)
                raise
            except Exception as error:  # the peers raise whatever comes: their refusal is a result, not our failure
                words = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                shutil.rmtree(scratch)
                scratch.mkdir()
                (scratch / REFUSAL).write_text(words[-1])
            try:
                os.rename(scratch, place)
            except OSError:
                shutil.rmtree(scratch)
                if not place.exists():  # else another process was quicker
                    raise
        if (place / REFUSAL).exists():
            why = (place / REFUSAL).read_text()
            raise TargetError(f"{self.name} cannot quantize the model: {why}", node=model.name)
        return place / f"model{self.suffix}"


def package_versions(*names: str) -> list[str]:
    """`name==version` of each. Raises TargetError if one is not installed."""
    try:
        return [f"{name}=={version(name)}" for name in names]
    except PackageNotFoundError as error:
        raise TargetError(f"{error.name} is not installed", hint="pip install 'optc[bench]'") from error


def digest(model: Path, samples: Sequence[Sample], *words: str) -> str:
    """16 hex digits of the model's bytes, the samples' names, types, shapes and values, and the words."""
    parts: list[bytes | Path] = [model, *(word.encode() for word in words)]
    for sample in samples:
        for name, array in sorted(sample.items()):
            parts += [f"{name} {array.dtype} {array.shape}".encode(), array.tobytes()]
    return digest_of_parts(parts)[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizers' progress bars, and warnings about models as they are."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Samples:
    """The samples as ONNX Runtime's quantizer reads them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._rest: Iterator[Sample] = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        found = next(self._rest, None)
        return dict(found) if found is not None else None


def onnxruntime_quantize(
    model: Path, samples: Sequence[Sample], destination: Path, ops: Sequence[str] | None = None
) -> None:
    """`quantize_static` to QDQ: u8 activations, s8 weights per channel, range not reduced, after the preparation its
    documentation asks for; `ops` are the op types to quantize, all that it supports if None."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = model.stat().st_size > 1 << 30
    with tempfile.TemporaryDirectory() as folder:
        source, prepared = model, Path(folder) / "prepared.onnx"
        proto = onnx.load(model)
        if next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")) < PER_CHANNEL_OPSET:
            source = Path(folder) / "converted.onnx"
            onnx.save(onnx.version_converter.convert_version(proto, PER_CHANNEL_OPSET), source)
        try:
            quant_pre_process(source, prepared, save_as_external_data=large)
        except Exception:  # symbolic shape inference refuses many models, with bare exceptions; it may be left out
            logging.getLogger(__name__).info("%s: symbolic shape inference left out", model.name)
            Path("sym_shape_infer_temp.onnx").unlink(missing_ok=True)  # which it leaves in the working directory
            quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=large)
        for adjust in (True, False):
            # Widening weight scales until the bias fits int32 fails on the LayerNorms of some models, with an
            # ambiguous truth value; a user would switch it off as well.
            try:
                quantize_static(
                    prepared,
                    destination,
                    _Samples(samples),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(ops) if ops else None,
                    per_channel=True,
                    reduce_range=False,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=large,
                    extra_options={"QDQDisableWeightAdjustForInt32Bias": not adjust},
                )
                return
            except ValueError:
                if not adjust:
                    raise


def nncf_quantize(model: Path, samples: Sequence[Sample], destination: Path, preset: str = "performance") -> None:
    """`nncf.quantize` of OpenVINO's reading of the model. Transformers are named as such, as NNCF's guide asks."""
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    network = ov.Core().read_model(model)
    result = nncf.quantize(
        network,
        nncf.Dataset([dict(s) for s in samples]),
        preset=nncf.QuantizationPreset(preset),
        model_type=nncf.ModelType.TRANSFORMER if is_transformer(model) else None,
        subset_size=len(samples),
    )
    ov.save_model(result, destination, compress_to_fp16=False)


def is_transformer(model: Path) -> bool:
    """Has the graph attention: a Softmax whose result a MatMul reads?"""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    scores = {node.output[0] for node in graph.node if node.op_type == "Softmax"}
    return any(node.op_type == "MatMul" and node.input[0] in scores for node in graph.node)


_ORT, _NNCF = ("onnxruntime", "onnx"), ("nncf", "openvino")

INT8_PEERS = {
    peer.name: peer
    for peer in (
        Int8Peer("onnxruntime-int8", "ONNX Runtime, all ops", _ORT, ".onnx", onnxruntime_quantize, onnxruntime_runner),
        Int8Peer(
            "onnxruntime-int8-core",
            "ONNX Runtime, Conv MatMul Gemm",
            _ORT,
            ".onnx",
            partial(onnxruntime_quantize, ops=CORE_OPS),
            onnxruntime_runner,
        ),
        Int8Peer(
            "openvino-int8",
            "NNCF, performance",
            _NNCF,
            ".xml",
            nncf_quantize,
            partial(openvino_runner, precision=None),
        ),
        Int8Peer(
            "openvino-int8-mixed",
            "NNCF, mixed",
            _NNCF,
            ".xml",
            partial(nncf_quantize, preset="mixed"),
            partial(openvino_runner, precision=None),
        ),
    )
}


def int8_peer(name: str) -> Int8Peer:
    """The peer of that name. Raises UsageError if there is none."""
    if name not in INT8_PEERS:
        raise UsageError("unknown int8 peer", expected=" or ".join(INT8_PEERS), found=name)
    return INT8_PEERS[name]
