"""Observed over model for standard stars: calibration factors and how they change with time."""

from .checks import ShareTest
from .covariance import Covariance
from .dependences import QUANTITIES, Dependence, measure_dependences
from .factors import Factor
from .fit import fit_factors
from .forms import FormChoice
from .gordon2025 import RECIPE_SUBARRAYS, RecipeFit, fit_gordon2025
from .leaveout import LeftOut, leave_out
from .measurements import Measurements
from .modes import KINDS, Band, Mode
from .ratios import RatioMatrix, compare_modes
from .repeatability import Repeatability, measure_repeatability
from .results import CalibrationCurve, ClassOffset, FluxFit, SubarrayResponse
from .rows import Rows, Unit
from .stars import StarResult
from .throughput import YEAR_DAYS, Throughput

__all__ = [
    "KINDS",
    "QUANTITIES",
    "RECIPE_SUBARRAYS",
    "YEAR_DAYS",
    "Band",
    "CalibrationCurve",
    "ClassOffset",
    "Covariance",
    "Dependence",
    "Factor",
    "FluxFit",
    "FormChoice",
    "LeftOut",
    "Measurements",
    "Mode",
    "RatioMatrix",
    "RecipeFit",
    "Repeatability",
    "Rows",
    "ShareTest",
    "StarResult",
    "SubarrayResponse",
    "Throughput",
    "Unit",
    "compare_modes",
    "fit_factors",
    "fit_gordon2025",
    "leave_out",
    "measure_dependences",
    "measure_repeatability",
]
