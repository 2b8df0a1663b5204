"""Every ai.onnx op and how this version compiles it."""

from __future__ import annotations


def op_table() -> list[tuple[str, str]]:
    """(op, ways) sorted by op; ways is "-" for an op that cannot be compiled."""
    from onnx import defs

    newest = {s.name: s for s in defs.get_all_schemas_with_history() if s.domain == "" and not s.deprecated}
    return [(name, _ways(name)) for name in sorted(newest)]


def _ways(op: str) -> str:
    """The registries that serve an op, the preferred first; a form one does not take falls to the next."""
    from onnx import defs

    from ..backends.base import C_OPS, INDEX_DEFINITIONS, KERNEL_BUILDERS
    from ..backends.cpu import load_registries
    from ..backends.templates import TEMPLATES
    from ..compiler.ops import load_all
    from ..compiler.ops.base import OPS

    load_registries()
    load_all()
    if op in ("If", "Loop", "Scan"):
        return "control flow"
    if op == "Constant":
        return "constant"
    ways = ["template"] if op in TEMPLATES or f"optc.{op}" in TEMPLATES else []
    ways += ["loop nest"] if op in INDEX_DEFINITIONS else []
    ways += ["kernel"] if op in KERNEL_BUILDERS else []
    ways += ["C op"] if op in C_OPS else []
    if op in OPS and ways:
        return ", ".join(ways)
    schema = defs.get_schema(op)
    has_body = schema.has_function or schema.has_context_dependent_function  # type: ignore[attr-defined]
    return "expanded into other ops" if op not in OPS and has_body else "-"


def markdown() -> str:
    """The table for the documentation."""
    rows = op_table()
    done = sum(ways != "-" for _, ways in rows)
    lines = [f"{done} of {len(rows)} ops of ai.onnx compile for `cpu`.", "", "| op | how |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {op} | {ways} |" for op, ways in rows), ""])


if __name__ == "__main__":
    print(markdown())
