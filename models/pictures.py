"""Pillow, which only the zoo's picture models need."""

from __future__ import annotations

from ..compiler.errors import OptcError


def require_pillow() -> None:
    """Raises `OptcError` with what to install if Pillow is not there."""
    try:
        import PIL.ImageFont  # noqa: F401
    except ImportError as error:
        raise OptcError("this zoo model needs Pillow for its pictures", hint="pip install 'optc[zoo]'") from error
