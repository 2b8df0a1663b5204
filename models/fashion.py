"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT licence): reading, normalising, splitting."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..compiler.errors import OptcError
from .download import DebianFile
from .metrics import MeanMetric, Run, Sample
from .zoo import Shipped, Split, ZooModel

TRAINED_ON = 55_000
"""fashion-cnn learnt from this many of the first training images; the 5,000 behind them are for calibration."""

MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training pixels, as fractions of 255."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a gzipped IDX file of unsigned bytes (LeCun's MNIST format: magic 0, 0, 8, rank; then big-endian sizes).

    Raises `OptcError` if the header or the length does not fit.
    """
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3] if raw[:3] == b"\0\0\x08" else 0
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    found, expected = len(raw), 4 + 4 * rank + math.prod(shape)
    if rank == 0 or found != expected:
        raise OptcError("not an IDX file of bytes", node=str(path), expected=f"{expected} bytes", found=found)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey images [N, 28, 28] to what fashion-cnn reads: float32 [N, 1, 28, 28] of zero mean and unit variance."""
    return ((images[:, None].astype(np.float32) / 255 - MEAN) / DEVIATION).astype(np.float32)


CLASSES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

SAMPLE = Shipped("fashion_test_64.npz")
"""The first 64 test images and labels, so that a demonstration needs no download; `optc verify --data` reads it."""


def _file(name: str, sha256: str) -> DebianFile:
    return DebianFile("dataset-fashion-mnist", f"/usr/share/datasets/fashion-mnist/{name}-ubyte.gz", sha256)


FILES = {
    "train images": _file("train-images-idx3", "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
    "train labels": _file("train-labels-idx1", "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
    "test images": _file("t10k-images-idx3", "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
    "test labels": _file("t10k-labels-idx1", "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
}


def shipped_sample() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """64 normalised test images [64, 1, 28, 28], called after the model's input in the file, and labels [64]."""
    with np.load(SAMPLE.path()) as arrays:
        return arrays["image"], arrays["labels"]


@lru_cache(maxsize=2)
def load(part: Literal["train", "calibration", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [n, 28, 28] and labels [n] of 55,000, 5,000 or 10,000 items. Raises `DownloadError`."""
    name = "test" if part == "test" else "train"
    images, labels = (read_idx(FILES[f"{name} {what}"].path()) for what in ("images", "labels"))
    chosen = {"train": slice(TRAINED_ON), "calibration": slice(TRAINED_ON, None), "test": slice(None)}[part]
    return images[chosen], labels[chosen]


def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
    """Images one by one; up to 64 test images need no download."""
    if split == "test" and n is not None and n <= 64:
        images, labels = shipped_sample()
    else:
        grey, labels = load(split)
        images = normalise(grey[:n])
    return (Sample({"image": images[i : i + 1]}, int(labels[i])) for i in range(len(images[:n])))


def is_right(run: Run, sample: Sample) -> float:
    """1 if the largest logit is the target's."""
    (logits,) = run(sample.inputs).values()
    return float(logits[0].argmax() == sample.target)


def _inputs(batch: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    images, _ = shipped_sample()
    return {"image": images[rng.integers(0, len(images), batch)]}


MODELS = (
    ZooModel(
        "fashion-cnn",
        "small residual CNN for Fashion-MNIST, shipped with optc; batch norms not folded",
        Shipped("fashion_cnn.onnx"),
        _inputs,
        {"image": (1, 1, 28, 28)},
        dataset,
        MeanMetric("top-1", lambda n: dataset("test", n), is_right),
    ),
)
