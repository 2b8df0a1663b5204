"""Hot templates over IR nodes, a file a family."""

from . import attention, bf16, conv, integer, matmul, norm, pool, table, weights  # noqa: F401  (they register templates)
from .base import TEMPLATES, Anchor, Template, has_template

__all__ = ["TEMPLATES", "Anchor", "Template", "has_template"]
