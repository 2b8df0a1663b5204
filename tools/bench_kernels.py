"""Times kernel templates beside ONNX Runtime, one layer at a time, and prints the ratios.

Both run in turns in one process; the figure is the median of the ratios of neighbouring runs. Run it with
`python -m optc.tools.bench_kernels [--threads 1] [--only PATTERN] [--rounds 30] [--cpu-time]`.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

from ..backends.cpu import lower
from ..backends.jit import jit
from ..backends.kernels import conv, depthwise, matmul
from ..backends.kernels.conv import ConvSpec
from ..backends.kernels.matmul import MatmulSpec
from ..backends.packing import Packed
from ..backends.steps import Kernel
from ..backends.target import Target
from ..compiler.ir import Value
from ..compiler.text import parse_graph


@dataclass(frozen=True)
class Layer:
    """One case: the ONNX node for the peer (channels first), and our kernel (channels last) as a call to time."""

    name: str
    peer: Callable[[int], Callable[[], Any]]
    ours: Callable[[Target, int], Callable[[], None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cpu-time", action="store_true", help="time this thread's CPU; for one thread on a busy host")
    options = parser.parse_args()
    clock = time.thread_time if options.cpu_time else time.perf_counter
    target = Target.host()
    ratios = []
    for layer in layers():
        if not re.search(options.only, layer.name):
            continue
        peer, ours = layer.peer(options.threads), layer.ours(target, options.threads)
        ratio, ours_us, peer_us = compare(ours, peer, options.rounds, clock)
        ratios.append(ratio)
        print(
            f"{layer.name:40} {ours_us:9.1f} us   ORT {peer_us:9.1f} us   {ratio:5.2f} (best {ours_us / peer_us:.2f})",
            flush=True,
        )
    print(f"geometric mean {math.exp(statistics.fmean(map(math.log, ratios))):.3f} over {len(ratios)} layers")


def compare(
    ours: Callable[[], Any], peer: Callable[[], Any], rounds: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
    """(median ratio ours / peer, best of ours, best of peer), times in microseconds."""
    for _ in range(3):
        ours(), peer()
    repeat = max(1, int(0.002 / max(_time(peer, 1, clock), 1e-6)))
    times = [(_time(ours, repeat, clock), _time(peer, repeat, clock)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in times)
    return ratio, 1e6 * min(a for a, _ in times), 1e6 * min(b for _, b in times)


def _time(call: Callable[[], Any], repeat: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


def session(
    node: Any, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], threads: int
) -> Callable[[], None]:
    """A call of a one-node model whose inputs and output stay bound."""
    types = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in inputs.items()}
    values = [helper.make_tensor_value_info(k, types[k], v.shape) for k, v in inputs.items()]
    out = helper.make_tensor_value_info("y", next(iter(types.values())), None)
    tensors = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph([node], "g", values, [out], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for key, value in inputs.items():
        binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(value))
    first = session.run(None, inputs)[0]
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(first))

    def call() -> None:
        session.run_with_iobinding(binding)

    return call


def _random(*shape: int) -> np.ndarray:
    return aligned(np.random.default_rng(0).standard_normal(shape, dtype="float32"))


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts at a cache line, as weights and intermediate tensors of an artifact do."""
    raw = np.empty(array.nbytes + 64, "uint8")
    start = -raw.ctypes.data % 64
    out = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def conv_layer(
    name: str, size: tuple[int, int], c_in: int, c_out: int, kernel: int, stride: int = 1, group: int = 1
) -> Layer:
    pad = kernel // 2
    spec = ConvSpec(1, size, c_in, c_out, (kernel,) * 2, (stride,) * 2, (pad,) * 4, (1, 1), group)
    w = _random(c_out, c_in // group, kernel, kernel)

    def peer(threads: int) -> Callable[[], Any]:
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group
        )
        return session(node, {"x": _random(1, c_in, *size)}, {"w": w}, threads)

    def ours(target: Target, threads: int) -> Callable[[], None]:
        template: Any = depthwise if spec.depthwise else conv
        plan = next(iter(template.plans(spec, target)))
        kernel_ = jit({"f": template.build(spec, plan)}, target, threads)["f"]
        y = aligned(np.empty((1, *spec.out_spatial, c_out), "float32"))
        call: Callable[[], None] = kernel_.bind(
            _random(1, *size, c_in), aligned(template.pack_weights(w, spec, plan)), y
        )
        return call

    text = f"{name} {size[0]}x{size[1]} {c_in}>{c_out} k{kernel} s{stride}" + (f" g{group}" if group > 1 else "")
    return Layer(text, peer, ours)


def matmul_layer(name: str, spec: MatmulSpec) -> Layer:
    a = _random(*spec.batch_a, spec.m, spec.k)
    b = _random(*spec.batch_b, *((spec.n, spec.k) if spec.trans_b else (spec.k, spec.n)))

    def peer(threads: int) -> Callable[[], Any]:
        b_plain = np.ascontiguousarray(b.swapaxes(-1, -2)) if spec.trans_b else b
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
        inputs, constants = ({"a": a}, {"b": b_plain}) if spec.constant_b else ({"a": a, "b": b_plain}, {})
        return session(node, inputs, constants, threads)

    def ours(target: Target, threads: int) -> Callable[[], None]:
        plan = next(iter(matmul.plans(spec, target)))
        kernel = jit({"f": matmul.build(spec, plan)}, target, threads)["f"]
        packed = aligned(matmul.pack_weights(b, spec, plan)) if spec.constant_b else b
        return kernel.bind(a, packed, aligned(np.empty((*spec.batch, spec.m, spec.n), "float32")))

    shape = "x".join(map(str, (*spec.batch, spec.m, spec.n, spec.k)))
    return Layer(f"{name} {shape}{' tb' if spec.trans_b else ''}", peer, ours)


def integer_conv_layer(name: str, size: tuple[int, int], c_in: int, c_out: int, kernel: int, stride: int = 1) -> Layer:
    """u8 in, u8 out: the sums are scaled by channel, cut at zero and quantized again, in the peer by QLinearConv."""
    pad = kernel // 2
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (1, *size, c_in), np.uint8)
    w = random.integers(-127, 128, (c_out, c_in, kernel, kernel), np.int8)
    scale = np.full(c_out, 1e-4, np.float32)
    out = [(extent - 1) // stride + 1 for extent in size]
    geometry: dict[str, Any] = {"pads": [pad] * 4, "strides": [stride] * 2}

    def peer(threads: int) -> Callable[[], Any]:
        one, zero, w_zero = np.float32(1), np.uint8(0), np.zeros(c_out, np.int8)
        operands = {"xs": one, "xz": zero, "w": w, "ws": scale, "wz": w_zero, "ys": one, "yz": zero}
        constants = {key: np.asarray(value) for key, value in operands.items()} | {"b": np.zeros(c_out, np.int32)}
        node = helper.make_node("QLinearConv", ["x", *constants], ["y"], kernel_shape=[kernel] * 2, **geometry)
        return session(node, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}, constants, threads)

    def ours(target: Target, threads: int) -> Callable[[], None]:
        shape = ",".join(map(str, (1, *out, c_out)))
        graph = parse_graph(f"""graph g(%x: u8[1,{size[0]},{size[1]},{c_in}]) {{
          %w: i8[{c_out},{c_in},{kernel},{kernel}] = const random(1)  %scale: f32[{c_out}] = const 1e-4
          %one: f32[] = const 1  %zero: u8[] = const 0
          %s: i32[{shape}] = optc.ConvInteger(%x, %w) {{pads={[pad] * 4}, strides={[stride] * 2}}}
          %f = DequantizeLinear(%s, %scale) {{axis=3}}  %r = Relu(%f)  %y = QuantizeLinear(%r, %one, %zero)
          return %y }}""")
        (step,) = lower(graph, target).steps
        if not isinstance(step, Kernel):
            raise TypeError(f"{name}: expected one kernel, found {type(step).__name__}")
        y = aligned(np.empty((1, *out, c_out), np.uint8))
        arrays: list[np.ndarray] = []
        for param in step.params:
            if isinstance(param, (np.ndarray, Packed)):
                arrays.append(aligned(param.array if isinstance(param, Packed) else param))
            elif isinstance(param, Value):
                arrays.append(y if param is step.outputs[0] else aligned(x if param.data is None else param.data))
        call: Callable[[], None] = jit({"f": step.func}, target, threads)["f"].bind(*arrays)
        return call

    return Layer(f"{name} int8 {size[0]}x{size[1]} {c_in}>{c_out} k{kernel} s{stride}", peer, ours)


def layers() -> Iterator[Layer]:
    """The layer shapes of ResNet-50, MobileNetV2, BERT-base and a text recogniser."""
    yield conv_layer("resnet", (224, 224), 3, 64, 7, 2)
    for side, narrow, wide in ((56, 64, 256), (28, 128, 512), (14, 256, 1024), (7, 512, 2048)):
        yield conv_layer("resnet", (side, side), narrow, narrow, 3)
        yield conv_layer("resnet", (side, side), narrow, wide, 1)
        yield conv_layer("resnet", (side, side), wide, narrow, 1)
        yield integer_conv_layer("resnet", (side, side), narrow, narrow, 3)
        yield integer_conv_layer("resnet", (side, side), narrow, wide, 1)
        yield integer_conv_layer("resnet", (side, side), wide, narrow, 1)
    yield conv_layer("resnet", (56, 56), 128, 128, 3, 2)
    yield conv_layer("resnet", (56, 56), 256, 512, 1, 2)
    yield conv_layer("resnet", (14, 14), 512, 512, 3, 2)
    yield matmul_layer("resnet fc", MatmulSpec(1, 1000, 2048, trans_b=True))
    yield conv_layer("mobilenet", (224, 224), 3, 32, 3, 2)
    for side, c, stride in ((112, 32, 1), (112, 96, 2), (56, 144, 1), (28, 192, 1), (14, 576, 1), (7, 960, 1)):
        yield conv_layer("mobilenet dw", (side, side), c, c, 3, stride, c)
    for side, c_in, c_out in ((112, 16, 96), (56, 24, 144), (56, 144, 24), (28, 32, 192), (14, 96, 576), (7, 960, 320)):
        yield conv_layer("mobilenet", (side, side), c_in, c_out, 1)
        yield integer_conv_layer("mobilenet", (side, side), c_in, c_out, 1)
    for n, k in ((768, 768), (3072, 768), (768, 3072)):
        yield matmul_layer("bert", MatmulSpec(128, n, k))
    yield matmul_layer("bert qk", MatmulSpec(128, 128, 64, (12,), (12,), constant_b=False))
    yield matmul_layer("bert pv", MatmulSpec(128, 64, 128, (12,), (12,), constant_b=False))
    yield conv_layer("ppocr", (48, 320), 3, 8, 3, 2)
    for size, c_in, c_out in (((24, 160), 8, 24), ((12, 160), 24, 56), ((6, 80), 96, 24), ((6, 80), 120, 480)):
        yield conv_layer("ppocr", size, c_in, c_out, 1)
    yield conv_layer("ppocr", (12, 80), 28, 56, 3)
    yield conv_layer("ppocr dw", (24, 160), 24, 24, 5, 1, 24)
    yield conv_layer("ppocr dw", (6, 80), 120, 120, 5, 1, 120)


if __name__ == "__main__":
    main()
