"""Magika (Google, Apache-2.0): the type of a file from its first and last kilobyte."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
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

LABELS = {".py": ("python",), ".h": ("c", "cpp"), ".pyi": ("python",), ".f90": ("fortran",), ".html": ("html",)}
"""Right answers for the text files found in a Python installation with numpy, by extension."""

PER_LABEL = 800
"""Files of one extension at most, both splits together."""

PER_FILE = 2
"""Excerpts of each."""

EXCERPT = (60, 300)
"""Bytes of an excerpt, at least and at most: so few that the float model errs on one in ten."""


def features(content: bytes) -> NDArray[np.int32]:
    """[2048] tokens: the first 1024 bytes behind leading space, the last 1024 before trailing space, padded."""
    head, tail = content[:BLOCK].lstrip()[:END], content[-BLOCK:].rstrip()[-END:]
    tokens = np.full(2 * END, PADDING, np.int32)
    tokens[: len(head)] = np.frombuffer(head, np.uint8)
    tokens[2 * END - len(tail) :] = np.frombuffer(tail, np.uint8)
    return tokens


@lru_cache(maxsize=1)
def _files() -> dict[Split, list[Path]]:
    """Text files of this Python installation with a known extension, shuffled; every other one is for calibration."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "include")} | {Path(np.__file__).parent}
    found: dict[str, list[Path]] = {suffix: [] for suffix in LABELS}
    for folder in sorted(folders):
        for path in sorted(folder.rglob("*")):
            kept = found.get(path.suffix)
            if kept is not None and len(kept) < PER_LABEL and path.is_file() and path.stat().st_size > 2 * EXCERPT[1]:
                kept.append(path)
    files = [path for kept in found.values() for path in kept]
    order = np.random.default_rng(0).permutation(len(files))
    return {"test": [files[i] for i in order[::2]], "calibration": [files[i] for i in order[1::2]]}


def excerpt(path: Path, rng: np.random.Generator) -> bytes:
    """A few lines from anywhere in the file; whole files are too easy, the model knows 99.8% of them."""
    content = path.read_bytes()
    start = content.find(b"\n", int(rng.integers(len(content) - EXCERPT[1]))) + 1
    return content[start : start + int(rng.integers(*EXCERPT))]


def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
    """One excerpt of each file, then another of each; the target is the right labels."""
    for number, path in islice(enumerate(_files()[split] * PER_FILE), n):
        content = excerpt(path, np.random.default_rng(number))
        yield Sample({"bytes": features(content)[None]}, LABELS[path.suffix])


def label_is_right(run: Run, sample: Sample) -> float:
    """1 if the likeliest of the 214 labels is one of the extension's."""
    (scores,) = run(sample.inputs).values()
    return float(_label_names()[int(scores[0].argmax())] in sample.target)


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
