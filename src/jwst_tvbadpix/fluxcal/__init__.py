"""Observed over model for standard stars: calibration factors and how they change with time."""

from .covariance import Covariance
from .factors import Factor
from .fit import fit_factors
from .forms import FormChoice
from .measurements import Measurements
from .modes import KINDS, Band, Mode
from .results import CalibrationCurve, ClassOffset, FluxFit, SubarrayResponse
from .rows import Rows, Unit
from .stars import StarResult
from .throughput import YEAR_DAYS, Throughput

__all__ = [
    "KINDS",
    "YEAR_DAYS",
    "Band",
    "CalibrationCurve",
    "ClassOffset",
    "Covariance",
    "Factor",
    "FluxFit",
    "FormChoice",
    "Measurements",
    "Mode",
    "Rows",
    "StarResult",
    "SubarrayResponse",
    "Throughput",
    "Unit",
    "fit_factors",
]
