"""Artifacts with AMX kernels: they say that they need tiles, ask the system for them when loaded, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optc
from helpers import graph_of
from optc.backends.build import build_artifact
from optc.backends.cpu import lower
from optc.backends.runtime.artifact import read_artifact
from optc.backends.target import Target

from .support import integers, needs_amx

SAPPHIRE_RAPIDS = Target.parse("cpu:sapphirerapids")


def built(text: str, path: Path) -> list[str]:
    """Writes the artifact of a graph; the features it needs."""
    manifest = {"options": {}, "model": "m", "versions": {}, "summary": {}}
    build_artifact(lower(graph_of(text), SAPPHIRE_RAPIDS), SAPPHIRE_RAPIDS, manifest, path)
    features: list[str] = read_artifact(path, host=False).manifest["target"]["features"]
    return features


@needs_amx
def test_needs_tiles_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "tiles.optc"
    features = built(
        """
        graph g(%a: u8[64,96]) {
          %b: i8[96,32] = const random(1)
          %y = optc.MatMulInteger(%a, %b)
          return %y, %b
        }
        """,
        path,
    )
    assert {"amx-int8", "amx-tile"} <= set(features)
    assert "amx-bf16" not in features
    a = integers("uint8", 64, 96)
    y, b = optc.load(path, threads=2).run({"a": a}).values()
    np.testing.assert_array_equal(y, a.astype("int32") @ b.astype("int32"))


def test_other_kernels_need_none(tmp_path: Path) -> None:
    features = built("graph g(%a: f32[64,96]) { %y = Relu(%a) return %y }", tmp_path / "plain.optc")
    assert "avx512f" in features
    assert not [feature for feature in features if feature.startswith("amx")]
