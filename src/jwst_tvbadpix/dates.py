"""Dates beyond those that leap seconds are announced for: the exposures of Roman reach there."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["allow_far_dates"]


@contextmanager
def allow_far_dates() -> Iterator[None]:
    """Convert dates some years ahead, or read them in files, without a warning for each.

    ERFA calls a year dubious where a leap second may yet be announced: one second is nothing to a
    USEAFTER. Filters of warnings are the process's own, so this is for its main thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ERFA function .*dubious year")
        yield
