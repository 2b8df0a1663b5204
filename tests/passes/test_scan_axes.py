"""Scan along other axes than the first."""

from __future__ import annotations

from collections.abc import Callable

from optc.passes.scan_axes import ScanAxes

BODY = "body=graph b(%s: f32[3], %a: f32[3,2]) { %r = ReduceSum(%a, %one) {keepdims=0} %t = Add(%s, %r) return %t, %a }"


def test_transposes_stand_outside(assert_rewrites: Callable[..., object]) -> None:
    assert_rewrites(
        [ScanAxes()],
        f"""graph main(%z: f32[3], %x: f32[3,N,2]) {{
          %one = const [1]
          %f, %y = Scan(%z, %x) {{num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[-1], {BODY}}}
          return %f, %y }}""",
        f"""graph main(%z: f32[3], %x: f32[3,N,2]) {{
          %one = const [1]
          %moved = Transpose(%x) {{perm=[1,0,2]}}
          %f, %y = Scan(%z, %moved) {{num_scan_inputs=1, {BODY}}}
          %back = Transpose(%y) {{perm=[1,2,0]}}
          return %f, %back }}""",
    )


def test_axes_of_0_stay(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        [ScanAxes()],
        f"""graph main(%z: f32[3], %x: f32[N,3,2]) {{
          %one = const [1]
          %f, %y = Scan(%z, %x) {{num_scan_inputs=1, {BODY}}}
          return %f, %y }}""",
    )
