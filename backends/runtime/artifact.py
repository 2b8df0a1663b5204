"""The `.optc` file: a zip whose weights are stored and page-aligned, so that they are mapped, not read.

Members: `manifest.json` (UTF-8, sorted keys), `code.so`, `weights.bin` (each tensor at a multiple of 64 bytes) and any
named extras. Manifest and code, which are copied when loaded anyway, are deflated. The manifest holds the size and
SHA-256 of every other member's content; the zip's comment holds the manifest's. All times in the file are the zip
epoch, so the same contents give the same bytes (from the same zlib).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...compiler.errors import ArtifactError
from .host import host_features, host_triple, runs_here
from .types import numpy_dtype

FORMAT_VERSION = 2
ABI_VERSION = 1
PAGE = 4096
ALIGNMENT = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)
_COMMENT = b"optc sha256 "
_PAD_ID = 0x6F70  # id of the zip extra field that only pads
_ZIP64_FROM = 1 << 31
_CHUNK = 1 << 24
_DEFLATED = ("manifest.json", "code.so")
_MOST_INFLATED = 1032  # bytes that one deflated byte can hold

Weights = Sequence[tuple[str, np.ndarray]]


class WrongHostError(ArtifactError):
    """The artifact is sound, and made for another kind of machine."""

    exit_code = 5


@dataclass
class Artifact:
    """A checked, open artifact. `weights` and `extras` view the file's mapping: pages load when touched. `stored` is
    how many bytes of the file each member takes."""

    path: Path
    manifest: dict[str, Any]
    code: memoryview
    weights: memoryview
    extras: dict[str, memoryview]
    stored: dict[str, int]
    mapping: memoryview = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the file that each part takes; what is neither code, weights nor an extra is the manifest and
        padding."""
        parts = {"code": self.stored["code.so"], "weights": len(self.weights)}
        parts |= {name: self.stored[name] for name in self.extras}
        return parts | {"manifest and padding": len(self.mapping) - sum(parts.values())}

    def tensor(self, name: str) -> np.ndarray:
        """The read-only weight `name`, without a copy. Raises KeyError if there is none."""
        for entry in self.manifest["weights"]["tensors"]:
            if entry["name"] == name:
                data = self.weights[entry["offset"] : entry["offset"] + entry["nbytes"]]
                array: np.ndarray = np.ndarray(entry["shape"], numpy_dtype(entry["dtype"]), data)
                return array
        raise KeyError(name)


def weight_offsets(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where write_artifact puts weights of these sizes (bytes) in weights.bin: the offsets, and the total size."""
    offsets, end = [], 0
    for size in sizes:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(offset)
        end = offset + size
    return offsets, end


# --- writing ---


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes `path`'s place when the block ends, and leaves no trace if it fails or is interrupted.

    Raises ArtifactError if the folder is missing or read-only, the disk is full, or a size limit is reached.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _member_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _write_deflated(archive: zipfile.ZipFile, name: str, data: bytes) -> dict[str, Any]:
    """Writes a compressed member; returns its entry for the manifest."""
    archive.writestr(_member_info(name), data, zipfile.ZIP_DEFLATED, 9)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _write_stored(archive: zipfile.ZipFile, name: str, size: int, chunks: Iterable[Any]) -> dict[str, Any]:
    """Streams a member to a page boundary; returns its entry for the manifest."""
    info = _member_info(name)
    large = size >= _ZIP64_FROM
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name.encode()) + (20 if large else 0) + 4
    padding = -start % PAGE
    info.extra = struct.pack("<HH", _PAD_ID, padding) + bytes(padding)
    digest = hashlib.sha256()
    with archive.open(info, "w", force_zip64=large) as member:
        for chunk in chunks:
            digest.update(chunk)
            member.write(chunk)
    info.extra = b""  # the padding stands before the data, and need not be repeated in the directory
    return {"sha256": digest.hexdigest(), "bytes": info.file_size}


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """The array's bytes as a flat uint8 array; copies only what is not dense."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _weight_chunks(weights: Weights, offsets: list[int]) -> Iterator[Any]:
    end = 0
    for (_, array), offset in zip(weights, offsets, strict=True):
        yield bytes(offset - end)
        data = _bytes_of(array).data
        for at in range(0, len(data), _CHUNK):
            yield data[at : at + _CHUNK]
        end = offset + len(data)


def _file_chunks(data: bytes | Path) -> Iterator[Any]:
    if not isinstance(data, Path):
        yield data
        return
    with data.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def write_artifact(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    code: bytes | Path,
    weights: Weights,
    extras: Mapping[str, bytes | Path] | None = None,
) -> None:
    """Writes an artifact atomically.

    `manifest` must hold `target` ({"triple", "features"}), `inputs` and `outputs` (lists of {"name", "dtype",
    "shape"}, a symbolic dim being a string); the format, ABI, member and weight entries are added here. `weights` are
    written one by one, at the offsets that `weight_offsets` gives. Raises ArtifactError if the file cannot be written.
    """
    target = Path(path)
    offsets, total = weight_offsets(array.nbytes for _, array in weights)
    tensors = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "offset": offset, "nbytes": array.nbytes}
        for (name, array), offset in zip(weights, offsets, strict=True)
    ]
    with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        members = {"code.so": _write_deflated(archive, "code.so", b"".join(_file_chunks(code)))}
        for name, data in (extras or {}).items():
            size = data.stat().st_size if isinstance(data, Path) else len(data)
            members[name] = _write_stored(archive, name, size, _file_chunks(data))
        members["weights.bin"] = _write_stored(archive, "weights.bin", total, _weight_chunks(weights, offsets))
        full = {
            **manifest,
            "format": "optc",
            "format_version": FORMAT_VERSION,
            "abi_version": ABI_VERSION,
            "members": members,
            "weights": {"bytes": total, "tensors": tensors},
        }
        text = json.dumps(full, sort_keys=True, ensure_ascii=False, indent=1).encode()
        entry = _write_deflated(archive, "manifest.json", text)
        archive.comment = _COMMENT + entry["sha256"].encode()


# --- reading ---


def read_artifact(path: str | os.PathLike[str], *, verify: bool = True, host: bool = True) -> Artifact:
    """Opens and checks an artifact; no code of it runs.

    `verify=False` skips the hashes of code and weights (not the structure); `host=False` accepts artifacts for other
    machines, e.g. to inspect them. Raises ArtifactError that says what does not fit: file, format version, hash,
    manifest; WrongHostError (exit code 5) if it was made for another architecture or needs features this CPU lacks.
    """
    source = Path(path)
    mapping = _map(source)
    members, stored, comment = _members(source, mapping)
    for name in ("manifest.json", "code.so", "weights.bin"):
        if name not in members:
            raise ArtifactError(f"{source} is not an .optc file: it holds no {name}")
    manifest = _parse_manifest(source, members.pop("manifest.json"), comment)
    _check_manifest(source, manifest)
    if host:
        _check_host(source, manifest["target"])
    _check_members(source, manifest, members, verify)
    code, weights = members.pop("code.so"), members.pop("weights.bin")
    return Artifact(source, manifest, code, weights, members, stored, mapping)


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ArtifactError(f"{path} is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error


class _View:
    """A read-only file over a buffer, as zipfile needs it, without a copy of the buffer."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._data))[whence]
        if self._at < 0:
            raise OSError("seek before the start of the file")
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else min(self._at + size, len(self._data))
        data = bytes(self._data[self._at : end])
        self._at = max(self._at, end)
        return data


def _members(path: Path, mapping: memoryview) -> tuple[dict[str, memoryview], dict[str, int], bytes]:
    """Each member's content, the bytes it takes in the file, and the archive's comment."""
    members, stored = {}, {}
    try:
        with zipfile.ZipFile(_View(mapping)) as archive:
            for info in archive.infolist():
                content = _content(mapping, info) if info.filename not in members else None
                if content is None:
                    raise ArtifactError(f"{path} is damaged: the entry of {info.filename!r} does not fit")
                members[info.filename], stored[info.filename] = content, info.compress_size
            return members, stored, archive.comment
    except (zipfile.BadZipFile, OSError, struct.error, ValueError) as error:
        raise ArtifactError(f"{path} is not an .optc file, or is truncated: {error}") from error


def _content(mapping: memoryview, info: zipfile.ZipInfo) -> memoryview | None:
    """A member's content; None if its two headers differ, it leaves the file, or it is not stored as it must be."""
    header = struct.unpack("<4sHHHHHIIIHH", mapping[info.header_offset : info.header_offset + 30])
    start = info.header_offset + 30 + header[9] + header[10]
    name = bytes(mapping[info.header_offset + 30 : info.header_offset + 30 + header[9]])
    data = mapping[start : start + info.compress_size]
    sound = header[0] == b"PK\3\4" and header[3] == info.compress_type and name == info.filename.encode()
    if not sound or len(data) != info.compress_size:
        return None
    if info.compress_type == zipfile.ZIP_DEFLATED and info.filename in _DEFLATED:
        return _inflated(data, info.file_size)
    return data if info.compress_type == zipfile.ZIP_STORED and start % PAGE == 0 else None


def _inflated(data: memoryview, size: int) -> memoryview | None:
    """The `size` bytes that deflated data hold; None if they are damaged or hold more or less."""
    if size > _MOST_INFLATED * len(data):
        return None
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(data, size + 1)
    except zlib.error:
        return None
    return memoryview(content) if len(content) == size and inflate.eof else None


def _parse_manifest(path: Path, data: memoryview, comment: bytes) -> dict[str, Any]:
    if comment != _COMMENT + hashlib.sha256(data).hexdigest().encode():
        raise ArtifactError(f"{path} is damaged: manifest.json does not have the hash the file states")
    try:
        manifest = json.loads(bytes(data))
    except ValueError as error:
        raise ArtifactError(f"{path}: manifest.json cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "optc":
        raise ArtifactError(f"{path}: manifest.json is not one of optc")
    return manifest


# What a reader relies on: the path of keys, and the type found there.
_SCHEMA: tuple[tuple[tuple[str, ...], type], ...] = (
    (("target", "triple"), str),
    (("target", "features"), list),
    (("inputs",), list),
    (("outputs",), list),
    (("members",), dict),
    (("weights", "bytes"), int),
    (("weights", "tensors"), list),
)


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    for key, mine in (("format_version", FORMAT_VERSION), ("abi_version", ABI_VERSION)):
        if manifest.get(key) != mine:
            raise ArtifactError(
                f"{path} has another {key.replace('_', ' ')}",
                expected=mine,
                found=manifest.get(key),
                hint="Compile the model again with this version of optc",
            )
    for keys, kind in _SCHEMA:
        value: Any = manifest
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise ArtifactError(f"{path}: manifest.json has no valid {'.'.join(keys)!r}")
    for port in [*manifest["inputs"], *manifest["outputs"]]:
        if not isinstance(port, dict) or not {"name", "dtype", "shape"} <= port.keys():
            raise ArtifactError(f"{path}: manifest.json describes an input or output without name, dtype and shape")


def _check_host(path: Path, target: dict[str, Any]) -> None:
    if not runs_here(target["triple"]):
        raise WrongHostError(
            f"{path} was compiled for another machine",
            expected=target["triple"],
            found=host_triple(),
            hint="Run it on such a machine, or compile the model for this one with --target cpu",
        )
    missing = sorted(set(target["features"]) - host_features() - {"64bit"})
    if missing and host_features():
        raise WrongHostError(
            f"{path} needs CPU features that this host lacks: {' '.join(missing)}",
            hint="Compile it for this host, or for a target that needs less, such as cpu:x86-64-v3 or arm",
        )


def _check_members(path: Path, manifest: dict[str, Any], members: dict[str, memoryview], verify: bool) -> None:
    if members.keys() != manifest["members"].keys():
        found, expected = sorted(members), sorted(manifest["members"])
        raise ArtifactError(f"{path} holds other members than its manifest says", expected=expected, found=found)
    for name, data in members.items():
        entry = manifest["members"][name]
        if entry.get("bytes") != len(data):
            raise ArtifactError(f"{path}: {name} has the wrong size", expected=entry.get("bytes"), found=len(data))
        if verify and hashlib.sha256(data).hexdigest() != entry.get("sha256"):
            raise ArtifactError(f"{path} is damaged: {name} does not have the hash its manifest states")
