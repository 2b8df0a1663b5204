"""PP-OCR v4 (Apache-2.0): reading, finding and turning lines of text, judged on text rendered here.

Words are drawn with Pillow's own font on grey, then tilted, blurred and covered with noise that is strong enough for
the float recogniser to miss about one line in ten; a task without mistakes would measure nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .download import PypiFile, PypiRelease
from .metrics import MeanMetric, Metric, Run, Sample, onnxruntime_run
from .pictures import require_pillow
from .zoo import Split, ZooModel

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
"""Items of each split; calibration items are drawn from other seeds."""

PAGES = 1000
PAGE = 320
"""Test pages, and pixels of their sides: a quarter of the area that benchmarks time, so that many can be read."""

SEED_OF = {"test": 1, "calibration": 2}
"""Splits are told apart by the first word of the generator's seed, so that no item is in both."""

Grey = NDArray[np.uint8]
Drawing = tuple[Grey, Any]
"""A picture, and what is right about it."""


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
    return np.repeat((grey.astype(np.float32) / 127.5 - 1)[None, None], 3, axis=1)


def to_sample(drawing: Drawing) -> Sample:
    """A drawing as the model's input, and its target."""
    return Sample({"x": to_input(drawing[0])}, drawing[1])


def noisy(rng: np.random.Generator, image: Image.Image, strength: float) -> Grey:
    """Grey values under Gaussian noise whose deviation is uniform up to `strength`."""
    grey = np.asarray(image, np.float32)
    noise = np.float32(rng.uniform(0, strength)) * rng.standard_normal(grey.shape, np.float32)
    return np.asarray(np.clip(np.rint(grey + noise), 0, 255), np.uint8)


def text_line(rng: np.random.Generator, height: int, width: int) -> Drawing:
    """A line to read; the target is its text."""
    image, text, _ = draw_line(rng, height, width)
    return noisy(rng, image, REC_NOISE), text


REC_NOISE, CLS_NOISE, DET_NOISE = 15.0, 20.0, 40.0
"""Largest deviations of the noise, of 255; set once so that float accuracy is about 90%, before any other was seen."""


def turned_line(rng: np.random.Generator, height: int, width: int) -> Drawing:
    """A line the right way up (target 0) or upside down (target 1)."""
    image, _, _ = draw_line(rng, height, width)
    turned = int(rng.integers(2))
    return noisy(rng, image.rotate(180 * turned), CLS_NOISE), turned


Box = tuple[int, int, int, int]
"""Left, top, right, bottom, the last two exclusive."""


def page(rng: np.random.Generator, height: int, width: int) -> Drawing:
    """A page of scattered lines; the target is the list of their boxes."""
    from PIL import Image

    paper = int(rng.integers(130, 245))
    sheet = Image.new("L", (width, height), paper)
    boxes: list[Box] = []
    y = int(rng.integers(8, 40))
    while y < height - 40:
        line_height = int(rng.integers(20, 56))
        line_width = int(rng.integers(width // 4, width - 16))
        line, _, ground = draw_line(rng, line_height, line_width)
        line = line.point([min(255, max(0, level + paper - ground)) for level in range(256)])
        x = int(rng.integers(0, width - line_width))
        left, top, right, bottom = ink_box(np.asarray(line, np.float32) - paper)
        boxes.append((x + left, y + top, x + right, min(y + bottom, height)))
        sheet.paste(line, (x, y))
        y += line_height + int(rng.integers(4, 40))
    return noisy(rng, sheet, DET_NOISE), boxes


def ink_box(difference: NDArray[np.float32]) -> Box:
    """The box of all pixels that differ from the paper by more than 24 of 255; empty if there are none."""
    rows, columns = np.nonzero(np.abs(difference) > 24)
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def mask_of(outputs: Any) -> NDArray[np.bool_]:
    """Pixels [height, width] that PP-OCR takes for text: probability above 0.3."""
    (probability,) = outputs
    return np.asarray(probability[0, 0] > 0.3)


def text_is_found(run: Run, sample: Sample) -> float:
    """F1 of the lines on a page: recall is the share of their columns that the mask touches, precision the share of
    the mask that lies on them (the network marks only the core of a line, so areas would not compare)."""
    mask = mask_of(run(sample.inputs).values())
    lines = np.zeros_like(mask)
    columns = touched = 0
    for left, top, right, bottom in sample.target:
        lines[top:bottom, left:right] = True
        columns += right - left
        touched += int(mask[top:bottom, left:right].any(0).sum())
    recall = touched / columns if columns else 1.0
    precision = float(lines[mask].mean()) if mask.any() else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mask_iou(run: Run, sample: Sample) -> float:
    """Intersection over union of the mask with the float model's, the target; 1 if both are empty."""
    mask = mask_of(run(sample.inputs).values())
    union = np.count_nonzero(mask | sample.target)
    return float(np.count_nonzero(mask & sample.target) / union) if union else 1.0


@lru_cache(maxsize=PAGES)
def _float_mask(number: int) -> NDArray[np.bool_]:
    """The mask that the float model finds on a test page."""
    sample = to_sample(drawn(page, PAGE, PAGE, "test", number))
    return mask_of(onnxruntime_run(DET_FILE.path())(sample.inputs).values())


def _float_masks(n: int | None) -> Iterator[Sample]:
    """Test pages whose targets are the float model's masks."""
    for number in range(PAGES if n is None else n):
        grey, _ = drawn(page, PAGE, PAGE, "test", number)
        yield to_sample((grey, _float_mask(number)))


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


Draw = Callable[[np.random.Generator, int, int], Drawing]
"""Draws an item of this height and width."""


@lru_cache(maxsize=2 * LINES)
def drawn(draw: Draw, height: int, width: int, split: Split, number: int) -> Drawing:
    """An item of a split; kept, since drawing takes longer than some models take to look."""
    return draw(np.random.default_rng((SEED_OF[split], number)), height, width)


def _entry(
    name: str,
    what: str,
    file: PypiFile,
    draw: Draw,
    size: tuple[int, int],
    judge: tuple[str, Callable[[Run, Sample], float]],
    static: tuple[int, int] | None = None,
    agreement: Metric | None = None,
) -> ZooModel:
    """A PP-OCR model: `draw` makes its items, `size` is their height and width, `static` the benchmarks' if another."""
    wanted = static or size

    def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
        require_pillow()
        numbers = islice(count(), LINES if n is None else n)
        return (to_sample(drawn(draw, *size, split, i)) for i in numbers)

    def inputs(
        batch: int, rng: np.random.Generator, height: int = wanted[0], width: int = wanted[1]
    ) -> dict[str, NDArray[Any]]:
        require_pillow()
        return {"x": np.concatenate([to_input(draw(rng, height, width)[0]) for _ in range(batch)])}

    metric = MeanMetric(judge[0], lambda n: dataset("test", n), judge[1])
    return ZooModel(name, what, file, inputs, {"x": (1, 3, *wanted)}, dataset, metric, agreement)


MODELS = (
    _entry(
        "ppocr-rec",
        "PP-OCR v4 recogniser: a line of text to 6,625 CTC classes",
        REC_FILE,
        text_line,
        (48, 320),
        ("lines read exactly", line_is_read),
    ),
    _entry(
        "ppocr-det",
        "PP-OCR v4 detector: a page to the probability of text at each pixel",
        DET_FILE,
        page,
        (PAGE, PAGE),
        ("F1 of lines found", text_is_found),
        static=(640, 640),
        agreement=MeanMetric("mask IoU with fp32", _float_masks, mask_iou),
    ),
    _entry(
        "ppocr-cls",
        "PP-OCR direction classifier (MobileNetV3): is a line upside down",
        CLS_FILE,
        turned_line,
        (48, 192),
        ("top-1", side_is_right),
    ),
)
