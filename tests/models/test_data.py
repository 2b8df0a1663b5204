"""The data makers: what they promise about their samples, without any download."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import optc
import pytest
from optc.models import fashion, filetype, ocr, sentences, speech

from .conftest import reachable


def test_fashion_cnn_ships_small_with_its_batch_norms() -> None:
    path = optc.models.get("fashion-cnn").path()
    assert path.stat().st_size < 1_000_000
    model = onnx.load(path)
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("BatchNormalization") == ops.count("Conv") == 8
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_idx_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + bytes([0, 0, 0, 1, 0, 0, 0, 3]) + b"abc"))
    assert fashion.read_idx(path).tolist() == [[97, 98, 99]]
    path.write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes([0, 0, 0, 9]) + b"abc"))
    with pytest.raises(optc.OptcError, match=r"not an IDX file of bytes \(expected 17 bytes, found 11\)"):
        fashion.read_idx(path)


def test_magika_features_strip_the_outer_ends_and_pad_in_the_middle() -> None:
    tokens = filetype.features(b"  \nab ")
    assert tokens[:4].tolist() == [97, 98, 32, 256]
    assert tokens[-4:].tolist() == [32, 10, 97, 98]
    assert len(tokens) == 2048


def test_rendered_lines_fit_and_carry_their_text() -> None:
    for number in range(5):
        grey, text = ocr.text_line(np.random.default_rng(number), 48, 320)
        pixels = ocr.to_input(grey)
        assert pixels.shape == (1, 3, 48, 320)
        assert np.abs(pixels).max() <= 1
        assert text.strip() == text != ""


def test_ctc_merges_repeats_and_drops_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "_alphabet", lambda: ["a", "b", " "])
    steps = np.eye(4, dtype=np.float32)[[0, 1, 1, 0, 1, 2, 2, 3, 0]]
    assert ocr.ctc_text(steps) == "aab "


def test_word_pieces_are_the_longest_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"un": 1, "una": 2, "##ffa": 3, "##ble": 4, "##aff": 5, ",": 6, "naive": 7}
    monkeypatch.setattr(sentences, "vocabulary", lambda: known)
    assert sentences.tokenize("Unaffable, naïve xyz") == [101, 2, 3, 4, 6, 7, 100, 102]


def test_padding_a_run_to_a_fixed_sequence() -> None:
    shapes = []
    run = sentences.padded(lambda inputs: shapes.append({k: v.shape for k, v in inputs.items()}) or {}, 8)
    run({"input_ids": np.ones((2, 5), np.int64), "attention_mask": np.ones((2, 5), np.int64)})
    assert shapes == [{"input_ids": (2, 8), "attention_mask": (2, 8)}]


def test_speech_frames_overlap_the_frame_before() -> None:
    audio = np.arange(1600, dtype=np.float32)
    frames = speech.frames(audio)
    assert frames.shape == (3, 576)
    assert not frames[0, :64].any()
    assert frames[1].tolist() == list(range(512 - 64, 1024))


def test_sung_vowels_are_loud_and_finite() -> None:
    audio = speech.vowels(np.random.default_rng(0), 0.5)
    assert len(audio) == 8000
    assert np.abs(audio).max() == pytest.approx(0.5)


def page_of(text: str) -> tuple[np.ndarray, list[ocr.Box]]:
    """A probability map with rows of # where there is text, and the box of rows 1 to 3."""
    rows = np.array([[c == "#" for c in line] for line in text.split()], np.float32)
    return rows[None, None], [(1, 1, 5, 4)]


@pytest.mark.parametrize(
    ("text", "f1"),
    [
        ("...... ...... .####. ...... ......", 1.0),
        ("...... ...... .##... ...... ......", 2 / 3),
        ("...... ...... .####. ...... .####.", 2 / 3),
        ("...... ...... ...... ...... ......", 0.0),
    ],
)
def test_text_is_found_by_columns_and_lost_by_false_pixels(text: str, f1: float) -> None:
    probability, boxes = page_of(text)
    sample = optc.models.Sample({}, boxes)
    assert ocr.text_is_found(lambda _: {"y": probability}, sample) == pytest.approx(f1)


def test_ink_box_is_tight() -> None:
    ink = np.zeros((6, 8), np.float32)
    ink[2:4, 3:7] = -100
    assert ocr.ink_box(ink) == (3, 2, 7, 4)
    assert ocr.ink_box(np.zeros((6, 8), np.float32)) == (0, 0, 0, 0)


def test_the_shipped_images_are_the_first_of_the_test_split() -> None:
    images, labels = fashion.shipped_sample()
    with reachable():
        grey, expected = fashion.load("test")
    np.testing.assert_array_equal(images, fashion.normalise(grey[:64]))
    np.testing.assert_array_equal(labels, expected[:64])
