"""The shapes of well-known networks with random weights: for speed and op coverage, never for an accuracy.

The graphs are those that torch exports (one Conv, BatchNormalization and activation a layer, attention decomposed,
shapes computed in the graph), with a symbolic batch `N` and, for text, a symbolic sequence `S`.
"""

from __future__ import annotations

import onnx

from .builder import GraphBuilder

RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Bottleneck width and number of blocks (He et al. 2016, table 1)."""

MOBILENETV2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, first stride (Sandler et al. 2018, table 2)."""


def conv_norm(
    b: GraphBuilder,
    x: str,
    name: str,
    cin: int,
    cout: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: str = "",
    gain: float = 2.0,
    gamma: float = 1.0,
) -> str:
    """Random Conv, BatchNormalization and one of "", "Relu" or "Clip" (ReLU6). `gain` as in `GraphBuilder.he`."""
    fan_in = cin // groups * kernel * kernel
    weight = b.he(cout, cin // groups, kernel, kernel, fan_in=fan_in, gain=gain)
    x = b.conv(x, f"{name}.conv", weight, stride=stride, groups=groups)
    x = b.random_batch_norm(x, f"{name}.norm", cout, gamma)
    if activation == "Clip":
        return b.node("Clip", x, b.constant(0.0), b.constant(6.0), name=f"{name}.relu6")
    return b.node(activation, x, name=f"{name}.{activation.lower()}") if activation else x


def classifier(b: GraphBuilder, x: str, channels: int, classes: int = 1000) -> str:
    """Global average pool, flatten and a fully connected layer."""
    x = b.node("Flatten", b.node("GlobalAveragePool", x, name="pool"), name="flatten", axis=1)
    return random_linear(b, x, "classifier", channels, classes)


def random_linear(b: GraphBuilder, x: str, name: str, cin: int, cout: int) -> str:
    """Gemm with random weights and a small random bias."""
    return b.linear(x, name, b.he(cout, cin, fan_in=cin, gain=1.0), b.he(cout, fan_in=100))


def resnet50() -> onnx.ModelProto:
    """ResNet-50 v1.5 (stride in the 3x3 convolution): image [N, 3, 224, 224] to logits [N, 1000]; 4.1 G multiply-adds.

    The last batch norm of a block has gamma 0.3, so that 16 residual additions leave activations near unit scale.
    """
    b = GraphBuilder("resnet50")
    x = b.input("image", ("N", 3, 224, 224))
    x = conv_norm(b, x, "stem", 3, 64, 7, stride=2, activation="Relu", gain=1.0)
    x = b.node("MaxPool", x, name="stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    cin = 64
    for stage, (width, blocks) in enumerate(RESNET50_STAGES):
        for block in range(blocks):
            name = f"stage{stage + 1}.block{block}"
            stride = 2 if block == 0 and stage > 0 else 1
            y = conv_norm(b, x, f"{name}.reduce", cin, width, activation="Relu")
            y = conv_norm(b, y, f"{name}.spatial", width, width, 3, stride=stride, activation="Relu")
            y = conv_norm(b, y, f"{name}.expand", width, 4 * width, gamma=0.3)
            if block == 0:
                x = conv_norm(b, x, f"{name}.shortcut", cin, 4 * width, stride=stride)
            x = b.node("Relu", b.node("Add", y, x, name=f"{name}.add"), name=f"{name}.relu")
            cin = 4 * width
    b.output(classifier(b, x, cin), "logits", ("N", 1000))
    return b.build("ResNet-50, random weights")


def mobilenetv2() -> onnx.ModelProto:
    """MobileNetV2 1.0: image [N, 3, 224, 224] to logits [N, 1000]; 0.3 G multiply-adds."""
    b = GraphBuilder("mobilenetv2")
    x = b.input("image", ("N", 3, 224, 224))
    x = conv_norm(b, x, "stem", 3, 32, 3, stride=2, activation="Clip", gain=1.0)
    cin = 32
    for stage, (expansion, cout, blocks, first_stride) in enumerate(MOBILENETV2_STAGES):
        for block in range(blocks):
            name = f"stage{stage}.block{block}"
            stride = first_stride if block == 0 else 1
            hidden = expansion * cin
            y = x
            if expansion > 1:
                y = conv_norm(b, y, f"{name}.expand", cin, hidden, activation="Clip", gain=1.0)
            y = conv_norm(b, y, f"{name}.depthwise", hidden, hidden, 3, stride=stride, groups=hidden, activation="Clip")
            y = conv_norm(b, y, f"{name}.project", hidden, cout)
            x = b.node("Add", x, y, name=f"{name}.add") if stride == 1 and cin == cout else y
            cin = cout
    x = conv_norm(b, x, "head", cin, 1280, activation="Clip", gain=1.0)
    b.output(classifier(b, x, 1280), "logits", ("N", 1000))
    return b.build("MobileNetV2, random weights")


def vgg16() -> onnx.ModelProto:
    """VGG-16 without batch norm: image [N, 3, 224, 224] to logits [N, 1000]; 15.5 G multiply-adds."""
    b = GraphBuilder("vgg16")
    x = b.input("image", ("N", 3, 224, 224))
    cin = 3
    for stage, (width, layers) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for layer in range(layers):
            weight = b.he(width, cin, 3, 3, fan_in=9 * cin)
            x = b.conv(x, f"conv{stage}_{layer}", weight, bias=b.he(width, fan_in=100))
            x, cin = b.node("Relu", x), width
        x = b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Flatten", x, axis=1)
    for name, size, out in (("fc6", 512 * 49, 4096), ("fc7", 4096, 4096)):
        x = b.node("Relu", random_linear(b, x, name, size, out))
    b.output(random_linear(b, x, "fc8", 4096, 1000), "logits", ("N", 1000))
    return b.build("VGG-16, random weights")


def squeezenet() -> onnx.ModelProto:
    """SqueezeNet 1.1 (Iandola et al. 2016): image [N, 3, 224, 224] to logits [N, 1000]; channels joined by Concat."""
    b = GraphBuilder("squeezenet")
    x = b.input("image", ("N", 3, 224, 224))

    def conv_relu(x: str, name: str, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> str:
        weight = b.he(cout, cin, kernel, kernel, fan_in=cin * kernel * kernel)
        pads = [0] * 4 if stride == 2 else None
        x = b.conv(x, name, weight, stride=stride, bias=b.he(cout, fan_in=100), pads=pads)
        return b.node("Relu", x, name=f"{name}.relu")

    def pool(x: str) -> str:
        return b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)

    x = pool(conv_relu(x, "stem", 3, 64, 3, stride=2))
    cin = 64
    for i, (squeeze, expand) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    ):
        s = conv_relu(x, f"fire{i}.squeeze", cin, squeeze)
        parts = (conv_relu(s, f"fire{i}.expand{k}", squeeze, expand, k) for k in (1, 3))
        x, cin = b.node("Concat", *parts, name=f"fire{i}.concat", axis=1), 2 * expand
        if i in (1, 3):
            x = pool(x)
    x = b.node("GlobalAveragePool", conv_relu(x, "head", cin, 1000))
    b.output(b.node("Flatten", x, axis=1), "logits", ("N", 1000))
    return b.build("SqueezeNet 1.1, random weights")


def densenet121() -> onnx.ModelProto:
    """DenseNet-121 (Huang et al. 2017): image [N, 3, 224, 224] to logits [N, 1000]; batch norm before convolution."""
    b = GraphBuilder("densenet121")
    x = b.input("image", ("N", 3, 224, 224))
    growth, channels = 32, 64

    def norm_conv(x: str, name: str, cin: int, cout: int, kernel: int = 1) -> str:
        x = b.node("Relu", b.random_batch_norm(x, f"{name}.norm", cin), name=f"{name}.relu")
        return b.conv(x, f"{name}.conv", b.he(cout, cin, kernel, kernel, fan_in=cin * kernel * kernel))

    x = conv_norm(b, x, "stem", 3, channels, 7, stride=2, activation="Relu", gain=1.0)
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for block, layers in enumerate((6, 12, 24, 16)):
        for layer in range(layers):
            name = f"block{block}.layer{layer}"
            new = norm_conv(x, f"{name}.bottleneck", channels, 4 * growth)
            new = norm_conv(new, f"{name}.grow", 4 * growth, growth, 3)
            x = b.node("Concat", x, new, name=f"{name}.concat", axis=1)
            channels += growth
        if block < 3:
            x = norm_conv(x, f"transition{block}", channels, channels // 2)
            x = b.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            channels //= 2
    x = b.node("Relu", b.random_batch_norm(x, "final.norm", channels), name="final.relu")
    b.output(classifier(b, x, channels), "logits", ("N", 1000))
    return b.build("DenseNet-121, random weights")


def shufflenetv2() -> onnx.ModelProto:
    """ShuffleNet v2 1.0 (Ma et al. 2018): image [N, 3, 224, 224] to logits [N, 1000]; Split, Concat and shuffles."""
    b = GraphBuilder("shufflenetv2")
    x = b.input("image", ("N", 3, 224, 224))

    def shuffle(x: str, channels: int, size: int) -> str:
        x = b.node("Reshape", x, b.constant([-1, 2, channels // 2, size, size]))
        return b.node("Reshape", b.node("Transpose", x, perm=[0, 2, 1, 3, 4]), b.constant([-1, channels, size, size]))

    x = conv_norm(b, x, "stem", 3, 24, 3, stride=2, activation="Relu", gain=1.0)
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    cin, size = 24, 56
    for stage, (channels, blocks) in enumerate(((116, 4), (232, 8), (464, 4))):
        half = channels // 2
        for block in range(blocks):
            name, stride = f"stage{stage}.block{block}", 2 if block == 0 else 1
            if block == 0:
                size //= 2
                left = conv_norm(b, x, f"{name}.left.depthwise", cin, cin, 3, stride=2, groups=cin, gain=1.0)
                left, right = conv_norm(b, left, f"{name}.left.point", cin, half, activation="Relu", gain=1.0), x
            else:
                left, right = b.split(x, 2, axis=1)
                cin = half
            right = conv_norm(b, right, f"{name}.right.expand", cin, half, activation="Relu")
            right = conv_norm(b, right, f"{name}.right.depthwise", half, half, 3, stride=stride, groups=half)
            right = conv_norm(b, right, f"{name}.right.point", half, half, activation="Relu", gain=1.0)
            x = shuffle(b.node("Concat", left, right, name=f"{name}.concat", axis=1), channels, size)
            cin = channels
    x = conv_norm(b, x, "head", cin, 1024, activation="Relu")
    b.output(classifier(b, x, 1024), "logits", ("N", 1000))
    return b.build("ShuffleNet v2, random weights")
