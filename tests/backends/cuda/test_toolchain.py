"""nvcc: where it is looked for, what its assembler says, what a build makes of that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from optc.backends.cuda import toolchain
from optc.backends.cuda.build import check_spills
from optc.backends.cuda.target import CudaTarget
from optc.backends.cuda.toolchain import Usage, assemble, find_nvcc, usages
from optc.compiler.errors import OptcError, TargetError

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k0_Conv_0' for 'sm_80'
ptxas info    : Function properties for k0_Conv_0
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 74 registers, used 1 barriers, 16384 bytes smem, 416 bytes cmem[0]
ptxas info    : Compiling entry function 'k0_Conv_0' for 'sm_90'
ptxas info    : Function properties for k0_Conv_0
    40 bytes stack frame, 24 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_usage_is_read_by_function_and_architecture() -> None:
    assert usages(REPORT) == [
        Usage("k0_Conv_0", "sm_80", registers=74, shared=16384, spilled=0),
        Usage("k0_Conv_0", "sm_90", registers=255, shared=0, spilled=40),
    ]


def test_a_hot_kernel_that_spills_fails_the_build() -> None:
    with pytest.raises(OptcError, match=r"k0_Conv_0.*sm_90"):
        check_spills(usages(REPORT), {"k0_Conv_0"})


def test_other_kernels_may_spill() -> None:
    check_spills(usages(REPORT), {"k1_Conv_0"})


def test_a_named_nvcc_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_NVCC", "/nowhere/nvcc")
    with pytest.raises(TargetError, match="OPTC_NVCC"):
        find_nvcc()


def test_without_nvcc_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTC_NVCC", raising=False)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="pip install nvidia-cuda-nvcc"):
        find_nvcc()


def test_an_nvcc_of_a_package_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "cu13" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.delenv("OPTC_NVCC", raising=False)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: Spec())
    assert find_nvcc() == nvcc


def test_architectures_are_ordered() -> None:
    assert CudaTarget.of("cuda:sm_90,sm_80").architectures == ("sm_80", "sm_90")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(TargetError, match="sm_12"):
        CudaTarget.of("cuda:sm_12")


def test_tf32_is_asked_for() -> None:
    """It is a feature of the GPU: the host that loads the artifact needs none."""
    target = CudaTarget.of("cuda:sm_80,+tf32")
    assert (target.asked, target.features, target.architectures) == (("tf32",), (), ("sm_80",))
    assert CudaTarget.of("cuda:sm_80").asked == ()


@pytest.mark.parametrize("spec", ["cuda:sm_75,+tf32", "cuda:+fp4"])
def test_unknown_and_missing_features_are_refused(spec: str) -> None:
    with pytest.raises(TargetError):
        CudaTarget.of(spec)


needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")


@needs_nvcc
def test_a_fat_binary_has_its_magic() -> None:
    image, usage = assemble('extern "C" __global__ void k(float* x) { x[threadIdx.x] = 1; }', ["sm_80"])
    assert image[:4] == bytes.fromhex("50ed55ba")
    assert [(u.function, u.architecture) for u in usage] == [("k", "sm_80")]


@needs_nvcc
def test_what_nvcc_says_is_passed_on() -> None:
    with pytest.raises(OptcError, match="unknown_name"):
        assemble("int x = unknown_name;", ["sm_80"])
