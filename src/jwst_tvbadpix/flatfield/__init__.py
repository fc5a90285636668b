"""Numerics of flat fields: arrays in, frozen results out."""

from .background import BackgroundTerm, BackgroundTrend, find_background_trend
from .basis import FieldBasis, make_basis
from .distortion import Distortion, find_distortion_drifts, measure_distortion
from .drifts import Drifts, Epochs, Term, find_drifts, make_epochs
from .frames import Exposures, StackSettings
from .gauge import Gauge, RollForecast
from .matching import MatchedStars, match_stars
from .merge import MergedFlat, StarResponse, make_flags, merge_flats
from .mosaic import Pointings
from .observations import StarObservations
from .orders import OrderChoice
from .psf_core import CoreDrifts, CoreTable, find_core_drifts, measure_cores
from .sky import Background, Transients, find_transients
from .stability import PixelDrift, find_flat_drifts, find_pixel_drift
from .stack import ExcludedFrame, StackedFlat, stack_flat
from .starflat import StarFlat, solve_star_flat
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
    "CoreDrifts",
    "CoreTable",
    "Distortion",
    "Drifts",
    "Epochs",
    "ExcludedFrame",
    "Exposures",
    "FieldBasis",
    "Gauge",
    "MatchedStars",
    "MergedFlat",
    "NoiseModel",
    "OrderChoice",
    "PixelDrift",
    "Pointings",
    "RollForecast",
    "SkyOfPixel",
    "StackSettings",
    "StackedFlat",
    "StarFlat",
    "StarObservations",
    "StarResponse",
    "StarTable",
    "Term",
    "Transients",
    "compute_area_ratio",
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
    "match_stars",
    "measure_cores",
    "measure_distortion",
    "merge_flats",
    "solve_star_flat",
    "stack_flat",
    "sum_apertures",
]
