"""Targets: names, features of the host, errors."""

from __future__ import annotations

import itertools

import pytest
from optc.backends.target import LEVELS, Target, names
from optc.compiler.errors import TargetError, UnsupportedError


def test_levels_build_on_each_other() -> None:
    ordered = [set(level.features) for level in LEVELS.values()]
    assert all(a < b for a, b in itertools.pairwise(ordered))


def test_cpu_names_this_host() -> None:
    assert Target.parse("cpu") == Target.host()
    assert Target.host().num_cores >= 1


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "sapphirerapids"])
def test_a_level_by_name(name: str) -> None:
    target = Target.parse(f"cpu:{name}")
    assert target.mcpu == name
    assert target.cflags == (f"-march={name}",)
    assert str(target.tvm().attrs["mcpu"]) == name


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(TargetError, match="cpu:x86-64-v3") as caught:
        Target.parse("cpu:z80")
    assert caught.value.found == "cpu:z80"
    assert set(names()) >= {"cpu", "cpu:sapphirerapids"}


@pytest.mark.parametrize("name", ["arm", "cuda", "arm:cortex-a76"])
def test_a_target_to_come_is_unsupported(name: str) -> None:
    with pytest.raises(UnsupportedError, match="not available in this version") as caught:
        Target.parse(name)
    assert caught.value.exit_code == 4
