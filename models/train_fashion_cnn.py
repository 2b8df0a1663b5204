"""Trains fashion_cnn.onnx and picks fashion_test_64.npz, the model and sample that this repository ships.

    python -m optc.models.train_fashion_cnn FASHION_MNIST_FOLDER [--epochs 8]

Needs the `train` extra (torch). The network is a small residual CNN with one depthwise separable block, 101 thousand
parameters and 8.4 million multiply-adds an image; its batch norms stay in the ONNX graph, so that folding, pruning
and quantization have something to do. It learns from the first 55,000 training images. The last 5,000 are left for
calibration and for choosing anything that must be chosen; the 10,000 test images are used once, to print the result.
"""

# torch is in an extra that type checks run without, and then its classes are Any.
# mypy: disable-error-code="misc, no-any-return"
from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .builder import FloatArray, GraphBuilder
from .fashion import TRAINED_ON, normalise, read_idx

WIDTHS = (16, 32, 64)
"""Channels of the stem, of the 14x14 stage and of the 7x7 stage."""


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(cin, cout, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(cout))


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(channels, channels, 3), ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class FashionCNN(nn.Module):
    """[N, 1, 28, 28] normalised grey images to [N, 10] logits."""

    def __init__(self) -> None:
        super().__init__()
        stem, middle, top = WIDTHS
        self.stem = ConvNorm(1, stem, 3)
        self.down = ConvNorm(stem, middle, 3, stride=2)
        self.block1 = Residual(middle)
        self.depthwise = ConvNorm(middle, middle, 3, stride=2, groups=middle)
        self.pointwise = ConvNorm(middle, top, 1)
        self.block2 = Residual(top)
        self.head = nn.Linear(top, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.stem, self.down, self.block1, self.depthwise, self.pointwise, self.block2):
            x = torch.relu(layer(x))
        return self.head(x.mean((2, 3)))


def to_onnx(state: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The trained network as ONNX, one node a layer, batch dim `N`, batch norms not folded."""
    weights = {name: value.detach().numpy() for name, value in state.items()}
    b = GraphBuilder("fashion_cnn")

    def conv_norm(x: str, name: str, stride: int = 1, groups: int = 1) -> str:
        norm: list[FloatArray] = [weights[f"{name}.1.{p}"] for p in ("weight", "bias", "running_mean", "running_var")]
        x = b.conv(x, f"{name}.conv", weights[f"{name}.0.weight"], stride=stride, groups=groups)
        return b.batch_norm(x, f"{name}.norm", norm)

    def relu(x: str) -> str:
        return b.node("Relu", x)

    def residual(x: str, name: str) -> str:
        branch = conv_norm(relu(conv_norm(x, f"{name}.first")), f"{name}.second")
        return relu(b.node("Add", x, branch, name=f"{name}.add"))

    x = b.input("image", ("N", 1, 28, 28))
    x = relu(conv_norm(x, "stem"))
    x = relu(conv_norm(x, "down", stride=2))
    x = residual(x, "block1")
    x = relu(conv_norm(x, "depthwise", stride=2, groups=WIDTHS[1]))
    x = relu(conv_norm(x, "pointwise"))
    x = residual(x, "block2")
    x = b.node("Flatten", b.node("GlobalAveragePool", x, name="pool"), name="flatten")
    b.output(b.linear(x, "head", weights["head.weight"], weights["head.bias"]), "logits", ("N", 10))
    return b.build("Fashion-MNIST classifier: image is (grey / 255 - 0.2860) / 0.3530, logits of 10 classes")


def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches, half of the images mirrored and all shifted by up to 2 pixels."""
    for chosen in torch.randperm(len(images)).split(size):
        x = images[chosen]
        mirrored = torch.rand(len(x)) < 0.5
        x[mirrored] = x[mirrored].flip(-1)
        dy, dx = (int(torch.randint(-2, 3, ())) for _ in range(2))
        edge = float(images.min())
        x = nn.functional.pad(x, (2, 2, 2, 2), value=edge)[..., 2 + dy : 30 + dy, 2 + dx : 30 + dx]
        yield x.contiguous(memory_format=torch.channels_last), labels[chosen]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 over all images."""
    model.eval()
    with torch.inference_mode():
        hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(sum(hits)) / len(images)


def train(images: Tensor, labels: Tensor, epochs: int, batch: int = 128) -> FashionCNN:
    """AdamW under a one-cycle schedule, label smoothing 0.05, bfloat16 forward pass; seeded."""
    torch.manual_seed(0)
    model = FashionCNN().to(memory_format=torch.channels_last)
    train_x, train_y = images[:TRAINED_ON], labels[:TRAINED_ON]
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    steps = epochs * -(-TRAINED_ON // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    start = time.monotonic()
    for epoch in range(epochs):
        model.train()
        for x, y in batches(train_x, train_y, batch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = loss_of(logits.float(), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        held_out = accuracy(model, images[TRAINED_ON:], labels[TRAINED_ON:])
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, held-out top-1 {held_out:.4f}, {seconds:.0f} s", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the four Fashion-MNIST .gz files are")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = {
        split: (
            torch.from_numpy(normalise(read_idx(options.folder / f"{split}-images-idx3-ubyte.gz"))),
            torch.from_numpy(read_idx(options.folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)),
        )
        for split in ("train", "t10k")
    }
    model = train(*data["train"], options.epochs)
    onnx.save(to_onnx(model.state_dict()), options.out / "fashion_cnn.onnx")
    print(f"test top-1 {accuracy(model, *data['t10k']):.4f}")
    images, labels = data["t10k"]
    np.savez_compressed(
        options.out / "fashion_test_64.npz",
        image=images[:64].numpy(),
        labels=labels[:64].numpy().astype(np.uint8),
    )


if __name__ == "__main__":
    main()
