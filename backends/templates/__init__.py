"""Hot templates over IR nodes, a file a family."""

from . import attention, bf16, conv, integer, matmul, norm, pool, table, weights  # noqa: F401  (they register templates)
from .base import PITCHED, TEMPLATES, Anchor, Template, has_template

__all__ = ["PITCHED", "TEMPLATES", "Anchor", "Template", "has_template"]
