"""Named errors: each message says what was expected, what was found and what to do."""

__all__ = [
    "ClusterError",
    "ContradictoryDateError",
    "DateError",
    "DetectorError",
    "EvidenceError",
    "InputError",
    "ProductError",
    "RecipeError",
    "StoreError",
    "TvBadPixError",
]


class TvBadPixError(ValueError):
    """Base of every error this package raises on purpose."""


class InputError(TvBadPixError):
    """A file that cannot be read, is not what it should be, or is given twice."""


class DetectorError(TvBadPixError):
    """A detector or subarray that is unknown, mixed with another, or of another product."""


class DateError(TvBadPixError):
    """A date that is missing, unreadable or outside what a product covers."""


class ContradictoryDateError(DateError):
    """Dates of one exposure that cannot all be true; it is left out and the run goes on."""


class EvidenceError(TvBadPixError):
    """Too few usable exposures to say anything."""


class ProductError(TvBadPixError):
    """A product that is invalid or did not survive being written and read back."""


class RecipeError(TvBadPixError):
    """A recipe of a programme that cannot be read or breaks the rules of its format."""


class ClusterError(TvBadPixError):
    """A Dask cluster that cannot be reached, is not like this machine, or loses its workers."""


class StoreError(TvBadPixError):
    """A store of evidence that cannot be used, is something else, or lacks what is asked of it."""
