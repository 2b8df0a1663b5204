"""An artifact's story as one HTML page: what was compiled into what, where the time and the bytes go, and for int8 what
each layer lost, why, and what would help. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

Cells = Sequence[object]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; }
caption { text-align: left; padding-bottom: 0.5rem; }
th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
meter { width: 8rem; }
code { font-size: 0.8125rem; overflow-wrap: anywhere; }
"""


class Timed(NamedTuple):
    """What a step took here; with a roofline, its rate, what binds it, and the share of that ceiling it reaches."""

    step: str
    milliseconds: float
    rate: str = ""
    bound: str = ""
    share: float | None = None


def page(manifest: Mapping[str, Any], sizes: Mapping[str, int], times: Sequence[Timed] = (), ceilings: str = "") -> str:
    """The page of an artifact: its manifest, bytes by part, and if it was run here the times of all steps and the
    ceilings of this machine that they are held against."""
    summary = manifest["summary"]
    title = f"{summary['model']} for {summary['target']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(manifest, sizes),
        _section("Graph", _graph(summary)),
        _section("Code", _steps(manifest, times, ceilings)),
        _section("Error by layer", _error(manifest.get("quantization"))),
        _section("Size", _sizes(sizes)),
        _section("Notes", _list(summary["notes"])),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    main = f"<main>{''.join(body)}</main>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{main}</body></html>\n'


def _facts(manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    summary = manifest["summary"]
    macs = summary["macs"]
    ports = [(f"{side[:-1]} {p['name']}", _port(p)) for side in ("inputs", "outputs") for p in manifest[side]]
    rows = [
        *ports,
        ("nodes", f"{summary['nodes_before']} before, {summary['nodes_after']} after"),
        ("parameters", f"{summary['parameters']:,}"),
        ("multiply-adds", macs if isinstance(macs, str) else f"{macs:,}"),
        ("artifact", _bytes(sum(sizes.values()))),
        ("instruction sets", ", ".join(manifest["target"]["features"])),
        ("versions", ", ".join(f"{name} {v}" for name, v in manifest["versions"].items())),
    ]
    return _table("What it is", ["", ""], rows)


def _port(port: Mapping[str, Any]) -> str:
    return f"{port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _graph(summary: Mapping[str, Any]) -> str:
    ops = summary.get("ops", {"before": {}, "after": {}})
    names = sorted({*ops["before"], *ops["after"]}, key=lambda n: (-ops["before"].get(n, 0), n))
    rows = [(name, ops["before"].get(name, 0), ops["after"].get(name, 0)) for name in names]
    parts = [_table("Operators before and after the passes", ["operator", "before", "after"], rows)] if rows else []
    if summary["rewrites"]:
        parts.append(_table("Rewrites", ["rewrite", "times"], list(summary["rewrites"].items())))
    return "".join(parts)


def _steps(manifest: Mapping[str, Any], times: Sequence[Timed], ceilings: str) -> str:
    names = manifest["steps"]
    kernels = kernels_of(names, manifest["kernels"])
    timed = times if [t.step for t in times] == list(names) else []
    roofline = any(t.share is not None for t in timed)
    total = sum(t.milliseconds for t in timed) or 1.0
    rows: list[Cells] = []
    for index, (name, made) in enumerate(zip(names, kernels, strict=True)):
        cells: list[object] = [index, name, _Code(made)]
        if timed:
            cells += [f"{timed[index].milliseconds:.3f}", _Share(timed[index].milliseconds / total)]
        if roofline:
            one = timed[index]
            cells += [one.rate, one.bound, _Share(one.share) if one.share is not None else ""]
        rows.append(cells)
    header = ["step", "computes", "made by", *(["ms", "of the time"] if timed else [])]
    header += ["rate", "bound by", "of the ceiling"] if roofline else []
    what = f"Steps of a run, {total:.3f} ms in all on this machine" if timed else "Steps of a run"
    return _table(f"{what}; ceilings: {ceilings}" if ceilings else what, header, rows)


def kernels_of(steps: Sequence[str], kernels: Mapping[str, str]) -> list[str]:
    """Where each step's code comes from; empty for what is no kernel. Kernels are named `k<number>_<step>`, cut off."""
    left = sorted(kernels, key=_number)
    found = []
    for step in steps:
        plain = re.sub(r"[^A-Za-z0-9]+", "_", step)
        match = next((k for k in left if plain.startswith(re.sub(r"^k\d+_", "", k).rstrip("_"))), None)
        if match is not None:
            left.remove(match)
        found.append(kernels[match] if match is not None else "")
    return found


def _number(kernel: str) -> int:
    found = re.match(r"k(\d+)_", kernel)
    return int(found[1]) if found else 0


def _error(told: Mapping[str, Any] | None) -> str:
    if not told or not told["layers"]:
        return ""
    outputs = ", ".join(f"{escape(name)} {db:.1f} dB" for name, db in told["outputs_db"].items())
    parts = [f"<p>Signal to noise of int8 against float, on calibration samples: {outputs}.</p>"]
    if told["synthetic"]:
        parts.append("<p><strong>Calibrated on made-up samples: accuracy is unchecked.</strong></p>")
    rows = [
        [
            r["layer"], r["op"], f"{r['snr_db']:.1f}", f"{r['alone_db']:.1f}", f"{r['cause']}: {r['detail']}", r["fix"],
            f"{r['gain_db']:+.1f}" if r["fix"] else "",
        ]
        for r in told["layers"]
    ]  # fmt: skip
    header = ["layer", "operator", "dB", "dB alone", "cause", "fix that was tried", "gain in dB"]
    parts.append(_table("Layers, the worst first", header, rows))
    if told["budget"]:
        parts.append(_budget(told["budget"]))
    return "".join(parts)


def _budget(walk: Mapping[str, Any]) -> str:
    rows = [
        [len(s["float_layers"]), f"{s['score']:.5g}", f"{s['int8_share']:.0%}", _bytes(s["nbytes"]), _mark(s, walk)]
        for s in walk["steps"]
    ]
    what = f"Accuracy budget of {walk['budget']:.2%}, the float model scoring {walk['reference']:.5g}"
    table = _table(what, ["float layers", "score", "multiply-adds in int8", "constants", ""], rows)
    return table + _list([f"float: {name}" for name in walk["best"]["float_layers"]])


def _mark(step: Mapping[str, Any], walk: Mapping[str, Any]) -> str:
    return "taken" if step == walk["best"] else ""


def _sizes(sizes: Mapping[str, int]) -> str:
    total = sum(sizes.values()) or 1
    rows = [(name, _bytes(size), _Share(size / total)) for name, size in sizes.items()]
    return _table("Bytes by part", ["part", "size", "of the artifact"], rows)


# --- HTML --------------------------------------------------------------------------------------------------------


class _Share(float):
    """A share of a whole, drawn as a bar."""


class _Code(str):
    """Text in code."""

    __slots__ = ()


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _table(caption: str, header: Sequence[str], rows: Iterable[Cells]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="wide"><table><caption>{escape(caption)}</caption>{top}<tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, _Share):
        return f'<td class="n"><meter value="{value:.4f}">{value:.1%}</meter> {value:.1%}</td>'
    if isinstance(value, _Code):
        return f"<td><code>{escape(value)}</code></td>"
    number = isinstance(value, (int, float)) or re.fullmatch(r"[+-]?[\d.,]+%?( [kM]?B)?", str(value))
    return f'<td class="n">{escape(str(value))}</td>' if number else f"<td>{escape(str(value))}</td>"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
