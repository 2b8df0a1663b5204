"""Zoo entries with random weights: `classics` and `transformers` under their names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import classics, transformers
from .zoo import Built, ZooModel

IMAGE = {"image": (1, 3, 224, 224)}
TOKENS = (1, 128)


def smooth_images(batch: int, rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """[batch, 3, height, width] of zero mean and unit variance whose neighbours resemble each other, as in photos."""
    coarse = rng.standard_normal((batch, 3, -(-height // 16), -(-width // 16)), dtype=np.float32)
    image = coarse.repeat(16, 2).repeat(16, 3)[:, :, :height, :width]
    image += 0.3 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray((image - image.mean()) / image.std(), np.float32)


def token_ids(batch: int, rng: np.random.Generator, sequence: int) -> dict[str, NDArray[Any]]:
    """BERT-like ids between [CLS] 101 and [SEP] 102, and the mask; every row but the first is padded at its end."""
    ids = rng.integers(1000, 30000, (batch, sequence))
    lengths = rng.integers(sequence // 2, sequence + 1, batch)
    lengths[0] = sequence
    mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
    ids[:, 0] = 101
    ids[np.arange(batch), lengths - 1] = 102
    return {"input_ids": ids * mask, "attention_mask": mask}


def _image_input(batch: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {"image": smooth_images(batch, rng, 224, 224)}


def _bert_input(batch: int, rng: np.random.Generator, sequence: int = 128) -> dict[str, NDArray[Any]]:
    tokens = token_ids(batch, rng, sequence)
    return {**tokens, "token_type_ids": np.zeros_like(tokens["input_ids"])}


def _gpt2_input(batch: int, rng: np.random.Generator, sequence: int = 128) -> dict[str, NDArray[Any]]:
    return {"input_ids": rng.integers(0, 50257, (batch, sequence))}


MODELS = (
    *(
        ZooModel(build.__name__, f"{title}, random weights", Built(build.__name__, build), _image_input, dict(IMAGE))
        for build, title in (
            (classics.resnet50, "ResNet-50"),
            (classics.mobilenetv2, "MobileNetV2"),
            (classics.vgg16, "VGG-16"),
            (classics.squeezenet, "SqueezeNet 1.1"),
            (classics.densenet121, "DenseNet-121"),
            (classics.shufflenetv2, "ShuffleNet v2"),
        )
    ),
    ZooModel(
        "bert-base",
        "BERT-base, random weights",
        Built("bert-base", transformers.bert_base),
        _bert_input,
        dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), TOKENS),
    ),
    ZooModel(
        "gpt2", "GPT-2 small, random weights", Built("gpt2", transformers.gpt2), _gpt2_input, {"input_ids": TOKENS}
    ),
)
