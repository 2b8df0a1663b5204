"""PP-OCR v4 (Apache-2.0): reading, finding and turning lines of text, judged on text rendered here.

Words are drawn with Pillow's own font on grey, then tilted, blurred and covered with noise that is strong enough for
the float recogniser to miss about one line in ten; a task without mistakes would measure nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .download import PypiFile, PypiRelease
from .metrics import MeanMetric, Run, Sample, onnxruntime_run
from .pictures import require_pillow
from .zoo import Dataset, Split, ZooModel

if TYPE_CHECKING:
    from PIL import Image

WORD_LIST = (
    "about after again air animal answer away back before began between big book boy both carry change children city "
    "close come country cut different does earth each eat end enough every example eye family far father feet few find "
    "first food form found four from girl give good great group grow hand hard have head help her high home house "
    "just keep kind know land large last learn leave left letter life light line live long made make man many may mean "
    "might mother mountain move much must name near need never next night number off often old only open order other "
    "over page paper part people place plant play point press quick read rest river round run same saw say school sea "
    "second see sentence set ship show side small sound spell stand state still stop story study such take talk tell"
)
WORDS = WORD_LIST.split()

LINES = 1000
"""Test lines; calibration lines are drawn from other seeds."""

PAGES = 60

SEED_OF = {"test": 1, "calibration": 2}
"""Splits are told apart by the first word of the generator's seed, so that no item is in both."""

Grey = NDArray[np.float32]


PACKAGE = PypiRelease(
    "rapidocr-onnxruntime",
    "1.4.4",
    {
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": (
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
        ),
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": (
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
        ),
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": (
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
        ),
    },
)
REC_FILE, DET_FILE, CLS_FILE = (PACKAGE.file(f"{part}_infer.onnx") for part in ("rec", "det", "cls"))


def random_text(rng: np.random.Generator, words: int) -> str:
    """A few words and, one time in three, a number that has no digit looking like a letter."""
    chosen = [str(rng.choice(WORDS)) for _ in range(words)]
    if rng.random() < 1 / 3:
        chosen[-1] = str(rng.integers(22, 10_000)).translate(str.maketrans("01", "47"))
    return " ".join(word.capitalize() if rng.random() < 0.3 else word for word in chosen)


def draw_line(rng: np.random.Generator, height: int, width: int) -> tuple[Image.Image, str, int]:
    """A line of dark text that fits [height, width], tilted a little and blurred; the text; the background grey."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.load_default(size=float(rng.uniform(0.5, 0.66) * height))
    words = max(1, round(width / height / 2.2))
    text = random_text(rng, words)
    while font.getlength(text) > width - 16 and " " in text:
        text = text.rsplit(" ", 1)[0]
    paper, ink = int(rng.integers(130, 245)), int(rng.integers(0, 90))
    image = Image.new("L", (width, height), paper)
    left, top, right, bottom = font.getbbox(text)
    x = rng.uniform(6, max(7.0, width - (right - left) - 6)) - left
    y = (height - (bottom - top)) / 2 - top + rng.uniform(-2, 2)
    ImageDraw.Draw(image).text((x, y), text, fill=ink, font=font)
    image = image.rotate(float(rng.uniform(-1.5, 1.5)), Image.Resampling.BILINEAR, fillcolor=paper)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.8)))), text, paper


def to_input(grey: Grey) -> NDArray[np.float32]:
    """Grey 0..255 [height, width] to what PP-OCR reads: [1, 3, height, width] between -1 and 1."""
    return np.repeat(((grey / 255 - 0.5) / 0.5)[None, None].astype(np.float32), 3, axis=1)


def noisy(rng: np.random.Generator, image: Image.Image, strength: float) -> Grey:
    """Grey values under Gaussian noise whose deviation is uniform up to `strength`."""
    grey = np.asarray(image, np.float32)
    noise = rng.uniform(0, strength) * rng.standard_normal(grey.shape)
    return np.clip(grey + noise, 0, 255).astype(np.float32)


def text_line(rng: np.random.Generator, height: int, width: int) -> Sample:
    """A line to read; the target is its text."""
    image, text, _ = draw_line(rng, height, width)
    return Sample({"x": to_input(noisy(rng, image, REC_NOISE))}, text)


REC_NOISE, CLS_NOISE, DET_NOISE = 15.0, 20.0, 40.0
"""Largest deviations of the noise, of 255; set once so that float accuracy is about 90%, before any other was seen."""


def turned_line(rng: np.random.Generator, height: int, width: int) -> Sample:
    """A line the right way up (target 0) or upside down (target 1)."""
    image, _, _ = draw_line(rng, height, width)
    turned = int(rng.integers(2))
    return Sample({"x": to_input(noisy(rng, image.rotate(180 * turned), CLS_NOISE))}, turned)


def page(rng: np.random.Generator, height: int, width: int) -> Sample:
    """A page of scattered lines; the target is the mask that the float model finds."""
    from PIL import Image

    paper = int(rng.integers(130, 245))
    sheet = Image.new("L", (width, height), paper)
    y = int(rng.integers(8, 40))
    while y < height - 40:
        line_height = int(rng.integers(20, 56))
        line_width = int(rng.integers(width // 4, width - 16))
        line, _, ground = draw_line(rng, line_height, line_width)
        line = line.point([min(255, max(0, level + paper - ground)) for level in range(256)])
        sheet.paste(line, (int(rng.integers(0, width - line_width)), y))
        y += line_height + int(rng.integers(4, 40))
    inputs = {"x": to_input(noisy(rng, sheet, DET_NOISE))}
    return Sample(inputs, mask_of(onnxruntime_run(DET_FILE.path())(inputs).values()))


def mask_of(outputs: Any) -> NDArray[np.bool_]:
    """Pixels that PP-OCR takes for text: probability above 0.3."""
    (probability,) = outputs
    return np.asarray(probability > 0.3)


def mask_iou(run: Run, sample: Sample) -> float:
    """Intersection over union of the mask with the float model's; 1 if both are empty."""
    mask = mask_of(run(sample.inputs).values())
    union = np.count_nonzero(mask | sample.target)
    return float(np.count_nonzero(mask & sample.target) / union) if union else 1.0


def ctc_text(probabilities: NDArray[np.float32]) -> str:
    """Greedy CTC: best class at each step of [time, classes], repeats merged, blanks (class 0) dropped."""
    best = probabilities.argmax(-1)
    kept = best[(best != 0) & (best != np.concatenate([[-1], best[:-1]]))]
    alphabet = _alphabet()
    return "".join(alphabet[i - 1] for i in kept)


@lru_cache(maxsize=1)
def _alphabet() -> list[str]:
    """Characters of classes 1 and up: the model's own metadata, then the space."""
    properties = {p.key: p.value for p in onnx.load(REC_FILE.path()).metadata_props}
    return [*properties["character"].splitlines(), " "]


def line_is_read(run: Run, sample: Sample) -> float:
    """1 if the text is exact but for its spaces."""
    (probabilities,) = run(sample.inputs).values()
    return float(ctc_text(probabilities[0]).replace(" ", "") == sample.target.replace(" ", ""))


def side_is_right(run: Run, sample: Sample) -> float:
    """1 if upright and upside down are told apart."""
    (probabilities,) = run(sample.inputs).values()
    return float(probabilities[0].argmax() == sample.target)


def _entry(
    name: str, what: str, file: PypiFile, draw: Any, size: tuple[int, int], items: int, metric: str, score: Any
) -> ZooModel:
    """A PP-OCR model: `draw(rng, height, width)` makes its samples, `size` is their height and width."""

    def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
        require_pillow()
        numbers = islice(count(), items if n is None else n)
        return (draw(np.random.default_rng((SEED_OF[split], i)), *size) for i in numbers)

    def inputs(
        batch: int, rng: np.random.Generator, height: int = size[0], width: int = size[1]
    ) -> dict[str, NDArray[Any]]:
        require_pillow()
        return {"x": np.concatenate([draw(rng, height, width).inputs["x"] for _ in range(batch)])}

    data: Dataset = dataset
    judge = MeanMetric(metric, lambda n: data("test", n), score)
    return ZooModel(name, what, file, inputs, {"x": (1, 3, *size)}, data, judge)


MODELS = (
    _entry(
        "ppocr-rec",
        "PP-OCR v4 recogniser: a line of text to 6,625 CTC classes",
        REC_FILE,
        text_line,
        (48, 320),
        LINES,
        "lines read exactly",
        line_is_read,
    ),
    _entry(
        "ppocr-det",
        "PP-OCR v4 detector: a page to the probability of text at each pixel",
        DET_FILE,
        page,
        (640, 640),
        PAGES,
        "mask IoU with fp32",
        mask_iou,
    ),
    _entry(
        "ppocr-cls",
        "PP-OCR direction classifier (MobileNetV3): is a line upside down",
        CLS_FILE,
        turned_line,
        (48, 192),
        LINES,
        "top-1",
        side_is_right,
    ),
)
