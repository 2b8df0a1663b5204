"""arm_check and arm_cost: the node tests' engine, what a check says, and how instructions are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from optc.compiler.errors import UsageError
from optc.tools.arm_check import Check, check_nodes, small_sample
from optc.tools.arm_cost import Cost, shared_library
from optc.tools.emulator import EmulatedError, Emulator, count_of

Emulate = Callable[[str], Emulator]


def test_a_sample_of_the_node_tests_passes(emulator: Emulate) -> None:
    emulator("arm")
    names = (
        "add", "conv_with_strides_padding", "gemm_all_attributes", "softmax_axis_1", "top_k", "lstm_defaults",
        "nonzero_example", "qlinearmatmul_2D_uint8_float32",
    )  # fmt: skip
    results = check_nodes("arm", f"^test_({'|'.join(names)})$")
    assert len(results) == len(names)
    assert [(r.case.name, r.error) for r in results if r.error] == []


def test_inputs_are_cut_to_what_is_quick_to_emulate() -> None:
    assert small_sample("fashion-cnn")["image"].shape == (1, 1, 28, 28)


def test_equal_bits_pass_whatever_the_range() -> None:
    assert Check("m", "arm", 0.0, None, 1.0).passes
    assert not Check("m", "arm", 0.1, False, 1.0).passes
    assert not Check("m", "arm", 0.0, None, 1.0, "no compiler").passes
    assert "same bits" in Check("m", "arm", 0.0, True, 1.0).line()


def test_a_count_is_read_off_what_the_plugin_prints() -> None:
    assert count_of("warning\ninstructions 12\n") == 12
    with pytest.raises(EmulatedError, match="no instructions"):
        count_of("Segmentation fault")


def test_a_cost_shows_its_ratio() -> None:
    assert Cost("m", 3e6, 4e6).line().split() == ["m", "3.00", "4.00", "0.750"]
    assert Cost("m", 3e6, None).line().split() == ["m", "3.00"]


def test_a_folder_without_the_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"libonnxruntime\.so"):
        shared_library(tmp_path)


def test_the_emulated_process_may_die(emulator: Emulate) -> None:
    emulator("arm")
    with Emulator("arm") as process:
        library = process.load_library(Path("/usr/aarch64-linux-gnu/lib/libc.so.6"))
        with pytest.raises(EmulatedError, match="ended with status") as caught:
            process.call(library, "abort", [np.zeros(1, "float32")], [])
    assert caught.value.status is None
