"""Numerics of flat fields: arrays in, frozen results out."""

from .background import BackgroundTerm, BackgroundTrend, find_background_trend
from .basis import FieldBasis, make_basis
from .build import BuiltFlat, ExposureFacts, FlatSettings, build_flat
from .distortion import Distortion, find_distortion_drifts, measure_distortion
from .drifts import Drifts, Epochs, Term, find_drifts, make_epochs
from .frames import Exposures, StackSettings
from .gauge import Gauge, RollForecast
from .matching import MatchedStars, match_stars
from .merge import MergedFlat, StarResponse, make_flags, merge_flats
from .monitors import Monitors, run_monitors
from .mosaic import Pointings
from .observations import StarObservations
from .orders import OrderChoice
from .psf_core import CoreDrifts, CoreTable, find_core_drifts, measure_cores
from .selfcheck import SelfCheck, check_flat
from .sky import Background, Transients, find_transients
from .skyplane import SkyPlane, compute_scale, make_plane
from .stability import PixelDrift, find_flat_drifts, find_pixel_drift
from .stack import ExcludedFrame, StackedFlat, stack_flat
from .starflat import StarFlat, StarResiduals, solve_star_flat
from .stars import (
    SkyOfPixel,
    StarTable,
    compute_area_ratio,
    find_stars,
    fit_psf,
    sum_apertures,
)
from .weights import NoiseModel

__all__ = [
    "Background",
    "BackgroundTerm",
    "BackgroundTrend",
    "BuiltFlat",
    "CoreDrifts",
    "CoreTable",
    "Distortion",
    "Drifts",
    "Epochs",
    "ExcludedFrame",
    "ExposureFacts",
    "Exposures",
    "FieldBasis",
    "FlatSettings",
    "Gauge",
    "MatchedStars",
    "MergedFlat",
    "Monitors",
    "NoiseModel",
    "OrderChoice",
    "PixelDrift",
    "Pointings",
    "RollForecast",
    "SelfCheck",
    "SkyOfPixel",
    "SkyPlane",
    "StackSettings",
    "StackedFlat",
    "StarFlat",
    "StarObservations",
    "StarResiduals",
    "StarResponse",
    "StarTable",
    "Term",
    "Transients",
    "build_flat",
    "check_flat",
    "compute_area_ratio",
    "compute_scale",
    "find_background_trend",
    "find_core_drifts",
    "find_distortion_drifts",
    "find_drifts",
    "find_flat_drifts",
    "find_pixel_drift",
    "find_stars",
    "find_transients",
    "fit_psf",
    "make_basis",
    "make_epochs",
    "make_flags",
    "make_plane",
    "match_stars",
    "measure_cores",
    "measure_distortion",
    "merge_flats",
    "run_monitors",
    "solve_star_flat",
    "stack_flat",
    "sum_apertures",
]
