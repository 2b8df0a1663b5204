"""What a user can ask of a compilation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import UnsupportedError, UsageError

FALLBACKS = ("onnxruntime",)


@dataclass(frozen=True)
class Options:
    """Options of one compilation; equal options, model and versions give the same artifact.

    `shapes` fixes input shapes ({input: dims}); `threads` is how many threads a run uses (0: all this process may run
    on); `fallback` names the engine that runs nodes optc cannot lower; `prune` is a pruning spec (see passes/pruning).
    """

    target: str = "cpu"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 0
    fallback: str | None = None
    prune: str | None = None
    int8: bool = False
    bf16: bool = False
    fp16: bool = False

    def check(self) -> None:
        """Raises UnsupportedError for what this version has not yet, UsageError for values out of range."""
        for name in ("int8", "bf16", "fp16"):
            if getattr(self, name):
                raise UnsupportedError(f"--{name} is not available in this version", hint="Compile in float32.")
        if self.fallback is not None and self.fallback not in FALLBACKS:
            raise UsageError("unknown fallback engine", expected=" or ".join(FALLBACKS), found=self.fallback)
        if self.threads < 0:
            raise UsageError("threads must not be negative", found=self.threads)

    def text(self) -> str:
        """All options as one line of JSON, part of the cache key and the manifest."""
        return json.dumps(self.as_dict(), sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"shapes": {k: list(v) for k, v in sorted(self.shapes.items())}}
