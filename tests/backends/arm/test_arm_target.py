"""ARM cores by name, their features, and what is not known."""

from __future__ import annotations

import pytest
from optc.backends import target
from optc.backends.arm import CORES, host_core, parse_arm
from optc.backends.target import Target, names
from optc.compiler.errors import TargetError


def test_arm_alone_is_any_64_bit_core() -> None:
    generic = Target.parse("arm")
    assert (generic.name, generic.mcpu, generic.lanes, generic.registers) == ("arm", "generic", 4, 32)
    assert generic.triple.startswith("aarch64")
    assert not generic.multiplies_bytes


@pytest.mark.parametrize("core", list(CORES))
def test_every_core_is_known_to_llvm(core: str) -> None:
    arm = Target.parse(f"arm:{core}")
    assert str(arm.tvm().attrs["mcpu"]) == arm.mcpu
    assert arm.name in names()


def test_features_are_added_and_taken() -> None:
    assert Target.parse("arm:cortex-a72,+dotprod").has("dotprod")
    assert not Target.parse("arm:cortex-a76,-dotprod").has("dotprod")
    more = Target.parse("arm:+dotprod,+i8mm")
    assert more.has("i8mm")
    assert more.multiplies_bytes
    assert {"+dotprod", "+i8mm"} < set(more.mattr)


@pytest.mark.parametrize("spec", ["arm:z80", "arm:cortex-a76,dotprod", "arm:cortex-a76,+avx2", "arm:armv7,+dotprod"])
def test_what_is_unknown_is_named(spec: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_arm(spec)
    assert str(caught.value.found) in spec


def test_armv7_has_half_the_registers_and_hard_floats() -> None:
    arm = Target.parse("arm:armv7")
    assert (arm.lanes, arm.registers) == (4, 16)
    assert str(arm.tvm().attrs["mfloat-abi"]) == "hard"


def test_an_arm_host_is_what_its_features_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(target, "host_features", lambda: frozenset({"neon", "dotprod", "sve"}))
    host = target._host.__wrapped__()
    assert (host.name, host.has("dotprod"), host.has("i8mm")) == ("cpu", True, False)
    assert host_core(()).features == CORES["generic"].features
