"""Deliver reference files: a local CRDS context, and the tests that a delivery must pass."""

from .allowed import ALLOWED_WARNINGS
from .context import Context, build_context, open_context, use_context
from .deliver import deliver, plan_delivery
from .resolve import format_environment, resolve_context
from .verdict import Check, Verdict

__all__ = [
    "ALLOWED_WARNINGS",
    "Check",
    "Context",
    "Verdict",
    "build_context",
    "deliver",
    "format_environment",
    "open_context",
    "plan_delivery",
    "resolve_context",
    "use_context",
]
