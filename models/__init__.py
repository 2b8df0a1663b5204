"""The zoo: trained models with their data and their metric, and the shapes of classics, by name.

model = optc.models.get("fashion-cnn")
compiled = optc.compile(model.path(), calibration=model.samples("calibration", 200))
print(model.metric.evaluate(compiled.run))
"""

from __future__ import annotations

from . import efficientnet, fashion, filetype, ocr, sentences, shapes, speech
from .download import DownloadError, cache_dir
from .metrics import Metric, MetricResult, Run, Sample, onnxruntime_run
from .zoo import Registry, Split, ZooModel

_ZOO = Registry()
for _room in (fashion, efficientnet, ocr, filetype, sentences, speech, shapes):
    _ZOO.add(*_room.MODELS)

names = _ZOO.names
get = _ZOO.get

__all__ = [
    "DownloadError",
    "Metric",
    "MetricResult",
    "Run",
    "Sample",
    "Split",
    "ZooModel",
    "cache_dir",
    "get",
    "names",
    "onnxruntime_run",
]
