"""c/inflate.c against zlib: every kind of block, and damage that must neither crash nor pass for data."""

from __future__ import annotations

import ctypes
import random
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from optc.backends.runtime.toolchain import RUNTIME_FOLDER

Inflate = Callable[[bytes, int], "bytes | None"]
TEXT = Path(__file__).read_bytes()


@pytest.fixture(scope="module")
def inflate(tmp_path_factory: pytest.TempPathFactory) -> Inflate:
    """inflate(data, size) -> the `size` bytes, or None if the data do not hold exactly those."""
    library = tmp_path_factory.mktemp("inflate") / "inflate.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, RUNTIME_FOLDER / "inflate.c", "-o", library], check=True)
    function = ctypes.CDLL(str(library)).optc_inflate
    function.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)

    def call(data: bytes, size: int) -> bytes | None:
        guard = b"\xa5" * 16
        out = ctypes.create_string_buffer(bytes(size) + guard)
        status = function(data, len(data), out, size)
        assert out.raw[size : size + len(guard)] == guard
        return None if status else out.raw[:size]

    return call


def deflated(data: bytes, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 8, strategy)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_what_zlib_deflates(inflate: Inflate, level: int, strategy: int) -> None:
    rng = random.Random(level)
    for data in (b"", b"a", bytes(100_000), rng.randbytes(70_000), TEXT * 3, bytes(rng.choices(b"abcd", k=5000))):
        packed = deflated(data, level, strategy)
        assert inflate(packed, len(data)) == data
        assert inflate(packed, len(data) + 1) is None
        assert not data or inflate(packed, len(data) - 1) is None


def test_damage_is_judged_as_zlib_does(inflate: Inflate) -> None:
    rng, sound = random.Random(0), deflated(TEXT)
    for _ in range(3000):
        data = bytearray(sound)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        cut = bytes(data[: rng.randrange(len(data))]) if rng.random() < 0.3 else bytes(data)
        reference = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            expected = reference.decompress(cut)
        except zlib.error:
            expected = b""
        whole = reference.eof and len(expected) == len(TEXT)
        assert inflate(cut, len(TEXT)) == (expected if whole else None)
