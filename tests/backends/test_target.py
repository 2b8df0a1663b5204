"""Targets: names, features of the host, errors."""

from __future__ import annotations

import itertools

import pytest
from optc.backends import target
from optc.backends.target import LEVELS, Target, names
from optc.compiler.errors import TargetError


def test_levels_build_on_each_other() -> None:
    with_avx512 = [set(level.features) for name, level in LEVELS.items() if name != "alderlake"]
    assert all(a < b for a, b in itertools.pairwise(with_avx512))
    assert set(LEVELS["x86-64-v3"].features) < set(LEVELS["alderlake"].features)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (set(), "x86-64-v3"),
        ({"avxvnni"}, "alderlake"),
        (set(LEVELS["x86-64-v4"].features), "x86-64-v4"),
        ({"avxvnni", *LEVELS["x86-64-v4"].features}, "x86-64-v4"),
        ({"avxvnni", *LEVELS["cascadelake"].features}, "cascadelake"),
        (set(LEVELS["sapphirerapids"].features), "sapphirerapids"),
    ],
)
def test_a_host_is_the_highest_level_it_has_the_features_of(
    more: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = frozenset(LEVELS["x86-64-v3"].features) | more
    monkeypatch.setattr(target, "host_features", lambda: present)
    assert target._host.__wrapped__().mcpu == expected


def test_features_are_asked_by_name() -> None:
    assert LEVELS["cascadelake"].has("avx512vnni")
    assert not LEVELS["x86-64-v4"].has("avx512vnni")


def test_cpu_names_this_host() -> None:
    assert Target.parse("cpu") == Target.host()
    assert Target.host().num_cores >= 1


@pytest.mark.parametrize("name", ["x86-64-v3", "alderlake", "x86-64-v4", "cascadelake", "sapphirerapids"])
def test_a_level_by_name(name: str) -> None:
    level = Target.parse(f"cpu:{name}")
    assert level.mcpu == name
    assert level.cflags == (f"-march={name}",)
    assert str(level.tvm().attrs["mcpu"]) == name


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(TargetError, match="cpu:x86-64-v3") as caught:
        Target.parse("cpu:z80")
    assert caught.value.found == "cpu:z80"
    assert set(names()) >= {"cpu", "cpu:sapphirerapids"}
