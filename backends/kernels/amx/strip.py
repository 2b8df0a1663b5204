"""A strip of an image in scratch memory: its border filled, so that tiles of 16 output pixels may cross image rows.

Output pixels are counted by position: `oy * pitch + ox`, a few positions at the end of each row being of no use. What a
kernel tap reads for position p lies `p * unit` elements from what it reads for position 0, whatever the stride: a
position is as many pixels as the stride along x, and rows of one residue modulo the stride along y lie together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ..builder import Dim, Expr, KernelBuilder, ceildiv, i64, known, maximum, minimum, pieces
from ..conv import ConvSpec

VECTOR_BYTES = 64


@dataclass(frozen=True)
class Strip:
    """`rows` x `width` output pixels of one image, and the input they read; dims lifted to (depth, height, width)."""

    spec: ConvSpec
    size: tuple[Dim, ...]
    out: tuple[Dim, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    rows: int
    width: Dim

    @staticmethod
    def of(spec: ConvSpec, rows: int, width: int | None) -> Strip:
        """`width` None: whole rows."""
        rank = len(spec.spatial)

        def lift(values: tuple[Any, ...], fill: int) -> tuple[Any, ...]:
            return (*[fill] * (3 - rank), *[known(v) for v in values])

        out = lift(spec.out_spatial, 1)
        return Strip(
            spec,
            lift(spec.spatial, 1),
            out,
            lift(spec.kernel, 1),
            lift(spec.strides, 1),
            lift(spec.dilations, 1),
            lift(spec.pads[:rank], 0),
            rows,
            out[2] if width is None else width,
        )

    @property
    def step(self) -> int:
        """Input pixels from one pixel of a scratch row to the next: one tap alone needs every `stride`th only."""
        return self.strides[2] if self.kernel[2] == 1 else 1

    @property
    def unit(self) -> int:
        """Elements of a position."""
        return self.strides[2] // self.step * self.spec.c_in

    @property
    def pitch(self) -> Dim:
        """Positions of a row."""
        reach = (self.kernel[2] - 1) * self.dilations[2] + 1
        return known(self.width + (-(-reach // self.strides[2]) - 1))

    @property
    def residues(self) -> list[int]:
        """The row numbers modulo the stride that some tap reads."""
        return sorted({tap * self.dilations[1] % self.strides[1] for tap in range(self.kernel[1])})

    def halo(self, residue: int) -> int:
        """Rows of a residue that taps read beyond the output's."""
        taps = (tap * self.dilations[1] for tap in range(self.kernel[1]))
        return max(tap // self.strides[1] for tap in taps if tap % self.strides[1] == residue)

    @property
    def plane(self) -> Dim:
        """Elements of the rows of one residue."""
        return known((self.rows + max(map(self.halo, self.residues))) * self.pitch * self.unit)

    @property
    def elements(self) -> Dim:
        """Elements of a strip without what tiles read beyond its end."""
        return known(self.kernel[0] * len(self.residues) * self.plane)

    @property
    def merges(self) -> bool:
        """Whether the taps of a kernel row are one run of memory."""
        return self.spec.group == 1 and self.dilations[2] == 1

    def runs(self) -> list[Dim]:
        """Where the runs of the kernel's taps start, in row-major order, for position 0."""
        out: list[Dim] = []
        columns = 1 if self.merges else self.kernel[2]
        for kz in range(self.kernel[0]):
            for ky in range(self.kernel[1]):
                below, residue = divmod(ky * self.dilations[1], self.strides[1])
                plane = kz * len(self.residues) + self.residues.index(residue)
                row = known(plane * self.plane + below * self.pitch * self.unit)
                out += [row + kx * self.dilations[2] * self.spec.c_in for kx in range(columns)]
        return out

    def lengths(self) -> list[int]:
        """How long the runs are."""
        each = self.spec.c_in // self.spec.group
        taps = self.kernel[0] * self.kernel[1]
        return [each * self.kernel[2]] * taps if self.merges else [each] * (taps * self.kernel[2])

    def fill(
        self, kb: KernelBuilder, x: Expr, scratch: Expr, origin: Dim, at: StripPlace, pad: Expr | None, zeros: int = 0
    ) -> None:
        """Copies what a strip reads to `origin` on; `pad` fills what lies outside the image (None: nothing does). So
        many `zeros` follow where no other pixels do."""
        c, step = self.spec.c_in, self.step
        length = known(self.pitch * (self.strides[2] // step))  # pixels of a scratch row
        x_first = at.left * self.strides[2] - self.begin[2]
        left = minimum(maximum(ceildiv(_negative(x_first), step), 0), length)
        right = minimum(maximum(ceildiv(self.size[2] - x_first, step), left), length)
        left, right = kb.let(left, "left"), kb.let(right, "right")
        for plane, (z, residue) in enumerate((z, r) for z in range(self.kernel[0]) for r in self.residues):
            iz = at.z * self.strides[0] + z * self.dilations[0] - self.begin[0]
            with kb.loop(at.rows + self.halo(residue), "r") as r:
                iy = kb.let((at.top + r) * self.strides[1] + (residue - self.begin[1]), "iy")
                to = kb.let(origin + (plane * self.plane + r * (self.pitch * self.unit)), "to")
                row = kb.let(((at.image * self.size[0] + iz) * self.size[1] + iy) * self.size[2], "row")

                if zeros:
                    for end in (right, length) if pad is None else (length,):
                        kb.zero(scratch, to + end * c, zeros)
                source = (row + x_first + left * step) * c
                if pad is None:
                    self._copy_pixels(kb, scratch, to + left * c, x, source, right - left)
                    continue
                inside = tirx.all(iz >= 0, iz < i64(self.size[0]), iy >= 0, iy < i64(self.size[1]))
                with kb.when(inside):
                    kb.fill(scratch, to, left * c, pad)
                    self._copy_pixels(kb, scratch, to + left * c, x, source, right - left)
                    kb.fill(scratch, to + right * c, (length - right) * c, pad)
                with kb.when(tirx.Not(inside)):
                    kb.fill(scratch, to, length * c, pad)

    def _copy_pixels(self, kb: KernelBuilder, scratch: Expr, to: Dim, x: Expr, source: Dim, count: Dim) -> None:
        """`count` pixels, `step` apart in x, side by side in scratch."""
        c = self.spec.c_in
        if self.step == 1:
            kb.copy(scratch, to, x, source, count * c)
            return
        to, source = kb.let(to, "to"), kb.let(source, "source")
        with kb.loop(count, "pixel") as pixel:
            here, there = kb.let(to + pixel * c, "here"), kb.let(source + pixel * (self.step * c), "there")
            for start, lanes in _vectors(c):
                kb.store(scratch, here + start, kb.load(x, there + start, lanes), lanes)


@dataclass(frozen=True)
class StripPlace:
    """Which strip: its image and output plane, its first row and column there, and how many it has of each."""

    image: Expr
    z: Expr
    top: Expr
    left: Expr
    rows: Dim
    width: Dim


def _negative(value: Dim) -> Dim:
    return -value if isinstance(value, int) else i64(0) - value


def _vectors(count: int) -> Iterator[tuple[int, int]]:
    """`count` bytes as (start, lanes): whole vectors, the last overlapping; fewer than one as powers of two."""
    if count < VECTOR_BYTES:
        yield from pieces(count, VECTOR_BYTES)
        return
    for start in range(0, count, VECTOR_BYTES):
        yield min(start, count - VECTOR_BYTES), VECTOR_BYTES
