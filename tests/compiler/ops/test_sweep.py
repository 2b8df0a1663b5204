"""Inference agrees with every node test of onnx, told shapes alone, small constants too, or symbolic dims."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep", Path(__file__).with_name("sweep.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweep"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# Where onnx's function body holds an If whose branch does not fit these shapes, and is not taken.
DEAD_BRANCHES = "test_affine_grid_3d"


@pytest.mark.parametrize("mode", ["static", "constant", "symbolic"])
def test_types_agree_with_the_arrays(sweep: ModuleType, mode: str) -> None:
    found = sweep.results(mode)
    wrong = {
        name: result
        for name, result in found.items()
        if result not in ("exact", "loose") and not result.startswith("unsupported") and DEAD_BRANCHES not in name
    }
    assert wrong == {}
    assert len(found) > 1600


def test_small_constants_make_almost_all_shapes_exact(sweep: ModuleType) -> None:
    """What is left over truly depends on data: NonZero, Compress, Unique, NonMaxSuppression, Loops."""
    data_dependent = ("nonzero", "compress", "unique", "nonmaxsuppression", "loop", "range", "linear_attention")
    loose = [name for name, result in sweep.results("constant").items() if result == "loose"]
    assert [name for name in loose if not any(word in name for word in data_dependent)] == []
