"""Numerics of flat fields: arrays in, frozen results out."""

from .basis import FieldBasis, make_basis
from .gauge import Gauge, RollForecast
from .matching import MatchedStars, match_stars
from .observations import StarObservations
from .orders import OrderChoice
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
    "FieldBasis",
    "Gauge",
    "MatchedStars",
    "NoiseModel",
    "OrderChoice",
    "RollForecast",
    "SkyOfPixel",
    "StarFlat",
    "StarObservations",
    "StarTable",
    "compute_area_ratio",
    "find_stars",
    "fit_psf",
    "make_basis",
    "match_stars",
    "solve_star_flat",
    "sum_apertures",
]
