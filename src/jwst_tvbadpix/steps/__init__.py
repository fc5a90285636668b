"""The steps; each is imported when it is asked for, so that listing them costs nothing."""

from importlib import import_module
from typing import Any

__all__ = ["TimeVariableBadPixel"]

_HOMES = {"TimeVariableBadPixel": ".time_variable_bad_pixel"}


def __getattr__(name: str) -> Any:
    """Import a step on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
