"""What is read off this host."""

from __future__ import annotations

from optc.backends.runtime.host import architecture, features_of


def test_features_are_read_off_cpuinfo() -> None:
    text = "processor : 0\nflags\t\t: fpu pni sse4_1 avx2 avx512_vnni amx_tile\nbugs :\n"
    assert features_of(text) == {"fpu", "sse3", "sse4.1", "avx2", "avx512vnni", "amx-tile"}


def test_only_the_first_processor_counts() -> None:
    assert features_of("flags : avx\n\nflags : avx avx2\n") == {"avx"}


def test_architectures_have_one_spelling() -> None:
    assert architecture("amd64-pc-linux-gnu") == architecture("x86_64-linux-gnu") == "x86_64"
