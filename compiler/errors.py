"""What a user may see go wrong: every error names the place, what was expected, what was found and what to do."""

from __future__ import annotations


class OptcError(Exception):
    """Base of all errors optc raises on purpose.

    Attributes: `node` (ONNX name of the node, input or file concerned), `expected`, `found`, `hint` (what to do);
    any may be None. `exit_code` is what the command line returns.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.node, self.expected, self.found, self.hint = message, node, expected, found, hint
        super().__init__(self._render())

    def _render(self) -> str:
        text = f"{self.node}: {self.message}" if self.node else self.message
        facts = [f"expected {self.expected}"] if self.expected is not None else []
        facts += [f"found {self.found}"] if self.found is not None else []
        if facts:
            text += f" ({', '.join(facts)})"
        return f"{text}. {self.hint}" if self.hint else text


class UsageError(OptcError):
    """Options that contradict each other or cannot be read."""

    exit_code = 2


class ModelError(OptcError):
    """The model is unreadable, inconsistent or refers to data it may not read."""

    exit_code = 3


class ShapeError(OptcError):
    """A tensor's dtype, rank or shape does not fit."""

    exit_code = 3


class CalibrationError(OptcError):
    """Calibration or sample data that cannot be used."""

    exit_code = 3


class ArtifactError(OptcError):
    """An .optc file that is damaged, of another version, or cannot be written."""

    exit_code = 3


class DatabaseError(OptcError):
    """A tuning database that is damaged, foreign, or cannot be written."""

    exit_code = 3


class UnsupportedError(OptcError):
    """The model is valid, but this version or target cannot compile it. Lists every node concerned."""

    exit_code = 4


class TargetError(OptcError):
    """An unknown target, a missing toolchain, or a host that lacks what the code needs."""

    exit_code = 5


class CheckError(OptcError):
    """A verification or an accuracy budget that failed."""

    exit_code = 5
