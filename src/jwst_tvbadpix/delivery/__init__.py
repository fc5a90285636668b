"""Deliver reference files: a local CRDS context."""

from .context import Context, build_context, open_context, use_context

__all__ = ["Context", "build_context", "open_context", "use_context"]
