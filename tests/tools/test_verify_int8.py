"""What is wrong with an int8 artifact, and what is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import save
from optc.backends.runtime.model import Port
from optc.compiler.errors import CheckError
from optc.tools.verify_int8 import Comparison, compare_int8, is_quantized
from quantized_models import dynamically_quantized, mlp

Y = np.linspace(-1, 1, 256 * 8).astype(np.float32).reshape(256, 8)


def compared(found: np.ndarray, kind: str = "values", budget: float | None = None, **options: bool) -> Comparison:
    walk = None if budget is None else {"budget": budget, "holds": True, "decisions": 10}
    told: dict[str, Any] = {"outputs": {"y": kind}, "budget": walk}
    model: Any = SimpleNamespace(
        manifest={"quantization": told}, outputs=[Port("y", "float32", found.shape)], run=lambda sample: {"y": found}
    )
    return compare_int8(model, lambda sample: {"y": Y}, [{}], **options)


def test_noise_of_quantization_is_no_failure() -> None:
    found = compared(Y + np.float32(0.02))
    found.check()
    assert 20 < found.outputs[0].snr_db < 40


def test_an_output_without_likeness_fails() -> None:
    with pytest.raises(CheckError, match="all wrong"):
        compared(-Y).check()


def test_nan_fails() -> None:
    with pytest.raises(CheckError, match="NaN"):
        compared(np.where(Y > 0.99, np.nan, Y).astype(np.float32)).check()


def test_another_shape_fails() -> None:
    with pytest.raises(CheckError, match="all wrong"):
        compared(Y[:3]).check()


def test_a_budget_that_does_not_hold_here_fails() -> None:
    worse = np.where(Y > 0.9, 0, Y).astype(np.float32)
    compared(worse).check()
    compared(worse, budget=0.1).check()
    with pytest.raises(CheckError, match=r"budget of 1\.00%"):
        compared(worse, budget=0.01).check()
    compared(worse, budget=0.01, judge=False).check()


def test_from_a_quantized_model_one_step_is_allowed() -> None:
    step = np.float32(2 / 255)
    compared(Y + step, from_quantized=True).check()
    few = Y.copy()
    few[0, 0] += 5 * step
    compared(few, from_quantized=True).check()
    with pytest.raises(CheckError, match="within a step"):
        compared(Y + 2 * step, from_quantized=True).check()


def test_the_step_is_that_of_all_samples() -> None:
    numbers = np.linspace(0, 1, 11).astype(np.float32).reshape(11, 1)
    model: Any = SimpleNamespace(
        manifest={}, outputs=[Port("y", "float32", (1,))], run=lambda sample: {"y": sample["y"] + np.float32(0.003)}
    )
    samples = [{"y": number} for number in numbers]
    assert compare_int8(model, dict, samples, from_quantized=True).outputs[0].within_step == 1


def test_winners() -> None:
    flipped = np.array(Y)
    flipped[:64] = flipped[:64, ::-1]
    assert compared(flipped, "logits").outputs[0].winners == 0.75
    assert compared(flipped).outputs[0].winners is None


def test_what_a_quantized_model_is(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(mlp(), path)
    assert not is_quantized(path)
    path.write_bytes(dynamically_quantized(mlp(), "u8", per_channel=False))
    assert is_quantized(path)
