"""Silero VAD 6 (MIT): is there a voice in these 32 ms; six exports of one network, judged by agreement with fp32.

A clip is two recorded words, or synthetic vowels, between pauses and under noise, at 16 kHz. Frames of 512 samples
follow 64 samples of the frame before, as the network expects, and the state goes from each frame to the next.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .download import DebianFile, PypiFile, PypiRelease
from .metrics import MeanMetric, Run, Sample, Tensors, onnxruntime_run
from .zoo import Split, ZooModel

Audio = NDArray[np.float32]

RATE, FRAME, CONTEXT, STATE = 16_000, 512, 64, 128

PACKAGE = PypiRelease(
    "silero-vad",
    "6.2.3",
    {
        f"silero_vad/data/{name}.onnx": sha256
        for name, sha256 in (
            ("silero_vad", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
            ("silero_vad_16k_op15", "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
            ("silero_vad_16k_sequence", "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"),
            ("silero_vad_half", "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"),
            ("silero_vad_op18_ifless", "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"),
            ("silero_vad_openvino_16k", "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"),
        )
    },
)

RECORDINGS = {
    name: DebianFile("alsa-utils", f"/usr/share/sounds/alsa/{name}.wav", sha256)
    for name, sha256 in (
        ("Front_Center", "0d61518bcd3f13b0c709a5298e939caf698b80d31d71d50475365ee0e5536cc9"),
        ("Front_Left", "9f97e8458785da2f0aa0ec60bf9cc81520cbf80a4683e83eca9cb5f2958e9fef"),
        ("Front_Right", "1fdea4d7003f1f7d3e48d3521aaab0a112c4ac570b02ddf1813abacac3070f6f"),
        ("Rear_Center", "9343207e3298813fdc4d26b7948e15a38533c37a9f232c3eff809b565398b330"),
        ("Rear_Left", "1679e0557701864d55b742a0abd3fe5f50d95b1bfcb55ffad4b597dcc7e3c7b8"),
        ("Rear_Right", "12828d125f692faa75c7445d52125dcc2c36f82c4f7a3ef49b8ae6afd74ada9d"),
        ("Side_Left", "03dc7c641d7825417d2a261831715e945e95d87343fb037db910e7ce4f87a2a1"),
        ("Side_Right", "ecdd0329945f355960796a56f8126d5080ed93fdd2437c7eaddbbbd56137d7e9"),
    )
}
"""A speaker naming loudspeakers, 48 kHz, about 1.4 s each."""

SPOKEN: dict[Split, tuple[str, ...]] = {
    "test": ("Front_Center", "Front_Right", "Rear_Left", "Side_Right"),
    "calibration": ("Front_Left", "Rear_Center", "Rear_Right", "Side_Left"),
}

CLIPS = 120
"""Of about 110 frames each. A clip is an item, since the frames of one are not independent."""

NOISE = (12, 40)
"""Decibels that the noise lies below the voice's peak."""

FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Hz, of the vowels in father, see, boot and bed (Peterson and Barney 1952, men)."""


@lru_cache(maxsize=16)
def recording(name: str) -> Audio:
    """A recording at 16 kHz, its peak at 0.5. Raises `DownloadError`."""
    with wave.open(str(RECORDINGS[name].path())) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
    # One third of the rate: a windowed-sinc low pass at the new Nyquist frequency, then every third sample.
    taps = np.arange(-48, 49)
    kernel = np.sinc(taps / 3) / 3 * np.hamming(len(taps))
    audio = np.convolve(samples, kernel, "same")[::3]
    return np.asarray(0.5 * audio / np.abs(audio).max(), np.float32)


def vowels(rng: np.random.Generator, seconds: float) -> Audio:
    """Sung vowels, four a second: harmonics of a gliding pitch under the formants' resonances. Peak 0.5."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    syllable = (4 * time).astype(int)
    formants = np.array(FORMANTS)[rng.integers(0, len(FORMANTS), syllable[-1] + 1)][syllable]
    voice = np.zeros_like(time)
    for harmonic in range(1, 36):
        distance = (harmonic * pitch[:, None] - formants) / 120
        voice += (1 / (1 + distance**2)).sum(1) / harmonic**0.5 * np.sin(harmonic * phase)
    voice *= np.sin(np.pi * ((4 * time) % 1)) ** 0.5
    return np.asarray(0.5 * voice / np.abs(voice).max(), np.float32)


@lru_cache(maxsize=CLIPS)
def clip(split: Split, number: int) -> Audio:
    """About four seconds: pause, voice, pause, voice, pause, under noise.

    Every fourth clip is synthetic, the others are recorded.
    """
    rng = np.random.default_rng((0 if split == "test" else 1, number))
    pieces: list[Audio] = []
    for _ in range(2):
        pieces.append(np.zeros(rng.integers(3000, 9000), np.float32))
        pieces.append(vowels(rng, 1.2) if number % 4 == 3 else recording(str(rng.choice(SPOKEN[split]))))
    audio = np.concatenate([*pieces, np.zeros(6000, np.float32)]) * np.float32(rng.uniform(0.2, 1.5))
    noise = rng.standard_normal(len(audio), dtype=np.float32)
    return np.asarray(audio + 0.5 * 10 ** (-rng.uniform(*NOISE) / 20) * noise, np.float32)


def frames(audio: Audio) -> Audio:
    """[frames, 576]: each frame of 512 behind the last 64 samples of the one before; an unfinished one is dropped."""
    cut = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), cut[:-1, -CONTEXT:]])
    return np.concatenate([before, cut], axis=1)


@dataclass(frozen=True, eq=False)
class Export:
    """One of the six files: does it want the sampling rate as an input, or a whole clip at once?"""

    file: PypiFile
    rate: bool = False
    whole: bool = False

    def start(self, frame: Audio) -> dict[str, NDArray[Any]]:
        """Inputs for `frame` [batch, 576] (or [frames, 576] of one clip) with the state that a stream begins with."""
        inputs: dict[str, NDArray[Any]] = {"input": frame}
        if self.whole:
            return inputs | {name: np.zeros((1, 1, STATE), np.float32) for name in ("h", "c")}
        inputs["state"] = np.zeros((2, len(frame), STATE), np.float32)
        return inputs | ({"sr": np.array(RATE, np.int64)} if self.rate else {})

    def stream(self, run: Run, clip_frames: Audio) -> Iterator[tuple[Tensors, NDArray[np.float32]]]:
        """Inputs and voice probability of each call on the way through a clip."""
        inputs = self.start(clip_frames if self.whole else clip_frames[:1])
        for row in range(1 if self.whole else len(clip_frames)):
            if not self.whole:
                inputs = inputs | {"input": clip_frames[row : row + 1]}
            outputs = run(inputs)
            yield inputs, outputs["speech_probs" if self.whole else "output"].ravel()
            if not self.whole:
                inputs = inputs | {"state": outputs["stateN"]}

    def probabilities(self, run: Run, clip_frames: Audio) -> NDArray[np.float32]:
        """[frames] voice probabilities of a clip."""
        return np.concatenate([voice for _, voice in self.stream(run, clip_frames)])

    def clips(self, n: int | None) -> Iterator[Sample]:
        """Test clips in frames; the target is the float model's decision for each."""
        for number in range(CLIPS if n is None else min(n, CLIPS)):
            yield Sample({"frames": frames(clip("test", number))}, _float_decisions(self, number))

    def agreement(self, run: Run, sample: Sample) -> float:
        """Share of a clip's frames that get the float model's decision."""
        return float((sample.target == (self.probabilities(run, sample.inputs["frames"]) > 0.5)).mean())

    def dataset(self, split: Split, n: int | None = None) -> Iterator[Sample]:
        """Single calls with the states that the float model passes on; the target is its voice probability."""
        run = onnxruntime_run(self.file.path())
        calls = (call for number in range(CLIPS) for call in self.stream(run, frames(clip(split, number))))
        return (Sample(inputs, voice) for inputs, voice in islice(calls, n))

    def inputs(self, batch: int, rng: np.random.Generator, sequence: int = 64) -> dict[str, NDArray[Any]]:
        """`sequence` is the number of frames at once, for the one export that takes a whole clip (its batch is 1)."""
        if self.whole:
            return self.start(frames(vowels(rng, (sequence + 1) * FRAME / RATE))[:sequence])
        return self.start(np.concatenate([frames(vowels(rng, 0.5))[4:5] for _ in range(batch)]))


@lru_cache(maxsize=CLIPS)
def _float_decisions(export: Export, number: int) -> NDArray[np.bool_]:
    """What the float model says of each frame of a test clip."""
    run = onnxruntime_run(export.file.path())
    return np.asarray(export.probabilities(run, frames(clip("test", number))) > 0.5)


def _entry(suffix: str, what: str, rate: bool = False, whole: bool = False) -> ZooModel:
    export = Export(PACKAGE.file(f"silero_vad{suffix}.onnx"), rate, whole)
    shapes = {name: array.shape for name, array in export.inputs(1, np.random.default_rng(0)).items()}
    name = "silero-vad" + suffix.replace("_", "-")
    judge = MeanMetric("frames agreeing with fp32", export.clips, export.agreement)
    return ZooModel(name, f"Silero VAD 6, {what}", export.file, export.inputs, shapes, export.dataset, judge)


MODELS = (
    _entry("", "8 and 16 kHz by 25 nested If", rate=True),
    _entry("_16k_op15", "16 kHz, opset 15", rate=True),
    _entry("_16k_sequence", "a whole clip at once: one LSTM, no If", whole=True),
    _entry("_half", "weights in half precision"),
    _entry("_op18_ifless", "one If, LSTM unrolled", rate=True),
    _entry("_openvino_16k", "static shapes"),
)
