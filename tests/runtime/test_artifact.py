"""optc.backends.runtime.artifact: the file format, its checks, and writes that fail."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from optc.backends.runtime.artifact import (
    PAGE,
    Artifact,
    atomic_file,
    read_artifact,
    weight_offsets,
    write_artifact,
)
from optc.backends.runtime.host import host_features
from optc.backends.runtime.model import load
from optc.compiler.errors import ArtifactError, OptcError

Built = Callable[[str], Path]
Write = Callable[..., None]


def member(path: Path, name: str) -> tuple[int, int]:
    """Where a member's data starts in the file, and its bytes."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    header = path.read_bytes()[info.header_offset : info.header_offset + 30]
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(
        header[28:30], "little"
    ), info.compress_size


def rejected(path: Path, message: str, exit_code: int = 3) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load(path)
    assert caught.value.exit_code == exit_code


# --- the format ---


def test_weights_are_stored_on_a_page_boundary_the_rest_is_deflated(artifact: Built) -> None:
    path = artifact("chain")
    assert member(path, "weights.bin")[0] % PAGE == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    deflated, stored = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED
    assert kinds == {"code.so": deflated, "weights.bin": stored, "manifest.json": deflated}


def test_sizes_are_those_of_the_file(artifact: Built) -> None:
    found = read_artifact(artifact("chain"))
    assert sum(found.sizes.values()) == artifact("chain").stat().st_size
    assert found.sizes["code"] == found.stored["code.so"] < len(found.code)
    assert found.sizes["manifest and padding"] < found.stored["manifest.json"] + PAGE + 1000  # padded once


def test_same_contents_give_the_same_bytes(write: Write, tmp_path: Path) -> None:
    for name in ("a.optc", "b.optc"):
        write(tmp_path / name, "chain")
    assert (tmp_path / "a.optc").read_bytes() == (tmp_path / "b.optc").read_bytes()


def test_weights_and_extras_come_back(code: Callable[..., Path], write: Write, tmp_path: Path) -> None:
    weights = [
        ("scalar", np.float32(3)[()].reshape(())),
        ("strided", np.arange(12, dtype=np.int64).reshape(3, 4).T),
        ("empty", np.zeros((0, 2), np.float16)),
        ("flags", np.array([True, False])),
    ]
    write(tmp_path / "a.optc", "add")
    manifest = {key: read_artifact(tmp_path / "a.optc").manifest[key] for key in ("target", "inputs", "outputs")}
    write_artifact(tmp_path / "b.optc", manifest, code("add"), weights, {"fallback/0.onnx": b"model"})
    found = read_artifact(tmp_path / "b.optc")
    for name, array in weights:
        assert found.tensor(name).dtype == array.dtype
        np.testing.assert_array_equal(found.tensor(name), array)
        assert not found.tensor(name).flags.writeable
    assert bytes(found.extras["fallback/0.onnx"]) == b"model"
    with pytest.raises(KeyError):
        found.tensor("no such weight")


def test_large_members_are_aligned_too(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optc.backends.runtime.artifact._ZIP64_FROM", 0)  # writes every header as for 2 GB and more
    write(tmp_path / "a.optc", "chain")
    assert member(tmp_path / "a.optc", "weights.bin")[0] % PAGE == 0
    np.testing.assert_array_equal(load(tmp_path / "a.optc")(*[np.ones((1, 1), np.float32)] * 2), [[23]])


def test_weight_offsets_are_aligned() -> None:
    assert weight_offsets([3, 64, 0, 65, 1]) == ([0, 64, 128, 128, 256], 257)
    assert weight_offsets([]) == ([], 0)


# --- what does not fit ---


@pytest.fixture
def broken(artifact: Built, tmp_path: Path) -> Callable[[Callable[[bytearray], object]], Path]:
    """broken(change) -> the path of an artifact whose bytes `change` has edited."""

    def build(change: Callable[[bytearray], object]) -> Path:
        data = bytearray(artifact("chain").read_bytes())
        change(data)
        path = tmp_path / "broken.optc"
        path.write_bytes(data)
        return path

    return build


@pytest.mark.parametrize("name", ["code.so", "weights.bin", "manifest.json"])
def test_a_flipped_byte(artifact: Built, broken: Callable[..., Path], name: str) -> None:
    start, size = member(artifact("chain"), name)

    def flip(data: bytearray) -> None:
        data[start + size // 2] ^= 1

    rejected(broken(flip), f"{name} does not have the hash|entry of '{name}' does not fit")


@pytest.mark.parametrize("share", [0.99, 0.5, 0.01])
def test_a_truncated_file(broken: Callable[..., Path], share: float) -> None:
    def truncate(data: bytearray) -> None:
        del data[int(len(data) * share) :]

    rejected(broken(truncate), "not an .optc file, or is truncated")


def test_files_that_are_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "text.optc").write_text("hello, this is text\n" * 100)
    rejected(tmp_path / "text.optc", "not an .optc file")
    (tmp_path / "empty.optc").write_bytes(b"")
    rejected(tmp_path / "empty.optc", "is empty")
    rejected(tmp_path / "missing.optc", "cannot read .*No such file")
    rejected(tmp_path, "cannot read .*Is a directory")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "text")
    rejected(tmp_path / "other.zip", "damaged|no manifest.json")


def test_random_damage_never_crashes(artifact: Built, tmp_path: Path) -> None:
    data, rng = artifact("chain").read_bytes(), np.random.default_rng(0)
    end = member(artifact("chain"), "manifest.json")
    places = np.concatenate([rng.integers(0, len(data), 40), rng.integers(sum(end), len(data), 80)])
    for place in places:
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        (tmp_path / "a.optc").write_bytes(changed)
        with contextlib.suppress(ArtifactError):  # some bytes, such as padding, mean nothing
            assert load(tmp_path / "a.optc")(*[np.ones((1, 2), np.float32)] * 2).tolist() == [[23, 23]]


def edited(artifact: Built, path: Path, **changes: object) -> Path:
    """A sound artifact whose manifest has other entries."""
    from optc.backends.runtime import artifact as module

    found: Artifact = read_artifact(artifact("add"))
    real = json.dumps

    def dumps(manifest: dict[str, object], **options: object) -> str:
        kept = {key: value for key, value in {**manifest, **changes}.items() if value is not None}
        return real(kept, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.json, "dumps", dumps)
        write_artifact(path, found.manifest, bytes(found.code), [])
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "another format version .*expected 2, found 1.*Compile the model again"),
        ({"abi_version": 7}, "another abi version"),
        ({"format": "other"}, "not one of optc"),
        ({"target": None}, "no valid 'target.triple'"),
        ({"inputs": "x"}, "no valid 'inputs'"),
        ({"outputs": [{"name": "z"}]}, "without name, dtype and shape"),
        ({"members": {}}, "other members"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_manifest_that_does_not_fit(
    artifact: Built, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    rejected(edited(artifact, tmp_path / "a.optc", **changes), message)


def test_another_architecture(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "a.optc", "add", triple="riscv64-linux-gnu")
    rejected(tmp_path / "a.optc", "another machine .*expected riscv64-linux-gnu", exit_code=5)
    assert read_artifact(tmp_path / "a.optc", host=False).manifest["target"]["triple"] == "riscv64-linux-gnu"


@pytest.mark.skipif(not host_features(), reason="this host does not list its CPU features")
def test_missing_cpu_features(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "a.optc", "add", features=[*sorted(host_features())[:3], "avx4096"])
    rejected(tmp_path / "a.optc", "lacks: avx4096", exit_code=5)


def test_the_code_checks_features_too(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "a.optc", "add", cflags=['-DFEATURES="avx4096"'])
    rejected(tmp_path / "a.optc", "lacks: avx4096", exit_code=5)


def test_code_and_manifest_agree_on_this_host(write: Write, tmp_path: Path) -> None:
    known = "sse4.2 avx avx2 fma f16c bmi bmi2 lzcnt avx512f avx512bw avx512vl avx512dq avx512cd avx512vnni avx512bf16"
    known += " avx512fp16 avxvnni amx-tile amx-int8 amx-bf16 neon dotprod i8mm fullfp16 bf16 sve"
    for feature in known.split():
        write(tmp_path / "a.optc", "add", cflags=[f'-DFEATURES="{feature}"'])
        try:
            load(tmp_path / "a.optc")
            present = True
        except ArtifactError:
            present = False
        assert present == (feature in host_features()), feature


# --- writing ---


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process may not pass 8 KB: stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing(artifact: Built, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = load(artifact("chain"))
    request.getfixturevalue("small_files")
    with pytest.raises(ArtifactError, match=r"cannot write .*a\.optc: File too large"):
        model.save(tmp_path / "a.optc")
    assert leftovers(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(artifact: Built, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "a.optc"
    path.write_text("old")
    model = load(artifact("chain"))
    request.getfixturevalue("small_files")
    with pytest.raises(ArtifactError):
        model.save(path)
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == ["a.optc"]


def test_a_missing_folder(artifact: Built, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        load(artifact("add")).save(tmp_path / "missing" / "a.optc")


def test_an_error_of_the_caller_passes_through(tmp_path: Path) -> None:
    with pytest.raises(OptcError, match="mine"), atomic_file(tmp_path / "a"):
        raise OptcError("mine")
    assert leftovers(tmp_path) == []


def test_written_files_have_the_usual_mode(artifact: Built, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        load(artifact("add")).save(tmp_path / "a.optc")
    finally:
        os.umask(before)
    assert (tmp_path / "a.optc").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_an_interrupted_write_leaves_no_artifact(artifact: Built, tmp_path: Path, number: signal.Signals) -> None:
    script = """
import sys
from pathlib import Path
import numpy as np
from optc.backends.runtime import artifact as module

found = module.read_artifact(sys.argv[1])
def chunks(weights, offsets):
    yield b"x" * 100000
    print("writing", flush=True)
    sys.stdin.read()
module._weight_chunks = chunks
module.write_artifact(sys.argv[2], found.manifest, bytes(found.code), [])
"""
    command = [sys.executable, "-c", script, artifact("add"), tmp_path / "a.optc"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        process.wait(30)
    assert not (tmp_path / "a.optc").exists()
    if number == signal.SIGINT:
        assert leftovers(tmp_path) == []
