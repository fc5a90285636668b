"""The steps; each is imported when it is asked for, so that listing them costs nothing."""

import sys
from importlib import import_module
from typing import Any

__all__ = [
    "AbsFluxRatio",
    "ApplyTimeVariableMask",
    "ExternalFlatBuilder",
    "TimeVariableBadPixel",
    "TvBadPixDetector1Pipeline",
]

_HOMES = {
    "AbsFluxRatio": ".abs_flux_ratio",
    "ApplyTimeVariableMask": ".apply_time_variable_mask",
    "ExternalFlatBuilder": ".external_flat_builder",
    "TimeVariableBadPixel": ".time_variable_bad_pixel",
    "TvBadPixDetector1Pipeline": ".detector1",
}


def __getattr__(name: str) -> Any:
    """Import a step on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _HooksWithArguments:
    """Let ``--post_hooks="jwst_tvbadpix.steps.Step(history='x.asdf'),"`` be what it says.

    stpipe 1.1 imports all before the last dot of a hook as a module. It takes the text for a step
    with arguments only where this ends in an AttributeError; where it ends in an ImportError, as
    it does for a dot among the arguments, the text is run as a shell command.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Refuse a module that is a step of ours and its arguments; find no other."""
        if name.startswith(f"{__name__}.") and "(" in name:
            raise AttributeError(f"{name} is no module but a step with arguments")


# Asked last, so that it costs nothing; once, however often this module is loaded.
if not any(type(finder).__name__ == "_HooksWithArguments" for finder in sys.meta_path):
    sys.meta_path.append(_HooksWithArguments())
