"""The artifact cache: found again, bounded, safe to share."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from optc.backends.runtime import cache


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path))


def put(key: str, size: int, age: float = 0.0) -> Path:
    path = cache.artifact_path(key)
    path.write_bytes(bytes(size))
    stat = path.stat()
    os.utime(path, (stat.st_atime, stat.st_mtime - age))
    return path


def test_what_was_put_is_found_and_the_rest_is_not() -> None:
    path = put("a", 10)
    assert cache.lookup("a") == path
    assert cache.lookup("b") is None


def test_the_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_BYTES", "250")
    old, used, new = put("old", 100, age=20), put("used", 100, age=30), put("new", 100)
    assert cache.lookup("used") == used
    cache.evict(new)
    assert [p.exists() for p in (old, used, new)] == [False, True, True]


def test_a_file_larger_than_the_limit_stays_while_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_BYTES", "50")
    path = put("big", 100)
    cache.evict(path)
    assert path.exists()


def test_keys_depend_on_every_part(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"ab")
    assert cache.digest([b"ab"]) == cache.digest([file])
    assert cache.digest([b"ab", b""]) != cache.digest([b"ab"])
    assert cache.digest([b"a", b"b"]) != cache.digest([b"ab"])


def test_two_compilers_at_once_both_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_compile, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [w.exitcode for w in workers] == [0, 0]
    assert [p.suffix for p in (tmp_path / "artifacts").iterdir()] == [".optc"]


def _compile(folder: str) -> None:
    os.environ["OPTC_CACHE_DIR"] = folder
    import numpy as np
    import optc
    from onnx import parser

    text = '<ir_version: 9, opset_import: ["" : 17]> agraph (float[N] x) => (float[N] y) { y = Relu(x) }'
    model = optc.compile(parser.parse_model(text))
    np.testing.assert_array_equal(model(np.array([-1, 2], np.float32)), [0, 2])
