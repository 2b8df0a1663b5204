"""Magika (Google, Apache-2.0): the type of a file from its first and last kilobyte."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .download import PypiRelease
from .metrics import MeanMetric, Run, Sample
from .zoo import Split, ZooModel

PACKAGE = PypiRelease(
    "magika",
    "1.0.3",
    {
        "magika/models/standard_v3_3/model.onnx": "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "magika/models/standard_v3_3/config.min.json": (
            "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db"
        ),
    },
)
MODEL, CONFIG = PACKAGE.file("model.onnx"), PACKAGE.file("config.min.json")

END, BLOCK, PADDING = 1024, 4096, 256
"""Bytes kept at either end, bytes read for them, and the token behind a short file (the model's own config)."""

LABELS = {".py": "python", ".h": "c", ".c": "c", ".so": "elf", ".pyc": "pythonbytecode", ".zip": "zip", ".json": "json"}
"""What the extensions found in a Python installation mean."""

PER_LABEL = 150
"""Files of one extension at most in each split."""


def features(content: bytes) -> NDArray[np.int32]:
    """[2048] tokens: the first 1024 bytes behind leading space, the last 1024 before trailing space, padded."""
    head, tail = content[:BLOCK].lstrip()[:END], content[-BLOCK:].rstrip()[-END:]
    tokens = np.full(2 * END, PADDING, np.int32)
    tokens[: len(head)] = np.frombuffer(head, np.uint8)
    tokens[2 * END - len(tail) :] = np.frombuffer(tail, np.uint8)
    return tokens


@lru_cache(maxsize=1)
def _files() -> dict[Split, list[Path]]:
    """Files of this Python installation with a known extension; every other one in name order is for calibration."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "include")} | {Path(np.__file__).parent}
    found: dict[str, list[Path]] = {suffix: [] for suffix in LABELS}
    for folder in sorted(folders):
        for path in sorted(folder.rglob("*")):
            kept = found.get(path.suffix)
            if kept is not None and len(kept) < 2 * PER_LABEL and path.is_file() and path.stat().st_size > BLOCK:
                kept.append(path)
    files = [path for kept in found.values() for path in kept]
    order = np.random.default_rng(0).permutation(len(files))
    return {"test": [files[i] for i in order[::2]], "calibration": [files[i] for i in order[1::2]]}


def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
    """Files over 4 KB that every Python installation has; the target is the label of the extension."""
    return (Sample({"bytes": features(path.read_bytes())[None]}, LABELS[path.suffix]) for path in _files()[split][:n])


def label_is_right(run: Run, sample: Sample) -> float:
    """1 if the likeliest of the 214 labels is the extension's."""
    (scores,) = run(sample.inputs).values()
    label = _label_names()[int(scores[0].argmax())]
    return float(label == sample.target or (label == "cpp" and sample.target == "c"))


@lru_cache(maxsize=1)
def _label_names() -> list[str]:
    return list(json.loads(CONFIG.path().read_text())["target_labels_space"])


def _inputs(batch: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    files = _files()["test"]
    return {"bytes": np.stack([features(files[i].read_bytes()) for i in rng.integers(0, len(files), batch)])}


MODELS = (
    ZooModel(
        "magika",
        "Magika 1.0: file type from the bytes at both ends",
        MODEL,
        _inputs,
        {"bytes": (1, 2 * END)},
        dataset,
        MeanMetric("top-1", lambda n: dataset("test", n), label_is_right),
    ),
)
