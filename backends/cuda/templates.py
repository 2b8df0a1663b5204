"""Hot regions on a GPU."""

from __future__ import annotations

from ...compiler.ir import Node
from ..templates.base import Template

TEMPLATES: dict[str, Template] = {}


def has_template(node: Node) -> bool:
    """Whether a region may form around this node."""
    return node.op in TEMPLATES
